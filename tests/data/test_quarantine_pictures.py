"""Small pictures kept of quarantined images."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from skumatch.data.delivery.importer import import_data
from skumatch.data.images import decode, glimpse
from skumatch.data.quarantine import read_pictures
from skumatch.errors import ImageError
from skumatch.files import sha256
from tests.conftest import Delivery


def jpeg(size: tuple[int, int] = (400, 300)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_a_jpeg_that_breaks_off_shows_the_part_that_is_there() -> None:
    whole = jpeg()
    cut = whole[: len(whole) // 2]
    with pytest.raises(ImageError):
        decode(cut)
    seen = glimpse(cut)
    assert seen and seen.size == (400, 300)
    top = seen.crop((0, 0, 400, 100))
    assert top.tobytes() == decode(whole).crop((0, 0, 400, 100)).tobytes()


@pytest.mark.parametrize(
    "data", [b"", b"<html>no</html>", b"\xff\xd8", b"\xff\xd8\xff\xe0junk", b"\x89PNG\r\n\x1a\n"]
)
def test_of_bytes_that_are_no_picture_there_is_nothing_to_show(data: bytes) -> None:
    assert glimpse(data) is None


def test_an_import_keeps_small_pictures_of_a_few_of_each_reason(delivery: Delivery, tmp_path: Path) -> None:
    folder, whole = delivery(), jpeg()
    place = folder / "all/train/sku 1"
    for number in range(10):
        (place / f"cut{number}.jpg").write_bytes(whole[: len(whole) // 2 + number])
    (place / "empty.jpg").touch()
    Image.new("RGB", (9, 20), "blue").save(place / "small.png")
    imported = import_data(folder, tmp_path / "data")
    pictures = read_pictures(tmp_path / "data")
    assert len(imported.quarantined) == 12
    assert len(pictures) == 9
    assert "train/sku 1/small.png" in pictures and "train/sku 1/empty.jpg" not in pictures
    for uri in pictures.values():
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as small:
            assert small.format == "JPEG" and max(small.size) <= 168
    digest = sha256(tmp_path / "data/quarantine.json")
    assert (
        not import_data(folder, tmp_path / "data").changed
        and sha256(tmp_path / "data/quarantine.json") == digest
    )


def test_a_version_from_before_pictures_were_kept_has_none_until_it_is_imported_again(
    delivery: Delivery, tmp_path: Path
) -> None:
    folder = delivery()
    import_data(folder, tmp_path / "data")
    (tmp_path / "data/quarantine.json").unlink()
    assert read_pictures(tmp_path / "data") == {}
    assert import_data(folder, tmp_path / "data").changed and (tmp_path / "data/quarantine.json").is_file()
