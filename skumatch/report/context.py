"""All that the report of a run shows, as plain records.

What is shown of it, and how, is the view's and the templates'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skumatch.release.gate import Decision
from skumatch.report.confusions import Pair
from skumatch.report.data_changes import Changes
from skumatch.report.gallery import GalleryChanges
from skumatch.report.mistakes import Mistake, Some, WeakSku, nothing
from skumatch.retrieval.figures import Evaluation


@dataclass(frozen=True)
class Aside:
    """An image that was set aside. picture: a data URI, None where nothing can be shown of it."""

    sku: str
    file: str
    reason: str
    sentence: str
    picture: str | None


@dataclass(frozen=True)
class DataFacts:
    """images: all that were delivered and kept; gallery, queries: images to match against and to judge by.

    set_aside: quarantined images; aside_by_reason: how many for each reason. duplicates: what the search for
    duplicates found, by its name. expectations: how many were met, of how many. changes: None where there is
    no earlier version to compare with.
    """

    images: int
    skus: int
    gallery: int
    queries: int
    unseen_skus: int = 0
    warnings: Sequence[str] = ()
    set_aside: Some[Aside] = field(default_factory=nothing)
    aside_by_reason: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, str] = field(default_factory=dict)
    expectations: tuple[int, int] | None = None
    changes: Changes | None = None


@dataclass(frozen=True)
class TrainingFacts:
    """losses, rates: mean loss and learning rate of each epoch. settings: what else a reader should know of the training, by name."""

    encoder: str
    weights: str
    images: int
    losses: Sequence[float] = ()
    rates: Sequence[float] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def from_nothing(self) -> bool:
        """Whether the training started from random weights."""
        return self.weights == "none"


@dataclass(frozen=True)
class ReportContext:
    """All that the report shows.

    challenger: figures of the candidate that the page is about; of the refreshed gallery where that is
    released or there is no challenger. champion: of what it is compared with, the champion's encoder on
    today's gallery; else None. hashes: name -> hash of every input and result, shown in the footer. frozen:
    figures of the encoder before its training. protocols: figures under protocols other than `full`, of
    challenger and champion. training: None unless this run trained the candidate. gallery: None where there
    is no champion.
    """

    decision: Decision
    challenger: Evaluation
    champion: Evaluation | None
    weak: Some[WeakSku]
    mistakes: Some[Mistake]
    data: DataFacts
    training: TrainingFacts | None
    hashes: Mapping[str, str | None]
    model_name: str = "skumatch"
    protocols: Sequence[tuple[Evaluation, Evaluation | None]] = ()
    frozen: Evaluation | None = None
    pairs: Some[Pair] = field(default_factory=nothing)
    gallery: GalleryChanges | None = None
