"""The run's report: one static page for the person who must trust the decision, and a short model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from skumatch.release.gate import Decision
from skumatch.release.mistakes import Mistake, WeakSku
from skumatch.retrieval.evaluate import Bounds, Evaluation

SPARKLINE = (240, 56)
DATA_DOCS = "../validate/docs.html"  # from the report's place among the stages' results, here and in MLflow
TONES = {"first": ("good", "✓"), "promote": ("good", "✓"), "keep": ("calm", "="), "refuse": ("bad", "✕")}
CHECKS = {
    "identity": "A different model",
    "code": "Code on record",
    "figures": "Sound figures",
    "champion": "Champion scored again",
    "pairs": "Same queries for both",
    "size": "Size of the bundle",
    "blessing": "Loads and answers",
    "floor": "Good enough at all",
    "gain": "Better than the champion",
    "evidence": "Enough evidence",
}
PROTOCOLS = {
    "full": "All photos against the whole gallery",
    "k5": "At most five pictures of each product on either side, mean of ten draws",
    "test_loo": "The photos against each other",
    "unseen": "Products never trained on, among themselves",
    "catalogue": "All photos against catalogue pictures",
}
NO_DUPLICATES = "All photos, their own duplicates taken out of the gallery"


@dataclass(frozen=True)
class DataFacts:
    """images: all that were delivered and kept; gallery, queries: images to match against and to judge by.

    set_aside: the ids of quarantined images by reason. duplicates: what the search for duplicates found, by its name.
    """

    images: int
    skus: int
    gallery: int
    queries: int
    quarantined: int = 0
    unseen_skus: int = 0
    warnings: Sequence[str] = ()
    set_aside: Mapping[str, Sequence[str]] = field(default_factory=dict)
    duplicates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingFacts:
    """losses: mean loss of each epoch. settings: what else a reader should know of the training, by name."""

    encoder: str
    weights: str
    images: int
    losses: Sequence[float] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContext:
    """All that the report shows. hashes: name -> hash of every input and result, shown in the footer.

    protocols: figures under protocols other than `full`, of the challenger and of the champion.
    """

    decision: Decision
    challenger: Evaluation
    champion: Evaluation | None
    weak: Sequence[WeakSku]
    mistakes: Sequence[Mistake]
    data: DataFacts
    training: TrainingFacts
    hashes: Mapping[str, str | None]
    model_name: str = "skumatch"
    protocols: Sequence[tuple[Evaluation, Evaluation | None]] = ()


class Bar(NamedTuple):
    """One figure of one model: a share and its interval."""

    who: str
    value: float
    bounds: Bounds


class Row(NamedTuple):
    """Top-1 of both models in one way of asking; None where there is no figure."""

    name: str
    about: str
    queries: int
    top1: tuple[tuple[float, Bounds] | None, ...]


def render_report(context: ReportContext) -> str:
    """One HTML file with everything in it: no script, no link, no font from elsewhere; every text of the data escaped."""
    return _environment().get_template("report.html.jinja").render(_view(context))


def model_card(context: ReportContext) -> str:
    """What the model is, how good, on what, and what it is not for; Markdown."""
    return _environment().get_template("card.md.jinja").render(_view(context))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("skumatch.release"),
        autoescape=select_autoescape(disabled_extensions=("md.jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "count": "{:,}".format, "cell": _cell, "sentence": _sentence}
    return environment


def _view(context: ReportContext) -> dict[str, Any]:
    tone, mark = TONES[context.decision.verdict]
    opening, _, reason = context.decision.sentence.partition(": ")
    asked = [check for check in context.decision.checks if check.status != "not applicable"]
    models = [("Challenger", context.challenger)] + ([("Champion", context.champion)] if context.champion else [])
    return {
        "context": context,
        "data_docs": DATA_DOCS,
        "tone": tone,
        "mark": mark,
        "opening": opening,
        "reason": reason,
        "passed": sum(check.status == "passed" for check in asked),
        "asked": len(asked),
        "chart": {k: [_bar(who, evaluation, k) for who, evaluation in models] for k in (1, 3, 5)},
        "table": _table(context),
        "checks": [(CHECKS.get(check.name, check.name), check) for check in context.decision.checks],
        "curve": sparkline(context.training.losses),
    }


def _table(context: ReportContext) -> list[Row]:
    """A row a protocol, and one for `full` without duplicates; a column a model."""
    pairs = [(context.challenger, context.champion), *context.protocols]
    rows = [Row(ours.protocol, PROTOCOLS[ours.protocol], ours.n, _top1(context, ours, theirs)) for ours, theirs in pairs]
    free = context.challenger.near_duplicate_free
    if free:
        theirs = context.champion.near_duplicate_free if context.champion else None
        rows.insert(
            1, Row("full", NO_DUPLICATES, free.n, tuple((f.top1, f.interval) if f else None for f in (free, theirs)[: _models(context)]))
        )
    return rows


def _top1(context: ReportContext, *evaluations: Evaluation | None) -> tuple[tuple[float, Bounds] | None, ...]:
    return tuple((e.top1, e.interval.top1) if e else None for e in evaluations[: _models(context)])


def _models(context: ReportContext) -> int:
    return 2 if context.champion else 1


def _bar(who: str, evaluation: Evaluation, k: int) -> Bar:
    return Bar(who, getattr(evaluation, f"top{k}"), getattr(evaluation.interval, f"top{k}"))


def sparkline(values: Sequence[float]) -> str:
    """Points of an SVG polyline within SPARKLINE, from 0 at the bottom to the largest value; empty for fewer than two values."""
    if len(values) < 2 or max(values) <= 0:
        return ""
    width, height = SPARKLINE
    step, top = width / (len(values) - 1), max(values)
    return " ".join(f"{i * step:.1f},{height - height * max(value, 0) / top:.1f}" for i, value in enumerate(values))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(value: object) -> str:
    """Text for a Markdown table: one line that opens no markup."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#~" else letter for letter in text)
