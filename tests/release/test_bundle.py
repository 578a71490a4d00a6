from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from skumatch.bundle import (
    MANIFEST,
    PARTS,
    Bundle,
    LabelledVectors,
    bundle_hash,
    verify_bundle,
    write_bundle,
)
from skumatch.errors import BundleError, StorageError
from skumatch.files import read_json, sha256, write_json
from tests.proving import count
from tests.release.forging import bound

Picture = Callable[[int], Image.Image]


def test_the_same_inputs_give_the_same_hash_in_any_order(
    encoder_dir: Path, gallery: LabelledVectors, made: Path, tmp_path: Path
) -> None:
    order = list(range(len(gallery.ids)))
    random.Random(1).shuffle(order)  # noqa: S311
    shuffled = LabelledVectors(
        [gallery.ids[i] for i in order], [gallery.skus[i] for i in order], gallery.embeddings[order]
    )
    digest = write_bundle(
        tmp_path / "again", encoder_dir, shuffled, {"similarity": 0.9}, reversed(gallery.ids[:8])
    )
    assert digest == bundle_hash(made) == hashlib.sha256((made / MANIFEST).read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["gallery", "label", "threshold", "training"])
def test_any_other_input_gives_another_hash(
    change: str, encoder_dir: Path, gallery: LabelledVectors, made: Path, tmp_path: Path
) -> None:
    ids, skus, vectors = gallery
    rows, threshold, training = LabelledVectors(ids, skus, vectors), 0.9, ids[:8]
    match change:
        case "gallery":
            rows = LabelledVectors(ids, skus, np.roll(vectors, 1, axis=0))
        case "label":
            rows = LabelledVectors(ids, [skus[1], *skus[1:]], vectors)
        case "threshold":
            threshold = 0.91
        case "training":
            training = ids[:7]
    assert write_bundle(
        tmp_path / "other", encoder_dir, rows, {"similarity": threshold}, training
    ) != bundle_hash(made)


def test_writing_over_a_bundle_replaces_it(encoder_dir: Path, gallery: LabelledVectors, bundle: Path) -> None:
    digest = write_bundle(bundle, encoder_dir, gallery, {}, [])
    assert verify_bundle(bundle, digest).counts.training == 0
    assert read_json(bundle / "thresholds.json") == {
        "similarity": None,
        "gallery": sha256(bundle / "gallery.parquet"),
    }


def test_manifest_tells_what_is_inside(made: Path) -> None:
    manifest = verify_bundle(made)
    assert (manifest.dim, manifest.counts.gallery, manifest.counts.skus, manifest.counts.training) == (
        256,
        12,
        4,
        8,
    )
    assert set(manifest.parts) == {
        path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()
    } - {MANIFEST}
    assert pq.read_schema(made / "gallery.parquet").field("embedding").type.list_size == 256
    assert not [path for path in made.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".npy", ".bin")]


@settings(
    max_examples=count(30, 500),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from((MANIFEST, *PARTS)), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_a_flipped_bit_anywhere_is_refused_before_use(
    name: str, where: float, bit: int, made: Path, bundle: Path
) -> None:
    original = (made / name).read_bytes()
    spoilt = bytearray(original)
    spoilt[int(where * len(spoilt))] ^= 1 << bit
    (bundle / name).write_bytes(spoilt)
    try:
        with pytest.raises(BundleError):
            verify_bundle(bundle, bundle_hash(made))
    finally:
        (bundle / name).write_bytes(original)


@pytest.mark.parametrize("name", PARTS)
def test_a_truncated_missing_or_linked_part_is_named(name: str, bundle: Path, tmp_path: Path) -> None:
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"{name}.*changed"):
        Bundle.load(bundle)
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.load(bundle)
    (tmp_path / "elsewhere").write_bytes(whole)
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.load(bundle)


@pytest.mark.parametrize("extra", ["model.pkl", "encoder/extra.json", ".hidden", "deep/er/file"])
def test_a_file_too_many_is_named(extra: str, bundle: Path) -> None:
    (bundle / extra).parent.mkdir(parents=True, exist_ok=True)
    (bundle / extra).write_bytes(b"x")
    with pytest.raises(BundleError, match=extra):
        verify_bundle(bundle)


def test_vectors_of_another_length_are_no_gallery(
    encoder_dir: Path, gallery: LabelledVectors, tmp_path: Path
) -> None:
    """Inner products of such vectors are no cosines, even if the hashes match."""
    write_bundle(tmp_path / "b", encoder_dir, gallery._replace(embeddings=2 * gallery.embeddings), {}, [])
    with pytest.raises(BundleError, match="doesn't hold 12 unit vectors of 256 numbers"):
        Bundle.load(tmp_path / "b")


def test_another_bundle_than_expected_is_refused(made: Path) -> None:
    with pytest.raises(BundleError, match="as recorded"):
        Bundle.load(made, "0" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"format": "other"}',
        '{"format": "skumatch-bundle-1"}',
        "[" * 5000,
        '"\\ud800"',
        " " * (2 << 20),
    ],
)
def test_a_manifest_that_is_none_is_refused(text: str, bundle: Path) -> None:
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=MANIFEST):
        verify_bundle(bundle)


def test_a_manifest_can_not_point_outside(bundle: Path) -> None:
    manifest = read_json(bundle / MANIFEST)
    manifest["parts"]["../../etc/passwd"] = manifest["parts"].pop("labels.json")
    write_json(bundle / MANIFEST, manifest)
    with pytest.raises(BundleError, match="doesn't list the parts"):
        verify_bundle(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        Bundle.load(tmp_path / "nowhere")


def test_an_interrupted_write_leaves_no_bundle(
    encoder_dir: Path, gallery: LabelledVectors, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skumatch.bundle.parts.pq.write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        write_bundle(bundle, encoder_dir, gallery, {}, [])
    with pytest.raises(BundleError, match="no bundle"):
        verify_bundle(bundle)
    assert not list(bundle.rglob(".*")), "nothing half-written is left"


def test_a_gallery_of_another_encoder_is_refused(encoder_dir: Path, tmp_path: Path) -> None:
    vectors = np.eye(3, 128, dtype=np.float32)
    write_bundle(
        tmp_path / "odd", encoder_dir, LabelledVectors(["a", "b", "c"], ["x", "x", "y"], vectors), {}, []
    )
    with pytest.raises(BundleError, match="don't belong together"):
        Bundle.load(tmp_path / "odd")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_part_that_parses_as_nothing_is_a_sentence(content: bytes, bundle: Path) -> None:
    (bundle / "gallery.parquet").write_bytes(content)
    with pytest.raises(BundleError, match=r"gallery\.parquet can't be read as a part"):
        Bundle.load(bound(bundle))


def test_thresholds_that_are_none_are_a_sentence(bundle: Path) -> None:
    (bundle / "thresholds.json").write_text(json.dumps({"similarity": "high"}))
    with pytest.raises(BundleError, match=r"thresholds\.json holds no thresholds"):
        Bundle.load(bound(bundle))


def test_match_finds_each_picture_among_distinct_skus(loaded: Bundle, picture: Picture) -> None:
    rows = loaded.match([picture(i) for i in range(12)], top_k=3)
    assert [row[0].gallery_id for row in rows] == [f"train/{i:02}" for i in range(12)]
    assert [row[0].sku for row in rows] == [f"sku {i % 4}" for i in range(12)]
    for row in rows:
        assert len({match.sku for match in row}) == len(row) == 3
        assert [match.similarity for match in row] == sorted(
            (match.similarity for match in row), reverse=True
        )


def test_arrays_match_as_pillows_pictures_do(loaded: Bundle, picture: Picture) -> None:
    pictures = [picture(0), picture(5)]
    assert loaded.match([np.array(image) for image in pictures], top_k=3) == loaded.match(pictures, top_k=3)


def test_a_picture_unlike_all_is_unknown(loaded: Bundle, picture: Picture) -> None:
    known, stranger = loaded.match([picture(0), picture(99)], top_k=1)
    assert not known[0].unknown and known[0].similarity == pytest.approx(1, abs=1e-5)
    assert stranger[0].unknown and stranger[0].similarity < 0.9


def test_match_lists_every_sku_when_asked_for_more(
    encoder_dir: Path, loaded: Bundle, picture: Picture, tmp_path: Path
) -> None:
    """Fifty near images of one SKU hide the other behind them; it is found all the same."""
    near = np.repeat(loaded.gallery.embeddings[:1], 50, axis=0)
    vectors = np.concatenate([near, loaded.gallery.embeddings[5:6]])
    write_bundle(
        tmp_path / "b",
        encoder_dir,
        LabelledVectors([f"{i:02}" for i in range(51)], ["many"] * 50 + ["one"], vectors),
        {},
        [],
    )
    [row] = Bundle.load(tmp_path / "b").match([picture(0)], top_k=7)
    assert [match.sku for match in row] == ["many", "one"]
    assert not any(match.unknown for match in row), "no threshold, so nothing is unknown"


def test_match_of_nothing_is_nothing(loaded: Bundle) -> None:
    assert loaded.match([]) == []
