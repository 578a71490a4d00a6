"""Formats of a comparison's figures, for the terminal and the page."""

from __future__ import annotations

from skumatch.compare.comparison import Comparison
from skumatch.retrieval.figures import Bounds


def share(value: float) -> str:
    """Write a share in percent, such as `97.0 %`."""
    return f"{100 * value:.1f} %"


def spread(bounds: Bounds) -> str:
    """Write an interval of a share in percent, such as `95.1 to 98.2`."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def points(value: float) -> str:
    """Write a difference of shares in signed percentage points, such as `+1.2`."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def span(bounds: Bounds) -> str:
    """Write an interval of a difference in signed percentage points, such as `+0.3 to +2.1`."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def asked(comparison: Comparison) -> str:
    """Describe the protocol, the queries and the intervals, which are the same for all models."""
    first = comparison.models[0].evaluation
    queries = f"Protocol {comparison.protocol}: {first.n:,} queries of {first.skus:,} SKUs, the same for all"
    left_out = (
        f"; {first.without_partner:,} without a gallery image left out" if first.without_partner else ""
    )
    return f"{queries}{left_out}. Intervals: {100 * first.interval.confidence:g} %, {first.interval.method}."
