"""A ViT's table of positions, taken from the canvas that its weights were made on to another, oblong or square."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from skumatch.errors import WeightsError

Grid = tuple[int, int]  # rows and columns, of patches or of a patch's pixels
NAMES = ("positional_embedding", "trunk.pos_embed")  # in open_clip's own ViTs, in timm's


def patch(tower: nn.Module) -> Grid | None:
    """Rows and columns of a vision transformer's patches, in pixels of the canvas.

    None for a convolutional tower.

    What timm calls the patch size of a hybrid counts what its convolutions leave of the canvas, so it is not
    asked.
    """
    trunk = getattr(tower, "trunk", tower)
    embed = getattr(trunk, "patch_embed", trunk)
    canvas, grid, found = (getattr(embed, name, None) for name in ("img_size", "grid_size", "patch_size"))
    return (canvas[0] // grid[0], canvas[1] // grid[1]) if canvas and grid else found


def table(tower: nn.Module) -> str | None:
    """The name of the tower's position table.

    None where it has none, or one that is not of rows and columns.
    """
    own = tower.state_dict()
    return next((name for name in NAMES if name in own), None) if patch(tower) else None


def resized(tower: nn.Module, state: dict[str, Tensor], canvas: Grid | None, path: Path) -> dict[str, Tensor]:
    """`state`, read from `path`, with its position table resampled to the tower's grid (bicubic, as open_clip and timm do it).

    canvas: height and width in pixels that the table was made for; where the file doesn't say, it has to be a square.
    Raises WeightsError for a table of another length than its canvas has patches.
    """
    name, side = table(tower), patch(tower)
    if name is None or side is None or name not in state:
        return state
    found, grid, before = state[name], _grid(tower), _before(tower)
    count = found.shape[-2] - before
    source = (canvas[0] // side[0], canvas[1] // side[1]) if canvas else (math.isqrt(max(count, 0)),) * 2
    if source[0] * source[1] != count or count < 1:
        what = (
            f"of a canvas of {canvas[0]} x {canvas[1]}"
            if canvas
            else "of a square canvas, and it names no other"
        )
        raise WeightsError(
            f"{path} has {count} positions, which are not those {what}; set encoder.weights to weights of this model."
        )
    return state if source == grid else state | {name: _resampled(found, before, source, grid)}


def _grid(tower: Any) -> Grid:
    trunk = getattr(tower, "trunk", None)
    rows, columns = tower.grid_size if trunk is None else trunk.patch_embed.grid_size
    return int(rows), int(columns)


def _before(tower: Any) -> int:
    """Entries of the table before those of patches: class token and registers."""
    trunk = getattr(tower, "trunk", None)
    return (
        1 if trunk is None else 0 if getattr(trunk, "no_embed_class", False) else int(trunk.num_prefix_tokens)
    )


def _resampled(found: Tensor, before: int, source: Grid, grid: Grid) -> Tensor:
    """[..., before + rows * columns, width] -> the same of another grid."""
    lead, patches = found[..., :before, :], found[..., before:, :]
    planes = patches.reshape(1, *source, -1).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat(
        [lead, planes.flatten(2).transpose(1, 2).reshape(*patches.shape[:-2], grid[0] * grid[1], -1)], dim=-2
    )
