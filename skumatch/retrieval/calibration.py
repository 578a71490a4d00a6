"""The pictures that the thresholds for unknown products are fitted on: gallery pictures that no model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd

from skumatch.retrieval.rank import rank
from skumatch.retrieval.ranking import Ranking
from skumatch.retrieval.search import Backend, Vectors
from skumatch.retrieval.thresholds import LEAST_LOST, LEAST_SKUS, NO_COSINE, Scores, Thresholds, enough, fit

UNSEEN, VALIDATION = "SKUs never trained on", "validation pictures of trained SKUs"


@dataclass(frozen=True, eq=False)
class Embedded:
    """What was embedded: rows (id, sku, role, group, trained.

    A plain index) in the order of `vectors`, and how to search.

    trained: whether a model to be compared was trained on the picture. Role `other` is a picture of a
        catch-all class.
    """

    items: pd.DataFrame
    vectors: Vectors
    backend: Backend = "faiss"
    device: str = "cpu"

    @property
    def gallery(self) -> pd.DataFrame:
        return self.items[self.items["role"].eq("gallery")]

    @property
    def trained_skus(self) -> list[str]:
        gallery = self.gallery
        return sorted(set(gallery.loc[gallery["trained"], "sku"]))

    def rank(self, queries: pd.DataFrame) -> Ranking:
        """Lists of some of the items in the gallery, their own duplicate groups passed over.

        In order of id.
        """
        gallery = self.gallery
        groups = gallery["group"].tolist(), queries["group"].tolist()
        sides = [
            (self.vectors[rows.index.to_numpy()], rows["id"].tolist(), rows["sku"].tolist())
            for rows in (gallery, queries)
        ]
        return rank(*sides[0], *sides[1], self.backend, groups, self.device)


def scores(ranking: Ranking, without_own: bool = False) -> Scores:
    """Similarity and margin of each query.

    `without_own`, as if no image of its own SKU were in the gallery.
    """
    listed = ranking.similarities.astype(np.float64)
    if without_own:
        listed = np.where(ranking.skus == ranking.query_skus[:, None], NO_COSINE, listed)
    best = -np.sort(-np.pad(listed, ((0, 0), (0, 1)), constant_values=NO_COSINE), axis=1)
    return Scores(best[:, 0], best[:, 0] - best[:, 1])


def fit_thresholds(embedded: Embedded, target: float) -> Thresholds:
    """Fit on the pictures of SKUs never trained on, if there are enough, otherwise on the validation pictures of trained SKUs.

    Each is asked of the gallery without its own duplicates; the same with its whole SKU left out stands for an unknown product. A
    trained SKU's pictures lie nearer to it than a new product's, so the second choice calls new products unknown more often than
    `target`. No thresholds if both are too few: `fitted_on` says so.
    """
    gallery = embedded.gallery
    seen, fresh = gallery["sku"].isin(embedded.trained_skus), ~gallery["trained"]
    for name, rows in ((UNSEEN, gallery[fresh & ~seen]), (VALIDATION, gallery[fresh & seen])):
        fitted = _fitted(name, embedded, rows, target)
        if fitted:
            return fitted
    needed = f"{LEAST_SKUS} SKUs with {ceil(LEAST_LOST / target)} pictures"
    return Thresholds(
        target=target,
        fitted_on=f"nothing, as neither SKUs never trained on nor validation pictures make {needed}",
    )


def _fitted(name: str, embedded: Embedded, rows: pd.DataFrame, target: float) -> Thresholds | None:
    """None if too few of the pictures `rows` have another of their SKU to be found."""
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
    found = Thresholds(
        similarity=similarity, margin=margin, target=target, fitted_on=name, pictures=pictures, skus=skus
    )
    return found.model_copy(
        update={"called": float(found.unknown(known).mean()), "found": float(found.unknown(unknown).mean())}
    )
