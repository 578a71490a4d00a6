"""Fit the thresholds for unknown products, on gallery pictures that no model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from skumatch.retrieval.rank import rank
from skumatch.retrieval.ranking import Ranking
from skumatch.retrieval.search import Backend, Vectors
from skumatch.retrieval.thresholds import NO_COSINE, Scores, Thresholds, enough, fit, needed

UNSEEN, VALIDATION = "SKUs never trained on", "validation pictures of trained SKUs"


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embedded pictures, and how to search them.

    Attributes:
        items: Columns id, sku, role, group, trained; a plain index, in the order of `vectors`. `trained`
            tells whether a model to be compared was trained on the picture; role `other` is a picture of a
            catch-all class.
        vectors: [n, d], L2-normalised.
        backend: The library that proposes neighbours.
        device: torch's name of the device to search on.
    """

    items: pd.DataFrame
    vectors: Vectors
    backend: Backend = "faiss"
    device: str = "cpu"

    @property
    def gallery(self) -> pd.DataFrame:
        """The items of the gallery."""
        return self.items[self.items["role"].eq("gallery")]

    @property
    def trained_skus(self) -> list[str]:
        """SKUs with a gallery picture that a model was trained on, sorted."""
        gallery = self.gallery
        return sorted(set(gallery.loc[gallery["trained"], "sku"]))

    def rank(self, queries: pd.DataFrame) -> Ranking:
        """Rank the gallery for the items `queries`, each without its duplicate group; sorted by query."""
        gallery = self.gallery
        groups = gallery["group"].tolist(), queries["group"].tolist()
        return rank(
            *self._side(gallery),
            *self._side(queries),
            backend=self.backend,
            ignored=groups,
            device=self.device,
        )

    def _side(self, rows: pd.DataFrame) -> tuple[Vectors, list[str], list[str]]:
        """Return vectors, ids and SKUs of some of the items."""
        return self.vectors[rows.index.to_numpy()], rows["id"].tolist(), rows["sku"].tolist()


def scores(ranking: Ranking, without_own: bool = False) -> Scores:
    """Return similarity and margin of each query.

    With `without_own` they are those of a gallery without any image of the query's own SKU.
    """
    listed = ranking.similarities.astype(np.float64)
    if without_own:
        listed = np.where(ranking.skus == ranking.query_skus[:, None], NO_COSINE, listed)
    best = -np.sort(-np.pad(listed, ((0, 0), (0, 1)), constant_values=NO_COSINE), axis=1)
    return Scores(best[:, 0], best[:, 0] - best[:, 1])


def fit_thresholds(embedded: Embedded, target: float) -> Thresholds:
    """Fit the thresholds so that at most a share `target` of known products' pictures is called unknown.

    They are fitted on the pictures of SKUs never trained on, if there are enough, otherwise on the validation
    pictures of trained SKUs. Each picture is matched with the gallery without its own duplicates; with its
    whole SKU left out, too, it stands for an unknown product. Pictures of a trained SKU lie nearer to it than
    those of a new product, so the second choice calls new products unknown more often than `target`. If both
    are too few there are no thresholds, and `fitted_on` says so.
    """
    gallery = embedded.gallery
    seen, fresh = gallery["sku"].isin(embedded.trained_skus), ~gallery["trained"]
    for name, rows in ((UNSEEN, gallery[fresh & ~seen]), (VALIDATION, gallery[fresh & seen])):
        fitted = _fitted(name, embedded, rows, target)
        if fitted:
            return fitted
    neither = "nothing, as neither SKUs never trained on nor validation pictures make"
    return Thresholds(target=target, fitted_on=f"{neither} {needed(target)}")


def _fitted(name: str, embedded: Embedded, rows: pd.DataFrame, target: float) -> Thresholds | None:
    """Fit on the pictures `rows`; None if too few of them have another picture of their SKU to be found."""
    if rows.empty:
        return None
    ranking = embedded.rank(rows)
    assert ranking.depth is not None
    scored = ranking.depth.right > 0
    pictures, skus = int(scored.sum()), len(set(ranking.query_skus[scored]))
    if not enough(pictures, skus, target):
        return None
    known, unknown = scores(ranking).only(scored), scores(ranking, without_own=True).only(scored)
    similarity, margin = fit(known, unknown, target)
    thresholds = Thresholds(
        similarity=similarity, margin=margin, target=target, fitted_on=name, pictures=pictures, skus=skus
    )
    called = {
        "called": float(thresholds.unknown(known).mean()),
        "found": float(thresholds.unknown(unknown).mean()),
    }
    return thresholds.model_copy(update=called)
