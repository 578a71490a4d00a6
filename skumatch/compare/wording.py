"""How a comparison's figures are written, in the terminal and on the page."""

from __future__ import annotations

from skumatch.compare.comparison import Comparison
from skumatch.retrieval.figures import Bounds


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def spread(bounds: Bounds) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def span(bounds: Bounds) -> str:
    return f"{points(bounds[0])} to {points(bounds[1])}"


def asked(comparison: Comparison) -> str:
    """What was asked of all models, in one sentence."""
    first = comparison.models[0].evaluation
    what = f"Protocol {comparison.protocol}: {first.n:,} queries of {first.skus:,} SKUs, the same for all"
    left_out = (
        f"; {first.without_partner:,} without a gallery image left out" if first.without_partner else ""
    )
    return f"{what}{left_out}. Intervals: {100 * first.interval.confidence:g} %, {first.interval.method}."
