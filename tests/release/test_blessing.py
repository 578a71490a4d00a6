"""A bundle that answers is blessed; a slow one is an error that no run reuses; a broken one is a fact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from skumatch.bundle import LabelledVectors, blessing
from skumatch.bundle.blessing import answer_all, bless, check_latency
from skumatch.data.images import Extent, Images
from skumatch.errors import LatencyExceeded

HOUR = 3_600_000


@pytest.fixture
def shown(
    tmp_path: Path, gallery: LabelledVectors, picture: Callable[[int], Image.Image]
) -> tuple[pd.DataFrame, Images]:
    """The gallery's rows and its pictures as files."""
    paths = [tmp_path / f"{number}.png" for number in range(len(gallery.ids))]
    for number, path in enumerate(paths):
        picture(number).save(path)
    names = [str(path) for path in paths]
    rows = pd.DataFrame({"sku": gallery.skus, "pixels": gallery.ids})
    return rows, Images(gallery.ids, gallery.skus, names, [Extent(name) for name in names])


def test_a_bundle_that_finds_its_own_pictures_is_blessed(
    made: Path, shown: tuple[pd.DataFrame, Images]
) -> None:
    assert bless(made, *shown, HOUR) == (True, HOUR)


def test_a_bundle_that_calls_them_something_else_is_not(
    made: Path, shown: tuple[pd.DataFrame, Images]
) -> None:
    rows, pictures = shown
    assert bless(made, rows.assign(sku=rows["sku"].to_numpy()[::-1]), pictures, HOUR) == (False, None)


def test_a_bundle_that_does_not_load_is_not_and_says_why(
    made: Path, shown: tuple[pd.DataFrame, Images], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made, broken)
    (broken / "gallery.parquet").write_bytes(b"PAR1")
    assert bless(broken, *shown, HOUR) == (False, None)
    assert "gallery.parquet" in capfd.readouterr().err


def test_a_gallery_of_copies_alone_blesses_nothing(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    rows, pictures = shown
    assert bless(made, rows.assign(pixels="same"), pictures, HOUR) == (False, None)


def test_a_slow_bundle_is_an_error_and_no_fact(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    with pytest.raises(LatencyExceeded, match=r"processor time each, over gate.max_p95_ms = 0; run again"):
        bless(made, *shown, 0)


def test_a_wrong_slow_bundle_is_a_fact(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    """Every attempt would match wrongly, so the gate refuses it: a retry is of no use."""
    rows, pictures = shown
    assert bless(made, rows.assign(sku=rows["sku"].to_numpy()[::-1]), pictures, 0) == (False, None)


def test_a_latency_over_the_limit_is_tried_again() -> None:
    with pytest.raises(LatencyExceeded) as caught:
        check_latency([0.2], 50)
    assert caught.value.retry and caught.value.exit_code == 23


def test_queries_are_timed_on_one_thread(
    made: Path,
    shown: tuple[pd.DataFrame, Images],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads that wait for each other spin, which is processor time, too: two would measure the load."""
    environments = []
    run = blessing.subprocess.run

    def recorded(*arguments: object, **options: Any) -> object:
        environments.append(options["env"])
        return run(*arguments, **options)

    monkeypatch.setattr(blessing.subprocess, "run", recorded)
    bless(made, *shown, HOUR)
    assert {name: environments[0][name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[float]]:
    """Give each query after the warm-up the next of these seconds; the returned list keeps unused ones."""

    def set_clock(seconds: list[float]) -> list[float]:
        answer = blessing._answer
        warm = iter([9.0] * 5)

        def timed(bundle: Any, path: str) -> blessing.Answer:
            return answer(bundle, path)._replace(seconds=next(warm, None) or seconds.pop(0))

        monkeypatch.setattr(blessing, "_answer", timed)
        return seconds

    return set_clock


@pytest.mark.usefixtures("shown")
def test_each_picture_keeps_its_fastest_round(
    made: Path, tmp_path: Path, gallery: LabelledVectors, clock: Callable[[list[float]], list[float]]
) -> None:
    """A busy moment in one round slows no picture's figure, and the warm-up counts for none."""
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    clock([8.0, 1.0, 8.0, 8.0, 8.0, 2.0, 8.0, 8.0, 3.0, 8.0, 8.0, 8.0, 4.0, 8.0, 5.0])
    answers = answer_all(made, 100, paths)
    assert [answer.seconds for answer in answers] == [2.0, 1.0, 4.0, 3.0, 5.0]
    assert [answer.sku for answer in answers] == gallery.skus[:5]
    assert all(answer.similarity > 0.999 for answer in answers)


@pytest.mark.usefixtures("shown")
def test_a_limit_that_is_kept_needs_no_further_round(
    made: Path,
    tmp_path: Path,
    clock: Callable[[list[float]], list[float]],
) -> None:
    left = clock([0.05] * 5 + [7.0] * 10)
    answer_all(made, 100, [str(tmp_path / f"{number}.png") for number in range(5)])
    assert left == [7.0] * 10


def test_processor_time_of_a_query_is_positive(made: Path, shown: tuple[pd.DataFrame, Images]) -> None:
    assert shown[1].names and answer_all(made, HOUR, shown[1].names[:1])[0].seconds > 0


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ([0.01] * 40, True),
        ([0.01] * 38 + [9.0] * 2, True),  # two of forty may be slow
        ([0.01] * 37 + [0.0701] * 3, False),
        ([0.05] * 40, True),
        ([0.2], False),
    ],
)
def test_latency_is_judged_by_the_95th_percentile(
    seconds: list[float],
    kept: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kept:
        check_latency(seconds, 50)
    else:
        with pytest.raises(LatencyExceeded):
            check_latency(seconds, 50)
    assert "the limit is 50 ms" in capsys.readouterr().out
