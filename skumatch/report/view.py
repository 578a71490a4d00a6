"""The names that the report's templates use: figures as rows and charts, in words for buyers too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from skumatch.report.context import ReportContext
from skumatch.report.curves import Axis, Curve, ceiling, curves
from skumatch.report.meters import Mark, meter
from skumatch.report.slices import families
from skumatch.retrieval.figures import Bounds, Evaluation

TONES = {
    "first": ("good", "✓"),
    "promote": ("good", "✓"),
    "refresh": ("good", "✓"),
    "keep": ("calm", "="),
    "refuse": ("bad", "✕"),
}
NEXT = {
    "first": "There was no champion before. This model may become the first one.",
    "promote": "This model may take the champion's place.",
    "refresh": (
        "The encoder that serves stays. "
        "Its gallery may follow today's data, so that new products can be named."
    ),
    "keep": (
        "Nothing has to be done. "
        "The champion stays in use; most retrainings end this way, and it is no fault of the run."
    ),
    "refuse": "This model can't be used as it is. What has to be put right stands below, under the checks.",
}
CHECKS = {
    "identity": "A different model",
    "code": "Code on record",
    "figures": "Sound figures",
    "champion": "Champion scored again",
    "pairs": "Same photos for both",
    "size": "Size of the bundle",
    "blessing": "Loads and answers",
    "latency": "Answers in time",
    "floor": "Good enough at all",
    "gain": "Better than the champion",
    "evidence": "Enough evidence",
    "macro": "No worse, every product alike",
    "tail": "No worse on rarely pictured products",
    "unseen": "No worse on products never trained on",
    "near_duplicate_free": "No worse without near-copies",
    "k5": "No worse with five pictures a product",
    "changed": "A different gallery",
    "old_vs_served": "Old products no worse than today",
    "old_vs_release": "Old products no worse than at the model's release",
    "new_found": "New products are found",
    "retired_returned": "Retired products are never named",
    "old_unknown": "Old products not called unknown more often",
    "new_unknown": "New products not called unknown too often",
}
CANDIDATES = {
    "served": "What serves",
    "released": "Its model release",
    "refreshed": "Refreshed gallery",
    "challenger": "Challenger",
}
PROTOCOLS = {
    "full": "All photos against the whole gallery",
    "k5": "At most five pictures of each product on either side, mean of ten draws",
    "test_loo": "The photos against each other",
    "unseen": "Products never trained on, among themselves",
    "catalogue": "All photos against catalogue pictures",
}
NO_DUPLICATES = "All photos, their own duplicates taken out of the gallery"
MEASURES = {  # name and explanation by the field of an evaluation
    "macro_top1": (
        "Top 1, every product alike",
        "the mean over products, so that rarely asked ones count as much",
    ),
    "image_top1": ("Top 1 by images", "the nearest picture is of the right product"),
    "image_top5": ("Top 5 by images", "one of the five nearest pictures is"),
    "map_r": ("mAP@R", "how high all pictures of the right product come, as far down as there are any"),
    "r_precision": ("R-precision", "of the R nearest pictures, the share of the right product, which has R"),
    "mrr": ("MRR", "one over the place of the first right picture, the mean"),
}
SCORERS = {
    "nearest": "the nearest picture",
    "prototype": "the nearest product's mean picture",
    "knn": "a vote of the nearest pictures",
}


class FigureBar(NamedTuple):
    """One figure of one model with its drawing.

    Attributes:
        who: name of the model.
        tone: the model's class of the page's style.
        value: the share, 0 to 1.
        bounds: its interval.
        chart: the drawing.
    """

    who: str
    tone: str
    value: float
    bounds: Bounds
    chart: Markup


class Row(NamedTuple):
    """Figures of the models under one protocol or by one measure.

    Attributes:
        name: the protocol or measure.
        about: its explanation.
        queries: number of queries; None for a measure.
        figures: share and interval of each model; None where there is none.
    """

    name: str
    about: str
    queries: int | None
    figures: tuple[tuple[float, Bounds | None] | None, ...]


class Model(NamedTuple):
    """A model on the page.

    Attributes:
        name: its name on the page.
        tone: its class of the page's style.
        figures: its evaluation.
    """

    name: str
    tone: str
    figures: Evaluation


def view(context: ReportContext) -> dict[str, Any]:
    """Return all names that the templates use."""
    decision = context.decision
    tone, mark = TONES[decision.verdict]
    opening, _, reason = decision.sentence.partition(": ")
    checks = [check for check in (*decision.checks, *decision.refresh) if check.status != "not applicable"]
    shown = models(context)
    both = [model for model in shown if model.tone != "frozen"]
    return {
        "context": context,
        "tone": tone,
        "mark": mark,
        "opening": opening,
        "reason": reason,
        "next": NEXT[decision.verdict],
        "passed": sum(check.status == "passed" for check in checks),
        "asked": len(checks),
        "models": shown,
        "both": both,
        "chart": {k: [_bar(model, k) for model in shown] for k in (1, 3, 5)},
        "learnt": _learnt(context),
        "protocols": list(_protocols(context)),
        "measures": list(_measures(shown)),
        "scorers": [(SCORERS.get(name, name), share) for name, share in context.challenger.scorers.items()],
        "families": families([(model.tone, model.figures) for model in both]),
        "checks": [(CHECKS.get(check.name, check.name), check) for check in decision.checks],
        "gallery_checks": [(CHECKS.get(check.name, check.name), check) for check in decision.refresh],
        "candidates": CANDIDATES,
        "training": _training(context),
        "unknown": _unknown(context.challenger),
        "confidence": f"{100 * context.challenger.interval.confidence:g}\u202f%",
    }


def models(context: ReportContext) -> list[Model]:
    """Return the models on the page.

    These are the challenger and, where they exist, the champion and the encoder before its training; or the
    refreshed gallery alone.
    """
    if context.training is None and context.champion is None:
        return [Model("Refreshed gallery", "challenger", context.challenger)]
    from_nothing = context.training is not None and context.training.from_nothing
    candidates = (
        ("Challenger", "challenger", context.challenger),
        ("Champion", "champion", context.champion),
        ("Random weights" if from_nothing else "Before training", "frozen", context.frozen),
    )
    return [Model(name, tone, figures) for name, tone, figures in candidates if figures]


def _bar(model: Model, k: int) -> FigureBar:
    value, bounds = getattr(model.figures, f"top{k}"), getattr(model.figures.interval, f"top{k}")
    return FigureBar(model.name, model.tone, value, bounds, Markup(meter(Mark(model.tone, value, bounds))))  # noqa: S704 - escaped there


def _learnt(context: ReportContext) -> dict[str, Any] | None:
    """Return the gain in top-1 by training, and whether the baseline had the same queries and gallery."""
    if context.frozen is None:
        return None
    sides = ("gallery", "queries")
    same = all(context.frozen.hashes.get(side) == context.challenger.hashes.get(side) for side in sides)
    return {"gain": context.challenger.top1 - context.frozen.top1, "same": same, "n": context.frozen.n}


def _protocols(context: ReportContext) -> Iterator[Row]:
    """Yield a row for each protocol, and one for `full` without duplicates; each model has a column."""
    count = 2 if context.champion else 1
    for pair in ((context.challenger, context.champion), *context.protocols):
        challenger, evaluations = pair[0], pair[:count]
        yield Row(
            name=challenger.protocol,
            about=PROTOCOLS[challenger.protocol],
            queries=challenger.n,
            figures=tuple((e.top1, e.interval.top1) if e else None for e in evaluations),
        )
        free = [e.near_duplicate_free if e else None for e in evaluations]
        if free[0]:
            yield Row(
                name=challenger.protocol,
                about=NO_DUPLICATES,
                queries=free[0].n,
                figures=tuple((f.top1, f.interval) if f else None for f in free),
            )


def _measures(shown: Sequence[Model]) -> Iterator[Row]:
    for name, (title, about) in MEASURES.items():
        values = [getattr(model.figures, name) for model in shown]
        if values[0] is not None:
            yield Row(title, about, None, tuple(None if value is None else (value, None) for value in values))


def _training(context: ReportContext) -> dict[str, Markup]:
    """Return the curves over the epochs; none in a refresh."""
    training = context.training
    if training is None:
        return {}
    return {"loss": _epochs("Mean loss", training.losses), "rate": _epochs("Learning rate", training.rates)}


def _epochs(name: str, values: Sequence[float]) -> Markup:
    points = [(float(epoch), value) for epoch, value in enumerate(values, 1)]
    x, y = Axis("Epoch", 1, max(len(values), 2), whole=True), Axis(name, 0, ceiling(max(values, default=0)))
    return Markup(curves([Curve(name, points)], x, y, f"{name} by epoch", (440, 200)))  # noqa: S704 - escaped there


def _unknown(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the figures of unknown products with their curve; None where none were measured."""
    figures = evaluation.unknown
    if figures is None:
        return None
    curve = list(reversed(figures.curve))
    lines = [
        Curve("Wrong among the answers", [(point.coverage, point.risk) for point in curve]),
        Curve("Unknown products answered", [(point.coverage, point.unknown) for point in curve]),
    ]
    high = ceiling(max((value for line in lines for _, value in line.points), default=0))
    x = Axis("Share of known products' photos that are answered", 0, 1, share=True)
    y = Axis("Share", 0, min(1.0, high), share=True)
    here = 1 - figures.called.share if figures.called else None
    chart = Markup(  # noqa: S704 - curves escapes
        curves(lines, x, y, "Wrong answers and answered unknown products by coverage", (440, 240), here)
    )
    return {"figures": figures, "chart": chart, "lines": [line.name for line in lines], "here": here}


def percent(share: float) -> str:
    """Write a share as a percentage, with a narrow no-break space: 0.961 is "96.1 %"."""
    return f"{100 * share:.1f}\u202f%"
