"""Compare encoders on the same queries: each one's figures, and its paired difference from the first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict

from skumatch.comparing.folder import Questions
from skumatch.model.embed import embed
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Bounds, Evaluation, Protocol
from skumatch.retrieval.protocols import ProtocolAnswers, ask
from skumatch.texts import queries_of

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder


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


def scope(comparison: Comparison) -> str:
    """Describe the protocol, the queries and the intervals, which are the same for all models."""
    first = comparison.models[0].evaluation
    queries = f"Protocol {comparison.protocol}: {queries_of(first.n, first.skus)}, the same for all"
    left_out = (
        f"; {first.without_partner:,} without a gallery image left out" if first.without_partner else ""
    )
    return f"{queries}{left_out}. Intervals: {100 * first.interval.confidence:g} %, {first.interval.method}."


class Entrant(NamedTuple):
    """An encoder to be compared.

    Attributes:
        reference: The model as the user named it.
        label: A short name to show.
        encoder: The encoder.
        weights: SHA-256 of its weights.
    """

    reference: str
    label: str
    encoder: Encoder
    weights: str


class ModelDifference(BaseModel):
    """A model's top-1 less the first model's on the same queries.

    Attributes:
        top1: The difference of shares, from -1 to 1.
        interval: Its two-sided bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top1: float
    interval: Bounds

    @property
    def verdict(self) -> str:
        """`better` or `worse` if the interval excludes 0, else `may be chance`."""
        low, high = self.interval
        if low > 0:
            return "better"
        return "worse" if high < 0 else "may be chance"


class Compared(BaseModel):
    """One model of a comparison.

    Attributes:
        model: The model as the user named it.
        label: A short name to show.
        evaluation: Its figures.
        difference: From the first model; None for the first model itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    label: str
    evaluation: Evaluation
    difference: ModelDifference | None = None


class Comparison(BaseModel):
    """Models on the same pictures under one protocol.

    Attributes:
        protocol: The protocol's name.
        models: In the order in which the user named them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol
    models: tuple[Compared, ...]


def compare(questions: Questions, entrants: Sequence[Entrant], params: Params) -> Comparison:
    """Embed the pictures once with each encoder, score them, and pair each encoder's hits with the first's.

    Args:
        questions: The pictures and the protocol's lists.
        entrants: The encoders, at least one.
        params: The parameters of embedding, search, and intervals.

    Raises:
        DataError: A picture can't be decoded, or no query can be answered.
        WeightsError: An encoder returns vectors that are not finite.
    """
    answers = [_answer(questions, entrant, params) for entrant in entrants]
    hits = [answer.hits() for answer in answers]
    models = []
    for entrant, answer, own in zip(entrants, answers, hits, strict=True):
        difference = None if own is hits[0] else _difference(own, hits[0], params)
        figures = answer.evaluate(params.evaluate, params.seed, entrant.weights)
        models.append(
            Compared(model=entrant.reference, label=entrant.label, evaluation=figures, difference=difference)
        )
    return Comparison(protocol=questions.protocol, models=tuple(models))


def _answer(questions: Questions, entrant: Entrant, params: Params) -> ProtocolAnswers:
    vectors = embed(entrant.encoder, questions.images, params.embed.batch, params.runtime, entrant.label)
    entrant.encoder.to("cpu")  # a GPU holds one encoder at a time
    device = str(prepare(params.runtime))
    return ask(
        questions.protocol,
        questions.lists,
        questions.rows,
        vectors,
        backend=params.search.backend,
        device=device,
        voters=params.evaluate.voters,
    )


def _difference(hits: pd.DataFrame, base: pd.DataFrame, params: Params) -> ModelDifference:
    """Return the mean of the paired differences, resampled by SKU."""
    assert hits["query"].equals(base["query"])
    policy = params.evaluate
    change = hits["hit"].to_numpy(dtype=float) - base["hit"].to_numpy(dtype=float)
    skus = hits["sku"].to_numpy(dtype=object)
    bounds = statistics.change_interval(change, skus, policy.confidence, params.seed, policy.resamples)
    return ModelDifference(top1=bounds.value, interval=(max(-1.0, bounds.low), min(1.0, bounds.high)))
