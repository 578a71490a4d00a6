"""Pictures that no shop should deliver, with the result expected of each: the right pixels, or a reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import Image

SIZE = (64, 48)
QUARTERS = {
    (16, 12): (220, 30, 30),
    (48, 12): (30, 200, 40),
    (16, 36): (40, 60, 220),
    (48, 36): (230, 220, 50),
}
RIGHT = "right"  # upright and with the colours of QUARTERS
Case = tuple[str, bytes, str]  # file name, bytes, RIGHT or a reason


def reference(mode: str = "RGB") -> Image.Image:
    """Four quarters, each of a colour of its own."""
    image = Image.new("RGB", SIZE)
    for (x, y), colour in QUARTERS.items():
        image.paste(colour, (x - 16, y - 12, x + 16, y + 12))
    return image.convert(mode)


def saved(image: Image.Image, container: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, container, **options)
    return stream.getvalue()


def noise(size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(1).randbytes(3 * size[0] * size[1]))  # noqa: S311 no secret


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG made of its parts, valid or not."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@cache
def bomb(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels of one bit each, in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def sixteen_bit_rows() -> bytes:
    return b"".join(
        b"\0"
        + b"".join(
            struct.pack(">HHH", *(257 * value for value in reference().getpixel((x, y))))
            for x in range(SIZE[0])
        )  # type: ignore[union-attr]
        for y in range(SIZE[1])
    )


def turned(orientation: int) -> bytes:
    """A JPEG whose pixels lie as a camera with this EXIF orientation wrote them."""
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    image = reference()
    if orientation in undo:
        image = image.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, "JPEG", quality=95, exif=exif)


def photo(**options: Any) -> bytes:
    return saved(reference(), "JPEG", quality=95, **options)


def several(*others: Image.Image, **options: Any) -> bytes:
    """A JPEG with more pictures behind the first, and their index in it, as cameras write them (MPO)."""
    return saved(reference(), "MPO", quality=95, save_all=True, append_images=others or [noise()], **options)


def with_block(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """The JPEG with one more block, its first."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data + jpeg[2:]


def jpegs() -> Iterator[Case]:
    """JPEGs with more in them than one picture."""
    data, exif = several(), Image.Exif()
    second = data.index(b"\xff\xd8\xff", 2)
    yield "two-pictures.jpg", data, RIGHT
    yield "two-pictures.mpo", several(reference("L")), RIGHT
    yield "four-pictures.jpg", several(noise(), noise(), reference().resize((400, 300))), RIGHT
    yield "second-picture-cut.jpg", data[: second + 200], RIGHT
    yield "second-picture-gone.jpg", data[:second], RIGHT
    yield "second-picture-damaged.jpg", flipped(data, second, 300), RIGHT
    yield "index-without-count.jpg", data.replace(b"\x01\xb0\x04\0", b"\x0f\xb0\x04\0"), RIGHT
    yield "index-cut.jpg", with_block(photo(), 0xE2, b"MPF\0II*\0\x08\0\0\0"), RIGHT
    count = b"\x01\xb0\x04\0\x01\0\0\0"
    yield "index-of-many.jpg", data.replace(count + b"\x02", count + b"\xff"), RIGHT
    gains = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    yield "gain-map.jpg", with_block(data, 0xE1, gains), RIGHT
    exif[0x0112] = 6
    turned = reference().transpose(Image.Transpose.ROTATE_90)
    more: dict[str, Any] = {"quality": 95, "save_all": True, "append_images": [noise()]}
    yield "two-pictures-turned.jpg", saved(turned, "MPO", exif=exif, **more), RIGHT
    yield "motion-photo.jpg", photo() + struct.pack(">I", 24) + b"ftypmp42" + bytes(range(256)) * 40, RIGHT
    yield "two-files-in-a-row.jpg", photo() + saved(noise(), "JPEG"), RIGHT
    small = saved(noise().resize((16, 12)), "JPEG")
    entries = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, 44, 0x202, 4, 1, len(small), 0)
    block = b"Exif\0\0II*\0\x08\0\0\0\0\0" + struct.pack("<I", 14) + entries + small
    yield "thumbnail.jpg", photo(exif=block), RIGHT
    yield "large-profile.jpg", photo(icc_profile=b"x" * 70_000), RIGHT
    yield "red-green-blue.jpg", photo(keep_rgb=True), RIGHT
    yield "grey.jpg", saved(Image.new("L", SIZE, 90), "JPEG", quality=95), "grey 90"
    yield "two-grey-pictures.jpg", saved(Image.new("L", SIZE, 90), "MPO", **more), "grey 90"
    for ending in (".jfif", ".jpe", ".JPG", ""):
        yield f"photo{ending}", photo(), RIGHT
    yield "no-ending-of-two", data, RIGHT


def strip(bits: list[int], colours: int, data: bytes, extra: int | None = None, order: str = "<") -> bytes:
    """A TIFF of one plain strip.

    Args:
        bits: of each sample.
        colours: photometric interpretation: 1 grey, 2 RGB.
        data: the samples.
        extra: kind of the last sample: 1 premultiplied alpha, 2 plain alpha.
        order: `<` for little endian, `>` for big.
    """
    tags = {256: [SIZE[0]], 257: [SIZE[1]], 258: bits, 259: [1], 262: [colours], 273: [512], 277: [len(bits)]}
    tags |= {278: [SIZE[1]], 279: [len(data)]} | ({} if extra is None else {338: [extra]})
    body, more = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(order + "H" * len(values), *values)
        place = struct.pack(order + "I", 256 + len(more)) if len(packed) > 4 else packed.ljust(4, b"\0")
        more += packed if len(packed) > 4 else b""
        body += struct.pack(order + "HHI", tag, 3, len(values)) + place
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return (start + body + bytes(4)).ljust(256, b"\0") + more.ljust(256, b"\0") + data


def tiffs() -> Iterator[Case]:
    """TIFFs of pixels that cameras and scanners write."""
    area = SIZE[0] * SIZE[1]
    yield "jpeg.tif", saved(reference(), "TIFF", compression="jpeg", quality=95), RIGHT
    yield "packed.tiff", saved(reference(), "TIFF", compression="packbits"), RIGHT
    yield "luminance.tif", saved(reference("YCbCr"), "TIFF"), RIGHT
    yield "big.tif", saved(reference(), "TIFF", big_tiff=True), RIGHT
    yield "fax.tif", saved(Image.new("1", SIZE, 1), "TIFF", compression="group4"), "grey 255"
    yield "palette-alpha.tif", saved(Image.new("PA", SIZE, (0, 0)), "TIFF"), "grey 255"
    yield "alpha.tif", strip([8, 8], 1, bytes([60, 120]) * area, extra=2), "grey 163"
    yield "alpha-multiplied.tif", strip([8, 8], 1, bytes([60, 120]) * area, extra=1), "grey 195"
    yield "colour-multiplied.tif", strip([8] * 4, 2, bytes([60, 60, 60, 120]) * area, extra=1), "grey 195"
    yield "twelve-bit.tif", strip([12], 1, bytes([0x80, 0x08, 0]) * (area // 2)), "grey 128"
    yield "big-endian.tif", strip([16], 1, bytes([0x80, 0x08]) * area, order=">"), "grey 128"


def bmp(
    header: int,
    packing: int,
    bits: int,
    pixels: bytes,
    masks: bytes = b"",
    palette: bytes = b"",
) -> bytes:
    """A BMP from its parts; header: its second header's length, packing: its compression."""
    facts = (header, *SIZE, 1, bits, packing, len(pixels), 0, 0, len(palette) // 4, 0)
    head = (struct.pack("<IiiHHIIiiII", *facts) + masks).ljust(header, b"\0") + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def bmps() -> Iterator[Case]:
    """BMPs beyond 24 bits a pixel."""
    lying = reference().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    pixels = lying.convert("RGBA").tobytes("raw", "BGRA")
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "thirty-two.bmp", bmp(40, 0, 32, pixels), RIGHT
    yield "masks.bmp", bmp(40, 3, 32, pixels, masks[:12]), RIGHT
    yield "alpha.bmp", bmp(124, 3, 32, pixels, masks), RIGHT
    yield "older-alpha.bmp", bmp(108, 3, 32, pixels, masks), RIGHT
    indexed = lying.quantize(4)
    rows = [indexed.crop((0, y, SIZE[0], y + 1)).tobytes() for y in range(SIZE[1])]
    runs = b"".join(bytes([32, row[0], 32, row[40], 0, 0]) for row in rows) + b"\0\1"
    colours = indexed.getpalette() or []
    palette = b"".join(bytes([*colours[i : i + 3][::-1], 0]) for i in range(0, 12, 3))
    yield "runs.bmp", bmp(40, 1, 8, runs, palette=palette), RIGHT


def see_through_palette() -> Image.Image:
    image = Image.new("P", SIZE, 3)
    image.putpalette(bytes(range(256)) * 3)
    return image


def flipped(data: bytes, at: int, count: int = 1) -> bytes:
    return data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + count]) + data[at + count :]


def good() -> Iterator[Case]:
    """Odd, but pictures: each must come out right."""
    for orientation in range(1, 9):
        yield f"exif-{orientation}.jpg", turned(orientation), RIGHT
    exif = Image.Exif()
    exif[0x0112] = 77
    yield "exif-absurd.jpg", saved(reference(), "JPEG", quality=95, exif=exif), RIGHT
    yield (
        "exif-broken.jpg",
        saved(reference(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40),
        RIGHT,
    )
    yield "cmyk.jpg", saved(reference("CMYK"), "JPEG", quality=95), RIGHT
    yield "cmyk.tif", saved(reference("CMYK"), "TIFF"), RIGHT
    yield "progressive.jpg", saved(reference(), "JPEG", quality=95, progressive=True), RIGHT
    yield "trailing-bytes.jpg", saved(reference(), "JPEG", quality=95) + b"\0" * 5000, RIGHT
    yield "palette.png", saved(reference().quantize(8), "PNG"), RIGHT
    yield "palette.gif", saved(reference().quantize(8), "GIF"), RIGHT
    yield "interlaced-gif.gif", saved(reference().quantize(8), "GIF", interlace=1), RIGHT
    yield "sixteen-bit.png", png(SIZE, 16, 2, sixteen_bit_rows()), RIGHT
    yield "rgba.png", saved(reference("RGBA"), "PNG"), RIGHT
    yield "rgba.webp", saved(reference("RGBA"), "WEBP", lossless=True), RIGHT
    yield "lossless.webp", saved(reference(), "WEBP", lossless=True), RIGHT
    yield "plain.bmp", saved(reference(), "BMP"), RIGHT
    yield "palette.bmp", saved(reference().quantize(8), "BMP"), RIGHT
    yield "deflated.tif", saved(reference(), "TIFF", compression="tiff_deflate"), RIGHT
    yield "lzw.tif", saved(reference(), "TIFF", compression="tiff_lzw"), RIGHT
    moving = {"save_all": True, "append_images": [noise(), noise()], "duration": 50}
    yield (
        "moving.gif",
        saved(reference().quantize(8), "GIF", **(moving | {"append_images": [noise().quantize(8)]})),
        RIGHT,
    )
    yield "moving.webp", saved(reference(), "WEBP", lossless=True, **moving), RIGHT
    yield "moving.png", saved(reference(), "PNG", **moving), RIGHT
    yield "many-pages.tif", saved(reference(), "TIFF", save_all=True, append_images=[noise()] * 200), RIGHT
    yield "jpeg-named.png", saved(reference(), "JPEG", quality=95), RIGHT
    yield "png-named.jpg", saved(reference(), "PNG"), RIGHT
    yield "gif-named.tiff", saved(reference().quantize(8), "GIF"), RIGHT
    rows = b"".join(b"\0" + reference().crop((0, y, 64, y + 1)).tobytes() for y in range(48))
    yield "private-chunk.png", png(SIZE, 8, 2, rows, chunk(b"prVt", b"x" * 99)), RIGHT
    yield (
        "grey-sixteen.png",
        png(SIZE, 16, 0, b"".join(b"\0" + struct.pack(">H", 0x80FF) * 64 for _ in range(48))),
        "grey 128",
    )
    yield "grey-sixteen.tif", saved(Image.new("I;16", SIZE, 0x80FF), "TIFF"), "grey 128"
    yield "one-bit.png", saved(Image.new("1", SIZE, 1), "PNG"), "grey 255"
    yield "see-through.png", saved(Image.new("RGBA", SIZE, (9, 9, 9, 0)), "PNG"), "grey 255"
    yield "see-through-palette.png", saved(see_through_palette(), "PNG", transparency=3), "grey 255"
    yield (
        "see-through-key.png",
        saved(Image.new("RGB", SIZE, (7, 8, 9)), "PNG", transparency=(7, 8, 9)),
        "grey 255",
    )
    yield "grey-alpha.png", saved(Image.new("LA", SIZE, (0, 0)), "PNG"), "grey 255"
    yield "opaque-palette.png", saved(reference().quantize(8), "PNG", transparency=b"\xff" * 8), RIGHT
    yield "grey-alpha-sixteen.png", png(SIZE, 16, 4, (b"\0" + b"\x80\xff\xff\xff" * 64) * 48), "grey 128"
    yield from (*jpegs(), *tiffs(), *bmps())
    yield "long.png", saved(Image.new("L", (32, 60_000), 90), "PNG"), "grey 90"


def bad() -> Iterator[Case]:
    """Each must be set aside under its reason."""
    yield "empty.jpg", b"", "empty"
    yield "one-byte.jpg", b"\xff", "no-image"
    yield "zeros.png", b"\0" * 5000, "no-image"
    yield "text.jpg", b"This is the picture that you asked for.\n" * 99, "no-image"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "no-image"
    yield (
        "drawing.png",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9" height="9"/></svg>',
        "no-image",
    )
    yield "document.jpg", b"%PDF-1.7\n" + b"0" * 999, "no-image"
    yield "archive.png", b"PK\x03\x04" + b"\0" * 999, "no-image"
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n", "no-image"
    yield (
        "photoshop.png",
        b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + b"\0" * 999,
        "no-image",
    )
    yield "icon.png", saved(reference(), "ICO"), "no-image"
    yield "bomb-60000.png", bomb(60_000), "too-large"
    yield "bomb-8000.png", bomb(8_000), "too-large"
    wide = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    yield "bomb.webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f" + wide + b"\0" * 9, "too-large or damaged"
    yield "absurd-canvas.gif", absurd_canvas(), "too-large"
    huge = struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "absurd-header.bmp", b"BM" + huge, "too-large"
    yield "absurd-size.tif", tiff({256: 2**31 - 1, 257: 2**31 - 1}), "too-large"
    yield "frame-beyond-canvas.gif", frame_beyond_canvas(), "too-large or damaged or right"
    for name, container, options in CONTAINERS:
        data = saved(noise(), container, **options)
        for share in (0.02, 0.3, 0.6, 0.98):
            yield (
                f"cut-{share}.{name}",
                data[: int(len(data) * share)],
                "truncated or damaged or no-image or too-large",
            )
    data = saved(noise(), "PNG")
    yield "wrong-checksum.png", flipped(data, len(data) - 20), "damaged"
    yield "corrupt-pixels.png", flipped(data, len(data) // 2, 40), "damaged"
    yield "corrupt-zlib.png", data.replace(b"IDAT\x78", b"IDAT\x00"), "damaged"
    yield "no-pixels.png", data[:33] + chunk(b"IEND", b""), "damaged"
    yield "corrupt-header.jpg", flipped(saved(reference(), "JPEG"), 160, 30), "damaged or right"
    yield "no-scan.jpg", saved(reference(), "JPEG")[:300] + b"\xff\xd9", "damaged"
    yield "endless-palette.png", png(SIZE, 8, 3, b"\0" * 65 * 48), "damaged or right"
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 100_000_000, 9))
    yield "text-bomb.png", png(SIZE, 8, 0, b"\0" * 65 * 48, text), "damaged or right"
    yield "odd-offsets.tif", tiff({256: 64, 257: 48, 273: 2**32 - 5}), "damaged"
    yield "odd-tags.tif", tiff({256: 64, 257: 48, 65000: 2**32 - 1, 34665: 2**32 - 9}), "damaged"
    yield "loop-of-pages.tif", tiff({256: 64, 257: 48}, next_page=8), "damaged"
    yield "first-of-two-cut.jpg", several()[: len(photo()) // 2], "truncated"
    yield "twelve-bit.jpg", photo().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "unsupported"
    yield "sound.jpg", b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 999, "no-image"
    yield "notes.jpg", b"BMW, and other words. " * 99, "no-image"
    yield "float.tif", saved(Image.new("F", SIZE, 0.5), "TIFF"), "unsupported"
    yield "thirty-two-bit.tif", saved(Image.new("I", SIZE, 70_000), "TIFF"), "unsupported"
    yield "lab.tif", saved(Image.new("LAB", SIZE, (50, 9, 9)), "TIFF"), "unsupported"
    yield "tiny.png", saved(reference().resize((31, 200)), "PNG"), "tiny"
    yield "one-pixel.gif", saved(Image.new("L", (1, 1)), "GIF"), "tiny"
    yield "thread.png", saved(Image.new("L", (1, 60_000)), "PNG"), "tiny"
    yield "no-area.png", png((0, 10), 8, 0, b""), "damaged or no-image"


CONTAINERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("jpg", "JPEG", {"quality": 90}),
    ("progressive.jpg", "JPEG", {"quality": 90, "progressive": True}),
    ("png", "PNG", {}),
    ("gif", "GIF", {}),
    ("webp", "WEBP", {"quality": 90}),
    ("lossless.webp", "WEBP", {"lossless": True}),
    ("bmp", "BMP", {}),
    ("tif", "TIFF", {}),
    ("lzw.tif", "TIFF", {"compression": "tiff_lzw"}),
)


def tiff(tags: dict[int, int], next_page: int = 0) -> bytes:
    """A TIFF of 8-bit grey with any tags, valid or not."""
    all_tags = {256: 64, 257: 48, 258: 8, 259: 1, 262: 1, 273: 400, 277: 1, 278: 48, 279: 64 * 48} | tags
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(all_tags.items()))
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(all_tags))
        + body
        + struct.pack("<I", next_page)
    )


def palette_end(gif: bytes | bytearray) -> int:
    return 13 + 3 * 2 ** ((gif[10] & 7) + 1)


def absurd_canvas() -> bytes:
    """A GIF that claims a canvas of 65,535 x 65,535, with a small first frame."""
    data = bytearray(saved(reference("L"), "GIF"))
    data[6:10] = b"\xff" * 4
    return bytes(data)


def frame_beyond_canvas() -> bytes:
    """A GIF of 64 x 48 whose first frame claims 60,000 x 60,000."""
    data = bytearray(saved(reference("L"), "GIF"))
    at = data.index(b",", palette_end(data))
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


@cache
def corpus() -> list[Case]:
    """Return all cases; two files of tests share them."""
    return [*good(), *bad()]
