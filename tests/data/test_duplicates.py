"""The census of duplicates: copies it must find, look-alikes it must not; names and order don't matter."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skumatch.data.delivery.examine import examine
from skumatch.data.duplicates.alignment import residuals, thumbnail
from skumatch.data.duplicates.census import Census, find_duplicates
from skumatch.data.duplicates.neighbours import near_pairs
from skumatch.data.fingerprints import KINDS, near_copy
from skumatch.data.images import Extent, Images, decode
from skumatch.data.packages import Package, catalogue, design
from skumatch.data.sample import photograph
from tests.conftest import ROOT
from tests.data.plain_alignment import plain_residuals
from tests.proving import count

PHOTOS = ROOT.parent / "shared/data/grocery-store/all"
MOST = 0.014
Picture = tuple[str, Image.Image]  # SKU and pixels


def saved(folder: Path, pictures: Sequence[Picture]) -> tuple[pd.DataFrame, Images]:
    """The pictures as a manifest would list them, in files of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, extents = [], []
    for number, (sku, picture) in enumerate(pictures):
        path = folder / f"{number:05}.png"
        picture.save(path)
        rows.append(
            examine(path.read_bytes(), 8)._asdict()
            | {"id": f"train/{sku}/{number}", "sku": sku, "side": "train"}
        )
        extents.append(Extent(str(path)))
    frame = pd.DataFrame(rows)
    return frame, Images(frame["id"].tolist(), frame["sku"].tolist(), frame["id"].tolist(), extents)


def census(folder: Path, pictures: Sequence[Picture]) -> Census:
    return find_duplicates(*saved(folder, pictures), MOST)


def shot(sku: Package, key: int) -> Picture:
    """A rendered photo; one key gives the same pose, light and neighbours for every product."""
    others = [design(catalogue(24)[i]) for i in np.random.default_rng(key).integers(24, size=2)]
    picture = io.BytesIO()
    photograph(design(sku), others, np.random.default_rng(key)).save(picture, "JPEG", quality=80)
    return sku.name, decode(picture.getvalue())


def flavour(sku: Package) -> Package:
    """Another product that differs from `sku` in accent colour and small print alone."""
    return next(other for other in catalogue(24) if other.brand == sku.brand and other != sku)


def planted(originals: Sequence[Picture], number: int) -> list[tuple[int, Picture]]:
    """`number` near-copies with the place of the original of each, all kinds in turn."""
    draws = np.random.default_rng(11)
    chosen = [int(i) for i in draws.integers(len(originals), size=number)]
    return [
        (i, (originals[i][0], near_copy(originals[i][1], draws, KINDS[n % len(KINDS)])))
        for n, i in enumerate(chosen)
    ]


def recall(result: Census, originals: int, copies: Sequence[tuple[int, Picture]]) -> float:
    return float(
        np.mean([result.groups[originals + place] == result.groups[i] for place, (i, _) in enumerate(copies)])
    )


def say(result: Census, recalled: float, called: float) -> None:
    """For `pytest -rP`."""
    threshold = result.facts["calibration"]["threshold"]
    print(f"copies found {recalled:.4f}, look-alikes called copies {called:.4f}, threshold {threshold:.4f}")


def test_planted_copies_are_found_and_look_alikes_are_not(tmp_path: Path) -> None:
    """Rendered photos, each with another flavour in the same pose and light: the hardest look-alikes."""
    shots = count(60, 300)
    pairs = [
        (shot(catalogue(24)[key % 24], key), shot(flavour(catalogue(24)[key % 24]), key))
        for key in range(shots)
    ]
    originals = [picture for pair in pairs for picture in pair]
    copies = planted(originals, count(150, 1000))
    duplicates = census(tmp_path, [*originals, *(picture for _, picture in copies)])
    recalled = recall(duplicates, len(originals), copies)
    called = float(np.mean([duplicates.groups[2 * i] == duplicates.groups[2 * i + 1] for i in range(shots)]))
    say(duplicates, recalled, called)
    assert recalled >= 0.98 and called <= 0.01
    assert (
        duplicates.facts["calibration"]["recall"] >= 0.95
        and duplicates.facts["calibration"]["threshold"] <= MOST
    )


@pytest.mark.skipif(
    not PHOTOS.is_dir(), reason="the photos of the grocery-store data set are not on this machine"
)
def test_planted_copies_of_real_photos_are_found_and_products_kept_apart(tmp_path: Path) -> None:
    paths = sorted(PHOTOS.glob("train/*/*"))
    chosen = np.random.default_rng(5).permutation(len(paths))[: count(200, 1500)]
    originals = [(paths[i].parent.name, decode(paths[i].read_bytes())) for i in chosen]
    copies = planted(originals, count(150, 1000))
    duplicates = census(tmp_path, [*originals, *(picture for _, picture in copies)])
    recalled, mixed = recall(duplicates, len(originals), copies), duplicates.facts["groups_of_several_skus"]
    say(duplicates, recalled, mixed / len(originals))
    assert recalled >= 0.98 and mixed == 0


def test_equal_pixels_are_one_group_under_any_label_and_container(tmp_path: Path) -> None:
    first, second = shot(catalogue(24)[0], 1), shot(catalogue(24)[3], 2)
    duplicates = census(tmp_path, [first, ("other name", first[1]), second, second, second])
    assert (
        duplicates.groups[0]
        == duplicates.groups[1]
        != duplicates.groups[2]
        == duplicates.groups[3]
        == duplicates.groups[4]
    )
    facts = duplicates.facts
    assert (facts["exact_groups"], facts["exact_images"], facts["near_groups"]) == (2, 5, 0)
    assert (facts["largest_group"], facts["groups_of_several_skus"]) == (3, 1)


def test_a_wrong_label_on_a_near_copy_is_seen(tmp_path: Path) -> None:
    sku, picture = shot(catalogue(24)[0], 1)
    copy = near_copy(picture, np.random.default_rng(0), "jpeg")
    duplicates = census(
        tmp_path, [(sku, picture), ("mislabelled", copy), *(shot(catalogue(24)[i], i) for i in range(3, 12))]
    )
    assert duplicates.groups[0] == duplicates.groups[1]
    assert duplicates.facts["near_groups"] == duplicates.facts["groups_of_several_skus"] == 1


def test_groups_are_the_same_in_any_order_and_under_any_name(tmp_path: Path) -> None:
    originals = [shot(catalogue(24)[key % 24], key) for key in range(24)]
    pictures = [*originals, *(picture for _, picture in planted(originals, 24))]
    order = np.random.default_rng(3).permutation(len(pictures))
    first = census(tmp_path / "a", pictures)
    second = census(tmp_path / "b", [pictures[i] for i in order])
    assert first.groups[order].tolist() == second.groups.tolist()
    assert first.facts == second.facts


def test_flat_pictures_are_copies_only_if_equal(tmp_path: Path) -> None:
    shades = [("grey", Image.new("RGB", (40, 60), (level, level, level))) for level in (90, 120, 120, 200)]
    duplicates = census(tmp_path, [*shades, shot(catalogue(24)[0], 1), shot(catalogue(24)[3], 2)])
    assert len(set(duplicates.groups)) == 5 and duplicates.groups[1] == duplicates.groups[2]


def test_colour_alone_tells_two_products_apart() -> None:
    picture = np.asarray(shot(catalogue(24)[0], 1)[1])
    swapped = np.stack(
        [picture[..., 2], picture[..., 1], picture[..., 0]], axis=-1
    )  # red and blue change places
    small = np.stack([thumbnail(Image.fromarray(pixels)) for pixels in (picture, swapped)])
    assert residuals(small[:1], small[1:])[0] > 4 * MOST
    assert residuals(small[:1], small[:1])[0] < 0.001


@settings(max_examples=count(15, 300))
@given(st.integers(0, 2**32 - 1), st.floats(0, 60), st.floats(0.7, 2), st.integers(1, 300))
def test_residuals_are_those_of_the_plain_measure(seed: int, noise: float, gain: float, pairs: int) -> None:
    """To the bit: copies and strangers, noisy and burnt out, in blocks of any size."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (pairs, 6, 6, 3)).repeat(8, axis=1).repeat(8, axis=2)
    shifted = np.roll(coarse, draws.integers(-3, 4), axis=2)[draws.permutation(pairs) if seed % 2 else ...]
    first, second = (
        np.clip(gain * part + draws.normal(0, noise, part.shape), 0, 255).astype(np.uint8)
        for part in (coarse, shifted)
    )
    np.testing.assert_array_equal(residuals(first, second), plain_residuals(first, second))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the grocery photos are not on this machine")
def test_residuals_of_real_photos_are_those_of_the_plain_measure() -> None:
    paths = sorted(PHOTOS.glob("train/*/*"))[:: count(20, 4)]
    small = np.stack([thumbnail(decode(path.read_bytes())) for path in paths])
    draws = np.random.default_rng(5)
    copies = [
        near_copy(decode(path.read_bytes()), draws, KINDS[n % len(KINDS)]) for n, path in enumerate(paths)
    ]
    for second in (np.stack([thumbnail(copy) for copy in copies]), np.roll(small, 1, axis=0)):
        began = time.process_time()
        fast = residuals(small, second)
        between = time.process_time()
        np.testing.assert_array_equal(fast, plain_residuals(small, second))
        fast_ms, plain_ms = (
            1000 * seconds / len(small) for seconds in (between - began, time.process_time() - between)
        )
        print(
            f"{fast_ms:.3f} ms of processor time a pair, plainly {plain_ms:.3f}: {fast_ms / plain_ms:.2f} x"
        )


def test_every_part_of_the_search_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", "1")
    monkeypatch.setattr("skumatch.progress.EVENT_SECONDS", 0)
    originals = [shot(catalogue(24)[key % 24], key) for key in range(12)]
    census(tmp_path, [*originals, *(picture for _, picture in planted(originals, 12))])
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    steps = [(event["stage"], event["done"], event["total"]) for event in map(json.loads, lines)]
    ended = dict.fromkeys(stage for stage, done, total in steps if done == total)
    assert list(ended) == ["calibrate", "hashes", "thumbnails", "compare"]
    assert steps[0][:2] == ("calibrate", 1), "a picture at a time"


def brute(codes: np.ndarray, radius: int) -> dict[tuple[int, int], int]:  # type: ignore[type-arg]
    apart = np.bitwise_count(codes[:, None, :, None] ^ codes[None, :, None, :]).min(axis=(2, 3))
    return {
        (i, j): int(apart[i, j])
        for i in range(len(codes))
        for j in range(i + 1, len(codes))
        if apart[i, j] <= radius
    }


@settings(max_examples=count(20, 200))
@given(st.integers(0, 2**32 - 1), st.integers(0, 10))
def test_close_hashes_are_those_of_a_comparison_of_all_pairs(seed: int, radius: int) -> None:
    draws = np.random.default_rng(seed)
    codes = draws.integers(0, 2**64, (60, 3), dtype=np.uint64)
    copies = codes[draws.integers(60, size=40)].copy()
    for _ in range(8):
        copies ^= np.where(
            draws.random(copies.shape) < 0.8,
            np.uint64(1) << draws.integers(0, 64, copies.shape, dtype=np.uint64),
            0,
        )
    codes = np.concatenate([codes, copies, codes[:5]])
    pairs, distance = near_pairs(codes, radius)
    assert dict(zip(map(tuple, pairs.tolist()), distance.tolist(), strict=True)) == brute(codes, radius)


def test_a_crowd_with_one_hash_costs_no_more_than_its_size() -> None:
    crowd = np.full((20_000, 3), 7, np.uint64)
    pairs, distance = near_pairs(crowd)
    assert len(pairs) <= 16 * len(crowd) and not distance.any()
    assert len(near_pairs(np.empty((0, 3), np.uint64))[0]) == 0


def test_groups_are_named_by_content(tmp_path: Path) -> None:
    picture = shot(catalogue(24)[0], 1)[1]
    duplicates = census(tmp_path, [("a", picture), ("b", Image.new("RGB", (32, 32)))])
    expected = hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()
    assert duplicates.groups[0] == expected
