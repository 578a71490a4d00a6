"""Position tables of vision transformers, resampled from their weights' canvas to another one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from skumatch.errors import WeightsError
from skumatch.texts import counted

Grid = tuple[int, int]  # rows and columns, of patches or of a patch's pixels
NAMES = ("positional_embedding", "trunk.pos_embed")  # the table's name in open_clip's ViTs and in timm's


def patch(tower: nn.Module) -> Grid | None:
    """Return the size of a vision transformer's patches, in pixels of the canvas.

    For a convolutional tower the result is None. timm's `patch_size` of a hybrid counts positions in the
    output of its convolutions, not pixels. So the size is computed from the canvas and the grid if both are
    known.
    """
    trunk = getattr(tower, "trunk", tower)
    embed = getattr(trunk, "patch_embed", trunk)
    canvas, grid = getattr(embed, "img_size", None), getattr(embed, "grid_size", None)
    patch_size: Grid | None = getattr(embed, "patch_size", None)
    return (canvas[0] // grid[0], canvas[1] // grid[1]) if canvas and grid else patch_size


def table(tower: nn.Module) -> str | None:
    """Return the name of the tower's position table, or None if it has no table of rows and columns."""
    own = tower.state_dict()
    return next((name for name in NAMES if name in own), None) if patch(tower) else None


def resized(tower: nn.Module, state: dict[str, Tensor], canvas: Grid | None, path: Path) -> dict[str, Tensor]:
    """Resample the position table in a tower's tensors to the tower's grid.

    The interpolation is bicubic, as in open_clip and timm.

    Args:
        tower: The tower that the tensors are for.
        state: Tensors by name.
        canvas: Height and width in pixels that the table was made for. If None, it must be a square.
        path: The file that the tensors were read from, for the error.

    Returns:
        `state` with the resampled table, or unchanged if the tower has no table or the grids are equal.

    Raises:
        WeightsError: The table's length isn't the number of patches on its canvas.
    """
    name, patch_size = table(tower), patch(tower)
    if name is None or patch_size is None or name not in state:
        return state
    positions, grid, prefix_count = state[name], _grid(tower), _before(tower)
    count = positions.shape[-2] - prefix_count
    if canvas:
        source = (canvas[0] // patch_size[0], canvas[1] // patch_size[1])
        expected = f"of a canvas of {canvas[0]} x {canvas[1]}"
    else:
        source = (math.isqrt(max(count, 0)),) * 2
        expected = "of a square canvas, and it names no other"
    if source[0] * source[1] != count or count < 1:
        problem = f"{path} has {counted(count, 'position')}, not those {expected}"
        raise WeightsError(f"{problem}; set encoder.weights to weights of this model.")
    return state if source == grid else state | {name: _resampled(positions, prefix_count, source, grid)}


def _grid(tower: Any) -> Grid:
    """Return the tower's rows and columns of patches."""
    trunk = getattr(tower, "trunk", None)
    rows, columns = tower.grid_size if trunk is None else trunk.patch_embed.grid_size
    return int(rows), int(columns)


def _before(tower: Any) -> int:
    """Count the entries of the table before those of patches: class token and registers."""
    trunk = getattr(tower, "trunk", None)
    if trunk is None:
        return 1
    return 0 if getattr(trunk, "no_embed_class", False) else int(trunk.num_prefix_tokens)


def _resampled(positions: Tensor, prefix_count: int, source: Grid, grid: Grid) -> Tensor:
    """Resample a table [..., prefix_count + rows * columns, width] from grid `source` to `grid`."""
    prefix, patches = positions[..., :prefix_count, :], positions[..., prefix_count:, :]
    planes = patches.reshape(1, *source, -1).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat(
        [prefix, planes.flatten(2).transpose(1, 2).reshape(*patches.shape[:-2], grid[0] * grid[1], -1)],
        dim=-2,
    )
