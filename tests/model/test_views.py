"""Training views: the same bits with workers and without, for all augmentations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from skumatch.data.images import Images
from skumatch.model.preprocess import Preprocess
from skumatch.model.runtime import workers
from skumatch.model.schedule import Key, Schedule
from skumatch.model.views import Views, batches
from skumatch.params import AugmentParams, RuntimeParams, SamplingParams
from tests.model.plain import mild

ALL = mild(ratio=0.3, rotate=10, perspective=0.1, flip=0.5, blur=0.5, jpeg=0.5, occlude=0.5)
CANVAS = Preprocess(height=256, width=200, resize="pad", mean=(0.5, 0.4, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def made(shelf: Images, params: AugmentParams = ALL) -> Views:
    return Views(shelf, list(range(len(shelf))), CANVAS, params, 3, (99, CANVAS))


@pytest.mark.usefixtures("two_threads")
def test_workers_make_the_same_bits(shelf: Images) -> None:
    schedule = Schedule(27, 9, 2, 3, labels=[0] * 9 + [1] * 18, sampling=SamplingParams(power=0.0))
    alone, shared = (list(batches(made(shelf), schedule, workers, torch.device("cpu"))) for workers in (0, 2))
    assert len(alone) == 6 and all(
        a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in zip(alone, shared, strict=True)
    )


def test_an_image_shown_again_in_an_epoch_is_another_view(shelf: Images) -> None:
    views = made(shelf)
    first = views[Key(1, 4)][0]
    assert first.equal(views[Key(1, 4, 0)][0]) and first.equal(made(shelf)[Key(1, 4)][0])
    assert not first.equal(views[Key(1, 4, 1)][0]) and not first.equal(views[Key(2, 4)][0])


def test_the_neighbour_is_any_other_picture_but_never_the_same(
    shelf: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, places = shelf.take(range(5)), []
    views, pixels = made(few, mild(occlude=0.9)), few.pixels
    monkeypatch.setattr(few, "pixels", lambda index: places.append(index) or pixels(index))
    for epoch in range(40):
        views[Key(epoch, 2)]
    own = places.count(2)
    assert own == 40 and set(places) == {0, 1, 2, 3, 4} and 25 < len(places) - own <= 40


def test_from_the_fix_on_pictures_are_shown_whole_and_as_they_are(shelf: Images) -> None:
    views = Views(shelf, list(range(len(shelf))), CANVAS.at(128, 104), ALL, 3, (2, CANVAS))
    assert views[Key(1, 4)][0].shape == (3, 128, 104)
    assert views[Key(2, 4)][0].equal(CANVAS(shelf.pixels(4))) and not made(shelf)[Key(1, 4)][0].equal(
        CANVAS(shelf.pixels(4))
    )


@pytest.mark.parametrize(("asked", "threads", "augmented", "expected"), [
    (None, 2, True, 1), (None, 2, False, 0), (None, 1, True, 0), (0, 2, True, 0), (3, 1, False, 3),
])  # fmt: skip
def test_pictures_get_a_process_where_it_pays(
    asked: int | None, threads: int, augmented: bool, expected: int
) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert workers(RuntimeParams(device="cpu", workers=asked), torch.device("cpu"), augmented) == expected
    finally:
        torch.set_num_threads(before)


def test_a_gpu_gets_a_process_for_each_core_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skumatch.model.runtime.cores", lambda: 5)
    assert workers(RuntimeParams(), torch.device("cuda")) == 4
