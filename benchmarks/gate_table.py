"""Tables of the gate's error rates, as `benchmarks.gate` simulates them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from benchmarks.gate import NOMINAL, POLICY, PairOutcome, Years

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
    "True gain in points; the rest in percent. Differ: queries that only one model finds. "
    "Design: effect of clustering on the variance. "
    "97.5 %, 99.0 %, McNemar: pairs whose gain was shown at that confidence, "
    "and by a test that takes queries as independent. "
    "Stopped: pairs that a guard stops, and of those whose gain was shown. "
    "Promised at 97.5 %: at most 3.5 of equal models, 80 of RP2K unseen, mild."
)


def scenes(outcomes: Sequence[PairOutcome]) -> Table:
    """Return a table with one row for each scene: how often a gain is shown, with and without a true one."""
    first = outcomes[0]
    title = f"How often the gate errs ({first.pairs:,} pairs of models a row, guards on {first.guarded:,})"
    rows = table(title, HEADS)
    rows.caption = CAPTION
    for outcome in outcomes:
        scene = outcome.scene
        rows.add_row(
            f"{scene.shape.name}, {scene.clustering.name}",
            f"{100 * scene.gain:+.1f}" if scene.gain else "none",
            percent(outcome.discordant),
            f"{outcome.design:.1f}",
            f"[bold]{percent(outcome.shown)}",
            sign(outcome.holds),
            percent(outcome.by_policy),
            percent(outcome.mcnemar),
            percent(outcome.stopped),
            "-" if outcome.stopped_gains is None else percent(outcome.stopped_gains),
        )
    return rows


def sign(holds: bool | None) -> str:
    """Return a green tick or a red cross for a bound that holds or not; empty for None."""
    return {None: "", True: "[green]✓", False: "[red]✗"}[holds]


def years(outcomes: Sequence[Years]) -> Table:
    """Return a table with one row for each confidence: promotions in a year of equally good models."""
    scene, first = outcomes[0].scene, outcomes[0]
    place = f"{scene.shape.name}, {scene.clustering.name}"
    title = f"{first.years:,} years of {first.retrains} retrains, all models equally good ({place})"
    heads = (
        ("confidence of each", "left"),
        ("promotions a year", "right"),
        ("expected at most", "right"),
        ("% of years with any", "right"),
    )
    rows = table(title, heads)
    for outcome in outcomes:
        rows.add_row(
            f"{100 * (1 - outcome.alpha):.1f} %",
            f"[bold]{outcome.promotions:.2f}",
            f"{outcome.retrains * outcome.alpha:.2f}",
            percent(outcome.any_promotion),
        )
    return rows


def table(title: str, heads: Sequence[tuple[str, str]]) -> Table:
    """Return an empty table with a column for each head: its name, and its justification."""
    rows = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for number, (name, justify) in enumerate(heads):
        rows.add_column(name, justify=justify, no_wrap=number == 0)  # type: ignore[arg-type]
    return rows


def percent(share: float) -> str:
    """Format a share in percent, without the percent sign."""
    return f"{100 * share:.1f}"
