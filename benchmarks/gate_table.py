"""The gate's error rates for a person: tables of what `benchmarks.gate` found."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from benchmarks.gate import NOMINAL, POLICY, Found, Years

HEADS = (
    ("models", "left"),
    ("gain", "right"),
    ("differ", "right"),
    ("design", "right"),
    (f"{100 * (1 - NOMINAL):.1f} %", "right"),
    ("", "left"),
    (f"{100 * POLICY.confidence:.1f} %", "right"),
    ("McNemar", "right"),
    ("stopped", "right"),
    ("of gains", "right"),
)
CAPTION = (
    "True gain in points; the rest in percent. Differ: queries that only one model finds. Design: effect of clustering on the variance. "
    "97.5 %, 99.0 %, McNemar: pairs whose gain was shown at that confidence, and by a test that takes queries as independent. Stopped: "
    "pairs that a guard stops, and of those whose gain was shown. Promised at 97.5 %: at most 3.5 of equal models, 80 of RP2K unseen, mild."
)


def scenes(found: Sequence[Found]) -> Table:
    """One row a scene: how often a gain is shown where there is one and where there is none."""
    rows = table(
        f"How often the gate errs ({found[0].pairs:,} pairs of models a row, guards on {found[0].guarded:,})",
        HEADS,
    )
    rows.caption = CAPTION
    for one in found:
        scene = one.scene
        rows.add_row(
            f"{scene.shape.name}, {scene.clustering.name}", f"{100 * scene.gain:+.1f}" if scene.gain else "none", percent(one.discordant),
            f"{one.design:.1f}", f"[bold]{percent(one.shown)}", sign(one.holds), percent(one.by_policy), percent(one.mcnemar),
            percent(one.stopped), "-" if one.stopped_gains is None else percent(one.stopped_gains),
        )  # fmt: skip
    return rows


def sign(holds: bool | None) -> str:
    """Whether a promise is kept; empty where none was made."""
    return {None: "", True: "[green]✓", False: "[red]✗"}[holds]


def years(found: Sequence[Years]) -> Table:
    """One row a confidence: what a year of retrains promotes if no model is better than another."""
    scene, first = found[0].scene, found[0]
    title = f"{first.years:,} years of {first.retrains} retrains, all models equally good ({scene.shape.name}, {scene.clustering.name})"
    heads = (
        ("confidence of each", "left"),
        ("promotions a year", "right"),
        ("expected at most", "right"),
        ("% of years with any", "right"),
    )
    rows = table(title, heads)
    for one in found:
        bound = f"{one.retrains * one.alpha:.2f}"
        rows.add_row(
            f"{100 * (1 - one.alpha):.1f} %", f"[bold]{one.promotions:.2f}", bound, percent(one.any_promotion)
        )
    return rows


def table(title: str, heads: Sequence[tuple[str, str]]) -> Table:
    """An empty table with a column for each head, a name and how it is justified."""
    rows = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, (name, justify) in enumerate(heads):
        rows.add_column(name, justify=justify, no_wrap=number == 0)  # type: ignore[arg-type]
    return rows


def percent(share: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * share:.1f}"
