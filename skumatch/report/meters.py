"""Small SVG charts that fill the width of their place on the page.

Coordinates are in percent of the width, so nothing is stretched. Figures beside a chart stay text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

HEIGHT, CAP = 20, 6  # pixels: height of a bar, and of a whisker's end on either side of the whisker
ROW = 16  # pixels: height of a dot's row


class Mark(NamedTuple):
    """A share with its interval.

    Attributes:
        who: the model that it belongs to, a class of the page's style.
        value: the share, 0 to 1.
        bounds: the two ends of its interval.
    """

    who: str
    value: float
    bounds: tuple[float, float]

    @property
    def words(self) -> str:
        """The share and its interval in words."""
        return (
            f"{self.who} {100 * self.value:.1f} % ({100 * self.bounds[0]:.1f} to {100 * self.bounds[1]:.1f})"
        )


def meter(mark: Mark) -> str:
    """Draw a bar from 0 to 1 with a whisker for its interval; shares outside 0..1 are drawn at the edge."""
    svg = _svg("meter", mark.who, HEIGHT, mark.words)
    low, high = (_percent(end, 0.0) for end in mark.bounds)
    _add(svg, "rect", "track", width="100%", height=HEIGHT, rx=5)
    _add(svg, "rect", "fill", width=_percent(mark.value, 0.0), height=HEIGHT, rx=5)
    for name in ("halo", "whisker"):
        _add(svg, "line", name, x1=low, x2=high, y1=HEIGHT / 2, y2=HEIGHT / 2)
    for end in (low, high):
        _add(svg, "line", "whisker", x1=end, x2=end, y1=HEIGHT / 2 - CAP, y2=HEIGHT / 2 + CAP)
    return ElementTree.tostring(svg, encoding="unicode")


def dots(marks: Sequence[Mark], low: float) -> str:
    """Draw a dot with its interval for each mark, one below the other, on an axis from `low` to 1."""
    svg = _svg("dots", "", ROW * len(marks), ", ".join(mark.words for mark in marks))
    for step in range(5):
        _add(svg, "line", "grid", x1=f"{25 * step}%", x2=f"{25 * step}%", y1=0, y2=ROW * len(marks))
    for i, mark in enumerate(marks):
        row, y = ElementTree.SubElement(svg, "g", {"class": mark.who}), ROW * (i + 0.5)
        ends = [_percent(end, low) for end in mark.bounds]
        _add(row, "line", "range", x1=ends[0], x2=ends[1], y1=y, y2=y)
        _add(row, "circle", "dot", cx=_percent(mark.value, low), cy=y, r=4.5)
    return ElementTree.tostring(svg, encoding="unicode")


def lowest(marks: Sequence[Mark]) -> float:
    """Return the start of a common axis for all marks.

    It is a multiple of 0.1 and at most 0.5, so that small differences don't look large.
    """
    least = min((mark.bounds[0] for mark in marks), default=0.0)
    return max(0.0, min(0.5, int(10 * least) / 10))


def _svg(kind: str, tone: str, height: float, about: str) -> ElementTree.Element:
    classes = f"{kind} {tone}".strip()
    return ElementTree.Element(
        "svg",
        {"class": classes, "width": "100%", "height": f"{height:g}", "role": "img", "aria-label": about},
    )


def _percent(share: float, low: float) -> str:
    return f"{100 * min(1.0, max(0.0, (share - low) / (1 - low))):.2f}%"


def _add(parent: ElementTree.Element, tag: str, name: str, **numbers: float | str) -> None:
    ElementTree.SubElement(parent, tag, {"class": name} | {key: str(value) for key, value in numbers.items()})
