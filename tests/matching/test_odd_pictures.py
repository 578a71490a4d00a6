"""Every odd but good picture passes all steps: import, validation, training view, evaluation and match."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import BmpImagePlugin, PngImagePlugin, TiffImagePlugin

from skumatch.bundle import Bundle
from skumatch.commands.compare import compare_folder
from skumatch.config import load_params
from skumatch.data.delivery.importer import Imported, import_data
from skumatch.data.images import Images, opened
from skumatch.data.manifest import images, read_manifest
from skumatch.files import read_json
from skumatch.matching.batch import MatchPlan, counts, match_all, matching
from skumatch.matching.pictures import list_pictures, open_pictures
from skumatch.model.preprocess import Preprocess
from skumatch.model.schedule import Key
from skumatch.model.views import Views
from skumatch.params import AugmentParams, Params
from skumatch.stages import runner
from tests.conftest import ROOT, draw
from tests.data.hostile import good
from tests.matching.conftest import CPU

GOOD = [(name, data) for name, data, _ in good()]
PLAIN = 150  # pictures beside them, so that shares stay what they are in a delivery
CANVAS = Preprocess(height=64, width=64, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
REFUSED = {"I", "F", "LAB"}  # modes whose pictures the import sets aside
FORMATS = {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"}


class Version(NamedTuple):
    """Odd pictures on the train side of one SKU, plain ones of another, imported with shipped parameters."""

    delivery: Path
    root: Path
    imported: Imported
    rows: pd.DataFrame
    odd: Images


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    root = tmp_path_factory.mktemp("odd")
    folder = root / "delivery/all/train/odd"
    folder.mkdir(parents=True)
    for name, data in GOOD:
        (folder / name).write_bytes(data)
    for number in range(PLAIN):
        draw(root / f"delivery/all/train/plain/{number}.png", f"plain {number}")
    for sku in ("odd", "plain"):
        draw(root / f"delivery/all/test/{sku}/query.png", f"query of {sku}")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    bounds = load_params(root / "params.yaml").validation
    imported = import_data(root / "delivery", root / "data", min_short_side=bounds.min_short_side)
    rows = read_manifest(root / "data")
    odd = rows[rows["sku"].eq("odd") & rows["side"].eq("train")].reset_index(drop=True)
    return Version(root / "delivery", root, imported, odd, images(root / "data", odd))


def test_the_import_takes_every_good_picture(version: Version) -> None:
    assert (version.imported.quarantined, version.imported.junk) == ([], {})
    assert sorted(version.rows["name"]) == sorted(name for name, _ in GOOD) and len(GOOD) > 80


def test_a_format_is_named_by_what_was_decoded(version: Version) -> None:
    formats = version.rows.set_index("name")["format"]
    assert set(formats) == FORMATS
    assert {name for name, _ in GOOD if "picture" in name} <= set(formats[formats.eq("JPEG")].index)


def test_validation_passes_every_good_picture(version: Version) -> None:
    runner.run("validate", version.root)
    tree = read_json(version.root / "out/validate/validation.json")
    assert {record["name"] for record in tree["expectations"] if not record["passed"]} == set()


@pytest.mark.parametrize("name", [name for name, _ in GOOD])
def test_training_sees_every_good_picture(version: Version, name: str) -> None:
    views = Views(version.odd, [0] * len(GOOD), CANVAS, AugmentParams(), seed=7)
    index = list(version.rows["name"]).index(name)
    shown = [views[Key(epoch, index)][0] for epoch in range(2)]
    assert all(view.shape[0] == 3 and view.dtype == torch.uint8 for view in shown)
    whole = version.odd.pixels(index)
    assert whole.shape == (version.rows["height"][index], version.rows["width"][index], 3)
    assert whole.dtype == np.uint8


def test_a_bundle_matches_every_good_picture(version: Version, bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    with matching(out) as parts:
        plan = MatchPlan(bundle, open_pictures(list_pictures([version.delivery]), parts), 1, out)
        match_all(plan, parts, 32, CPU)
    assert len(plan.images) == len(GOOD) + PLAIN + 2 and counts(out)[2] == {}


def test_an_encoder_is_evaluated_on_every_good_picture(
    version: Version, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = tmp_path / "turned/all"  # odd pictures asked, too
    shutil.copytree(version.delivery / "all/train", turned / "train")
    shutil.copytree(version.delivery / "all/train/odd", turned / "test/odd")
    monkeypatch.setenv("SKUMATCH_PROJECT", str(tmp_path))
    settings = "runtime: {device: cpu, threads: 1, workers: 0}\nevaluate: {resamples: 100}\n"
    (tmp_path / "params.yaml").write_text(settings, "utf-8")
    evaluation = compare_folder(turned.parent, {"embed": str(bundle_folder)}, "full").models[0].evaluation
    assert evaluation.n == len(GOOD)


def test_validation_allows_every_mode_the_import_takes() -> None:
    """Each mode in the tables of Pillow's readers is refused at import or allowed by default."""
    tiff = {mode for mode, _ in TiffImagePlugin.OPEN_INFO.values()}
    png = {mode for mode, _ in PngImagePlugin._MODES.values()}
    bmp = {mode for mode, _ in BmpImagePlugin.BIT2MODE.values()} | {"1", "L", "RGBA"}
    seen = tiff | png | bmp | {"L", "RGB", "CMYK"} | {"RGB", "RGBA", "P"}  # and JPEG's; WebP's and GIF's
    for params in (Params(), load_params(ROOT / "params.yaml")):
        assert seen - REFUSED <= set(params.validation.modes)
        assert set(params.validation.formats) == FORMATS


def test_modes_of_good_pictures_are_the_corpus_s() -> None:
    """The corpus has a picture of every mode that the import accepts, so all are tested."""
    modes = set()
    for _, data in GOOD:
        with opened(data) as image:
            modes.add(image.mode)
    assert modes >= {mode for mode, _ in TiffImagePlugin.OPEN_INFO.values()} - REFUSED
