"""A rendered data set: shelf photos of made-up packages in RP2K's layout.

With it the whole loop runs without a download.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from skumatch.data.delivery.layout import SIDES
from skumatch.data.packages import CATALOGUE, FINE, HEIGHT, Package, catalogue, design, font
from skumatch.errors import DataError, ParameterError, StorageError
from skumatch.files import read_json, write_json
from skumatch.progress import track

FORMAT = "skumatch-sample-1"  # raise it when the pictures change
MARKER = "sample.json"  # outside all/, so no importer takes it for data
FLOOR = HEIGHT + 60  # where packages stand in a scene, pixels from its top


def photograph(face: Image.Image, others: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    """Render a crop of a shelf photo, RGB, 140 to 320 pixels high.

    Args:
        face: the package's front, RGBA, as `design` draws it.
        others: the fronts of its left and right neighbour.
        rng: decides shelf, crop, perspective and light.
    """
    scene = _shelf(face, others, rng)
    w, h = face.size
    # The detector's margin around the package in pixels: left, top, right, bottom.
    margin = rng.uniform(-0.03, (0.12, 0.06, 0.12, 0.06)) * (w, h, w, h)
    centre = np.array([scene.width / 2, FLOOR - h / 2])
    box = np.array([[-w / 2 - margin[0], -h / 2 - margin[1]], [w / 2 + margin[2], h / 2 + margin[3]]])
    # In the order of Pillow's QUAD.
    corners = np.array([[box[i, 0], box[j, 1]] for i, j in ((0, 0), (0, 1), (1, 1), (1, 0))])
    angle = np.radians(rng.normal(0, 3))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    # Each corner is scaled by a factor of its own, which looks like perspective.
    corners = corners @ turn * (1 + rng.uniform(-0.06, 0.06, (4, 1))) + centre
    tall = rng.uniform(140, 320)
    size = (round(tall * (box[1, 0] - box[0, 0]) / (box[1, 1] - box[0, 1])), round(tall))
    fine = (FINE * size[0], FINE * size[1])
    crop = scene.transform(fine, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR)
    return _expose(crop.reduce(FINE), rng)


def _shelf(face: Image.Image, others: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    """Draw the package on a shelf between its neighbours, before a dim back wall, over a price rail."""
    scene = Image.new("RGB", (face.width + HEIGHT // 2, FLOOR + 110), "#2a2723")
    middle, rail = scene.width / 2, ImageDraw.Draw(scene)
    rail.rectangle((0, FLOOR - 6, scene.width, FLOOR + 10), "#8d8a84")
    rail.rectangle(
        (0, FLOOR + 10, scene.width, scene.height), ("#d9d7d2", "#b33a32", "#f2c230")[rng.integers(3)]
    )
    tag = middle + rng.uniform(-150, 60)
    rail.rectangle((tag, FLOOR + 16, tag + 120, FLOOR + 70), "#fdfdf8")
    rail.text((tag + 60, FLOOR + 44), f"{rng.uniform(0.5, 9):.2f}", "#222222", font(36), anchor="mm")
    left, right = middle - face.width / 2, middle + face.width / 2
    gaps = rng.exponential(0.05, 2) * face.width
    for item, at in ((others[0], left - gaps[0] - others[0].width), (others[1], right + gaps[1])):
        scene.paste(item, (round(at), FLOOR - item.height), item)
    shadow = Image.new("L", (scene.width // 4, scene.height // 4))
    shadow.paste(
        150, (round(left + 10) // 4, (FLOOR - face.height + 10) // 4), face.getchannel("A").reduce(4)
    )
    scene.paste(
        "black",
        mask=shadow.filter(ImageFilter.GaussianBlur(2.5)).resize(scene.size, Image.Resampling.BILINEAR),
    )
    scene.paste(face, (round(left), FLOOR - face.height), face)
    return scene


def _expose(crop: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add shelf light, the shadow of the shelf above, glare, colour cast, blur and grain."""
    u, v = np.meshgrid(np.linspace(-1, 1, crop.width), np.linspace(0, 1, crop.height))
    light = rng.uniform(0.85, 1.3) * (1 + rng.normal(0, 0.12) * u - rng.uniform(0, 0.3) * v)
    light *= 1 - rng.uniform(0, 0.55) / (
        1 + np.exp((v - rng.uniform(0, 0.35) - rng.normal(0, 0.05) * u) / 0.03)
    )
    glare = rng.uniform(0, 70) * np.exp(
        -(((u + rng.normal(0, 0.6) + rng.normal(0, 0.5) * v) / rng.uniform(0.1, 0.4)) ** 2)
    )
    cast = np.exp(rng.normal(0, 0.04, 3))
    grain = rng.normal(0, rng.uniform(2, 7), (crop.height, crop.width, 3))
    soft = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.08 * crop.height**0.5)))
    pixels = np.asarray(soft) * light[..., None] * cast + glare[..., None] + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render_sample(folder: Path, skus: int = 24, train: int = 10, test: int = 5, seed: int = 7) -> None:
    """Render a sample to `folder`/all/<side>/<sku>/; equal arguments give equal bytes.

    A photo depends on the seed, its SKU, side and number only, so a smaller sample is a part of a larger one.
    A complete sample of the same parameters stays as it is. An interrupted call leaves nothing behind.

    Args:
        folder: the sample's folder.
        skus: number of products, from 1.
        train: photos of each product on the train side, from 1.
        test: photos of each product on the test side, from 1.
        seed: of all photos.

    Raises:
        ParameterError: for a count below 1.
        DataError: if `folder` holds anything else.
        StorageError: if the disk refuses.
    """
    if min(skus, train, test) < 1:
        raise ParameterError(
            f"A sample needs at least 1 SKU, train and test image, not {skus}, {train} and {test}; "
            "raise the counts."
        )
    about = {"format": FORMAT, "skus": skus, "train": train, "test": test, "seed": seed}
    counts = dict(zip(SIDES, (train, test), strict=True))
    shots = [
        (sku, side, number) for sku in catalogue(skus) for side in SIDES for number in range(counts[side])
    ]
    if _rendered(folder, about, len(shots)):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside,
            track("sample", len(shots)) as advance,
        ):
            whole = Path(aside) / folder.name
            for sku, side, number in shots:
                _shoot(
                    whole / "all" / side / sku.name / f"{number:04d}.jpg",
                    sku,
                    f"{seed}/{side}/{number}/{sku.name}",
                )
                advance(text=sku.name)
            write_json(whole / MARKER, about)
            whole.replace(folder)
    except OSError as error:
        raise StorageError(
            f"Could not write {folder}: {error.strerror or error}; "
            "free some space or check the disk, then run again."
        ) from error


def _shoot(path: Path, sku: Package, key: str) -> None:
    """Save one photo of `sku`, decided by `key` alone; its neighbours are often of the same brand."""
    rng = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    catalogued = catalogue(CATALOGUE)
    shelf = [s for s in catalogued if s.brand is sku.brand] if rng.random() < 0.6 else catalogued
    others = [design(shelf[i]) for i in rng.integers(len(shelf), size=2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(design(sku), others, rng).save(path, quality=int(rng.integers(45, 90)))


def _rendered(folder: Path, about: dict[str, object], images: int) -> bool:
    """Return True if `folder` holds this sample already, False if it is empty or missing.

    Raises:
        DataError: if the folder holds anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        marker = read_json(folder / MARKER)
    except (OSError, ValueError):
        raise DataError(
            f"{folder} exists and is no rendered sample; remove it or give another folder."
        ) from None
    if marker != about or sum(1 for _ in folder.glob("all/*/*/*.jpg")) != images:
        raise DataError(
            f"{folder} holds a sample of other parameters or an incomplete one; "
            "remove it or give another folder."
        )
    return True
