"""Encoders asked the same questions: each one's figures, and how its hits differ from the first one's, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict

from skumatch.compare.folder import Questions
from skumatch.model.embed import embed
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Bounds, Evaluation, Protocol
from skumatch.retrieval.protocols import Asked, ask

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder


class Entrant(NamedTuple):
    """An encoder to be compared: as it was asked for, a short name to show, and the SHA-256 of its weights."""

    reference: str
    label: str
    encoder: Encoder
    weights: str


class Difference(BaseModel):
    """A model's top-1 less the first model's on the same queries, and its two-sided interval.

    Shares, from -1 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top1: float
    interval: Bounds

    @property
    def verdict(self) -> str:
        """In words: whether the interval leaves 0 out."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "may be chance"


class Compared(BaseModel):
    """One model of a comparison. model: as it was asked for. difference: None for the first model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    label: str
    evaluation: Evaluation
    difference: Difference | None = None


class Comparison(BaseModel):
    """Models in the order asked, all under one protocol on the same pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol
    models: tuple[Compared, ...]


def compare(asked: Questions, entrants: Sequence[Entrant], params: Params) -> Comparison:
    """Embed the pictures once with each encoder, score them, and pair each with the first.

    Raises DataError if a picture can't be decoded or no query can be answered, WeightsError for an encoder
    that answers no numbers.
    """
    answers = [_answer(asked, entrant, params) for entrant in entrants]
    hits = [answer.hits() for answer in answers]
    models = []
    for entrant, answer, own in zip(entrants, answers, hits, strict=True):
        difference = None if own is hits[0] else _difference(own, hits[0], params)
        figures = answer.evaluate(params.evaluate, params.seed, entrant.weights)
        models.append(
            Compared(model=entrant.reference, label=entrant.label, evaluation=figures, difference=difference)
        )
    return Comparison(protocol=asked.protocol, models=tuple(models))


def _answer(asked: Questions, entrant: Entrant, params: Params) -> Asked:
    vectors = embed(entrant.encoder, asked.images, params.embed.batch, params.runtime, entrant.label)
    entrant.encoder.to("cpu")  # a GPU holds one at a time
    device = str(prepare(params.runtime))
    return ask(
        asked.protocol,
        asked.lists,
        asked.rows,
        vectors,
        params.search.backend,
        device,
        params.evaluate.voters,
    )


def _difference(hits: pd.DataFrame, base: pd.DataFrame, params: Params) -> Difference:
    """Mean of the paired differences, resampled by SKU."""
    assert hits["query"].equals(base["query"])
    change, policy = hits["hit"].to_numpy(dtype=float) - base["hit"].to_numpy(dtype=float), params.evaluate
    skus = hits["sku"].to_numpy(dtype=object)
    bounds = statistics.change_interval(change, skus, policy.confidence, params.seed, policy.resamples)
    return Difference(top1=bounds.value, interval=(max(-1.0, bounds.low), min(1.0, bounds.high)))
