"""A comparison as one static page, and its chart."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skumatch.compare import wording
from skumatch.compare.charts import ModelBar, bars
from skumatch.compare.comparison import Compared, Comparison, ModelDifference

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
    return bars(groups, f"Share of photos whose product is found. {wording.asked(comparison)}", width)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("skumatch.compare"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("share", "spread", "points", "span", "asked")
    environment.filters |= {"count": "{:,}".format} | {name: getattr(wording, name) for name in names}
    return environment
