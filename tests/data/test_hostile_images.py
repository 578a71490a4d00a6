"""No picture breaks an import: each is decoded right or quarantined for a named reason, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.data.delivery.importer import import_data
from skumatch.data.images import REASONS, decode
from skumatch.data.manifest import images, read_manifest
from skumatch.errors import ImageError
from tests.conftest import ROOT
from tests.data.hostile import CONTAINERS, QUARTERS, SIZE, Case, corpus, noise, saved
from tests.data.zips import picture

CORPUS = corpus()
MEASURE = """
import re, sys
from pathlib import Path
from skumatch.data.delivery.importer import import_data
print(import_data(Path(sys.argv[1]), Path(sys.argv[2])).images)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, each in its own SKU, next to two sound ones."""
    root = tmp_path_factory.mktemp("hostile") / "delivery"
    for number, (name, data, _) in enumerate(
        [("sound.png", picture(), ""), ("sound.png", picture(), ""), *CORPUS]
    ):
        path = root / "all" / ("test" if number == 0 else "train") / f"{number}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return root


def looks_right(image: Image.Image, wanted: str) -> bool:
    if wanted.startswith("grey"):
        return image.getpixel((image.width // 2, image.height // 2)) == (int(wanted.split()[1]),) * 3
    near = (
        max(abs(a - b) for a, b in zip(image.getpixel(at), colour, strict=True)) < 12
        for at, colour in QUARTERS.items()
    )  # type: ignore[arg-type]
    return image.size == SIZE and all(near)


def test_there_are_enough_kinds() -> None:
    assert len({name for name, _, _ in CORPUS}) == len(CORPUS) > 100


def outcome(data: bytes) -> Image.Image | str:
    """The picture, or the reason why not."""
    try:
        return decode(data)
    except ImageError as error:
        return error.reason


@pytest.mark.parametrize("case", CORPUS, ids=[name for name, _, _ in CORPUS])
def test_right_pixels_or_a_named_reason(case: Case) -> None:
    _, data, wanted = case
    got = outcome(data)
    if isinstance(got, str):
        assert got in REASONS and got in wanted
    else:
        assert got.mode == "RGB"
        assert wanted == "tiny" or "or right" in wanted or looks_right(got, wanted)


def test_an_import_of_all_of_them_counts_each(folder: Path, tmp_path: Path) -> None:
    imported = import_data(folder, tmp_path / "data")
    rows = read_manifest(tmp_path / "data")
    assert imported.images + len(imported.quarantined) == len(CORPUS) + 2 and imported.junk == {}
    assert {entry["reason"] for entry in imported.quarantined} <= set(REASONS)
    reasons = {entry["id"]: entry["reason"] for entry in imported.quarantined}
    for number, (name, _, wanted) in enumerate(CORPUS, 2):
        reason = reasons.get(f"train/{number}/{name}", "right")
        assert reason in wanted or (reason == "right" and "grey" in wanted), (name, reason)
    pictures = images(tmp_path / "data", rows)
    assert all(pictures[i].size == (rows["width"][i], rows["height"][i]) for i in range(len(rows)))


def test_memory_stays_under_half_a_gigabyte(folder: Path, tmp_path: Path) -> None:
    side = folder / "all/train/2"  # the largest that are let in, several at a time
    for number in range(3):
        Image.new("RGBA", (5000, 5000), (1, 2, number, 99)).save(
            side / f"large {number}.png", compress_level=1
        )
        Image.new("RGB", (5000, 5000), (1, 2, number)).save(side / f"large {number}.jpg", progressive=True)
    words = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "data")]
    untraced = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")
    }  # tracing takes a third more
    ended = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=untraced)
    count, kib = map(int, ended.stdout.split())
    print(f"{kib / 1024:.0f} MiB")
    assert count > 40 and kib < 512 * 1024


@given(st.sampled_from(CONTAINERS), st.data())
def test_any_damage_is_a_picture_or_a_reason(
    container: tuple[str, str, dict[str, object]], data: st.DataObject
) -> None:
    whole = bytearray(saved(noise((24, 20)), container[1], **container[2]))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    got = outcome(damaged)
    assert got in REASONS if isinstance(got, str) else got.mode == "RGB"


def test_the_documents_name_every_reason() -> None:
    text = (ROOT / "docs/data.md").read_text("utf-8")
    assert [reason for reason, words in REASONS.items() if f"| `{reason}` | {words} |" not in text] == []
