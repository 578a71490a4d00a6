"""Small charts: positions follow the figures, for any figures."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from skumatch.report.curves import Axis, Curve, ceiling, curves, ticks
from skumatch.report.meters import Mark, dots, lowest, meter

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
SHARES = st.floats(0, 1)


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def parts(svg: str, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in tree(svg).iter(tag)]


def test_a_meter_is_as_long_as_its_share_with_a_whisker_over_its_interval() -> None:
    svg = meter(Mark("challenger", 0.867, (0.783, 0.942)))
    assert [rect["width"] for rect in parts(svg, "rect")] == ["100%", "86.70%"]
    assert ("78.30%", "94.20%") in [(line["x1"], line["x2"]) for line in parts(svg, "line")]
    assert "86.7 %" in tree(svg).attrib["aria-label"]


def test_dots_stand_on_one_axis() -> None:
    svg = dots([Mark("challenger", 0.75, (0.5, 1.0)), Mark("champion", 0.5, (0.4, 0.6))], low=0.5)
    assert [dot["cx"] for dot in parts(svg, "circle")] == ["50.00%", "0.00%"]


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=1, max_size=6))
def test_an_axis_of_dots_holds_all_intervals_or_begins_at_half(
    values: list[tuple[float, float, float]],
) -> None:
    marks = [Mark("who", value, (min(ends), max(ends))) for value, *ends in values]
    low = lowest(marks)
    assert 0 <= low <= 0.5 and low <= min(mark.bounds[0] for mark in marks)


@given(NUMBERS, st.tuples(NUMBERS, NUMBERS))
def test_whatever_the_figures_are_nothing_leaves_its_place(value: float, bounds: tuple[float, float]) -> None:
    for svg in (meter(Mark("who", value, bounds)), dots([Mark("who", value, bounds)], 0.5)):
        numbers = [
            text
            for tag in ("rect", "line", "circle")
            for part in parts(svg, tag)
            for text in part.values()
            if text.endswith("%")
        ]
        assert all(0 <= float(text[:-1]) <= 100 for text in numbers)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=40))
def test_a_curve_stays_in_its_box_and_has_all_its_points(values: list[float]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    svg = curves(
        [Curve("loss", points)],
        Axis("Epoch", 0, len(values)),
        Axis("Loss", 0, ceiling(max(values))),
        "loss",
        (440, 200),
    )
    (line,) = (part["points"].split() for part in parts(svg, "polyline"))
    places = [tuple(map(float, place.split(","))) for place in line]
    assert len(places) == len(values) and all(0 <= x <= 440 and 0 <= y <= 200 for x, y in places)
    highest = max(range(len(values)), key=values.__getitem__)
    assert places[highest][1] == min(y for _, y in places)


def test_fewer_than_two_points_are_no_curve() -> None:
    assert curves([Curve("loss", [(1.0, 2.0)])], Axis("Epoch", 1, 2), Axis("Loss", 0, 3), "loss") == ""


def test_names_in_a_curve_stay_text() -> None:
    nasty = "</svg><script>alert(1)</script>"
    svg = curves([Curve(nasty, [(0, 0), (1, 1)])], Axis(nasty, 0, 1), Axis("y", 0, 1), nasty)
    assert "<script" not in svg and nasty in [element.text for element in tree(svg).iter()]


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_a_few_numbers_in_order_within_the_axis(low: float, span: float) -> None:
    values = ticks(low, low + span)
    assert len(values) <= 7 and values == sorted(values)
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in values)


@given(st.floats(1e-9, 1e12))
def test_an_axis_ends_at_a_round_number_not_far_above(value: float) -> None:
    assert value * (1 - 1e-6) <= ceiling(value) <= 2 * value
