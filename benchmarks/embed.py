"""Speed of embedding: number types compared with float32, and with bare matrix products as the ceiling."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.measure import Row
from skumatch.params import RuntimeParams

if TYPE_CHECKING:
    from torch import Tensor, device

    from skumatch.data.images import Images
    from skumatch.model.encoder import Encoder

ROUNDS = 7
PAUSE = 0.1  # seconds before each call, until the threads of the call before are idle
SIDE = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices whose product is the ceiling

Ways = dict[str, Callable[["Tensor"], "Tensor"]]
Seconds = dict[str, tuple[float, ...]]


class Photos(NamedTuple):
    """Pictures of a gallery and queries, ready for the encoder.

    Attributes:
        gallery: normalised pixels in float32, [n, 3, H, W].
        queries: normalised pixels in float32, [m, 3, H, W].
        skus: SKU of each gallery picture, [n].
    """

    gallery: Tensor
    queries: Tensor
    skus: list[str]


def bench_embed(
    encoder: Encoder, folder: Path, others: tuple[str, ...], images: int, batch: int
) -> Iterator[Row]:
    """Measure the speed of each way to embed, and how often its nearest SKU is that of float32.

    Speeds are ratios of times in one process, where each round starts with another way.

    Args:
        encoder: the encoder.
        folder: photos in RP2K's layout.
        others: classes to leave out (`data.others`).
        images: number of pictures of each side, train and test, that are embedded.
        batch: number of pictures in a batch.

    Raises:
        DataError: for a folder of another layout.
    """
    from skumatch.model.runtime import prepare

    device = prepare(RuntimeParams())
    photos = _photos(encoder, folder, others, images)
    ways = _ways(encoder, device)
    seconds = race(ways, photos.queries[:batch].to(device), flops(encoder, photos.queries[:1].to(device)))
    yield from _speeds(seconds, min(batch, len(photos.queries)))
    yield from _agreements(ways, photos, batch, device)


def _photos(encoder: Encoder, folder: Path, others: tuple[str, ...], images: int) -> Photos:
    from skumatch.data.delivery.archives import folder_images  # imports pandas, which `benchmarks gpu` lacks

    sides = [_some(folder_images(folder, side, others), images) for side in ("train", "test")]
    gallery, queries = (_pixels(encoder, side) for side in sides)
    return Photos(gallery, queries, sides[0].skus)


def _some(images: Images, count: int) -> Images:
    """Take `count` of the images, or all if there are fewer, evenly spaced from first to last."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return images.take(np.unique(places).tolist())


def _pixels(encoder: Encoder, images: Images) -> Tensor:
    import torch

    preprocess = encoder.preprocess
    canvases = [preprocess(images.pixels(index)) for index in range(len(images))]
    return preprocess.normalise(torch.stack(canvases))


def _ways(encoder: Encoder, device: device) -> Ways:
    import torch

    if device.type == "cuda":
        encoder = encoder.to(device)
        return {"float32": encoder, "bfloat16 compiled": torch.compile(_bfloat16(encoder))}
    return {"float32": encoder, "bfloat16": _bfloat16(encoder)}


def _bfloat16(encoder: Encoder) -> Callable[[Tensor], Tensor]:
    """Return the encoder with its tower in bfloat16; the layers after the tower stay in float32."""
    converted = copy.deepcopy(encoder)
    converted.tower.bfloat16()
    return lambda pixels: converted(pixels.bfloat16())


def flops(encoder: Encoder, pixels: Tensor) -> int:
    """Count the floating-point operations for one picture."""
    return counted(lambda: encoder(pixels)) // len(pixels)


def counted(call: Callable[[], object]) -> int:
    """Count the floating-point operations of `call`.

    It runs outside inference mode and with attention as plain products: else torch misses some operations.
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
    """Time all ways to embed `pixels`, in alternation; each round starts with another way.

    Args:
        ways: functions from pixels to vectors, by name.
        pixels: a batch of normalised pictures, [B, ...]; only its length counts if there are no ways.
        picture_flops: floating-point operations for one picture.
        rounds: number of rounds.

    Returns:
        Seconds of each way in each round. The way `products` is the time of a bare product of matrices,
        scaled to as many operations as the batch takes.
    """
    import torch

    side, dtype = SIDE[pixels.device.type], torch.bfloat16 if pixels.is_cuda else torch.float32
    square = torch.ones(side, side, dtype=dtype, device=pixels.device)
    share = picture_flops * len(pixels) / (2 * side**3)
    calls: dict[str, Callable[[], Any]] = {name: lambda way=way: way(pixels) for name, way in ways.items()}  # type: ignore[misc]
    calls["products"] = lambda: square @ square
    elapsed: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.inference_mode():
        for number in range(-1, rounds):  # round -1 warms up
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                seconds = _seconds(calls[name], pixels.is_cuda) * (share if name == "products" else 1)
                elapsed[name] += [seconds] if number >= 0 else []
    return {name: tuple(seconds) for name, seconds in elapsed.items()}


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
        parts = f"{_rate(seconds[name], batch)} images/s; float32 {_rate(seconds['float32'], batch)}"
        yield Row(f"{name} / float32", _ratio(seconds["float32"], seconds[name]), 1.0, "x", parts, "more")
    best, bound = ("bfloat16 compiled", 60) if "bfloat16 compiled" in seconds else ("float32", 25)
    parts = f"products alone {_rate(seconds['products'], batch)} images/s"
    yield Row(
        f"share of the GEMM ceiling, {best}",
        100 * _ratio(seconds["products"], seconds[best]),
        bound,
        "%",
        parts,
        "more",
    )


def _ratio(base_s: tuple[float, ...], other_s: tuple[float, ...]) -> float:
    """Return the factor by which the other way is faster than the base: the median over the rounds."""
    return median(base / other for base, other in zip(base_s, other_s, strict=True))


def _rate(seconds: tuple[float, ...], batch: int) -> str:
    return f"{batch / median(seconds):,.0f}"


def _agreements(ways: Ways, photos: Photos, batch: int, device: device) -> Iterator[Row]:
    answers = {name: _nearest(way, photos, batch, device) for name, way in ways.items()}
    reference = answers.pop("float32")
    for name, skus in answers.items():
        same = sum(sku == other for sku, other in zip(skus, reference, strict=True)) / len(reference)
        yield Row(
            f"same top-1 as float32, {name}",
            100 * same,
            99,
            "%",
            f"{len(reference)} queries, {len(photos.skus)} gallery images",
            "more",
        )


def _nearest(way: Callable[[Tensor], Tensor], photos: Photos, batch: int, device: device) -> list[str]:
    """Return the SKU of each query's nearest gallery picture."""
    import torch

    def embedded(pixels: Tensor) -> Tensor:
        return torch.cat([way(part.to(device)).float() for part in torch.split(pixels, batch)])

    with torch.inference_mode():
        gallery, queries = embedded(photos.gallery), embedded(photos.queries)
        return [photos.skus[row] for row in (queries @ gallery.T).argmax(dim=1).tolist()]
