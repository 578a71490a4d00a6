"""Perceptual hashes stay near for near-copies, of crops too, and are the same wherever they are made."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from skumatch.data.fingerprints import Fingerprint, fingerprint, near_copy
from skumatch.data.packages import catalogue, design
from skumatch.data.sample import photograph

RADIUS = 10  # bits, as docs/data.md says
STORED = [
    "8000000000000000",
    "8000800080008000",
    "8000800080008000",
]  # of a ramp: manifests made before must stay comparable


def photo(number: int) -> Image.Image:
    """A rendered photo of one of 24 products; another pose and light for each number."""
    faces, draws = [design(sku) for sku in catalogue(24)], np.random.default_rng(number)
    return photograph(faces[number % 24], [faces[i] for i in draws.integers(24, size=2)], draws)


def apart(first: Fingerprint, second: Fingerprint) -> int:
    """Bits by which the nearest of both pictures' windows differ."""
    return min((a ^ b).bit_count() for a in first for b in second)


@pytest.mark.parametrize("kind", ["scale", "jpeg", "brightness"])
def test_scaling_compression_and_light_change_few_bits(kind: str) -> None:
    for number in range(0, 24, 3):
        picture = photo(number)
        copy = near_copy(picture, np.random.default_rng(number), kind)
        assert (fingerprint(picture).phash ^ fingerprint(copy).phash).bit_count() <= RADIUS


def test_a_crop_is_near_to_a_window_of_the_whole() -> None:
    whole, nearest = [], []
    for number in range(24):
        picture = photo(number)
        cropped = picture.crop(
            tuple(
                round(side * share)
                for side, share in zip(picture.size * 2, (0.05, 0.05, 0.95, 0.95), strict=True)
            )
        )
        first, second = fingerprint(picture), fingerprint(cropped)
        whole.append((first.phash ^ second.phash).bit_count())
        nearest.append(apart(first, second))
    assert max(nearest) <= RADIUS and np.mean(nearest) < 0.6 * np.mean(whole)


def test_other_products_are_far() -> None:
    prints = [fingerprint(photo(number)) for number in range(0, 24, 3)]  # one flavour of each brand
    assert min(apart(a, b) for i, a in enumerate(prints) for b in prints[:i]) > RADIUS


def test_hashes_stay_as_they_are_stored() -> None:
    ramp = Image.fromarray(np.add.outer(np.arange(100), 2 * np.arange(60)).astype(np.uint8)).convert("RGB")
    assert fingerprint(ramp) == fingerprint(ramp.copy())
    assert [f"{value:016x}" for value in fingerprint(ramp)] == STORED
    assert all(0 <= value < 2**64 for value in fingerprint(Image.new("RGB", (32, 32), "white")))
