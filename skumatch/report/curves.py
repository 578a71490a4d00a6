"""Line charts as SVG text: pure functions of their points. Every text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 12, 40  # pixels around the drawing
DOTTED = 24  # lines of up to so many points have a mark at each
STEPS = (1, 2, 2.5, 5, 10)


class Axis(NamedTuple):
    """An axis of a chart.

    Attributes:
        label: the quantity that it shows.
        low: its lower end.
        high: its upper end.
        share: whether values are written in percent: 0.25 as 25 %.
        whole: whether it has ticks at whole numbers only.
    """

    label: str
    low: float
    high: float
    share: bool = False
    whole: bool = False

    @property
    def ticks(self) -> list[float]:
        """The values with a tick."""
        return [value for value in ticks(self.low, self.high) if not self.whole or value.is_integer()]

    def text(self, value: float) -> str:
        """Write a value as a tick's label."""
        return f"{100 * value:g}\u202f%" if self.share else f"{value:g}"


class Curve(NamedTuple):
    """A named series of points.

    Attributes:
        name: its name.
        points: points (x, y) in order of x.
    """

    name: str
    points: Sequence[Point]


class PlotArea(NamedTuple):
    """The mapping from values of two axes to pixels; values outside an axis are drawn at its end.

    Attributes:
        x: the horizontal axis.
        y: the vertical axis.
        width: width of the chart in pixels.
        height: height of the chart in pixels.
    """

    x: Axis
    y: Axis
    width: int
    height: int

    def at(self, point: Point) -> Point:
        """Return the place of a point (x, y) in pixels."""
        x, y = point
        across, up = _along(x, self.x), _along(y, self.y)
        left = LEFT + across * (self.width - LEFT - RIGHT)
        return left, self.height - BOTTOM - up * (self.height - TOP - BOTTOM)


def curves(
    lines: Sequence[Curve],
    x: Axis,
    y: Axis,
    about: str,
    size: tuple[int, int] = (440, 230),
    mark: float | None = None,
) -> str:
    """Draw lines over two axes with ticks, the first line in the first colour.

    Args:
        lines: the lines.
        x: the horizontal axis.
        y: the vertical axis.
        about: the description that a screen reader reads.
        size: width and height in pixels.
        mark: a value on the x axis that is marked with a vertical line; None for no mark.

    Returns:
        The SVG text; empty where no line has two points.
    """
    if not any(len(line.points) > 1 for line in lines):
        return ""
    box = PlotArea(x, y, *size)
    svg = ElementTree.Element(
        "svg", {"class": "curves", "viewBox": f"0 0 {size[0]} {size[1]}", "role": "img", "aria-label": about}
    )
    _axes(svg, box)
    if mark is not None:
        _rule(svg, "here", box.at((mark, y.low)), box.at((mark, y.high)))
    for number, line in enumerate(lines):
        _line(svg, box, line, number)
    return ElementTree.tostring(svg, encoding="unicode")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high` (Heckbert 1990, "Nice numbers for graph labels").

    Args:
        low: lower end of the axis.
        high: upper end of the axis.
        most: largest number of intervals, so there are at most `most` + 1 numbers.
    """
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in STEPS if power * nice >= raw * (1 - 1e-9))
    return [
        round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def ceiling(value: float) -> float:
    """Return the smallest round number that is at least `value`, as the end of an axis."""
    if value < 1e-12:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        power * nice for nice in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * nice >= value * (1 - 1e-9)
    )


def _along(value: float, axis: Axis) -> float:
    return min(1.0, max(0.0, (value - axis.low) / (axis.high - axis.low))) if axis.high > axis.low else 0.5


def _axes(svg: ElementTree.Element, box: PlotArea) -> None:
    for value in box.y.ticks:
        start, end = box.at((box.x.low, value)), box.at((box.x.high, value))
        _rule(svg, "grid", start, end)
        _text(svg, (start[0] - 8, start[1] + 4), box.y.text(value), "tick end")
    for value in box.x.ticks:
        x, y = box.at((value, box.y.low))
        _text(svg, (x, y + 17), box.x.text(value), "tick middle")
    _text(svg, ((LEFT + box.width - RIGHT) / 2, box.height - 5), box.x.label, "tick middle")


def _line(svg: ElementTree.Element, box: PlotArea, line: Curve, number: int) -> None:
    group = ElementTree.SubElement(svg, "g", {"class": f"line l{number}"})
    ElementTree.SubElement(group, "title").text = line.name
    places = [box.at(point) for point in line.points]
    ElementTree.SubElement(group, "polyline", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places)})
    for x, y in places if len(places) <= DOTTED else places[-1:]:
        ElementTree.SubElement(group, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "2.6"})


def _rule(svg: ElementTree.Element, name: str, start: Point, end: Point) -> None:
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    ElementTree.SubElement(
        svg, "line", {"class": name} | {key: f"{value:.1f}" for key, value in ends.items()}
    )


def _text(svg: ElementTree.Element, place: Point, text: str, name: str) -> None:
    ElementTree.SubElement(
        svg, "text", {"class": name, "x": f"{place[0]:.1f}", "y": f"{place[1]:.1f}"}
    ).text = text
