"""Position tables keep rows and columns from one canvas to another, in open_clip's ViTs and in timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skumatch.errors import ParameterError, WeightsError
from skumatch.files import read_json, sha256, write_json
from skumatch.model.encoder import Encoder, build, canvas_of, load, save
from skumatch.model.positions import table
from skumatch.params import EncoderParams

OWN, TIMM = ("ViT-S-32-alt", 32), ("vit-s14-dinov2", 14)
FAMILIES = pytest.mark.parametrize(("model", "side"), [OWN, TIMM])


def encoder_on(model: str, height: int, width: int, weights: Path | None = None) -> Encoder:
    torch.manual_seed(0)
    return build(
        EncoderParams(model=model, weights=str(weights), height=height, width=width, resize="pad"), weights
    )


def positions(encoder: Encoder) -> torch.Tensor:
    """[entries, width], the class token's first."""
    name = table(encoder.tower)
    assert name
    entries = encoder.tower.state_dict()[name]
    return entries.reshape(entries.shape[-2:])


def marked(encoder: Encoder, rows: int, columns: int) -> None:
    """A table whose entries are the patch's place, 0 to 1: row in the first number, column in the second."""
    down, across = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    with torch.no_grad():
        positions(encoder)[1:, 0] = down.flatten()
        positions(encoder)[1:, 1] = across.flatten()


@FAMILIES
@pytest.mark.parametrize(
    "grids", [((8, 4), (10, 5)), ((8, 4), (4, 8)), ((16, 4), (8, 8)), ((7, 7), (10, 5)), ((8, 4), (8, 4))]
)
def test_rows_stay_rows_and_columns_columns(
    model: str, side: int, grids: tuple[tuple[int, int], tuple[int, int]], tmp_path: Path
) -> None:
    (rows, columns), (height, width) = grids
    before = encoder_on(model, rows * side, columns * side)
    marked(before, rows, columns)
    save(before, tmp_path)
    after = encoder_on(model, height * side, width * side, tmp_path / "encoder.safetensors")
    table = positions(after)
    assert len(table) == 1 + height * width and table[0].equal(positions(before)[0])
    down, across = table[1:, 0].reshape(height, width), table[1:, 1].reshape(height, width)
    assert torch.allclose(down, down[:, :1].expand_as(down), atol=1e-4) and (down[1:, 0] > down[:-1, 0]).all()
    assert (
        torch.allclose(across, across[:1].expand_as(across), atol=1e-4)
        and (across[0, 1:] > across[0, :-1]).all()
    )
    if (rows, columns) == (height, width):
        assert table.equal(positions(before))


@FAMILIES
def test_an_oblong_encoder_comes_back_to_the_bit_also_from_before_files_named_their_canvas(
    model: str, side: int, tmp_path: Path
) -> None:
    encoder = encoder_on(model, 6 * side, 3 * side).eval()
    save(encoder, tmp_path)
    pixels = torch.zeros(1, 3, 6 * side, 3 * side)
    assert canvas_of(tmp_path / "encoder.safetensors") == (6 * side, 3 * side)
    assert load(tmp_path)(pixels).equal(encoder(pixels))
    path = tmp_path / "encoder.safetensors"
    save_file(load_file(path), path)
    write_json(tmp_path / "encoder.json", read_json(tmp_path / "encoder.json") | {"sha256": sha256(path)})
    assert canvas_of(path) is None
    assert load(tmp_path)(pixels).equal(encoder(pixels))


@FAMILIES
def test_a_table_of_no_square_that_names_no_canvas_is_refused(model: str, side: int, tmp_path: Path) -> None:
    save(encoder_on(model, 8 * side, 4 * side), tmp_path)
    path = tmp_path / "encoder.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(
        WeightsError,
        match=r"32 positions, not those of a square canvas, and it names no other; set",
    ):
        encoder_on(model, 8 * side, 4 * side, path)


@FAMILIES
def test_a_square_of_a_stranger_is_taken_for_one(model: str, side: int, tmp_path: Path) -> None:
    before = encoder_on(model, 7 * side, 7 * side)
    save_file(
        {name: tensor.contiguous() for name, tensor in before.tower.state_dict().items()},
        tmp_path / "theirs.safetensors",
    )
    assert len(positions(encoder_on(model, 10 * side, 5 * side, tmp_path / "theirs.safetensors"))) == 1 + 50


@pytest.mark.parametrize("model", ["ViTamin-S", "MobileCLIP-B"])
def test_a_hybrid_whose_patches_lie_behind_convolutions_comes_back_too(model: str, tmp_path: Path) -> None:
    encoder = encoder_on(model, 96, 64).eval()
    save(encoder, tmp_path)
    pixels = torch.zeros(1, 3, 96, 64)
    assert load(tmp_path)(pixels).equal(encoder(pixels))
    smaller = encoder_on(model, 64, 64, tmp_path / "encoder.safetensors")
    assert smaller(torch.zeros(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(ParameterError, match="patches of 16 pixels"):
        encoder_on(model, 96, 72)
