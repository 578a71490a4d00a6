"""The contact sheet: its content and order, and that it is safe to open."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from skumatch.bundle import Bundle
from skumatch.matching import page as pages
from skumatch.matching.batch import MatchPlan, match_all, matching
from skumatch.matching.page import page
from skumatch.retrieval.thresholds import Thresholds
from tests.browser import CHROMIUM, browsing
from tests.conftest import draw
from tests.matching.conftest import CPU, opened


@pytest.fixture
def plan(bundle: Bundle, folder: Path, tmp_path: Path) -> MatchPlan:
    draw(folder / "<script>window.hit=1</script>.png", "sku 1")
    with matching(tmp_path / "m.parquet") as parts:
        made = MatchPlan(bundle, opened([folder], parts), 3, tmp_path / "m.parquet")
        match_all(made, parts, 4, CPU)
    return made


def nothing(_: str) -> Image.Image | None:
    return None


def test_products_stand_with_their_pictures_and_unknown_ones_apart(plan: MatchPlan) -> None:
    text = page(plan, nothing)
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert "Unknown" in heads[0] and "1 picture" in heads[0]
    assert "sku 1" in heads[1] and "3 pictures" in heads[1]  # most pictures first
    assert [re.search("sku .", head)[0] for head in heads[2:]] == [f"sku {n}" for n in (0, 2, 3, 4, 5)]  # type: ignore[index]
    assert "13 of 15 pictures were matched with 6 products" in text and "no-image 1" in text
    assert text.count("<img ") == 14


def test_a_model_without_thresholds_claims_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """Every picture gets its nearest product, so no page may call that a match, or the product known."""
    unfitted = replace(bundle, thresholds=Thresholds(target=0.05))
    draw(tmp_path / "photos/stranger.png", "something else")
    with matching(tmp_path / "m.parquet") as parts:
        plan = MatchPlan(unfitted, opened([tmp_path / "photos"], parts), 3, tmp_path / "m.parquet")
        match_all(plan, parts, 4, CPU)
    text = page(plan, nothing)
    assert "<h1>1 picture, with its nearest product</h1>" in text
    assert "The model has no thresholds, so every picture was given its nearest product" in text
    assert "(split.val_share) make 10 SKUs with 100 pictures." in text
    assert not re.search(r"\bknown|matched with|\b1 (pictures|products)", text)


def test_the_least_similar_come_first(plan: MatchPlan) -> None:
    for head, section in re.findall(
        r"<section>\s*<h2>(.*?)</h2>(.*?)</section>", page(plan, nothing), re.DOTALL
    ):
        numbers = [float(number) for number in re.findall(r"<b>([\d.]+)</b>", section)]
        assert numbers == sorted(numbers), head


def test_what_is_too_much_for_a_page_is_counted(plan: MatchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "GROUPS", 2)
    monkeypatch.setattr(pages, "EACH", 1)
    text = page(plan, nothing)
    assert (
        "2 more are in the table" in text
        and "1 more is in the table" in text
        and "4 more products are in the table" in text
    )


def test_gallery_pictures_are_shown_where_there_are_any(plan: MatchPlan) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    text = page(plan, lambda sku: picture if sku == "sku 2" else None)
    assert text.count("In the gallery") == 1


def test_a_model_without_thresholds_says_so(plan: MatchPlan) -> None:
    without = replace(plan.bundle, thresholds=plan.bundle.thresholds.model_copy(update={"similarity": None}))
    assert "the model has no thresholds" in page(plan._replace(bundle=without), nothing)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole_at_any_width_and_runs_and_fetches_nothing(
    plan: MatchPlan, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(plan, nothing), "utf-8")
    with browsing(tmp_path / "profile") as browser:
        for width, media in ((1280, "screen"), (390, "screen"), (760, "print")):
            browser.open(path, width, media)
            assert browser.value("document.documentElement.scrollWidth") <= width, (width, media)
            assert all(url.startswith(("data:image/jpeg", path.as_uri())) for url in browser.requests)
            assert browser.value("window.hit") is None and browser.value("document.scripts.length") == 0
            assert "<script>" in browser.value("document.body.innerText")
