from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional

from skumatch.errors import ParameterError, WeightsError
from skumatch.model.encoder import build, load, published, save
from skumatch.model.projection import Projection
from skumatch.model.torchvision_ops import ensure, open_clip
from skumatch.params import EncoderParams
from tests.pipeline.home import HIDDEN

PIXELS = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
DINO = Path(__file__).parents[3] / "shared" / "weights" / "dinov2_vits14.safetensors"


@pytest.fixture
def spec() -> EncoderParams:
    return EncoderParams(model="smoke", weights="none", height=32, width=48)


def test_open_clip_is_usable_and_a_second_call_changes_nothing() -> None:
    ensure()
    assert {"efficientnet-lite0", "vit-s14-dinov2", "smoke"} <= set(open_clip.list_models())


COMPILES = "import torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())"


@pytest.mark.parametrize(
    ("before", "after", "imported"),
    [
        ("", "", "False\n"),
        ("", COMPILES, "False\n2.0\n"),  # torch's own compiler comes when it is asked for
        ("import torch._dynamo", COMPILES, "True\n2.0\n"),
    ],
)
def test_an_encoder_is_imported_without_torchs_compiler(before: str, after: str, imported: str) -> None:
    shown = "import sys; print(hasattr(sys.modules.get('torch._dynamo'), 'eval_frame'))"
    code = "\n".join((before, "import skumatch.model.encoder", shown, after))
    environment = os.environ | {"PYTHONPATH": str(HIDDEN)}  # transformers imports the compiler
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert ended.stdout == imported


def test_embeddings_have_length_one(spec: EncoderParams) -> None:
    embeddings = build(spec, None).eval()(PIXELS)
    assert embeddings.shape == (2, 256) and embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(2))


def test_only_the_image_tower_is_kept(spec: EncoderParams) -> None:
    encoder = build(spec, None)
    assert all(name.startswith("tower.trunk.") for name in encoder.state_dict())
    assert encoder.dim == 256


def test_random_weights_follow_the_callers_seed(spec: EncoderParams) -> None:
    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        embeddings: torch.Tensor = build(spec, None).eval()(PIXELS)
        return embeddings

    assert seeded(1).equal(seeded(1))
    assert not seeded(1).equal(seeded(2))


def test_saved_and_loaded_is_the_same_encoder(spec: EncoderParams, tmp_path: Path) -> None:
    encoder = build(spec, None).eval()
    save(encoder, tmp_path)
    again = load(tmp_path)
    assert again(PIXELS).equal(encoder(PIXELS))
    assert (again.spec, again.preprocess, again.dim, again.training) == (spec, encoder.preprocess, 256, False)
    first = (tmp_path / "encoder.safetensors").read_bytes()
    save(again, tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == first


def test_changed_bytes_are_refused_before_they_are_read(spec: EncoderParams, tmp_path: Path) -> None:
    save(build(spec, None), tmp_path)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="was changed since it was written"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [({"format": 99}, "has format 99"), ({"spec": {"model": "smoke", "new": 1}}, "another version")],
)
def test_files_of_other_versions_are_refused(
    spec: EncoderParams, tmp_path: Path, facts: dict[str, object], sentence: str
) -> None:
    save(build(spec, None), tmp_path)
    path = tmp_path / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(WeightsError, match=sentence):
        load(tmp_path)


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no encoder in"):
        load(tmp_path)


def test_weights_may_be_half_precision_and_named_like_the_trunk(spec: EncoderParams, tmp_path: Path) -> None:
    encoder = build(spec, None).eval()
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in encoder.tower.state_dict().items()
    }
    save_file(halves, tmp_path / "tower.safetensors")
    save_file(
        {name.removeprefix("trunk."): tensor for name, tensor in halves.items()},
        tmp_path / "trunk.safetensors",
    )
    first, second = (
        build(spec, tmp_path / f"{name}.safetensors").eval()(PIXELS) for name in ("tower", "trunk")
    )
    assert first.equal(second) and torch.allclose(first, encoder(PIXELS), atol=0.02)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_of_another_model(spec: EncoderParams, tmp_path: Path, change: str) -> None:
    save(build(spec, None), tmp_path)
    tensors = load_file(tmp_path / "encoder.safetensors")
    name = sorted(tensors)[0]
    tensors |= {"missing": {}, "unknown": {"trunk.more": torch.zeros(1)}, "shape": {name: torch.zeros(99)}}[
        change
    ]
    if change == "missing":
        del tensors[name]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not fit the encoder smoke: 1 tensor "):
        build(spec, tmp_path / "other.safetensors")


def test_a_file_that_is_no_safetensors(spec: EncoderParams, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"PK not safetensors")
    with pytest.raises(WeightsError, match="can't be read as a safetensors file"):
        build(spec, tmp_path / "weights.safetensors")


def test_unknown_model() -> None:
    with pytest.raises(ParameterError, match="There is no encoder 'resnot'"):
        build(EncoderParams(model="resnot"), None)


def test_open_clips_own_resnets_are_refused() -> None:
    with pytest.raises(ParameterError, match="RN50 is one of open_clip's own ResNets.* use a ViT"):
        build(EncoderParams(model="RN50", weights="none"), None)


def test_canvas_that_the_patches_dont_fit() -> None:
    with pytest.raises(ParameterError, match="multiples"):
        build(EncoderParams(model="vit-s14-dinov2", weights="none", height=100, width=98), None)


def test_an_open_clip_model_with_its_own_colours() -> None:
    encoder = build(EncoderParams(model="ViT-S-32-alt", weights="none", height=64, width=32), None).eval()
    assert encoder.preprocess.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert encoder(torch.zeros(1, 3, 64, 32)).shape == (1, encoder.dim)


@pytest.mark.parametrize(
    ("model", "weights", "canvas"),
    [
        ("ViT-B-32", "laion2b_s34b_b79k", (224, 224, "crop")),
        ("ViT-L-14-336", "openai", (336, 336, "crop")),
        ("ViT-B-16-SigLIP-256", "webli", (256, 256, "squash")),
        ("vit-s14-dinov2", "none", (224, 224, "pad")),
    ],
)
def test_a_model_as_published_sees_its_own_canvas(
    model: str, weights: str, canvas: tuple[int, int, str]
) -> None:
    spec = published(EncoderParams(model=model, weights=weights, height=64, width=96, resize="pad"))
    assert (spec.height, spec.width, spec.resize) == canvas
    assert (spec.model, spec.weights) == (model, weights)


def test_a_tag_brings_its_interpolation() -> None:
    spec = EncoderParams(model="MobileCLIP-S1", weights="datacompdr", height=64, width=64)
    preprocess = build(spec, None).preprocess
    assert (preprocess.interpolation, preprocess.mean, preprocess.std) == ("bilinear", (0, 0, 0), (1, 1, 1))


def test_training_views_are_smaller_where_the_tower_takes_any_size() -> None:
    convolutional = build(EncoderParams(model="smoke", weights="none", height=256, width=128), None)
    assert convolutional.views(0.75) == convolutional.preprocess.at(192, 96)
    transformer = build(EncoderParams(model="ViT-S-32-alt", weights="none", height=64, width=32), None)
    assert transformer.views(0.75) == transformer.preprocess


@pytest.mark.skipif(not DINO.is_file(), reason="needs the DINOv2 weights of ../shared")
def test_dinov2_weights_on_an_oblong_canvas(tmp_path: Path) -> None:
    spec = EncoderParams(model="vit-s14-dinov2", weights=str(DINO), height=70, width=42, resize="pad")
    encoder = build(spec, DINO).eval()
    assert encoder.preprocess.mean == (0.485, 0.456, 0.406) and encoder.dim == 384
    save(encoder, tmp_path)
    pixels = torch.zeros(1, 3, 70, 42)
    assert load(tmp_path)(pixels).equal(encoder(pixels))


@pytest.fixture
def projected(spec: EncoderParams) -> EncoderParams:
    return spec.model_copy(update={"dim": 16})


def test_a_projection_gives_the_embedding_its_length(spec: EncoderParams, projected: EncoderParams) -> None:
    encoder = build(projected, None).eval()
    embeddings = encoder(PIXELS)
    assert embeddings.shape == (2, 16) and torch.allclose(embeddings.norm(dim=-1), torch.ones(2))
    assert (encoder.dim, encoder.width) == (16, 256)
    assert (build(spec, None).dim, build(spec, None).projection) == (256, None)


def test_an_untrained_projection_of_full_length_keeps_all_angles(spec: EncoderParams) -> None:
    whole = Projection(256, 256).eval()
    features = 3 * torch.randn(5, 256, generator=torch.Generator().manual_seed(2)) + 1
    before, after = (
        functional.normalize(vectors, dim=-1) for vectors in (features, whole(features).detach())
    )
    assert torch.allclose(before @ before.T, after @ after.T, atol=1e-5)


def test_an_untrained_projection_is_everyones_and_leaves_the_callers_draws_alone() -> None:
    torch.manual_seed(1)
    first, drawn = Projection(256, 16), torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1).equal(drawn)
    assert Projection(256, 16).linear.weight.equal(first.linear.weight)


@settings(max_examples=20)
@given(rows=st.integers(1, 6), seed=st.integers(0, 99))
def test_in_evaluation_a_vector_does_not_depend_on_those_beside_it(rows: int, seed: int) -> None:
    projection = Projection(32, 8)
    features = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
    projection(features)  # a step of training moves the running means
    projection.eval()
    assert torch.allclose(projection(features[:rows]), projection(features)[:rows], atol=1e-5)


def test_training_centres_the_vectors_without_a_shift_of_their_own() -> None:
    projection = Projection(32, 8)
    vectors = projection(torch.randn(64, 32, generator=torch.Generator().manual_seed(1)) + 2)
    assert torch.allclose(vectors.mean(dim=0), torch.zeros(8), atol=1e-5)
    assert sorted(name for name, _ in projection.named_parameters()) == ["linear.weight", "neck.weight"]


def test_half_precision_leaves_the_projection_in_float32() -> None:
    projection, features = Projection(32, 8).eval(), torch.randn(4, 32)
    expected = projection(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert projection(features).equal(expected) and projection(features).dtype == torch.float32
    assert projection(features.bfloat16()).equal(projection(features.bfloat16().float()))


def test_a_projection_is_saved_and_loaded_with_its_running_means(
    projected: EncoderParams, tmp_path: Path
) -> None:
    encoder = build(projected, None).train()
    encoder(PIXELS)
    encoder.eval()
    save(encoder, tmp_path)
    assert {"projection.linear.weight", "projection.neck.running_mean"} <= load_file(
        tmp_path / "encoder.safetensors"
    ).keys()
    again = load(tmp_path)
    assert again(PIXELS).equal(encoder(PIXELS)) and (again.dim, again.spec) == (16, projected)


def test_base_weights_know_no_projection_but_may_have_one(
    spec: EncoderParams, projected: EncoderParams, tmp_path: Path
) -> None:
    tower, whole = tmp_path / "tower", tmp_path / "whole"
    for folder, made in ((tower, spec), (whole, projected)):
        folder.mkdir()
        encoder = build(made, None).train()
        encoder(PIXELS)
        save(encoder, folder)
    fresh = build(projected, tower / "encoder.safetensors").projection
    trained = build(projected, whole / "encoder.safetensors").projection
    assert fresh is not None and trained is not None
    assert fresh.neck.num_batches_tracked == 0 and trained.neck.num_batches_tracked == 1
    with pytest.raises(WeightsError, match=r"does not fit the encoder smoke: \d tensors"):
        build(spec, whole / "encoder.safetensors")
    with pytest.raises(
        WeightsError,
        match=r"first linear\.weight; set encoder\.weights to weights of this model and encoder\.dim",
    ):
        build(spec.model_copy(update={"dim": 8}), whole / "encoder.safetensors")


def test_a_saved_encoder_without_the_projection_it_names(spec: EncoderParams, tmp_path: Path) -> None:
    save(build(spec, None), tmp_path)
    path = tmp_path / "encoder.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"spec": facts["spec"] | {"dim": 16}}))
    with pytest.raises(WeightsError, match="has no projection"):
        load(tmp_path)


def test_an_encoder_written_before_projections(spec: EncoderParams, tmp_path: Path) -> None:
    encoder = build(spec, None).eval()
    save(encoder, tmp_path)
    path = tmp_path / "encoder.json"
    facts = json.loads(path.read_text())
    del facts["spec"]["dim"]
    path.write_text(json.dumps(facts))
    assert load(tmp_path)(PIXELS).equal(encoder(PIXELS))


def test_more_numbers_than_the_tower_says(spec: EncoderParams) -> None:
    with pytest.raises(ParameterError, match=r"encoder\.dim is 257, but smoke says 256"):
        build(spec.model_copy(update={"dim": 257}), None)
