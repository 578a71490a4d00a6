"""Arrays for the encoder: the pixels and reasons of Pillow's way, without it where a JPEG is plain."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.data import images
from skumatch.data.images import Pixels, decode, decode_pixels
from skumatch.data.jpeg import plain_size
from skumatch.data.packages import catalogue, design
from skumatch.data.sample import photograph
from skumatch.errors import ImageError
from tests.conftest import ROOT
from tests.data.hostile import CONTAINERS, SIZE, Case, corpus, flipped, noise, reference, saved, turned

PHOTOS = ROOT.parent / "shared/data/grocery-store/all"
CORPUS = corpus()
Outcome = Pixels | str


def by_pillow(data: bytes) -> Outcome:
    try:
        return np.asarray(decode(data))
    except ImageError as error:
        return f"{error.reason}: {error}"


def as_array(data: bytes) -> Outcome:
    try:
        return decode_pixels(data)
    except ImageError as error:
        return f"{error.reason}: {error}"


def agree(data: bytes) -> bool:
    """Return whether both ways agree: in the reason and its sentence, or in pixels within one level."""
    pillow_pixels, fast_pixels = by_pillow(data), as_array(data)
    if isinstance(pillow_pixels, str) or isinstance(fast_pixels, str):
        return (
            isinstance(pillow_pixels, str) and isinstance(fast_pixels, str) and pillow_pixels == fast_pixels
        )
    return (
        pillow_pixels.shape == fast_pixels.shape
        and fast_pixels.dtype == np.uint8
        and int(np.abs(pillow_pixels.astype(int) - fast_pixels).max()) <= 1
    )


@pytest.fixture
def without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow may read headers, and no pixels."""

    def never(image: Image.Image) -> Image.Image:
        raise AssertionError("Pillow was asked for pixels")

    monkeypatch.setattr(images, "upright_rgb", never)


@pytest.mark.parametrize("case", CORPUS, ids=[name for name, _, _ in CORPUS])
def test_hostile_pictures_end_alike(case: Case) -> None:
    assert agree(case[1])


@given(st.sampled_from([container for container in CONTAINERS if container[1] == "JPEG"]), st.data())
def test_any_damage_to_a_jpeg_ends_alike(
    container: tuple[str, str, dict[str, object]], data: st.DataObject
) -> None:
    whole = bytearray(saved(noise((24, 20)), container[1], **container[2]))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    assert agree(bytes(whole[: data.draw(st.integers(len(whole) // 2, len(whole)))]))


def test_a_truncated_jpeg_is_told_as_truncated() -> None:
    data = saved(noise((300, 200)), "JPEG")
    for left in (len(data) // 2, len(data) - 2, len(data) - 1):
        with pytest.raises(ImageError) as caught:
            decode_pixels(data[:left])
        assert caught.value.reason == "truncated"


KINDS = {
    "420": {"quality": 85, "subsampling": "4:2:0"},
    "422": {"quality": 60, "subsampling": "4:2:2"},
    "444": {"quality": 95, "subsampling": "4:4:4"},
    "progressive": {"quality": 75, "progressive": True},
    "restarts": {"quality": 85, "restart_marker_rows": 1},
    "red-green-blue": {"quality": 85, "keep_rgb": True},
}


PLAIN = sorted(KINDS.keys() - {"red-green-blue"})  # which carries a block of Adobe's


@pytest.mark.usefixtures("without_pillow")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(150, 420), (299, 301), (33, 32)])
def test_plain_jpegs_are_pillows_within_a_level(kind: str, size: tuple[int, int]) -> None:
    data = saved(rendered().resize(size), "JPEG", **KINDS[kind])
    with Image.open(images.io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode_pixels(data) - expected).max() <= 1


@pytest.mark.usefixtures("without_pillow")
def test_a_grey_jpeg_has_three_equal_channels() -> None:
    pixels = decode_pixels(saved(rendered().convert("L"), "JPEG"))
    assert pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all() and np.ptp(pixels) > 50


def rendered() -> Image.Image:
    rng, skus = np.random.default_rng(3), catalogue(3)
    return photograph(design(skus[0]), [design(sku) for sku in skus[1:]], rng)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the grocery photos of ../shared")
@pytest.mark.usefixtures("without_pillow")
def test_real_photos_are_pillows_within_a_level() -> None:
    paths = sorted(PHOTOS.rglob("*.jpg"))
    for path in random.Random(5).sample(paths, 200):  # noqa: S311 no secret
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(decode_pixels(path.read_bytes()) - expected).max() <= 1, path


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    kind=st.sampled_from(PLAIN),
    comment=st.binary(max_size=40),
)
def test_a_plain_header_tells_the_size(size: tuple[int, int], kind: str, comment: bytes) -> None:
    assert plain_size(saved(noise(size), "JPEG", comment=comment, **KINDS[kind])) == size


@given(st.binary(max_size=60), st.integers(2, 500))
def test_any_bytes_have_a_header_or_none(junk: bytes, at: int) -> None:
    data = saved(reference(), "JPEG")
    for made in (junk, data[:2] + junk, data[:at] + junk, data[:at] + junk + data[at:]):
        size = plain_size(made)
        assert size is None or (size.width >= 0 and size.height >= 0)


def test_headers_that_arent_plain_are_left_to_pillow() -> None:
    data = saved(reference(), "JPEG")
    frame = data.index(b"\xff\xc0")
    assert plain_size(data) == SIZE
    for other in (turned(1), saved(reference("CMYK"), "JPEG"), saved(reference(), "PNG"), b"", data[:frame]):
        assert plain_size(other) is None
    twice = data[:frame] + data[frame : frame + 19] + data[frame:]
    twelve_bits = data[: frame + 4] + b"\x0c" + data[frame + 5 :]
    lossless = data[: frame + 1] + b"\xc3" + data[frame + 2 :]
    short = data[:2] + b"\xff\xe0\0\x07JFIF\0" + data[20:]
    other_block = data[:2] + b"\xff\xed\0\x04xx" + data[2:]
    assert [plain_size(header) for header in (twice, twelve_bits, lossless, short, other_block)] == [None] * 5
    assert agree(short) and by_pillow(short) == "damaged: The picture is damaged; deliver it again."


@pytest.mark.usefixtures("without_pillow")
def test_an_exif_block_that_turns_nothing_keeps_the_fast_way() -> None:
    assert decode_pixels(turned(1)).shape == (48, 64, 3)


def odd() -> Iterator[tuple[str, bytes]]:
    yield "turned", turned(6)
    yield "cmyk", saved(reference("CMYK"), "JPEG")
    yield "png", saved(reference(), "PNG")
    yield "damaged", flipped(saved(noise(), "JPEG"), 900, 40)


@pytest.mark.parametrize("data", [data for _, data in odd()], ids=[name for name, _ in odd()])
def test_what_isnt_plain_goes_pillows_way(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(images, "upright_rgb", lambda image: calls.append(image.format) or reference())
    decode_pixels(data)
    assert len(calls) == 1


def test_no_more_than_what_was_checked_reaches_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg_header", lambda data: seen.append(data) or (9, 9, "YCbCr", "420")
    )
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data: pytest.fail("another size than Pillow saw was decoded")
    )
    assert decode_pixels(saved(reference(), "JPEG")).shape == (48, 64, 3)
    assert len(seen) == 2
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    monkeypatch.setattr(images, "LARGE", 64 * 48 - 1)
    with pytest.raises(ImageError) as caught:
        decode_pixels(saved(reference(), "JPEG"))
    assert caught.value.reason == "too-large" and len(seen) == 2


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    data, decoder = saved(reference(), "JPEG"), simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg, "decode_jpeg", lambda data: held.append(images._ALONE.locked()) or decoder(data)
    )
    decode_pixels(data)
    monkeypatch.setattr(images, "LARGE", 64 * 48 - 1)
    decode_pixels(data)
    assert held == [False, True]


def test_an_array_may_be_written_to_and_is_the_images_own() -> None:
    for data in (saved(reference(), "JPEG"), saved(reference(), "PNG")):
        pixels = decode_pixels(data)
        pixels[0, 0] = 0
        assert pixels.flags.writeable and decode_pixels(data)[0, 0].any()
