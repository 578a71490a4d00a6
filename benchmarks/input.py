"""Rate at which pictures reach an encoder, against decoding alone and against open_clip's transforms."""

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

SIZES = ((150, 420), (300, 300), (1000, 1000))  # pixels; RP2K's: tall crops, packs, a few large pictures
ROUNDS, BATCH, PHOTOS = 7, 32, 12
LOADED = 4  # epochs of the worker processes in a round


class Race(NamedTuple):
    """Seconds per picture in each round: one thread's CPU time, or wall time for worker processes.

    Attributes:
        decoded: decoding by simplejpeg alone, from memory.
        prepared: reading, decoding and fitting onto the canvas.
        augmented: reading, decoding and making a training view.
        normalised: converting integer pixels to the encoder's normalised floats, a batch at a time.
        evaluated: open_clip's transform for evaluation, reading included.
        trained: open_clip's transform for training, reading included.
        decoding: decoding by all worker processes together, wall time.
        augmenting: making training views by all worker processes together, wall time.
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
    """Yield shares of the decoding ceiling and speed-ups over open_clip.

    There are rows for each size of rendered photos and for one photo of each size; or, with `photos`, for
    that folder alone.

    Args:
        folder: working folder, to which rendered photos are written.
        photos: folder of JPEGs to measure; None for rendered ones in RP2K's sizes.
        images: number of pictures of each size, or of the folder.
        workers: number of worker processes.
        params: parameters of the canvas and of training views.

    Raises:
        DataError: for a folder without JPEGs.
    """
    races = list[Race]()
    for name, paths in _sets(folder, photos, images):
        races.append(cost(race, paths, workers, params).result)
        yield from _rows(name, races[-1], workers)
    if len(races) > 1:
        # One picture of each size takes the sum of their seconds, round by round and way by way.
        sums = (tuple(map(sum, zip(*columns, strict=True))) for columns in zip(*races, strict=True))
        yield from _rows("one of each", Race(*sums), workers)


def _rows(name: str, race: Race, workers: int) -> Iterator[Row]:
    ways = (
        ("on the canvas", race.decoded, race.prepared),
        ("augmented", race.decoded, race.augmented),
        (f"augmented by {workers} workers", race.decoding, race.augmenting),
    )
    for way, decoding_s, way_s in ways:
        parts = f"{_rate(way_s)} images/s; decoding alone {_rate(decoding_s)}"
        yield Row(
            f"{way} / decoding alone, {name}", 100 * _speedup(decoding_s, way_s), 60, "%", parts, "more"
        )
    for purpose, open_clip_s, unnormalised_s in (
        ("evaluation", race.evaluated, race.prepared),
        ("training", race.trained, race.augmented),
    ):
        # open_clip's transform gives normalised numbers, too.
        skumatch_s = tuple(a + b for a, b in zip(unnormalised_s, race.normalised, strict=True))
        parts = f"{_rate(skumatch_s)} images/s, normalised; open_clip {_rate(open_clip_s)}"
        yield Row(
            f"ours / open_clip's transform for {purpose}, {name}",
            _speedup(open_clip_s, skumatch_s),
            2.5,
            "x",
            parts,
            "more",
        )


def _rate(seconds: Sequence[float]) -> str:
    return f"{1 / median(seconds):,.0f}"


def _speedup(base_s: Sequence[float], other_s: Sequence[float]) -> float:
    """Return the factor by which the other way is faster than the base: the median over the rounds."""
    return median(a / b for a, b in zip(base_s, other_s, strict=True))


def _sets(folder: Path, photos: Path | None, images: int) -> Iterator[tuple[str, list[str]]]:
    """Yield sets of pictures: a name, and the paths of the files."""
    if photos is not None:
        jpegs = sorted(str(path) for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if not jpegs:
            raise DataError(
                f"There is no JPEG in {photos}; give a folder of photos, or none for rendered ones."
            )
        yield photos.name, jpegs[:: max(1, len(jpegs) // images)][:images]
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
    """Time all ways to read the pictures, in alternation.

    Each round starts with another way, so that other load on the machine affects all alike.

    Args:
        paths: JPEG files.
        workers: number of worker processes of the last two ways.
        params: parameters of the canvas and of training views.
    """
    ways = _ways(paths, workers, params)
    by_workers = len(ways) - 2
    seconds = [[0.0] * len(ways) for _ in range(ROUNDS)]
    for number in range(-1, ROUNDS):  # round -1 warms up; its time is overwritten by the last round's
        for place in range(len(ways)):
            way = (place + number) % len(ways)
            # This thread's CPU time doesn't include the workers'.
            clock = time.perf_counter if way >= by_workers else time.thread_time
            start = clock()
            pictures = ways[way]()
            seconds[number][way] = (clock() - start) / pictures
    return Race(*(tuple(column) for column in zip(*seconds, strict=True)))


def _ways(paths: Sequence[str], workers: int, params: Params) -> list[Callable[[], int]]:
    """Return the ways in the order of Race's fields.

    Each processes the pictures, once or several times, and returns the number of pictures processed.
    """
    import simplejpeg
    import torch

    from skumatch.model.encoder import build
    from skumatch.model.runtime import prepare
    from skumatch.model.schedule import Key

    prepare(RuntimeParams(device="cpu", threads=1))
    with torch.device("meta"):  # only its preprocessing is needed, not its weights
        encoder = build(params.encoder, None)
    canvas = encoder.preprocess
    views = _views(paths, canvas, encoder.views(params.train.augment.view), params.train.augment)
    images, files = views.images, [Path(path).read_bytes() for path in paths]
    batch = torch.zeros(BATCH, 3, canvas.height, canvas.width, dtype=torch.uint8)
    evaluation = _open_clip_transform(canvas, train=False)
    training = _open_clip_transform(views.preprocess, train=True)
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
    """Return training views of the files, as training makes them."""
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


def _open_clip_transform(size: Preprocess, train: bool) -> Callable[[str], object]:
    """Return open_clip's transform to the same size, from a file's path to normalised numbers."""
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
    """Dataset that decodes each picture, but returns only its number of rows, so that nothing is copied."""

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, int]:
        import simplejpeg

        return len(simplejpeg.decode_jpeg(self.files[key[1]])), 0


def _by_workers(pictures: Any, count: int, workers: int) -> Callable[[], int]:
    """Return a function that loads all batches with worker processes that persist between calls."""
    from torch.utils.data import DataLoader

    from skumatch.model.schedule import Schedule

    schedule = Schedule(count, min(BATCH, count), LOADED, 0)
    loader = DataLoader(pictures, batch_sampler=schedule, num_workers=workers, persistent_workers=True)
    return lambda: sum(len(labels) for _, labels in loader)
