"""A comparison as one static page, with its chart as SVG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple
from xml.etree import ElementTree

from jinja2 import Environment
from markupsafe import Markup

from skumatch.comparing.comparison import (
    Compared,
    Comparison,
    ModelDifference,
    points,
    scope,
    share,
    span,
    spread,
)
from skumatch.texts import page_environment

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
NO_XML = re.compile(
    "[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)  # characters not allowed in XML
COLOURS = 6  # in STYLE; they repeat from the seventh bar of a group on
BESIDE = 560  # from this width on, in pixels, a bar is beside its label, not under it
# A backslash at the end of a line joins it with the next one.
STYLE = """
.bars { --ink: #1c1f23; --soft: #5d646d; --track: #eceae4; --paper: #fff; \
--c0: #8b94a3; --c1: #2f5bd7; --c2: #0f8a7e; --c3: #b7791f;
  --c4: #7c4dc4; --c5: #c2456b; \
font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
@media (prefers-color-scheme: dark) { .bars { \
--ink: #eceef1; --soft: #a2a9b3; --track: #2a2f36; --paper: #1c1f24; --c0: #8e98a8;
  --c1: #7d9dff; --c2: #45c4b4; --c3: #e0b050; --c4: #b08cf0; --c5: #f0809f; } }
@media print { .bars { --ink: #000; --soft: #444; --track: #eceae4; --paper: #fff; } }
.bars text { fill: var(--ink); } .bars .title { font-weight: 650; font-size: 14px; } \
.bars .value { font-weight: 650; }
.bars .soft { fill: var(--soft); font-weight: 400; } .bars .tick { fill: var(--soft); font-size: 11px; }
.bars .track { fill: var(--track); } .bars .grid { stroke: var(--paper); }
.bars .halo { stroke: var(--paper); stroke-width: 5; opacity: .6; } \
.bars .whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.bars .c0 { fill: var(--c0); } .bars .c1 { fill: var(--c1); } \
.bars .c2 { fill: var(--c2); } .bars .c3 { fill: var(--c3); }
.bars .c4 { fill: var(--c4); } .bars .c5 { fill: var(--c5); }
"""


class ModelBar(NamedTuple):
    """A share with its interval.

    Attributes:
        label: The bar's name.
        value: From 0 to 1.
        bounds: The two ends of the interval, from 0 to 1.
    """

    label: str
    value: float
    bounds: tuple[float, float]


class Layout(NamedTuple):
    """Positions of bars, in pixels.

    Attributes:
        left: Where bars begin.
        right: Where bars of value 1 end.
        drop: Distance of a bar from the top of its row.
        pitch: Distance from row to row.
        letters: The most characters that a label may have.
    """

    left: float
    right: float
    drop: float
    pitch: float
    letters: int

    def at(self, share: float) -> float:
        """Return the horizontal position of a share from 0 to 1."""
        return self.left + (self.right - self.left) * share


def bars(groups: Mapping[str, Sequence[ModelBar]], about: str, width: int = 760) -> str:
    """Draw groups of horizontal bars with whiskers for their intervals, as SVG.

    Bars at the same place in their groups have the same colour, so every group should list the same series.
    Shares outside 0..1 are drawn at the edge.

    Args:
        groups: Title -> its bars, from top to bottom.
        about: Description for screen readers.
        width: Of the SVG, in pixels.
    """
    layout = Layout(206, width - 150, 0, 27, 29) if width >= BESIDE else Layout(0, width, 20, 47, width // 14)
    svg = ElementTree.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "class": "bars", "role": "img", "aria-label": _clean(about)},
    )
    ElementTree.SubElement(svg, "style").text = STYLE
    top = 0.0
    for title, series in groups.items():
        _text(svg, 0, top + 14, title, "title")
        for i, bar in enumerate(series):
            _row(svg, top + 28 + i * layout.pitch, bar, i % COLOURS, layout, width)
        top += 28 + len(series) * layout.pitch + 16
    for tick in TICKS:
        anchor = {0.0: "start", 1.0: "end"}.get(tick, "middle")
        label = f"{100 * tick:.0f}\u202f%" if tick in (0, 1) else f"{100 * tick:.0f}"
        _text(svg, layout.at(tick), top + 2, label, "tick", anchor)
    height = round(top + 10)
    svg.attrib |= {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return ElementTree.tostring(svg, encoding="unicode")


def _row(
    svg: ElementTree.Element, top: float, bar: ModelBar, colour: int, layout: Layout, width: int
) -> None:
    row = ElementTree.SubElement(svg, "g")
    low, high = bar.bounds
    percent, interval = f"{100 * bar.value:.1f}\u202f%", f"{100 * low:.1f}\u2013{100 * high:.1f}"
    ElementTree.SubElement(row, "title").text = _clean(f"{bar.label}: {percent} ({interval})")
    _text(row, 0, top + 13, _short(bar.label, layout.letters))
    _text(row, width - 84, top + 13, percent, "value", "end")
    _text(row, width, top + 13, interval, "soft", "end")
    _meter(row, top + layout.drop, bar, colour, layout)


def _meter(row: ElementTree.Element, top: float, bar: ModelBar, colour: int, layout: Layout) -> None:
    value, low, high = (layout.at(min(1.0, max(0.0, share))) for share in (bar.value, *bar.bounds))
    middle = top + 9
    for name, end in (("track", layout.right), (f"c{colour}", value)):
        box = {"x": layout.left, "y": top, "width": end - layout.left, "height": 18, "rx": 4}
        ElementTree.SubElement(row, "rect", {"class": name} | _numbers(box))
    for tick in TICKS[1:-1]:
        x = layout.at(tick)
        ElementTree.SubElement(
            row, "line", {"class": "grid"} | _numbers({"x1": x, "x2": x, "y1": top, "y2": top + 18})
        )
    ElementTree.SubElement(
        row, "line", {"class": "halo"} | _numbers({"x1": low, "x2": high, "y1": middle, "y2": middle})
    )
    caps = " ".join(f"M{x:.1f} {middle - 5:.1f}V{middle + 5:.1f}" for x in (low, high))
    ElementTree.SubElement(
        row, "path", {"class": "whisker", "d": f"M{low:.1f} {middle:.1f}H{high:.1f} {caps}"}
    )


def _text(
    parent: ElementTree.Element, x: float, y: float, text: str, name: str = "", anchor: str = "start"
) -> ElementTree.Element:
    element = ElementTree.SubElement(
        parent, "text", _numbers({"x": x, "y": y}) | {"class": name, "text-anchor": anchor}
    )
    element.text = _clean(text)
    return element


def _numbers(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in values.items()}


def _clean(text: str) -> str:
    return NO_XML.sub("\ufffd", text)


def _short(label: str, letters: int) -> str:
    """Shorten a label in the middle, since both ends of a name tell it from others."""
    if len(label) <= letters:
        return label
    return f"{label[: letters // 2]}…{label[-(letters - letters // 2 - 1) :]}"


WIDE, NARROW = 960, 330  # pixels: one chart for each kind of window


def page(comparison: Comparison) -> str:
    """Render the comparison as one HTML file without scripts, links or external fonts; text is escaped."""
    charts = {name: Markup(draw(comparison, width)) for name, width in (("wide", WIDE), ("narrow", NARROW))}  # noqa: S704 - escaped there
    best = max(comparison.models, key=_top1)
    rival, lead = _lead(comparison, best)
    return (
        _environment()
        .get_template("compare.html.jinja")
        .render(comparison=comparison, best=best, rival=rival, lead=lead, charts=charts)
    )


def _top1(model: Compared) -> float:
    return model.evaluation.top1


def _lead(comparison: Comparison, best: Compared) -> tuple[str, ModelDifference | None]:
    """Return the label of the model that the best model is compared with, and the best model's lead on it.

    That is the first model, or the next best one where the first model is the best; a single model has no
    lead.
    """
    first, *others = comparison.models
    if best is not first:
        return first.label, best.difference
    if not others:
        return "", None
    rival = max(others, key=_top1)
    assert rival.difference is not None
    low, high = rival.difference.interval
    return rival.label, ModelDifference(top1=-rival.difference.top1, interval=(-high, -low))


def draw(comparison: Comparison, width: int = WIDE) -> str:
    """Draw top-1, top-3 and top-5 of every model with their intervals, as SVG."""
    groups = {
        f"Top {k}": [
            ModelBar(
                model.label,
                getattr(model.evaluation, f"top{k}"),
                getattr(model.evaluation.interval, f"top{k}"),
            )
            for model in comparison.models
        ]
        for k in (1, 3, 5)
    }
    return bars(groups, f"Share of photos whose product is found. {scope(comparison)}", width)


@cache
def _environment() -> Environment:
    environment = page_environment("skumatch.comparing")
    formats = {"share": share, "spread": spread, "points": points, "span": span, "scope": scope}
    environment.filters |= formats
    return environment
