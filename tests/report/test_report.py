from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.gate.gate import CHECKS
from skumatch.report import view
from skumatch.report.context import Aside, DataFacts, TrainingFacts
from skumatch.report.mistakes import (
    Mistake,
    MistakePhoto,
    Some,
    WeakSku,
    find_mistakes,
    first_pictures,
    weak_skus,
)
from skumatch.report.page import DATA_DOCS, model_card, render_report
from skumatch.retrieval.evaluate import per_sku
from skumatch.retrieval.figures import NearDuplicateFree
from tests.browser import CHROMIUM, browsing
from tests.report.reports import SKUS, context, first_of, picture, ranking

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
        href = attributes.get("href")
        assert href is None or (tag == "a" and (href == DATA_DOCS or re.fullmatch("#[a-z]+", href)))
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert "default-src 'none'" in page and "@import" not in page and "url(" not in page
    assert not re.search(r"https?://", page)


def test_the_page_says_what_was_decided_and_why() -> None:
    made = context()
    page = Reader(render_report(made)).text
    opening, reason = made.decision.sentence.split(": ", 1)
    assert opening in page and reason[1:] in page
    for check in made.decision.checks:
        assert check.detail[1:] in page and check.word in page
    for share in (made.challenger.top1, made.challenger.top5, made.champion.top1 if made.champion else 0):
        assert f"{100 * share:.1f}" in page
    assert "1,234" in page and "a" * 64 in page and "1 SKU has one image: apple." in page
    assert "3.00 to 1.00" in page
    for words in (
        "tiny weights",
        "17 (40 images)",
        "41 of 41",
        "0.90",
        "Before training",
        "1 to 2 gallery images",
    ):
        assert words in page


def test_other_protocols_and_duplicates_are_shown_with_their_names() -> None:
    made = context()
    assert made.champion
    free = NearDuplicateFree(top1=0.75, interval=(0.25, 0.875), n=4, without_partner=1)
    other = made.challenger.model_copy(update={"protocol": "test_loo", "top1": 0.625, "n": 8})
    facts = {"Groups of near-duplicates": "17 (40 images)"}
    protocols = [
        (other, made.champion.model_copy(update={"protocol": "test_loo", "top1": 0.125})),
        (other, None),
    ]
    challenger = made.challenger.model_copy(update={"near_duplicate_free": free})
    shown = replace(
        made, challenger=challenger, protocols=protocols, data=replace(made.data, duplicates=facts)
    )
    page = " ".join(Reader(render_report(shown)).text.split())
    assert "full All photos, their own duplicates taken out of the gallery 4 75.0 % 25.0–87.5 –" in page
    assert "test_loo The photos against each other 8 62.5 %" in page and "12.5 %" in page
    assert "Groups of near-duplicates" in page and "17 (40 images)" in page
    assert_inert(render_report(shown))
    alone = Reader(render_report(replace(shown, champion=None))).text
    assert "Champion" not in alone.rpartition("All figures")[2].partition("Where every part")[0]


def test_the_page_needs_nothing_from_elsewhere_and_is_the_same_each_time() -> None:
    page = render_report(context())
    assert_inert(page)
    assert page == render_report(context())
    assert not re.search(r"\b20\d\d-\d\d-\d\d", page), "no dates"


def test_without_a_champion_nothing_is_said_of_one() -> None:
    page = render_report(context(champion=False))
    assert "Accepted as the first champion" in page
    assert 'class="bar champion"' not in page and "points</i>" not in page
    assert 'class="bar frozen"' in page


@pytest.mark.parametrize("name", NASTY)
def test_names_from_the_data_stay_text(name: str) -> None:
    made = context(name, f"{name}2", "x")
    page = render_report(made)
    assert_inert(page)
    assert name.replace("\0", "\ufffd") in Reader(page).text.replace("\0", "\ufffd")
    assert "1337" not in page
    card = model_card(made).partition("\n---\n")[2]
    assert "<script" not in card.replace("\\<script", "") and "<img" not in card.replace("\\<img", "")


@settings(max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_anywhere_leaves_the_page_inert(text: str) -> None:
    made = context()
    hostile: dict[str, Any] = {
        "weak": Some([WeakSku(text, 1, 0.0, None, text)], 1),
        "mistakes": Some(
            [
                Mistake(
                    MistakePhoto(text, thumbnail(picture("q"))),
                    MistakePhoto(text, thumbnail(picture("q"))),
                    (),
                    None,
                )
            ],
            1,
        ),
        "hashes": {text: text},
        "model_name": text,
        "data": replace(made.data, warnings=[text], set_aside=Some([Aside(text, text, text, text, None)], 1)),
        "training": replace(made.training, encoder=text, settings={text: text}),
        "decision": made.decision.model_copy(update={"sentence": text}),
    }
    page = render_report(replace(made, **hostile))
    plain = [tag for tag, _ in Reader(page).tags]
    harmless = [
        tag
        for tag, _ in Reader(
            render_report(replace(made, **{k: _replaced(v, text) for k, v in hostile.items()}))
        ).tags
    ]
    assert plain == harmless


def _replaced(value: Any, text: str) -> Any:
    """The same part of the context with the hostile text replaced by a plain word."""
    made = context()
    if isinstance(value, str):
        return "word"
    if isinstance(value, dict):
        return {"word": "word"}
    if isinstance(value, Some) and isinstance(value.shown[0], WeakSku):
        return Some([WeakSku("word", 1, 0.0, None, "word")], 1)
    if isinstance(value, Some):
        (mistake,) = value.shown
        return Some(
            [
                Mistake(
                    MistakePhoto("word", mistake.query.picture),
                    MistakePhoto("word", mistake.right.picture),
                    (),
                    None,
                )
            ],
            1,
        )
    if isinstance(value, DataFacts):
        return replace(
            value, warnings=["word"], set_aside=Some([Aside("word", "word", "word", "word", None)], 1)
        )
    if isinstance(value, TrainingFacts):
        return replace(value, encoder="word", settings={"word": "word"})
    return made.decision.model_copy(update={"sentence": "word"})


def test_the_card_has_figures_data_and_hashes() -> None:
    card = model_card(context())
    head, _, text = card.removeprefix("---\n").partition("\n---\n\n")
    assert text.startswith("# Model card: skumatch\n")
    metadata = ModelCard(card).data
    assert (metadata.library_name, metadata.eval_results[0].metric_value) == (
        "skumatch",
        0.8,
    ) and yaml.safe_load(head)["model-index"]
    assert "| This model | 80.0" in card and "| Champion, same photos | 40.0" in card
    assert "banana (50.0" in card and "a" * 64 in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:4]} == {5}


def test_mistakes_take_turns_among_skus_the_most_confident_first() -> None:
    answers = ranking(
        [
            ("apple", "banana"),
            ("apple", "cherry"),
            ("banana", "cherry"),
            ("cherry", "cherry"),
            ("durian", "apple"),
        ]
    )
    answers.similarities[:, 0] = [0.7, 0.99, 0.8, 0.9, 0.9]
    mistakes = find_mistakes(answers, first_of(SKUS), picture)
    assert [(mistake.query.sku, mistake.predicted[0].sku) for mistake in mistakes.shown] == [
        ("apple", "cherry"),
        ("banana", "cherry"),
        ("apple", "banana"),
    ]
    assert all(
        mistake.query.sku == mistake.right.sku and len(mistake.predicted) == 3 for mistake in mistakes.shown
    )
    assert [mistake.place for mistake in mistakes.shown] == [2, 3, 2]
    assert len(find_mistakes(answers, first_of(SKUS), picture, limit=2).shown) == 2


def test_a_right_product_that_is_not_listed_is_shown_from_the_gallery() -> None:
    answers = ranking([("durian", "apple")])
    pictures = first_pictures(["g-apple", "z", "d"], ["apple", "durian", "durian"])
    [mistake] = find_mistakes(answers, pictures, picture).shown
    assert mistake.place is None and mistake.right == MistakePhoto("durian", thumbnail(picture("d")), None)


def test_weak_skus_come_worst_first_with_what_they_are_taken_for() -> None:
    answers = ranking(
        [
            ("apple", "cherry"),
            ("apple", "cherry"),
            ("apple", "banana"),
            ("banana", "cherry"),
            ("banana", "banana"),
            ("cherry", "cherry"),
        ]
    )
    rows = weak_skus(answers, per_sku(answers, SKUS), None)
    assert rows == ([WeakSku("apple", 3, 0.0, None, "cherry"), WeakSku("banana", 2, 0.5, None, "cherry")], 2)
    assert weak_skus(answers, per_sku(answers, SKUS), None, limit=1).more == 1


def test_a_thumbnail_is_small_and_bare() -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 400, 3), dtype=np.uint8))
    noisy.getexif()[0x010E] = "shot by Jane in Aisle 5"
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(noisy).partition(",")[2]))) as small:
        assert small.format == "JPEG" and max(small.size) == 168 and not small.getexif()


def test_every_check_of_the_gate_has_a_name_for_a_person() -> None:
    fitness = {
        "old_vs_served",
        "old_vs_release",
        "new_found",
        "retired_returned",
        "old_unknown",
        "new_unknown",
    }
    assert set(view.CHECKS) == {*CHECKS, "changed"} | fitness


def test_a_kept_champion_is_told_calmly() -> None:
    made = context()
    page = render_report(made)
    assert made.decision.verdict == "keep" and '<body class="calm">' in page
    text = Reader(page).text
    assert "Nothing has to be done" in text and "not shown" in text and "✕" not in text


def test_the_baseline_says_what_it_is_and_how_many_it_was_asked() -> None:
    made = context()
    assert made.frozen
    random = replace(
        made,
        training=replace(made.training, weights="none"),
        frozen=made.frozen.model_copy(update={"n": 77, "hashes": {"queries": "x"}}),
    )
    text = " ".join(Reader(render_report(random)).text.split())
    assert (
        "Random weights is the encoder as it was built" in text
        and "It was asked 77 photos, the models 5" in text
    )
    assert "It was asked" not in Reader(render_report(made)).text
    assert "Before training" not in Reader(render_report(replace(made, frozen=None))).text


def test_what_is_left_out_is_counted() -> None:
    text = " ".join(Reader(render_report(context())).text.split())
    assert "14 new products" in text and "12 more new products are not shown" in text
    assert "3 more are not shown" in text and "can't be opened" in text and "4 → 9" in text


def test_without_an_earlier_version_the_page_says_so() -> None:
    made = context()
    text = Reader(render_report(replace(made, data=replace(made.data, changes=None)))).text
    assert "no earlier version of this data" in text


def test_unknown_products_have_figures_and_a_curve_where_some_stood_for_them() -> None:
    made = context()
    page = render_report(made)
    text = " ".join(Reader(page).text.split())
    assert (
        "68.8 % 50.0–80.0" in text
        and "Held-out SKUs, 40 photos" in text
        and "AUROC 0.875, 70.0 % found" in text
    )
    assert "Unknown products answered" in text and 'class="line l1"' in page and 'class="here"' in page
    without = replace(made, challenger=made.challenger.model_copy(update={"unknown": None}))
    assert 'id="unknown"' not in render_report(without) and 'href="#unknown"' not in render_report(without)


HOSTILE = [
    f"<script>window.hit={i}</script><img src=x onerror=alert({i})>SKU {i} {'x' * 40}" for i in range(20)
]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_page_whole_at_any_width_and_runs_and_fetches_nothing(tmp_path: Path) -> None:
    rows = [WeakSku(name, 3, 0.5, None, name) for name in HOSTILE]
    mistakes = [
        Mistake(
            MistakePhoto(n, thumbnail(picture(n))),
            MistakePhoto(n, thumbnail(picture(n)), 0.5),
            (MistakePhoto(n, thumbnail(picture(n)), 0.7),) * 5,
            None,
        )
        for n in HOSTILE
    ]
    made = replace(context(*HOSTILE[:3]), weak=Some(rows, 20), mistakes=Some(mistakes, 20))
    page = tmp_path / "report.html"
    page.write_text(render_report(made), "utf-8")
    with browsing(tmp_path / "profile") as browser:
        for width, media in ((1280, "screen"), (390, "screen"), (718, "print")):
            browser.open(page, width, media)
            assert browser.value("document.documentElement.scrollWidth") <= width, (width, media)
            assert browser.requests[0] == page.as_uri() and all(
                url.startswith("data:image/jpeg") for url in browser.requests[1:]
            )
            assert not browser.methods & {
                "Runtime.consoleAPICalled",
                "Runtime.exceptionThrown",
                "Log.entryAdded",
                "Page.javascriptDialogOpening",
            }
            assert browser.value("window.hit") is None and browser.value("document.scripts.length") == 0
            shown = browser.value("document.body.innerText")
            assert all(name in shown for name in HOSTILE)
            assert browser.value("[...document.images].every(image => image.naturalWidth > 0)")


@pytest.mark.parametrize(
    ("champion", "card", "shown"),
    [
        (True, "trained by an earlier run, and judged again on this data", ["Challenger", "Champion"]),
        (
            False,
            "the champion's, unchanged; only the gallery and the thresholds are new",
            ["Refreshed gallery"],
        ),
    ],
    ids=["judged again", "a gallery release"],
)
def test_a_page_without_a_training_says_whose_encoder_it_is(
    champion: bool, card: str, shown: list[str]
) -> None:
    made = replace(context(champion=champion), training=None, frozen=None)
    assert card in model_card(made) and [model.name for model in view.models(made)] == shown
    assert 'id="training"' not in render_report(made)
