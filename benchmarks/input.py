"""How fast pictures reach an encoder on this machine: against decoding alone, and against open_clip's own transforms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.archive import rendered, shot
from benchmarks.measure import Row, cost
from skumatch.errors import DataError
from skumatch.params import AugmentParams, Params, RuntimeParams

if TYPE_CHECKING:
    from skumatch.model.preprocess import Preprocess
    from skumatch.model.views import Views

SIZES = ((150, 420), (300, 300), (1000, 1000))  # RP2K's: tall crops, packs, single large ones
ROUNDS, BATCH, PHOTOS = 7, 32, 12
LOADED = 4  # times that workers go through the pictures a round


class Race(NamedTuple):
    """Seconds a picture in each round: of one thread's own time, but for workers of time that passed.

    decoded: by simplejpeg alone, from memory. prepared: read, decoded and brought onto the canvas. augmented:
    read, decoded and made a training view. normalised: from whole numbers to the encoder's, a batch at a
    time. evaluated, trained: open_clip's transforms, reading included. decoding, augmenting: by worker
    processes together.
    """

    decoded: tuple[float, ...]
    prepared: tuple[float, ...]
    augmented: tuple[float, ...]
    normalised: tuple[float, ...]
    evaluated: tuple[float, ...]
    trained: tuple[float, ...]
    decoding: tuple[float, ...]
    augmenting: tuple[float, ...]


def bench_input(
    folder: Path, photos: Path | None, images: int, workers: int, params: Params
) -> Iterator[Row]:
    """For each size of rendered photos, or for `photos`, and for one of each size: shares of the ceiling, factors to open_clip.

    The canvas, and what a training view is made by, are those of `params`.

    Raises DataError for a folder without JPEGs.
    """
    races = list[Race]()
    for name, paths in _sets(folder, photos, images):
        races.append(cost(race, paths, workers, params).result)
        yield from _rows(name, races[-1], workers)
    if len(races) > 1:
        sums = (tuple(map(sum, zip(*columns, strict=True))) for columns in zip(*races, strict=True))
        yield from _rows("one of each", Race(*sums), workers)


def _rows(name: str, found: Race, workers: int) -> Iterator[Row]:
    ways = (("on the canvas", found.decoded, found.prepared), ("augmented", found.decoded, found.augmented))
    for what, alone, ours in (*ways, (f"augmented by {workers} workers", found.decoding, found.augmenting)):
        parts = f"{_rate(ours)} images/s; decoding alone {_rate(alone)}"
        yield Row(f"{what} / decoding alone, {name}", 100 * _faster(alone, ours), 60, "%", parts, "more")
    for what, theirs, ours in (
        ("evaluation", found.evaluated, found.prepared),
        ("training", found.trained, found.augmented),
    ):
        whole = tuple(
            a + b for a, b in zip(ours, found.normalised, strict=True)
        )  # theirs gives normalised numbers, too
        parts = f"{_rate(whole)} images/s, normalised; open_clip {_rate(theirs)}"
        yield Row(
            f"ours / open_clip's transform for {what}, {name}",
            _faster(theirs, whole),
            2.5,
            "x",
            parts,
            "more",
        )


def _rate(seconds: Sequence[float]) -> str:
    return f"{1 / median(seconds):,.0f}"


def _faster(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times, the median of the rounds."""
    return median(a / b for a, b in zip(theirs, ours, strict=True))


def _sets(folder: Path, photos: Path | None, images: int) -> Iterator[tuple[str, list[str]]]:
    """Sets of pictures: a name, and files."""
    if photos is not None:
        found = sorted(str(path) for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not found:
            raise DataError(
                f"There is no JPEG in {photos}; give a folder of photos, or none for rendered ones."
            )
        yield photos.name, found[:: max(1, len(found) // images)][:images]
        return
    bases = rendered(PHOTOS)
    for width, height in SIZES:
        paths = [folder / f"{width}x{height}-{number}.jpg" for number in range(images)]
        for number, path in enumerate(paths):
            path.write_bytes(
                shot(bases[number % PHOTOS], (width, height), np.random.default_rng([4, number]))
            )
        yield f"{width} x {height}", [str(path) for path in paths]


def race(paths: Sequence[str], workers: int, params: Params) -> Race:
    """The ways in turns and each first in turn, so that other load meets all alike."""
    ways = _ways(paths, workers, params)
    by_workers = len(ways) - 2
    seconds = [[0.0] * len(ways) for _ in range(ROUNDS)]
    for number in range(-1, ROUNDS):  # the first one warms up
        for place in range(len(ways)):
            way = (place + number) % len(ways)
            clock = (
                time.perf_counter if way >= by_workers else time.thread_time
            )  # a thread's own time tells nothing of workers
            start = clock()
            shown = ways[way]()
            seconds[number][way] = (clock() - start) / shown
    return Race(*(tuple(column) for column in zip(*seconds, strict=True)))


def _ways(paths: Sequence[str], workers: int, params: Params) -> list[Callable[[], int]]:
    """In the order of Race. Each goes through the pictures, all or some times, and tells how many it took."""
    import simplejpeg
    import torch

    from skumatch.model.encoder import build
    from skumatch.model.runtime import prepare
    from skumatch.model.schedule import Key

    prepare(RuntimeParams(device="cpu", threads=1))
    with torch.device("meta"):  # what it sees, without its weights
        encoder = build(params.encoder, None)
    canvas = encoder.preprocess
    views = _views(paths, canvas, encoder.views(params.train.augment.view), params.train.augment)
    images, files = views.images, [Path(path).read_bytes() for path in paths]
    batch = torch.zeros(BATCH, 3, canvas.height, canvas.width, dtype=torch.uint8)
    evaluation, training = _theirs(canvas, train=False), _theirs(views.preprocess, train=True)
    return [
        lambda: _each(simplejpeg.decode_jpeg, files),
        lambda: _each(lambda i: canvas(images.pixels(i)), range(len(paths))),
        lambda: _each(lambda i: views[Key(0, i)], range(len(paths))),
        lambda: BATCH * _each(lambda _: canvas.normalise(batch), range(max(1, len(paths) // BATCH))),
        lambda: _each(evaluation, paths),
        lambda: _each(training, paths),
        _by_workers(_Decoded(files), len(files), workers),
        _by_workers(views, len(files), workers),
    ]


def _each(call: Callable[[Any], object], items: Sequence[Any]) -> int:
    for item in items:
        call(item)
    return len(items)


def _views(paths: Sequence[str], canvas: Preprocess, small: Preprocess, params: AugmentParams) -> Views:
    """Training views of the files, as a training makes them."""
    from skumatch.data.images import Extent, Images
    from skumatch.model.views import Views

    names = list(paths)
    return Views(
        Images(names, names, names, [Extent(path) for path in names]),
        [0] * len(names),
        small,
        params,
        0,
        (LOADED, canvas),
    )


def _theirs(size: Preprocess, train: bool) -> Callable[[str], object]:
    """open_clip's transform to the same size, from a file's path to normalised numbers."""
    from PIL import Image

    from skumatch.model.torchvision_ops import open_clip

    resize = {"pad": "longest", "crop": "shortest"}.get(size.resize, "squash")
    transform = open_clip.image_transform(
        (size.height, size.width), is_train=train, mean=size.mean, std=size.std, resize_mode=resize
    )

    def transformed(path: str) -> object:
        with Image.open(path) as image:
            return transform(image)

    return transformed


class _Decoded:
    """Pictures that are decoded, and not even handed over."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, int]:
        import simplejpeg

        return len(simplejpeg.decode_jpeg(self.files[key[1]])), 0


def _by_workers(pictures: Any, count: int, workers: int) -> Callable[[], int]:
    """Batches as training takes them, by workers that are there already."""
    from torch.utils.data import DataLoader

    from skumatch.model.schedule import Schedule

    schedule = Schedule(count, min(BATCH, count), LOADED, 0)
    loader = DataLoader(pictures, batch_sampler=schedule, num_workers=workers, persistent_workers=True)
    return lambda: sum(len(labels) for _, labels in loader)
