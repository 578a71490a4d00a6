"""The page of a failure and the data docs: inert, readable, the same each time, with the pictures."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.data.quarantine import set_aside
from skumatch.data.validation.drift import profile_of
from skumatch.data.validation.findings import ExpectationResult
from skumatch.data.validation.pages import docs_page, facts_of, failure_page, pictures
from skumatch.data.validation.validate import validate
from skumatch.params import DataParams, ValidateParams
from tests.conftest import ROOT, Delivery
from tests.data.manifests import cell, made, named, summary_of, typed

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "{{ 7 * 191 }}{% raw %}",
    "$icon ${icon} $$v__0",
    "&lt;b&gt;",
    "http://example.org",
    "@import url(x)",
    "<!-- -->",
    "a\u202eb",
]


class Reader(HTMLParser):
    """Collects tags with their attributes, the text, and apart from it that of <style>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style, self._style = "", "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._style = False

    def handle_data(self, data: str) -> None:
        if self._style:
            self.style += data
        else:
            self.text += data


def assert_inert(page: str) -> None:
    """Nothing in tags and style leads elsewhere; a name may be an address, as text."""
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "a", "foreignobject")
        assert not any(name.startswith("on") or name in ("href", "srcset") for name in attributes)
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert not any(re.search(r"https?://", value or "") for value in attributes.values())
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|@import|url\(", reader.style)


def judged(frame: pd.DataFrame, summary: dict[str, object] | None = None) -> list[ExpectationResult]:
    return validate(
        frame, summary or summary_of(frame), ValidateParams(), DataParams(), profile_of(made(), DataParams())
    )


def pages(frame: pd.DataFrame, quarantined: int = 0) -> list[str]:
    summary = summary_of(frame, quarantined)
    findings = judged(frame, summary)
    facts = facts_of(frame, summary, compared=True)
    return [failure_page(findings, facts, lambda *_: None), docs_page(findings, facts)]


@pytest.mark.parametrize("name", NASTY)
def test_names_from_the_data_stay_text(name: str) -> None:
    frame = made()
    frame = typed(named(frame.assign(sku=frame["sku"].where(~frame["sku"].eq("Кефир 4"), name))))
    frame = cell(frame, "format", name, frame.index[frame["sku"].eq(name)][0])
    for page in pages(frame):
        assert_inert(page)
        assert name in Reader(page).text and "1337" not in page


def test_names_of_columns_types_and_quarantined_images_stay_text() -> None:
    frame = made().rename(columns={"mode": NASTY[0]})
    for page in pages(frame):
        assert_inert(page)
        assert f"missing: mode; unknown: {NASTY[0]}" in Reader(page).text
    aside = [{"id": f"train/{NASTY[1]}/1.jpg", "reason": NASTY[0], "sentence": "x"}] * 20
    summary = summary_of(made()) | {"quarantined": aside}
    for make in (docs_page, lambda findings, facts: failure_page(findings, facts, lambda *_: None)):
        page = make(judged(made(), summary), facts_of(made(), summary, compared=True))
        assert_inert(page)
        assert NASTY[1] in Reader(page).text


@cache
def broken() -> list[ExpectationResult]:
    return judged(cell(made(), "format", "XBM"))


def telling(finding: ExpectationResult, text: str) -> ExpectationResult:
    """The finding as it would be for a value, a name and a note of that text."""
    if finding.passed:
        return finding
    result = copy.deepcopy(finding.result)
    lists = {key: [text] for key in ("unexpected_list", "partial_unexpected_list", "unexpected_index_list")}
    result.result |= lists | {"partial_unexpected_counts": [{"value": text, "count": 1}]}
    return replace(finding, offenders=[text], notes=[text], observed=text, result=result)


def two_pages(text: str) -> list[str]:
    findings = [telling(finding, text) for finding in broken()]
    facts = facts_of(
        made(), summary_of(made()) | {"quarantined": [{"id": text, "reason": text}]}, compared=False
    )
    return [failure_page(findings, facts, lambda *_: None), docs_page(findings, facts)]


@settings(max_examples=25)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_text_of_the_data_leaves_the_pages_inert(text: str) -> None:
    letters = re.sub("[^/]", "w", text)  # an id is shown in parts, which slashes divide
    for page, plain in zip(two_pages(text), two_pages(letters), strict=True):
        assert_inert(page)
        assert [tag for tag, _ in Reader(page).tags] == [tag for tag, _ in Reader(plain).tags]


def test_the_page_of_a_failure_says_what_failed_by_how_much_and_why_it_matters() -> None:
    text = Reader(pages(cell(made(), "width", 20), quarantined=9)[0]).text
    for words in (
        "The data did not pass",
        "2 of 36 expectations failed",
        "nothing was trained and nothing registered",
        "No image is under 32 px on its shorter side",
        "1 of 220, 0.455 %",
        "太太乐鸡精 0",
        "train / 3_3.jpg",
        "20 x 153 px",
        "At most 2 % of delivered images were set aside",
        "9 of 229, 3.93 %",
        "Every image is of an allowed format",
    ):
        assert words in text, words


def test_the_data_docs_hold_every_expectation_and_all_that_was_set_aside() -> None:
    page = Reader(pages(made(), quarantined=4)[1])
    assert "The data passed" in page.text and "36 of 36" in page.text
    for finding in judged(made()):
        assert (
            page.text.count(finding.rule.sentence) >= 2
        )  # in our words' list, and as Great Expectations shows it
    assert "0% unexpected" in page.text and all(f"train/x/{n}.jpg" in page.text for n in range(4))
    assert not re.search(r"\b(19|20)\d\d-\d\d-\d\d|\d{8}T\d{6}", page.text), "no dates"


SCRIPT = """
import hashlib
from tests.data.manifests import cell, made
from tests.data.test_validate_pages import pages
print(hashlib.sha256("".join(pages(cell(made(), "format", "XBM", slice(0, 30)), 9)).encode()).hexdigest())
"""


def test_two_renderings_are_equal_to_the_byte_in_other_processes_too() -> None:
    assert pages(cell(made(), "mode", "HSV"), 3) == pages(cell(made(), "mode", "HSV"), 3)
    hashes = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Shanghai"))
    }
    assert len(hashes) == 1 and len(hashes.pop().strip()) == 64


def test_the_worst_are_shown_with_their_pictures(delivery: Delivery, tmp_path: Path) -> None:
    root = tmp_path / "data"
    import_data(delivery(skus=3, train=3, test=2), root)
    frame = read_manifest(root)
    summary = summary_of(frame)
    findings = judged(cell(cell(frame, "format", "XBM", 0), "format", "XBM", 1), summary)
    page = failure_page(findings, facts_of(frame, summary, compared=False), pictures(root, frame))
    assert_inert(page)
    shown = [attributes["src"] for tag, attributes in Reader(page).tags if tag == "img"]
    assert len(set(shown)) >= 2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("shard", "../../secret.tar"),
        ("shard", "gone.tar"),
        ("offset", -1),
        ("offset", 10**15),
        ("length", 10**15),
        ("length", 0),
    ],
)
def test_a_place_that_cannot_be_is_not_read(
    delivery: Delivery, tmp_path: Path, column: str, value: object
) -> None:
    root = tmp_path / "data"
    import_data(delivery(skus=3, train=3, test=2), root)
    (tmp_path.parent / "secret.tar").touch()
    frame = cell(cell(read_manifest(root), "format", "XBM", 0), column, value, 0)
    format_findings = [finding for finding in judged(frame) if finding.rule.name == "format"]
    assert pictures(root, frame)(format_findings[0], frame["id"][0]) is None


def test_the_quarantine_by_reason_the_most_frequent_first() -> None:
    entries = [
        {"id": str(n), "reason": reason} for n, reason in enumerate(["tiny", "empty", "truncated", "empty"])
    ]
    assert list(set_aside(entries).items()) == [("empty", ["1", "3"]), ("tiny", ["0"]), ("truncated", ["2"])]
