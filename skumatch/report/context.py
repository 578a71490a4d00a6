"""The contents of a run's report, as plain records.

The view and the templates decide on their presentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from skumatch.gate.gate import Decision
from skumatch.report.confusions import Pair
from skumatch.report.data_changes import DataComparison
from skumatch.report.gallery import GalleryChanges
from skumatch.report.mistakes import Mistake, Some, WeakSku, nothing
from skumatch.retrieval.figures import Evaluation


@dataclass(frozen=True)
class Aside:
    """An image that was set aside.

    Attributes:
        sku: its SKU.
        file: its file's name.
        reason: the reason, in a word or two.
        sentence: the reason as a sentence.
        picture: the picture as a data URI; None where it can't be shown.
    """

    sku: str
    file: str
    reason: str
    sentence: str
    picture: str | None


@dataclass(frozen=True)
class DataFacts:
    """Facts about the run's data.

    Attributes:
        version: MD5 of the data version.
        images: number of delivered images that were kept.
        skus: number of their SKUs.
        gallery: number of images to match against.
        queries: number of images to evaluate with.
        unseen_skus: number of SKUs that are never trained on.
        warnings: sentences of the validation.
        set_aside: quarantined images.
        aside_by_reason: number of quarantined images for each reason.
        duplicates: results of the search for duplicates, by name.
        expectations: number of expectations met, and of all.
        changes: changes against the earlier version; None where there is none.
    """

    version: str
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
    changes: DataComparison | None = None


@dataclass(frozen=True)
class TrainingFacts:
    """Facts about the run's training.

    Attributes:
        encoder: name of the encoder.
        weights: name of the base weights, `none` for random ones.
        images: number of training images.
        losses: mean loss of each epoch.
        rates: learning rate of each epoch.
        settings: further settings to show, by name.
    """

    encoder: str
    weights: str
    images: int
    losses: Sequence[float] = ()
    rates: Sequence[float] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def from_nothing(self) -> bool:
        """True if the training started from random weights."""
        return self.weights == "none"


@dataclass(frozen=True)
class ReportContext:
    """All contents of the report.

    Attributes:
        decision: the gate's decision.
        challenger: figures of the candidate that the page is about: the refreshed gallery's where that is
            released or there is no challenger.
        champion: figures of the champion's encoder on today's gallery, if the candidate is compared with it;
            else None.
        weak: the SKUs with the lowest top-1.
        mistakes: queries with a wrong first answer.
        data: facts about the data.
        training: facts about the training; None unless this run trained the candidate.
        hashes: hash of every input and result by name, shown in the footer.
        model_name: name of the registered model.
        protocols: figures of challenger and champion under protocols other than `full`.
        frozen: figures of the encoder before its training; None without a training.
        pairs: SKUs that are confused.
        gallery: changes of the gallery; None where there is no champion.
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
