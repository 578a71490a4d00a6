"""The report's comparison of the serving gallery with today's: products that lost gallery pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from skumatch.gate.fitness import Fitness, Loss
from skumatch.gate.gate import Products
from skumatch.report.gallery import PictureLoss, gallery_changes
from skumatch.report.page import render_report
from skumatch.stages.report import _thinned
from tests.conftest import ROOT
from tests.report.reports import context


def workspace(root: Path, rows: list[tuple[str, str, str, bool, str, bool]]) -> pd.DataFrame:
    """The serving gallery has four pictures each of cola and tea, and one of gone.

    Today's gallery lacks three of cola's.
    """
    served = [(f"train/{sku}/{number}", sku) for sku in ("cola", "tea") for number in range(4)] + [
        ("train/gone/0", "gone")
    ]
    (root / "inputs/champion").mkdir(parents=True)
    (root / "out/evaluate").mkdir(parents=True)
    table = pd.DataFrame(served, columns=["id", "sku"])
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False), root / "inputs/champion/gallery.parquet"
    )
    columns = ["query", "sku", "served", "served_unknown", "refreshed", "refreshed_unknown"]
    answers = pd.DataFrame(rows, columns=columns).assign(asked_as="photo")
    pq.write_table(pa.Table.from_pandas(answers, preserve_index=False), root / "out/evaluate/answers.parquet")
    today = [
        row
        for row in served
        if row[0] not in ("train/cola/0", "train/cola/1", "train/cola/2", "train/gone/0")
    ]
    return pd.DataFrame([*today, ("train/new/0", "new")], columns=["id", "sku"])


def test_products_that_lost_pictures_are_told_with_their_answers(tmp_path: Path) -> None:
    gallery = workspace(
        tmp_path,
        [
            ("test/cola/0", "cola", "cola", False, "cola", False),
            ("test/cola/1", "cola", "cola", True, "cola", False),
            ("test/cola/2", "cola", "cola", False, "tea", False),
            ("test/cola/3", "cola", "cola", False, "cola", True),
            ("test/tea/0", "tea", "tea", False, "tea", False),
        ],
    )
    assert _thinned(tmp_path, gallery) == [("cola", 3, 1, 4, 3, 2)]


def test_a_first_run_has_no_gallery_that_lost_pictures(tmp_path: Path) -> None:
    assert _thinned(tmp_path, pd.DataFrame({"id": [], "sku": []})) == []


def test_the_most_changed_products_are_listed_and_the_others_counted() -> None:
    fitness = Fitness(
        checks=(), losses=(Loss(old="a", new="b", photos=2),), accepted={}, unasked=(), thresholds_note=""
    )
    settled = context().decision.model_copy(
        update={"fitness": fitness, "products": Products(new=1, retired=0)}
    )
    rows = [PictureLoss(f"sku {number:02}", 1, 3, 4, 4, 4) for number in range(30)]
    changes = gallery_changes(
        settled, {"a"}, {}, {"a": "a", "b": "b"}, lambda _: Image.new("RGB", (8, 8)), rows
    )
    assert changes and (len(changes.thinned.shown), changes.thinned.more) == (24, 6)
    assert changes.thinned.shown[0].product.name == "sku 00" and changes.thinned.shown[0].loss.gone == 1


def test_the_guide_to_new_products_names_a_section_that_the_page_has() -> None:
    fitness = Fitness(checks=(), losses=(), accepted={}, unasked=(), thresholds_note="")
    products = Products(new=1, retired=1)
    settled = context().decision.model_copy(update={"fitness": fitness, "products": products})
    changes = gallery_changes(settled, {"gone"}, {}, {"tea": "tea"}, lambda _: Image.new("RGB", (8, 8)))
    page = unescape(render_report(replace(context(), decision=settled, gallery=changes)))
    guide = " ".join((ROOT / "docs/new-products.md").read_text("utf-8").split())
    (section,) = re.findall(r"The section \*(.+?)\*", guide)
    assert f"<h2>{section}</h2>" in page
    assert all(words in page for words in ("1 new product", "<bdi>tea</bdi>", "1 retired", "<bdi>gone</bdi>"))
