"""Numbers with their nouns: `1 SKU`, `2 SKUs`, in every sentence and on every page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from skumatch.data.validation.findings import ExpectationResult, warnings_of
from skumatch.gate.gate import Products
from skumatch.params import ValidateParams
from skumatch.report.page import model_card, render_report
from skumatch.retrieval.figures import Evaluation
from skumatch.texts import agreeing, counted, filled
from tests.report.reports import context

SOURCES = Path(__file__).resolve().parents[1] / "skumatch"
NOUNS = (
    "bytes|checks|columns|encoders|entries|epochs|expectations|files|groups|images|items|links|models|packages|"
    "pairs|parameters|parts|photos|pictures|products|queries|questions|retrains|rows|runs|SKUs|stages|tensors|"
    "vectors|workers"
)
NUMBER = r"(?::,|len\(|sum\(|\bn\b|count|length|total|images|skus|queries|questions|epochs|changed|broken)"
# A field with a number, and a noun that stands in the plural whatever the number is.
FIELD = re.compile(
    rf"\{{[^{{}}]*{NUMBER}[^{{}}]*\}}+(?:</b>)?(?:<span>)? (?:(?:other|gallery|more) )?(?:{NOUNS})\b"
)
CONSTANT = re.compile(r"\bMAX_[A-Z]+")


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 SKUs"), (1, "1 SKU"), (2, "2 SKUs"), (2_388, "2,388 SKUs")]
)
def test_a_number_stands_with_its_noun(number: int, words: str) -> None:
    assert counted(number, "SKU") == words
    assert filled("{n:SKU} of {name}, {share:.2f}", {"n": number, "name": "a", "share": 0.5}) == (
        f"{words} of a, 0.50"
    )


def test_irregular_forms_are_given() -> None:
    assert [counted(number, "query", "queries") for number in (1, 3)] == ["1 query", "3 queries"]
    assert [agreeing(number, "is", "are") for number in (0, 1, 2)] == ["are", "is", "are"]
    assert filled("{n:query|queries}, {n:,}", {"n": 1_234}) == "1,234 queries, 1,234"
    assert filled("{n:query|queries}", {"n": 1}) == "1 query"


@pytest.mark.parametrize("pattern", ["*.py", "*.jinja"])
def test_no_noun_stands_in_the_plural_whatever_its_number(pattern: str) -> None:
    """A number is put before a noun by `counted` alone, in Python as in templates."""
    wrong = [
        f"{path.relative_to(SOURCES)}: {match[0]}"
        for path in sorted(SOURCES.rglob(pattern))
        for line in path.read_text("utf-8").splitlines()
        for match in FIELD.finditer(line)
        if not CONSTANT.search(match[0])
    ]
    assert not wrong, "\n".join(wrong)


def ones(model: Evaluation) -> Evaluation:
    return model.model_copy(update={"n": 1, "skus": 1, "without_partner": 1})


def test_the_report_and_the_card_with_one_of_everything() -> None:
    full = context()
    some = replace(full.data, images=1, skus=1, gallery=1, queries=1, unseen_skus=1, expectations=(1, 1))
    assert full.training
    one = replace(
        full,
        challenger=ones(full.challenger),
        champion=ones(full.champion) if full.champion else None,
        mistakes=full.mistakes._replace(total=1),
        data=some,
        training=replace(full.training, images=1, losses=[3.0]),
    )
    for text in (render_report(one), model_card(one)):
        words = re.sub(r"<[^>]*>", " ", text.replace("</b>", ""))
        assert re.search(r"\b1 +photo\b", words)
        assert not re.findall(rf"(?<![.,\d])1 +(?!by )(?:[a-z]+ )?(?:{NOUNS})\b", words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sparse", "1 SKU has fewer than 1 gallery image, so"),
        ("no-gallery", "1 SKU has no gallery image, so its queries are"),
        ("no-query", "1 SKU has no query, so nothing is known of its accuracy"),
        ("conflicts", "1 image has the pixels of another SKU's"),
        ("drift-added", "1 SKU is new since the version before"),
        ("drift-removed", "1 SKU of the version before is gone"),
    ],
)
def test_a_warning_of_one_row(name: str, words: str) -> None:
    rule = SimpleNamespace(name=name)
    finding = ExpectationResult(rule, True, "", 1, ["a"], [""], None)  # type: ignore[arg-type]
    (warning,) = warnings_of([finding], ValidateParams(min_images_per_sku=1))
    assert warning.startswith(words) and warning.endswith(": a.")


def test_the_gates_words_for_one_product() -> None:
    sentence = Products(new=1, retired=1).sentence
    assert sentence.startswith(
        "1 product of today's data can't be named by what serves, and 1 that it names is "
    )
