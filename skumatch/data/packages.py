"""Made-up packages for the rendered sample.

Brands differ in shape, colours, pattern and logo. Flavours of one brand differ only in an accent colour and
small print.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

Array = NDArray[Any]
HEIGHT = 420  # pixels of a package's face; crops are smaller
FINE = 2  # faces and crops are drawn this much larger, then averaged down


@dataclass(frozen=True)
class Shape:
    """The shape and surface of a package.

    Attributes:
        aspect: height / width.
        outline: (distance from the top, half width), as shares of the height and of half the width.
        cap: share of the height above the printed part.
        curve: 0 for a flat front, 1 for a cylinder.
        gloss: strength of the reflected streak of light, from 0.
        crease: strength of the creases of a soft pack, from 0.
    """

    aspect: float
    outline: tuple[tuple[float, float], ...]
    cap: float
    curve: float
    gloss: float
    crease: float = 0.0


@dataclass(frozen=True)
class Brand:
    """A made-up brand.

    Attributes:
        logo: text of the logo.
        claim: text below the logo.
        shape: key in SHAPES.
        pattern: key in PATTERNS.
        colours: of the ground, the pattern and the logo.
        flavours: name of the SKU, printed text and accent colour of each flavour.
    """

    logo: str
    claim: str
    shape: str
    pattern: str
    colours: tuple[str, str, str]
    flavours: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Package:
    """A made-up product.

    Attributes:
        name: the SKU's name.
        brand: its brand.
        printed: the flavour's name as it is printed on the package.
        accent: colour of the band and the fruits.
        edition: 0 for products of the catalogue; later editions have other hues.
    """

    name: str
    brand: Brand
    printed: str
    accent: str
    edition: int


SHAPES = {
    "carton": Shape(2.3, ((0, 0.86), (0.06, 0.86), (0.14, 1), (1, 1)), 0.13, 0.0, 0.3),
    "bottle": Shape(
        3.0,
        ((0, 0.36), (0.09, 0.36), (0.1, 0.3), (0.14, 0.32), (0.32, 1), (0.96, 1), (1, 0.88)),
        0.1,
        1.0,
        0.8,
    ),
    "can": Shape(1.85, ((0, 0.82), (0.02, 0.84), (0.07, 1), (0.94, 1), (1, 0.84)), 0.045, 1.0, 1.0),
    "pouch": Shape(
        1.42, ((0, 0.97), (0.07, 1), (0.3, 0.95), (0.7, 0.95), (0.93, 1), (1, 0.97)), 0.055, 0.35, 0.9, 0.13
    ),
    "box": Shape(1.55, ((0, 1), (1, 1)), 0.0, 0.0, 0.15),
    "jar": Shape(1.6, ((0, 0.84), (0.15, 0.84), (0.16, 0.8), (0.25, 1), (0.95, 1), (1, 0.9)), 0.15, 1.0, 0.6),
}
# Each pattern returns the mask of the second colour. u: -1 to 1 across; v: from 0 down, in the same unit.
PATTERNS: dict[str, Callable[[Array, Array], Array]] = {
    "hills": lambda u, v: v + 0.22 * np.sin(3.1 * u + 0.6) + 0.1 * np.sin(7 * u) > 2.95,
    "rays": lambda u, v: np.sin(16 * np.arctan2(v - 1.6, u)) > 0,
    "waves": lambda u, v: np.sin(9 * v + 1.6 * np.sin(2.6 * u)) > 0.35,
    "leaves": lambda u, v: np.abs(np.sin(5 * (u + v))) * np.abs(np.cos(3 * (u - v))) > 0.62,
    "dots": lambda u, v: np.cos(8 * u) * np.cos(8 * v) > 0.4,
    "stripes": lambda u, v: np.sin(7 * (u + 0.6 * v)) > 0,
    "rings": lambda u, v: np.sin(13 * np.hypot(u, v - 1.2)) > 0.2,
    "diamonds": lambda u, v: np.abs(3 * u % 2 - 1) + np.abs(3 * v % 2 - 1) < 0.75,
}
BRANDS = (
    Brand("Alpenhof", "Bergbauern", "carton", "hills", ("#f4f5f0", "#4f9a4d", "#1d4f9c"), (
        ("Alpenhof Vollmilch 3,5% 1L", "Vollmilch 3,5%", "#1f4fa8"),
        ("Alpenhof Fettarme Milch 1,5% 1L", "Fettarm 1,5%", "#3fa4dc"),
        ("Alpenhof Laktosefrei 1,5% 1L", "Laktosefrei", "#7a4fa8"))),
    Brand("SOLEADA", "100% fruta", "carton", "rays", ("#f9c22e", "#f7a823", "#b3261e"), (
        ("Soleada Naranja & Mango 1L", "Naranja & Mango", "#e8731c"),
        ("Soleada Néctar Tropical 1L", "Tropical", "#8a9a1e"),
        ("Soleada Pomelo Rosa 1L", "Pomelo Rosa", "#d8506e"))),
    Brand("YUNSHAN", "mountain tea", "bottle", "leaves", ("#2f7d4a", "#276b40", "#f6f1dc"), (
        ("云山绿茶500ml", "Green Tea", "#b9d437"),
        ("Yunshan Jasmine Tea 500ml", "Jasmine Tea", "#f0e6b4"),
        ("Yunshan Oolong Tea 500ml", "Oolong Tea", "#c98b3a"))),
    Brand("Crisp & Co", "kettle cooked", "pouch", "stripes", ("#b5202f", "#a01626", "#fff3d6"), (
        ("Crisp & Co Sea Salt 150g", "Sea Salt", "#4f86c6"),
        ("Crisp & Co Sweet Paprika 150g", "Sweet Paprika", "#e2762b"),
        ("Crisp & Co Sour Cream 150g", "Sour Cream", "#6aa84f"))),
    Brand("Nordlys", "sparkling", "can", "waves", ("#173a5e", "#205b86", "#e9f4f7"), (
        ("Nordlys Hyldeblomst 33cl", "Hyldeblomst", "#dfe8a0"),
        ("Nordlys Øko Rabarber 33cl", "Rabarber", "#d2344a"),
        ("Nordlys Lakrids 33cl", "Lakrids", "#8d4a9e"))),
    Brand("Montalto", "medium roast", "jar", "diamonds", ("#3a241a", "#4b3022", "#e7b65c"), (
        ("Café Montalto Classico 100g", "Classico", "#b5202f"),
        ("Café Montalto Crema 100g", "Crema", "#cf9a4a"),
        ("Café Montalto Decaffeinato 99,9% 100g", "Decaffeinato", "#3f8f5b"))),
    Brand("Hazel Hill", "wholegrain", "box", "dots", ("#efe3c8", "#e3d0a5", "#6b3d1f"), (
        ("Hazel Hill Müsli Nuts 500g", "Nut Crunch", "#9a6233"),
        ("Hazel Hill Müsli Berries 500g", "Red Berries", "#a8325a"),
        ("Hazel Hill Müsli Apple & Oat 500g", "Apple & Oat", "#7d9e3a"))),
    Brand("BRISE", "eau de source", "bottle", "rings", ("#cfe8f2", "#b4d9ea", "#14609e"), (
        ("Brise Eau Minérale Nature 0.5L", "Nature", "#14609e"),
        ("Brise Eau Minérale Citron 0.5L", "Citron", "#d8c21f"),
        ("Brise Eau Minérale Menthe 0.5L", "Menthe", "#2f9e77"))),
)  # fmt: skip
CATALOGUE = sum(len(brand.flavours) for brand in BRANDS)


def catalogue(skus: int) -> list[Package]:
    """Return the first `skus` products, brand by brand; past the end follow new editions of all."""
    flavours = [(brand, *flavour) for brand in BRANDS for flavour in brand.flavours]
    chosen = [(*flavours[i % len(flavours)], i // len(flavours)) for i in range(skus)]
    return [
        Package(name if not n else f"{name} Edition {n + 1}", brand, text, accent, n)
        for brand, name, text, accent, n in chosen
    ]


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's built-in font at `size` pixels; since it has only ASCII letters, so has the print."""
    built_in = ImageFont.load_default(size=size)
    assert isinstance(built_in, ImageFont.FreeTypeFont), (
        "Pillow without FreeType draws no text of a chosen size"
    )
    return built_in


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    width: float,
    height: float,
    fill: str,
    bold: float = 0,
) -> None:
    """Draw `text` centred at `at`, as large as `width` and `height` (pixels) allow.

    `bold` is the stroke's width as a share of the font size.
    """
    size = int(min(height, 100 * width / font(100).getlength(text)))
    draw.text(at, text, fill, font(size), anchor="mm", stroke_width=round(bold * size), stroke_fill=fill)


@lru_cache(maxsize=128)
def design(sku: Package) -> Image.Image:
    """Draw the front of a package: RGBA, HEIGHT pixels high, transparent outside its outline."""
    shape, (ground, second, ink) = SHAPES[sku.brand.shape], sku.brand.colours
    height, width = FINE * HEIGHT, round(FINE * HEIGHT / shape.aspect / 2) * 2
    u, v = np.meshgrid(np.linspace(-1, 1, width), np.linspace(0, 1, height))
    marks = PATTERNS[sku.brand.pattern](u, 2 * v * shape.aspect)
    print_area = v > shape.cap
    face = Image.new("RGB", (width, height), ink)
    face.paste(ground, mask=Image.fromarray(print_area))
    if sku.brand.shape == "carton":
        screw_cap = (width / 2, 0.55 * shape.cap * height)
        ImageDraw.Draw(face).circle(screw_cap, 0.14 * width, second, ground, 6)
    face.paste(second, mask=Image.fromarray(marks & print_area))
    _print(face, sku)
    if sku.edition:
        hue, *rest = face.convert("HSV").split()
        turn = round(sku.edition * 0.382 * 256)  # the golden angle: neighbouring editions far apart
        face = Image.merge("HSV", (hue.point([(h + turn) % 256 for h in range(256)]), *rest)).convert("RGB")
    half = np.interp(v[:, :1], [y for y, _ in shape.outline], [x for _, x in shape.outline])
    lit = np.clip(np.asarray(face) * _relief(shape, u / half, v)[..., None], 0, 255)
    return Image.fromarray(np.dstack([lit, 255 * (np.abs(u) <= half)]).astype(np.uint8)).reduce(FINE)


def _relief(shape: Shape, u: Array, v: Array) -> Array:
    """Return the brightness of the surface as a factor for each pixel.

    It has darker round sides, a streak of gloss, the edge below the cap and the creases of soft packs.
    """
    light = 1 - 0.5 * shape.curve * np.clip(np.abs(u), 0, 1) ** 3 - 0.06 * v
    light += 0.22 * shape.gloss * np.exp(-(((u + 0.45) / 0.12) ** 2))
    light += shape.crease * np.sin(7 * u + 5 * np.sin(4 * u + 5 * v)) * (2 * v - 1) ** 2
    return light * (1 - 0.25 * np.exp(-(((v - shape.cap) / 0.004) ** 2)) * (shape.cap > 0))


def _print(face: Image.Image, sku: Package) -> None:
    """Print logo, claim, a band and fruits in the accent colour with the flavour's name, and small print."""
    draw = ImageDraw.Draw(face)
    w, h = face.size
    top = SHAPES[sku.brand.shape].cap
    ground, _, ink = sku.brand.colours
    x = w / 2
    at = [h * (top + (1 - top) * share / 100) for share in range(101)]  # y at each hundredth of the print
    draw.rounded_rectangle((0.1 * w, at[26], 0.9 * w, at[42]), 0.05 * h, ink)
    _write(draw, (x, at[34]), sku.brand.logo, 0.7 * w, 0.13 * h, ground, 0.03)
    _write(draw, (x, at[46]), sku.brand.claim, 0.5 * w, 0.04 * h, ink)
    draw.rectangle((0, at[53], w, at[66]), sku.accent)
    bright = sum(ImageColor.getrgb(sku.accent)) > 430
    _write(draw, (x, at[60]), sku.printed, 0.64 * w, 0.07 * h, "#222222" if bright else "white", 0.02)
    for dx, dy in ((-0.043, 78), (0.043, 79), (0, 75)):
        draw.circle((x + dx * h, at[dy]), 0.037 * h, sku.accent, ground, 2)
    for row, text in enumerate(
        (f"{sku.brand.logo} {sku.printed}", f"No. {sku.edition + 1}, best before: see top")
    ):
        _write(draw, (x, at[88 + 4 * row]), text, 0.6 * w, 0.028 * h, ink)
