"""What one NVIDIA card does with the project's own training, embedding and search, in ten minutes at most."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.archive import encoded, plan
from benchmarks.embed import flops
from benchmarks.limited import LeftOut, Part
from benchmarks.measure import Row
from benchmarks.training import PREFETCH, Ours, seconds_per_image
from skumatch.data.images import Extent, Images
from skumatch.errors import ParameterError
from skumatch.model.embed import stream, vectors_of_pixels
from skumatch.model.encoder import build
from skumatch.model.runtime import prepare, workers
from skumatch.model.tower import compiled
from skumatch.params import Params
from skumatch.recipe.overrides import apply_overrides
from skumatch.retrieval.search import SearchIndex, Vectors

TOTAL_S = 600
WARM_UP = 3  # calls before the first that is timed; the first one compiles
ROUNDS = 5  # of products and of searches; their median counts
TILE = 32_768  # gallery rows of a bare product of search
CHUNK = 2**20  # vectors that are drawn at a time
SPARE = 1.2  # memory of a search over that of the gallery
NEAREST = 32  # gallery pictures that a search lists
SEED = 7
# docs/training.md, "On one big GPU"; the base weights are left out, so nothing is downloaded
RECIPE = """
encoder.model=ViT-B-16 encoder.weights=datacomp_xl_s13b_b90k encoder.height=320 encoder.width=160
encoder.resize=pad encoder.dim=512 train.epochs=16 train.batch=256 train.probe.epochs=2 train.fix.epochs=2
train.loss.kind=subcentre train.loss.scale=30 train.loss.margin=0.5 train.loss.dims=[64,128,256]
train.sampling.power=0.5 train.average.ema=0.9998 train.optimizer.lr_tower=2e-5 train.optimizer.lr_head=1e-3
train.optimizer.layer_decay=0.75 train.optimizer.warmup_share=0.05 train.optimizer.clip=1 train.tower.freeze=0
"""


@dataclass(frozen=True)
class Sizes:
    """How much each part does.

    Attributes:
        recipe: parameters of training, as overrides of the defaults with blanks between.
        sides: rows of the square matrices whose product is the ceiling; the fastest counts.
        pictures: pictures that are trained on and embedded.
        skus: their products.
        batch: pictures in a batch of embedding.
        steps: batches that are timed.
        galleries: sizes of the galleries that are searched, each with its time limit in seconds.
        dim: numbers of a vector.
        queries: queries of a search.
        checked: queries whose answers are compared with those of the CPU.
        compared: pictures of the step that is compared with the CPU's.
        limited: False lets each part take all the time that is left, as it may need on a CPU.
        start: how the parts' processes start. After a fork CUDA does not work if it was looked at before.
    """

    recipe: str = RECIPE
    sides: tuple[int, ...] = (4096, 8192, 16384)
    pictures: int = 4096
    skus: int = 2388
    batch: int = 256
    steps: int = 40
    galleries: tuple[tuple[int, int], ...] = ((345_000, 40), (17_500_000, 115))
    dim: int = 256
    queries: int = 1024
    checked: int = 16
    compared: int = 4
    limited: bool = True
    start: str = "spawn"

    def params(self, *overrides: str) -> Params:
        """Return the parameters of the recipe with further overrides, each `section.name=value`."""
        return Params.model_validate(apply_overrides({}, [*self.recipe.split(), *overrides]))


CARD = Sizes()
TINY = Sizes(
    recipe=RECIPE + "encoder.model=smoke encoder.height=32 encoder.width=32 encoder.dim=128"
    " train.loss.dims=[64] train.batch=4 runtime.workers=1 runtime.threads=1",
    sides=(32, 64),
    pictures=12,
    skus=4,
    batch=4,
    steps=2,
    galleries=((500, 40), (1500, 130)),
    dim=32,
    queries=8,
    limited=False,
    start="fork",
)


def parts_of(sizes: Sizes, folder: Path) -> list[Part]:
    """Return all parts, each with its time limit; on a card their sum is less than TOTAL_S.

    Args:
        sizes: how much each part does.
        folder: to which `write_pictures` wrote.
    """
    searches = [
        Part(f"exact search of {size:,}", limit_s, search, (sizes, size)) for size, limit_s in sizes.galleries
    ]
    parts = [
        Part("products", 30, products, (sizes,)),
        Part("training", 80, training, (sizes, folder, False)),
        Part("embedding", 50, embedding, (sizes, folder, False)),
        Part("step on card and CPU", 60, step, (sizes, folder)),
        searches[0],
        Part("training, compiled", 130, training, (sizes, folder, True)),
        Part("embedding, compiled", 80, embedding, (sizes, folder, True)),
        *searches[1:],
    ]
    return parts if sizes.limited else [part._replace(limit_s=TOTAL_S) for part in parts]


def machine(tiny: bool) -> dict[str, Any]:
    """Return what the figures were measured on.

    Args:
        tiny: True if no card is needed.

    Raises:
        ParameterError: There is no card, and one is needed.
    """
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    if card is None and not tiny:
        problem = "PyTorch finds no NVIDIA card here, and this benchmark is of one"
        raise ParameterError(f"{problem}; run it where there is one, or try it at tiny sizes with --tiny.")
    return {
        "card": card and card.name,
        "card_gib": card and round(card.total_memory / 2**30, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "tiny": tiny,
    }


def write_pictures(sizes: Sizes, folder: Path) -> None:
    """Write rendered JPEGs of RP2K's shape, one file each."""
    crops = plan(sizes.pictures, [str(number) for number in range(sizes.skus)])
    for crop, data in zip(crops, encoded(crops), strict=True):
        sku = Path(crop.path).parent.name
        (folder / f"{crop.seed:06d}-{sku}.jpg").write_bytes(data)


def _images(folder: Path) -> Images:
    paths = sorted(folder.glob("*.jpg"))
    names = [path.name for path in paths]
    skus = [path.stem.partition("-")[2] for path in paths]
    return Images(names, skus, names, [Extent(str(path)) for path in paths])


def products(sizes: Sizes) -> Iterator[Row]:
    """Measure products of square matrices in bfloat16: the ceiling of training and embedding."""
    device = prepare(sizes.params().runtime)
    for side in sizes.sides:
        rate = _tflops((side,), device)
        yield Row(f"product of {side:,} x {side:,} in bfloat16", rate, None, "TFLOP/s", better="more")


def _tflops(sides: tuple[int, ...], device: torch.device) -> float:
    """Return the rate of the fastest bare product in TFLOP/s, of random numbers: zeros would be faster."""
    rates = []
    for side in sides:
        square = torch.randn(side, side, device=device).bfloat16()
        seconds = _seconds(partial(torch.matmul, square, square), device)
        rates.append(2 * side**3 / seconds / 1e12)
    return max(rates)


def _seconds(call: Callable[[], object], device: torch.device, calls: int = ROUNDS) -> float:
    """Return the median time of a call, after a few that warm up."""
    times = []
    for number in range(WARM_UP + calls):
        _wait_for(device)
        began = time.perf_counter()
        call()
        _wait_for(device)
        times += [time.perf_counter() - began] if number >= WARM_UP else []
    return median(times)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _share(name: str, bound: float, picture_flops: int, picture_s: float, ceiling_tflops: float) -> Row:
    """Return a row with the share of the ceiling.

    Args:
        name: of the row.
        bound: least share in percent.
        picture_flops: floating-point operations for a picture.
        picture_s: seconds for a picture.
        ceiling_tflops: rate of the fastest bare product, measured beside it.
    """
    rate = picture_flops / picture_s / 1e12
    parts = f"{1 / picture_s:,.0f} images/s, {rate:,.3g} TFLOP/s; products {ceiling_tflops:,.3g} TFLOP/s"
    return Row(f"{name}, share of the products", 100 * rate / ceiling_tflops, bound, "%", parts, "more")


def training(sizes: Sizes, folder: Path, compile_tower: bool) -> Iterator[Row]:
    """Measure steps on a batch that lies on the card, then with the input pipeline.

    Args:
        sizes: the recipe and the number of steps.
        folder: of the pictures.
        compile_tower: True for `train.tower.compile`.
    """
    params = sizes.params(f"train.tower.compile={str(compile_tower).lower()}")
    name = "training, compiled" if compile_tower else "training"
    with ExitStack() as stack:
        trainer = Ours(_images(folder), params, None, stack)
        picture_flops = trainer.operations()
        ready = PREFETCH * trainer.workers  # batches that lie ready after a pause; they are used up first
        for way, loop, warm_up in (
            (name, _without_pipeline(trainer), WARM_UP),
            (f"{name} with the input pipeline", trainer.steps(), WARM_UP + ready),
        ):
            ceiling = _tflops(sizes.sides, trainer.device)
            seconds_per_image(loop, warm_up)
            waited_before = trainer.pace.waiting
            picture_s = seconds_per_image(loop, sizes.steps)
            yield _share(way, 45, picture_flops, picture_s, ceiling)
        # of the last loop, the one with the pipeline
        waited = 100 * (trainer.pace.waiting - waited_before) / (picture_s * sizes.steps * params.train.batch)
        yield Row(f"{name}, share of the time spent waiting for pictures", waited, 5, "%")


def _without_pipeline(trainer: Ours) -> Iterator[int]:
    """Train on the same batch again and again, and yield the number of images after each step."""
    pixels, labels = trainer.batch()
    trainer.run.learner.train()
    while True:
        trainer.run.advance(pixels, labels)
        yield len(labels)


def embedding(sizes: Sizes, folder: Path, compile_tower: bool) -> Iterator[Row]:
    """Measure forward passes on a batch that lies on the card, then with the input pipeline.

    Args:
        sizes: the recipe, the batch and the number of batches.
        folder: of the pictures.
        compile_tower: True to compile the encoder, which the project's own embedding doesn't do.
    """
    params, images, batch = sizes.params(), _images(folder), sizes.batch
    name = "embedding, compiled" if compile_tower else "embedding"
    device = prepare(params.runtime)
    encoder = build(params.encoder, None).to(device).eval()
    pixels = torch.stack([encoder.preprocess(images.pixels(i)) for i in range(batch)]).to(device)
    picture_flops = flops(encoder, encoder.preprocess.normalise(pixels[:1]))
    if compile_tower:
        encoder.forward = compiled(encoder)  # type: ignore[assignment, method-assign]
    ceiling = _tflops(sizes.sides, device)
    batch_s = _seconds(lambda: vectors_of_pixels(encoder, pixels, device, batch), device, sizes.steps)
    yield _share(name, 60, picture_flops, batch_s / batch, ceiling)

    warm_up = WARM_UP + PREFETCH * workers(params.runtime, device)
    many = images.take([number % len(images) for number in range((warm_up + sizes.steps) * batch)])
    times = [time.perf_counter() for _ in stream(encoder, many, batch, params.runtime)]
    piped_s = (times[-1] - times[warm_up - 1]) / sizes.steps
    yield _share(f"{name} with the input pipeline", 60, picture_flops, piped_s / batch, ceiling)
    yield Row(
        f"{name}, share of the time that the input pipeline adds", 100 * (1 - batch_s / piped_s), 5, "%"
    )


def step(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Compare a step's loss and gradient with those of the CPU, from the same weights and pictures.

    Args:
        sizes: the recipe, and the number of pictures.
        folder: of the pictures.
    """
    images = _images(folder)
    cpu = _stepped(sizes, images, "cpu")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with patch("skumatch.model.head.autocast", lambda device: torch.autocast(device.type, enabled=False)):
        float32 = _stepped(sizes, images, "auto")
    bfloat16 = _stepped(sizes, images, "auto")
    yield from _differences("float32", float32, cpu, (0.01, 0.1))
    yield from _differences("bfloat16", bfloat16, cpu, (0.5, 20))


def _differences(
    numbers: str, card: tuple[float, Tensor], cpu: tuple[float, Tensor], bounds: tuple[float, float]
) -> Iterator[Row]:
    """Compare loss and gradient; the bounds of their differences are percent of the CPU's."""
    (loss, gradient), (cpu_loss, cpu_gradient) = card, cpu
    difference, parts = 100 * abs(loss - cpu_loss) / cpu_loss, f"{loss:.6f}; on the CPU {cpu_loss:.6f}"
    yield Row(f"loss of a step in {numbers}, difference to the CPU's", difference, bounds[0], "%", parts)
    difference = 100 * float((gradient - cpu_gradient).norm() / cpu_gradient.norm())
    parts = f"by length; {len(gradient):,} numbers"
    yield Row(f"gradient of a step in {numbers}, difference to the CPU's", difference, bounds[1], "%", parts)


def _stepped(sizes: Sizes, images: Images, device: str) -> tuple[float, Tensor]:
    """Do a first training step, with the whole margin; return its loss and its gradient, on the CPU."""
    overrides = ("train.loss.margin_epochs=0", "train.optimizer.clip=0", f"train.batch={sizes.compared}")
    torch.manual_seed(SEED)
    with ExitStack() as stack:
        trainer = Ours(images, sizes.params(*overrides, f"runtime.device={device}"), None, stack)
        trainer.run.learner.train()
        loss, _ = trainer.run.advance(*trainer.batch())
        gradients = [weight.grad for weight in trainer.run.learner.parameters() if weight.grad is not None]
        return loss, torch.cat([gradient.flatten().float().cpu() for gradient in gradients])


def search(sizes: Sizes, size: int) -> Iterator[Row]:
    """Measure exact search by torch, and compare answers with those of the CPU.

    Args:
        sizes: the length of vectors and the number of queries.
        size: number of gallery pictures.

    Raises:
        LeftOut: The gallery doesn't fit.
    """
    device = prepare(sizes.params().runtime)
    _check_memory(size * sizes.dim * 4, device)
    gallery, queries = (_unit_vectors(rows, sizes.dim, device) for rows in (size, sizes.queries))
    index, name = SearchIndex(gallery, "torch", device.type), f"exact search of {size:,} x {sizes.dim}"
    search_s = _seconds(lambda: index.nearest(queries, NEAREST, scored=False), device)
    tile, query_rows = (torch.from_numpy(vectors).to(device) for vectors in (gallery[:TILE], queries))

    def multiply() -> None:
        for _ in range(0, size, TILE):
            query_rows @ tile.T

    share = 100 * _seconds(multiply, device) / search_s
    parts = f"{sizes.queries / search_s:,.0f} queries/s; the products alone take {share:.0f} % of the time"
    yield Row(name, 1000 * search_s / sizes.queries, None, "ms a query", parts)
    some = queries[: sizes.checked]
    on_cpu = SearchIndex(gallery, "torch", "cpu").nearest(some, NEAREST)
    same = [np.array_equal(*rows) for rows in zip(index.nearest(some, NEAREST)[1], on_cpu[1], strict=True)]
    parts = f"{len(some)} queries, the nearest {NEAREST} of each"
    yield Row(f"{name}, the same answers as on the CPU", 100 * float(np.mean(same)), 100, "%", parts, "more")


def _check_memory(size_bytes: int, device: torch.device) -> None:
    """Raise LeftOut if a gallery of this size doesn't fit into this machine or onto its card."""
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    free = {"this machine": 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)}
    if device.type == "cuda":
        free["the card"] = torch.cuda.mem_get_info()[0]
    for place, free_bytes in free.items():
        if free_bytes < SPARE * size_bytes:
            needed, left = SPARE * size_bytes / 1e9, free_bytes / 1e9
            raise LeftOut(f"It needs {needed:.1f} GB of memory of {place}, where {left:.1f} GB are free.")


def _unit_vectors(rows: int, dim: int, device: torch.device) -> Vectors:
    """Draw vectors [rows, dim] in random directions, on the device, where that takes a moment only."""
    vectors, draws = np.empty((rows, dim), np.float32), torch.Generator(device).manual_seed(rows)
    for start in range(0, rows, CHUNK):
        part = torch.randn(min(CHUNK, rows - start), dim, generator=draws, device=device)
        vectors[start : start + len(part)] = functional.normalize(part, dim=1).cpu().numpy()
    return vectors
