"""Parts of one model make a bundle; a part of another model is refused even with matching hashes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skumatch.bundle import (
    FORMAT,
    MANIFEST,
    PARTS,
    Bundle,
    LabelledVectors,
    bundle_hash,
    verify_bundle,
    write_bundle,
)
from skumatch.errors import BundleError
from skumatch.files import read_json, write_json
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams
from tests.release.forging import bound, of_format_1, signed

Picture = Callable[[int], Image.Image]


@pytest.fixture(scope="module")
def other(gallery: LabelledVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with equal numbers of pictures, SKUs and training pictures, and equal vector length."""
    root = tmp_path_factory.mktemp("other")
    torch.manual_seed(1)
    encoders.save(
        encoders.build(EncoderParams(model="smoke", weights="none", height=64, width=64), None).eval(), root
    )
    labelled = LabelledVectors(
        gallery.ids, [f"sku {min(i, 3)}" for i in range(12)], np.roll(gallery.embeddings, 1, axis=1)
    )
    write_bundle(root / "bundle", root, labelled, {"similarity": 0.8}, gallery.ids[4:])
    return root / "bundle"


@pytest.mark.parametrize("rewritten", [False, True], ids=["bundle.json-as-it-was", "bundle.json-rewritten"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_another_model_is_refused_by_name(
    part: str, rewritten: bool, bundle: Path, other: Path
) -> None:
    assert (bundle / part).stat().st_size == pytest.approx((other / part).stat().st_size, rel=0.01), (
        "no other shape gives it away"
    )
    shutil.copyfile(other / part, bundle / part)
    if rewritten:
        signed(bundle)
    with pytest.raises(BundleError, match=part) as caught:
        Bundle.load(bundle)
    assert ("doesn't belong" in str(caught.value)) is rewritten


def test_all_parts_of_the_other_model_together_are_a_bundle(bundle: Path, other: Path) -> None:
    for part in PARTS:
        shutil.copyfile(other / part, bundle / part)
    assert Bundle.load(signed(bundle)).hash == bundle_hash(other)


def test_the_same_pictures_seen_by_another_model_are_no_gallery_of_this_one(
    bundle: Path, other: Path, gallery: LabelledVectors, tmp_path: Path
) -> None:
    """Pictures, SKUs, labels and shapes are all the same; only the vectors are another model's."""
    write_bundle(tmp_path / "seen", other / "encoder", gallery, {"similarity": 0.9}, gallery.ids[:8])
    assert (tmp_path / "seen/labels.json").read_bytes() == (bundle / "labels.json").read_bytes()
    for part in ("gallery.parquet", "thresholds.json"):
        shutil.copyfile(tmp_path / "seen" / part, bundle / part)
    with pytest.raises(BundleError, match=r"gallery\.parquet .* doesn't belong to the encoder/encoder\.json"):
        Bundle.load(signed(bundle))


def test_another_preprocessing_is_another_encoder(bundle: Path) -> None:
    facts = read_json(bundle / "encoder/encoder.json")
    write_json(
        bundle / "encoder/encoder.json", facts | {"preprocess": facts["preprocess"] | {"resize": "pad"}}
    )
    with pytest.raises(BundleError, match=r"gallery\.parquet .* doesn't belong to the encoder/encoder\.json"):
        verify_bundle(signed(bundle))


@pytest.mark.parametrize("name", ["gallery", "skus", "training"])
def test_counts_are_counted_again(name: str, bundle: Path) -> None:
    manifest = read_json(bundle / MANIFEST)
    manifest["counts"][name] += 1
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(BundleError, match="counts other pictures"):
        verify_bundle(bundle)


def test_a_bundle_of_format_1_is_read_as_before(bundle: Path, loaded: Bundle, picture: Picture) -> None:
    older = Bundle.load(of_format_1(bundle))
    assert (older.manifest.format, loaded.manifest.format) == ("skumatch-bundle-1", FORMAT)
    assert older.hash != loaded.hash
    assert older.match([picture(0), picture(99)]) == loaded.match([picture(0), picture(99)])


@pytest.mark.parametrize("part", PARTS)
def test_calling_it_format_1_hides_no_part_of_another_model(part: str, bundle: Path, other: Path) -> None:
    shutil.copyfile(other / part, bundle / part)
    write_json(bundle / MANIFEST, read_json(bundle / MANIFEST) | {"format": "skumatch-bundle-1"})
    with pytest.raises(BundleError, match=part):
        verify_bundle(signed(bundle))


@pytest.mark.parametrize("part", ["gallery.parquet", "thresholds.json", "training.parquet"])
def test_in_format_2_a_part_says_what_it_belongs_to(part: str, bundle: Path, tmp_path: Path) -> None:
    silent = of_format_1(shutil.copytree(bundle, tmp_path / "silent"))
    shutil.copyfile(silent / part, bundle / part)
    with pytest.raises(BundleError, match=rf"{part} .* doesn't belong"):
        verify_bundle(signed(bundle))


def test_a_newer_format_is_refused_with_advice(bundle: Path) -> None:
    write_json(bundle / MANIFEST, read_json(bundle / MANIFEST) | {"format": "skumatch-bundle-3", "more": 1})
    with pytest.raises(
        BundleError,
        match=r"skumatch-bundle-3, .*skumatch-bundle-1 and skumatch-bundle-2; install a newer skumatch",
    ):
        verify_bundle(bundle)


def test_what_the_tests_forge_is_no_different_from_what_is_written(bundle: Path, made: Path) -> None:
    """Or nothing is shown by them."""
    assert read_json(bound(bundle) / "thresholds.json").keys() == read_json(made / "thresholds.json").keys()
    assert Bundle.load(bundle).manifest.counts == verify_bundle(made).counts
