"""Bars as SVG: lengths follow the shares, names stay text, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.comparing.page import ModelBar, bars

SVG = "{http://www.w3.org/2000/svg}"
share = st.floats(-0.5, 1.5)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def rows(svg: str) -> list[ElementTree.Element]:
    return parsed(svg).findall(f"{SVG}g")


def extent(row: ElementTree.Element, name: str) -> tuple[float, float]:
    """Left and right end of a row's rectangle."""
    box = next(
        element for element in row.findall(f"{SVG}rect") if re.fullmatch(name, element.attrib["class"])
    )
    left = float(box.attrib["x"])
    return left, left + float(box.attrib["width"])


@pytest.mark.parametrize("width", [330, 960])
def test_a_bar_is_as_long_as_its_share_and_its_line_spans_the_interval(width: int) -> None:
    for value, low, high in ((0.5, 0.25, 0.75), (0.0, 0.0, 0.1), (1.0, 0.9, 1.0)):
        (row,) = rows(bars({"Top 1": [ModelBar("one", value, (low, high))]}, "about", width))
        left, right = extent(row, "track")
        assert extent(row, r"c\d") == pytest.approx((left, left + value * (right - left)), abs=0.11)
        start, end = re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", row.findall(f"{SVG}path")[0].attrib["d"])[0]
        assert [float(start), float(end)] == pytest.approx(
            [left + s * (right - left) for s in (low, high)], abs=0.11
        )
        assert 0 <= left < right <= width


def test_a_series_keeps_its_colour_in_every_group() -> None:
    group = [ModelBar(name, 0.5, (0.4, 0.6)) for name in ("a", "b", "c")]
    drawn = bars({"Top 1": group, "Top 3": group}, "about")
    colours = [
        rect.attrib["class"] for rect in parsed(drawn).iter(f"{SVG}rect") if rect.attrib["class"] != "track"
    ]
    assert colours == ["c0", "c1", "c2"] * 2


@given(label=st.text(), value=share, low=share, high=share, width=st.sampled_from([330, 960]))
def test_any_name_stays_text_and_any_share_stays_inside(
    label: str, value: float, low: float, high: float, width: int
) -> None:
    drawn = bars({label: [ModelBar(label, value, (low, high))]}, label, width)
    root = parsed(drawn)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg",
        "style",
        "g",
        "title",
        "text",
        "rect",
        "line",
        "path",
    }
    (row,) = rows(drawn)
    left, right = extent(row, "track")
    assert left - 0.1 <= extent(row, r"c\d")[1] <= right + 0.1
    assert float(root.attrib["height"]) >= float(row.findall(f"{SVG}rect")[0].attrib["y"]) + 18


def test_a_long_name_keeps_both_ends_and_the_whole_as_a_hint() -> None:
    label = "the first words of it and " + "more " * 20 + "its end"
    (row,) = rows(bars({"Top 1": [ModelBar(label, 0.5, (0.4, 0.6))]}, "about"))
    shown = row.findall(f"{SVG}text")[0].text or ""
    assert shown.startswith("the first") and shown.endswith("its end") and len(shown) < 30
    assert (row.findall(f"{SVG}title")[0].text or "").startswith(label)


def test_nothing_is_fetched() -> None:
    drawn = bars({"Top 1": [ModelBar("one", 0.5, (0.4, 0.6))]}, "about")
    assert not re.search(r"href|url\(|@import|<script|https?://(?!www\.w3\.org/2000/svg)", drawn)
