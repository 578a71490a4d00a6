"""Encoders compared on the same queries: paired differences, wording, and the leader in table and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from skumatch.comparing.comparison import Compared, Comparison, Entrant, ModelDifference, compare
from skumatch.comparing.folder import Questions, list_folder, questions
from skumatch.comparing.page import page
from skumatch.comparing.table import table
from skumatch.errors import DataError
from skumatch.files import canonical_json
from skumatch.model.preprocess import Preprocess
from skumatch.params import EvaluateParams, Params, RuntimeParams
from skumatch.retrieval.figures import Evaluation, Intervals
from tests.conftest import draw

PARAMS = Params(runtime=RuntimeParams(device="cpu", threads=1), evaluate=EvaluateParams(resamples=500))


class Eye(nn.Module):
    """Sees the mean colour of the picture's first rows only; counts the pictures it was shown."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.preprocess = Preprocess(
            height=12, width=8, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
        self.dim, self.rows, self.shown = 4, rows, 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.shown += len(pixels)
        seen = pixels[:, :, : self.rows].mean((2, 3))
        return torch.cat([seen, torch.ones(len(seen), 1)], dim=1)


def entrant(name: str, rows: int) -> Entrant:
    return Entrant(name, name, Eye(rows), name[0] * 64)  # type: ignore[arg-type]


def shelf(root: Path, skus: int) -> Questions:
    """Each product has a picture of its own on either side, alike but for the lowest rows."""
    for sku in range(skus):
        for side in ("train", "test"):
            path = draw(root / f"all/{side}/sku {sku}/0.png", f"sku {sku}", (8, 12))
            draw(path, f"sku {sku} {side}", (8, 12)) if sku % 2 else None
    return questions(list_folder(root, "full", PARAMS), PARAMS)


def test_each_encoder_sees_each_picture_once_and_is_paired_with_the_first(tmp_path: Path) -> None:
    photos, entrants = shelf(tmp_path, 8), [entrant("one", 1), entrant("two", 12), entrant("again", 1)]
    comparison = compare(photos, entrants, PARAMS)
    assert [contender.encoder.shown for contender in entrants] == [len(photos.images)] * 3
    first, second, third = comparison.models
    assert first.difference is None and third.difference == ModelDifference(top1=0, interval=(0, 0))
    assert second.difference is not None
    assert second.difference.top1 == pytest.approx(second.evaluation.top1 - first.evaluation.top1)
    assert third.evaluation.model_copy(update={"hashes": first.evaluation.hashes}) == first.evaluation


def test_one_product_tells_nothing_of_others_and_is_still_written(tmp_path: Path) -> None:
    comparison = compare(shelf(tmp_path, 1), [entrant("one", 1), entrant("two", 12)], PARAMS)
    assert comparison.models[1].difference == ModelDifference(top1=0, interval=(-1, 1))
    assert Comparison.model_validate_json(canonical_json(comparison.model_dump(mode="json"))) == comparison


def test_a_picture_that_is_broken_is_named(tmp_path: Path) -> None:
    photos = shelf(tmp_path, 2)
    (tmp_path / "all/test/sku 1/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"sku 1/0.png can't be embedded"):
        compare(photos, [entrant("one", 1)], PARAMS)


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((0.01, 0.2), "better"),
        ((-0.2, -0.01), "worse"),
        ((-0.1, 0.1), "may be chance"),
        ((0, 0.2), "may be chance"),
        ((-0.2, 0), "may be chance"),
    ],
)
def test_a_difference_is_told_in_words(interval: tuple[float, float], word: str) -> None:
    assert ModelDifference(top1=0.1, interval=interval).verdict == word


def model(label: str, top1: float, difference: float | None) -> Compared:
    bounds = (max(0.0, top1 - 0.1), min(1.0, top1 + 0.1))
    shares: dict[str, Any] = dict.fromkeys(
        ("top1", "top3", "top5", "image_top1", "image_top3", "image_top5", "macro_top1"), top1
    )
    interval = Intervals(top1=bounds, top3=bounds, top5=bounds, confidence=0.95)
    hashes = {"encoder": label[0] * 64, "gallery": "a" * 64, "queries": "b" * 64}
    figures = Evaluation(
        protocol="full", n=1234, without_partner=5, skus=31, interval=interval, hashes=hashes, **shares
    )
    paired = (
        None
        if difference is None
        else ModelDifference(top1=difference, interval=(difference - 0.05, difference + 0.05))
    )
    return Compared(model=f"/home/me/{label}", label=label, evaluation=figures, difference=paired)


def test_the_page_tells_the_best_models_lead() -> None:
    behind = Comparison(protocol="full", models=(model("old", 0.5, None), model("new", 0.8, 0.3)))
    ahead = Comparison(
        protocol="full", models=(model("old", 0.8, None), model("other", 0.4, -0.4), model("new", 0.5, -0.3))
    )
    assert "<b>+30.0<i> points</i></b><span>against <bdi>old</bdi>, +25.0 to +35.0: better" in page(behind)
    assert "<b>+30.0<i> points</i></b><span>against <bdi>new</bdi>, +25.0 to +35.0: better" in page(ahead)
    assert "/home/me" not in page(behind)
    alone = page(Comparison(protocol="full", models=(model("old", 0.8, None),)))
    assert "points</i>" not in alone and "80.0 %" in alone


@pytest.mark.parametrize("width", [70, 80, 120])
def test_the_table_holds_every_figure_at_any_width(width: int) -> None:
    comparison = Comparison(
        protocol="full", models=(model("a model of a long name", 0.5, None), model("new", 0.875, 0.375))
    )
    console = Console(width=width, record=True)
    console.print(table(comparison))
    shown = console.export_text()
    words = " ".join(shown.split())
    for text in (
        "50.0 %",
        "87.5 %",
        "+37.5",
        "+32.5",
        "better",
        "1,234 queries",
        "31 SKUs",
        "5 without a gallery image",
    ):
        assert text in words, text
    assert np.max([len(line) for line in shown.splitlines()]) <= width
