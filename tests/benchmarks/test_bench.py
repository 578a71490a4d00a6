"""The benchmarks are honest: RP2K's shape, costs of a separate process, bounds that are checked."""

from __future__ import annotations

import json
import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import input as bench_input
from benchmarks.archive import Crop, names, plan, rendered, write_archive
from benchmarks.input import Race
from benchmarks.measure import Cost, Row, cost
from benchmarks.search import made, race
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import DataError
from skumatch.params import EncoderParams, Params
from tests.cli import Cli
from tests.conftest import ROOT
from tests.proving import IN_PROOF


def test_the_made_archive_is_mojibake_and_imports_with_its_names_and_counts(tmp_path: Path) -> None:
    skus = names(12)
    written = write_archive(tmp_path / "made.zip", plan(100, skus))
    with zipfile.ZipFile(tmp_path / "made.zip") as archive:
        assert not any("清风" in name for name in archive.namelist())
    import_data(tmp_path / "made.zip", tmp_path / "data")
    manifest = read_manifest(tmp_path / "data")
    assert len(manifest) == 100 and set(manifest["sku"]) == {
        unicodedata.normalize("NFC", sku) for sku in skus
    }
    assert manifest["sha256"].nunique() == 100
    assert manifest["length"].sum() == written


def test_a_plan_has_a_long_tail_both_sides_and_goes_on_where_it_is_told() -> None:
    crops = plan(2000, names(100))
    counts = sorted(
        (sum(crop.path.split("/")[2] == sku for crop in crops) for sku in names(100)), reverse=True
    )
    assert len(crops) == 2000 and counts[0] > 10 * counts[50] > 0
    assert {crop.path.split("/")[1] for crop in crops} == {"train", "test"}
    assert not {crop.seed for crop in crops} & {crop.seed for crop in plan(20, names(5), first=2000)}


def test_equal_plans_give_equal_bytes(tmp_path: Path) -> None:
    crops = [Crop("all/train/a/1.jpg", 1), Crop("all/test/a/2.jpg", 2)]
    contents = []
    for name in ("one.zip", "two.zip"):
        write_archive(tmp_path / name, crops)
        with zipfile.ZipFile(tmp_path / name) as archive:
            contents.append([archive.read(entry) for entry in archive.namelist()])
    assert contents[0] == contents[1] and contents[0][0] != contents[0][1]


def hold(mebibytes: int) -> int:
    return len(b"x" * (mebibytes << 20))


def fail() -> None:
    raise DataError("No such thing; give another.")


def test_a_cost_is_that_of_a_process_of_its_own() -> None:
    held = bytes(200 << 20)  # ours, which must not count
    small, large = cost(hold, 1), cost(hold, 300)
    assert large.result == 300 << 20 and held
    assert large.peak_mib > small.peak_mib + 250
    with pytest.raises(DataError, match="No such thing"):
        cost(fail)


@pytest.mark.parametrize(
    ("measured", "better", "holds"),
    [(2.9, "less", True), (3.1, "less", False), (5.1, "more", True), (4.9, "more", False)],
)
def test_a_bound_holds_or_not(measured: float, better: str, holds: bool) -> None:
    assert Row("x", measured, 3 if better == "less" else 5, "x", better=better).holds == holds


@IN_PROOF
def test_the_command_prints_and_writes_every_figure(tmp_path: Path) -> None:
    cli = Cli(tmp_path, tmp_path / "home", module="benchmarks")
    target = tmp_path / "figures.json"
    done = cli("data", "--images", "200", "--rows", "1000", "--files", "200", "--json", str(target))
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert len(figures) >= 8 and all(row["measured"] > 0 for row in figures)
    assert all(row["name"].split(" / ")[0].split(":")[0] in done.out for row in figures)


def test_the_bench_of_search_prints_and_writes_every_figure(tmp_path: Path) -> None:
    cli, target = Cli(tmp_path, tmp_path / "home", module="benchmarks"), tmp_path / "figures.json"
    done = cli("search", "--sizes", "400,800", "--dim", "16", "--queries", "20", "--json", str(target))
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert len(figures) == 2 * 3 + 2 and all(row["measured"] > 0 for row in figures[:-1])
    assert sum("400 images" in row["name"] for row in figures) == 3 and "IndexFlatIP" in done.out


@IN_PROOF
def test_the_bench_of_input_prints_and_writes_every_figure(tmp_path: Path) -> None:
    cli, target = Cli(tmp_path, tmp_path / "home", module="benchmarks"), tmp_path / "figures.json"
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    for name in ("a.jpg", "b.JPEG", "deep/c.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        rendered(1)[0].save(tmp_path / "photos" / name, "JPEG")
    done = cli(
        "input", "--images", "2", "--workers", "2", "--data", str(tmp_path / "photos"), "--json", str(target)
    )
    assert done.code == 0, done.err
    figures = json.loads(target.read_text("utf-8"))
    assert len(figures) == 5 and all(
        row["measured"] > 0 and row["name"].endswith(", photos") for row in figures
    )
    assert "open_clip" in done.out and "2 workers" in done.out
    (tmp_path / "none").mkdir()
    done = cli("input", "--data", str(tmp_path / "none"))
    assert done.code == 11 and "no JPEG" in done.err


def test_rendered_input_has_rp2ks_sizes_and_one_of_each_is_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def fake(_: object, paths: list[str], workers: int, params: Params) -> Cost:
        with Image.open(paths[1]) as image:
            seen.append(image.size)
        times = 2.0 ** len(seen)
        return Cost(0, 0, Race(*((times * seconds,) for seconds in (1, 2, 4, 1, 9, 10, 0.5, 0.8))))

    monkeypatch.setattr(bench_input, "cost", fake)
    rows = list(bench_input.bench_input(tmp_path, None, 2, 2, Params()))
    assert tuple(seen) == bench_input.SIZES and len(rows) == 4 * 5
    for start in range(0, 20, 5):
        assert [round(row.measured, 3) for row in rows[start : start + 5]] == [50, 25, 62.5, 3, 2]
        assert [row.holds for row in rows[start : start + 5]] == [False, False, True, True, False]
    assert rows[-1].name.endswith("one of each")


def test_pictures_race_all_ways(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.jpg"))
        rendered(1)[0].resize((120, 90)).save(paths[-1])
    before = torch.get_num_threads()
    times = bench_input.race(paths, 1, Params(encoder=EncoderParams(height=64, width=32, resize="pad")))
    torch.set_num_threads(before)
    assert all(len(way) == bench_input.ROUNDS and min(way) > 0 for way in times)
    assert sum(times.prepared) > sum(times.decoded)


@pytest.mark.parametrize("sizes", ["800", "800,400", "800,many", ""])
def test_sizes_that_are_none_are_refused(tmp_path: Path, sizes: str) -> None:
    done = Cli(tmp_path, tmp_path / "home", module="benchmarks")("search", "--sizes", sizes)
    assert done.code == 10 and "--sizes" in done.err


def test_made_vectors_have_length_one_and_races_are_run() -> None:
    vectors = made(50, 8, 0)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    times = race(50, 8, 5, "faiss")
    assert all(len(seconds) == len(times.ours) and min(seconds) > 0 for seconds in times)
    assert times.against(times.ours) == 1
