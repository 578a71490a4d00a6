"""How fast an encoder turns pictures into vectors on this machine: number types against float32, and against bare matrix products."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.measure import Row
from skumatch.data.delivery.opening import folder_images
from skumatch.params import RuntimeParams

if TYPE_CHECKING:
    from torch import Tensor, device

    from skumatch.data.images import Images
    from skumatch.model.encoder import Encoder

ROUNDS, PAUSE = 7, 0.1  # a pause in seconds, until the threads of the last way sleep
SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the ceiling

Ways = dict[str, Callable[["Tensor"], "Tensor"]]
Seconds = dict[str, tuple[float, ...]]


class Photos(NamedTuple):
    """Normalised float32 [n, 3, H, W] of gallery pictures and of queries, and the gallery's SKUs."""

    gallery: Tensor
    queries: Tensor
    skus: list[str]


def bench_embed(
    encoder: Encoder, folder: Path, others: tuple[str, ...], images: int, batch: int
) -> Iterator[Row]:
    """Speeds as ratios in one process, each way first in turn, and how often a way's nearest SKU is that of float32.

    folder: photos in RP2K's layout, of which `images` a side are embedded. Raises DataError for a folder of
    another layout.
    """
    from skumatch.model.runtime import prepare

    on = prepare(RuntimeParams())
    photos = _photos(encoder, folder, others, images)
    ways = _ways(encoder, on)
    seconds = race(ways, photos.queries[:batch].to(on), flops(encoder, photos.queries[:1].to(on)))
    yield from _speeds(seconds, min(batch, len(photos.queries)))
    yield from _agreements(ways, photos, batch, on)


def _photos(encoder: Encoder, folder: Path, others: tuple[str, ...], images: int) -> Photos:
    sides = [_some(folder_images(folder, side, others), images) for side in ("train", "test")]
    gallery, queries = (_pixels(encoder, side) for side in sides)
    return Photos(gallery, queries, sides[0].skus)


def _some(images: Images, count: int) -> Images:
    """So many of them, evenly from first to last."""
    return images.take(
        np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)).tolist()
    )


def _pixels(encoder: Encoder, images: Images) -> Tensor:
    import torch

    see = encoder.preprocess
    return see.normalise(torch.stack([see(images.pixels(index)) for index in range(len(images))]))


def _ways(encoder: Encoder, on: device) -> Ways:
    import torch

    if on.type == "cuda":
        encoder = encoder.to(on)
        return {"float32": encoder, "bfloat16 compiled": torch.compile(_bfloat16(encoder))}
    return {"float32": encoder, "bfloat16": _bfloat16(encoder)}


def _bfloat16(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """The tower in bfloat16; what is behind it stays in float32."""
    other = copy.deepcopy(encoder)
    other.tower.bfloat16()
    return lambda pixels: other(pixels.bfloat16())


def flops(encoder: Encoder, pixels: Tensor) -> int:
    """Floating point operations a picture."""
    return counted(lambda: encoder(pixels)) // len(pixels)


def counted(call: Callable[[], object]) -> int:
    """Floating point operations of `call`.

    Not in inference mode, and with attention as plain products: else some go uncounted.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def race(ways: Ways, pixels: Tensor, picture_flops: int, rounds: int = ROUNDS) -> Seconds:
    """Seconds of each way for `pixels` in each round, and of `products`: as many operations as a product of matrices."""
    import torch

    side, kind = SIDE[pixels.device.type], torch.bfloat16 if pixels.is_cuda else torch.float32
    square, share = (
        torch.ones(side, side, dtype=kind, device=pixels.device),
        picture_flops * len(pixels) / (2 * side**3),
    )
    calls: dict[str, Callable[[], Any]] = {name: lambda way=way: way(pixels) for name, way in ways.items()}  # type: ignore[misc]
    calls["products"] = lambda: square @ square
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.inference_mode():
        for number in range(-1, rounds):  # the first one warms up
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                seconds = _seconds(calls[name], pixels.is_cuda) * (share if name == "products" else 1)
                found[name] += [seconds] if number >= 0 else []
    return {name: tuple(seconds) for name, seconds in found.items()}


def _seconds(call: Callable[[], Any], on_gpu: bool) -> float:
    import torch

    time.sleep(PAUSE)
    start = time.perf_counter()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _speeds(seconds: Seconds, batch: int) -> Iterator[Row]:
    for name in [name for name in seconds if name not in ("float32", "products")]:
        told = f"{_rate(seconds[name], batch)} images/s; float32 {_rate(seconds['float32'], batch)}"
        yield Row(f"{name} / float32", _ratio(seconds["float32"], seconds[name]), 1.0, "x", told, "more")
    best, bound = ("bfloat16 compiled", 60) if "bfloat16 compiled" in seconds else ("float32", 25)
    told = f"products alone {_rate(seconds['products'], batch)} images/s"
    yield Row(
        f"share of the GEMM ceiling, {best}",
        100 * _ratio(seconds["products"], seconds[best]),
        bound,
        "%",
        told,
        "more",
    )


def _ratio(theirs: tuple[float, ...], ours: tuple[float, ...]) -> float:
    return median(one / other for one, other in zip(theirs, ours, strict=True))


def _rate(seconds: tuple[float, ...], batch: int) -> str:
    return f"{batch / median(seconds):,.0f}"


def _agreements(ways: Ways, photos: Photos, batch: int, on: device) -> Iterator[Row]:
    answers = {name: _nearest(way, photos, batch, on) for name, way in ways.items()}
    right = answers.pop("float32")
    for name, found in answers.items():
        same = sum(one == other for one, other in zip(found, right, strict=True)) / len(right)
        yield Row(
            f"same top-1 as float32, {name}",
            100 * same,
            99,
            "%",
            f"{len(right)} queries, {len(photos.skus)} gallery images",
            "more",
        )


def _nearest(way: Callable[[Tensor], Tensor], photos: Photos, batch: int, on: device) -> list[str]:
    """The SKU of each query's nearest gallery picture."""
    import torch

    with torch.inference_mode():
        gallery, queries = (
            torch.cat([way(part.to(on)).float() for part in torch.split(side, batch)]) for side in photos[:2]
        )
        return [photos.skus[row] for row in (queries @ gallery.T).argmax(dim=1).tolist()]
