from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skumatch.config import EvaluateParams, GateParams
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.release.gate import Facts, decide
from skumatch.release.mistakes import Mistake, Shot, WeakSku, find_mistakes, weak_skus
from skumatch.release.report import DATA_DOCS, DataFacts, ReportContext, TrainingFacts, model_card, render_report, sparkline
from skumatch.retrieval.evaluate import Ranking, evaluate, paired_hits, per_sku
from skumatch.retrieval.figures import NearDuplicateFree

SKUS = ["apple", "banana", "cherry"]
NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><svg/onload=alert(1)>",
    "{{ 7 * 191 }}{% raw %}",
    "javascript:alert(1)",
    "&lt;b&gt;",
    "a\u202eb\u0000c",
    "\u592a\u592a\u4e50 | `x`",
]


def ranking(answers: list[tuple[str, str]], names: list[str] = SKUS) -> Ranking:
    """One query an answer (right SKU, first suggestion); the other SKUs follow in order."""
    lists = [[first, *(name for name in names if name != first)] for _, first in answers]
    shape = (len(answers), len(names))
    similarities = np.tile(np.linspace(0.9, 0.5, len(names), dtype=np.float32), (len(answers), 1))
    ids = np.array([f"q{i:02}" for i in range(len(answers))], dtype=object)
    skus = np.array(lists, dtype=object).reshape(shape)
    gallery = np.array([[f"g-{sku}" for sku in row] for row in lists], dtype=object).reshape(shape)
    positions = np.tile(np.arange(1, len(names) + 1), (len(answers), 1))
    return Ranking(ids, np.array([right for right, _ in answers], dtype=object), skus, similarities, gallery, positions)


def picture(image_id: str) -> Image.Image:
    return Image.new("RGB", (300, 600), (sum(image_id.encode()) % 256, 80, 160))


@cache
def context(one: str = "apple", two: str = "banana", three: str = "cherry", champion: bool = True) -> ReportContext:
    names = [one, two, three]
    ours = ranking([(one, one), (one, one), (two, two), (two, three), (three, three)], names)
    theirs = ranking([(one, two), (one, one), (two, three), (two, three), (three, three)], names)
    params = EvaluateParams(resamples=100)
    challenger, before = (evaluate(found, names, "full", params, 7) for found in (ours, theirs))
    facts = Facts(
        challenger_bundle="a" * 64,
        champion_bundle="b" * 64 if champion else None,
        bundle_mb=1.5,
        blessed=True,
        dirty_code=False,
        commit="c" * 40,
    )
    paired = paired_hits(ours, theirs, names) if champion else None
    return ReportContext(
        decision=decide(challenger, before if champion else None, paired, facts, GateParams(), 7),
        challenger=challenger,
        champion=before if champion else None,
        weak=weak_skus(ours, per_sku(ours, names), per_sku(theirs, names) if champion else None),
        mistakes=find_mistakes(ours, [f"g-{name}" for name in names], names, picture),
        data=DataFacts(images=1234, skus=3, gallery=1000, queries=5, quarantined=1, warnings=[f"1 SKU has one image: {one}."]),
        training=TrainingFacts("smoke", "none", 1000, [3.0, 2.0, 1.0], {"Batch": "32"}),
        hashes={"Bundle": "a" * 64, "Champion's bundle": None},
    )


class Reader(HTMLParser):
    """Collects tags with their attributes and the text outside <style>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._style, self.closed = "", False, 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data


def assert_inert(page: str) -> None:
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "foreignobject")
        assert not any(name.startswith("on") or name in ("style", "srcset") for name in attributes)
        assert "href" not in attributes or (tag, attributes["href"]) == ("a", DATA_DOCS)
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    assert not re.search(r"https?://", page)


def test_the_page_says_what_was_decided_and_why() -> None:
    made = context()
    page = Reader(render_report(made)).text
    opening, reason = made.decision.sentence.split(": ", 1)
    assert opening in page and reason[1:] in page
    for check in made.decision.checks:
        assert check.detail[1:] in page
    for share in (made.challenger.top1, made.challenger.top5, made.champion.top1 if made.champion else 0):
        assert f"{100 * share:.1f}" in page
    assert "1,234" in page and "a" * 64 in page and "1 SKU has one image: apple." in page
    assert "3.00 to 1.00" in page


def test_other_protocols_and_duplicates_are_shown_with_their_names() -> None:
    made = context()
    assert made.champion
    free = NearDuplicateFree(top1=0.75, interval=(0.25, 0.875), n=4, without_partner=1)
    other = made.challenger.model_copy(update={"protocol": "test_loo", "top1": 0.625, "n": 8})
    facts = {"Groups of near-duplicates": "17 (40 images)"}
    protocols = [(other, made.champion.model_copy(update={"protocol": "test_loo", "top1": 0.125})), (other, None)]
    ours = made.challenger.model_copy(update={"near_duplicate_free": free})
    shown = replace(made, challenger=ours, protocols=protocols, data=replace(made.data, duplicates=facts))
    page = " ".join(Reader(render_report(shown)).text.split())
    assert "full All photos, their own duplicates taken out of the gallery 4 75.0 % 25.0–87.5 –" in page
    assert "test_loo The photos against each other 8 62.5 %" in page and "12.5 %" in page
    assert "Groups of near-duplicates" in page and "17 (40 images)" in page
    assert_inert(render_report(shown))
    assert (
        "Champion" not in Reader(render_report(replace(shown, champion=None))).text.partition("In other ways")[2].partition("What was")[0]
    )


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_each_time() -> None:
    page = render_report(context())
    assert_inert(page)
    assert page == render_report(context())
    assert not re.search(r"\b20\d\d-\d\d-\d\d", page), "no dates"


def test_without_a_champion_nothing_is_said_of_one() -> None:
    page = render_report(context(champion=False))
    assert "Accepted as the first champion" in page
    assert 'class="who champion"' not in page and "points</i>" not in page


@pytest.mark.parametrize("name", NASTY)
def test_names_from_the_data_stay_text(name: str) -> None:
    made = context(name, f"{name}2", "x")
    page = render_report(made)
    assert_inert(page)
    assert name.replace("\0", "\ufffd") in Reader(page).text.replace("\0", "\ufffd")
    assert "1337" not in page
    card = model_card(made)
    assert "<script" not in card.replace("\\<script", "") and "<img" not in card.replace("\\<img", "")


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_anywhere_leaves_the_page_inert(text: str) -> None:
    made = context()
    hostile: dict[str, Any] = {
        "weak": [WeakSku(text, 1, 0.0, None, text)],
        "mistakes": [Mistake(Shot(text, thumbnail(picture("q"))), Shot(text, thumbnail(picture("q"))), (), None)],
        "hashes": {text: text},
        "model_name": text,
        "data": replace(made.data, warnings=[text]),
        "training": replace(made.training, encoder=text, settings={text: text}),
        "decision": made.decision.model_copy(update={"sentence": text}),
    }
    page = render_report(replace(made, **hostile))
    plain = [tag for tag, _ in Reader(page).tags]
    harmless = [tag for tag, _ in Reader(render_report(replace(made, **{k: _replaced(v, text) for k, v in hostile.items()}))).tags]
    assert plain == harmless


def _replaced(value: Any, text: str) -> Any:
    """The same part of the context with the hostile text replaced by a plain word."""
    made = context()
    if isinstance(value, str):
        return "word"
    if isinstance(value, dict):
        return {"word": "word"}
    if isinstance(value, list) and isinstance(value[0], WeakSku):
        return [WeakSku("word", 1, 0.0, None, "word")]
    if isinstance(value, list):
        return [Mistake(Shot("word", value[0].query.picture), Shot("word", value[0].right.picture), (), None)]
    if isinstance(value, DataFacts):
        return replace(value, warnings=["word"])
    if isinstance(value, TrainingFacts):
        return replace(value, encoder="word", settings={"word": "word"})
    return made.decision.model_copy(update={"sentence": "word"})


def test_the_card_has_figures_data_and_hashes() -> None:
    card = model_card(context())
    assert card.startswith("# Model card: skumatch\n")
    assert "| This model | 80.0" in card and "| Champion, same photos | 40.0" in card
    assert "banana (50.0" in card and "a" * 64 in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:4]} == {5}


def test_mistakes_take_turns_among_skus_the_most_confident_first() -> None:
    found = ranking([("apple", "banana"), ("apple", "cherry"), ("banana", "cherry"), ("cherry", "cherry"), ("durian", "apple")])
    found.similarities[:, 0] = [0.7, 0.99, 0.8, 0.9, 0.9]
    mistakes = find_mistakes(found, ["g-apple", "g-banana", "g-cherry"], SKUS, picture)
    assert [(mistake.query.sku, mistake.predicted[0].sku) for mistake in mistakes] == [
        ("apple", "cherry"),
        ("banana", "cherry"),
        ("apple", "banana"),
    ]
    assert all(mistake.query.sku == mistake.right.sku and len(mistake.predicted) == 3 for mistake in mistakes)
    assert [mistake.place for mistake in mistakes] == [2, 3, 2]
    assert len(find_mistakes(found, ["g-apple", "g-banana", "g-cherry"], SKUS, picture, limit=2)) == 2


def test_a_right_product_that_is_not_listed_is_shown_from_the_gallery() -> None:
    found = ranking([("durian", "apple")])
    [mistake] = find_mistakes(found, ["g-apple", "z", "d"], ["apple", "durian", "durian"], picture)
    assert mistake.place is None and mistake.right == Shot("durian", thumbnail(picture("d")), None)


def test_weak_skus_come_worst_first_with_what_they_are_taken_for() -> None:
    found = ranking(
        [("apple", "cherry"), ("apple", "cherry"), ("apple", "banana"), ("banana", "cherry"), ("banana", "banana"), ("cherry", "cherry")]
    )
    rows = weak_skus(found, per_sku(found, SKUS), None)
    assert rows == [WeakSku("apple", 3, 0.0, None, "cherry"), WeakSku("banana", 2, 0.5, None, "cherry")]


def test_a_thumbnail_is_small_and_bare() -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 400, 3), dtype=np.uint8))
    noisy.getexif()[0x010E] = "shot by Jane in Aisle 5"
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(noisy).partition(",")[2]))) as small:
        assert small.format == "JPEG" and max(small.size) == 168 and not small.getexif()


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_sparkline_stays_in_its_box(values: list[float]) -> None:
    points = [tuple(map(float, point.split(","))) for point in sparkline(values).split()]
    assert len(points) in (0, len(values))
    assert all(0 <= x <= 240 and 0 <= y <= 56 for x, y in points)
