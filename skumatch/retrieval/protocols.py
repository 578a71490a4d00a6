"""An encoder's vectors under a protocol: who is asked and matched is a list of ids, made by the split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skumatch.data.manifest import content_hash
from skumatch.params import EvaluateParams
from skumatch.retrieval import metrics
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.evaluate import Evaluation, Protocol, Ranking, evaluate, rank
from skumatch.retrieval.figures import NearDuplicateFree
from skumatch.retrieval.metrics import Flags
from skumatch.retrieval.rank import VOTERS
from skumatch.retrieval.ranking import pooled
from skumatch.retrieval.scorers import Side, prototype_hits
from skumatch.retrieval.search import Backend, Vectors
from skumatch.retrieval.slices import interval


@dataclass(frozen=True, eq=False)
class Asked:
    """Ranked lists of a protocol's queries (of all its draws), the SKUs that have an image to be found, and what was asked of what.

    facts: a row a query: draw, sku, gallery_images (of its SKU), and what the items told of it. prototype: whether each query is nearest
    to its SKU's prototype.
    """

    protocol: Protocol
    ranking: Ranking
    partners: frozenset[str]
    hashes: dict[str, str]
    facts: pd.DataFrame
    prototype: Flags

    @property
    def answerable(self) -> bool:
        """Whether any query has an image of its SKU to be found."""
        return bool(self.partners & set(self.ranking.query_skus))

    def evaluate(self, params: EvaluateParams, seed: int, encoder: str) -> Evaluation:
        """Figures of the encoder with that hash; slices under `full` only.

        Raises DataError if no query can be answered.
        """
        facts = self.facts if self.protocol == "full" else self.facts.drop(columns="gallery_images")
        hashes = {"encoder": encoder} | self.hashes
        return evaluate(
            self.ranking,
            self.partners,
            self.protocol,
            params,
            seed,
            hashes,
            facts,
            {"prototype": self.prototype},
        )

    def hits(self) -> pd.DataFrame:
        """query, sku, hit (top-1) of each scored query; a query of several draws is named DRAW/ID."""
        scored = metrics.with_partner(self.ranking.query_skus, self.partners)
        several = self.facts["draw"].nunique() > 1
        names = [
            f"{draw}/{name}" if several else name
            for draw, name in zip(self.facts["draw"], self.ranking.query_ids, strict=True)
        ]
        return _hits(names, self.ranking, self.ranking.skus[:, 0] == self.ranking.query_skus)[scored]


def _hits(names: Iterable[str], ranking: Ranking, hits: Flags) -> pd.DataFrame:
    return pd.DataFrame({"query": list(names), "sku": ranking.query_skus, "hit": hits})


def ask(
    protocol: Protocol,
    lists: pd.DataFrame,
    items: pd.DataFrame,
    vectors: Vectors,
    backend: Backend = "faiss",
    device: str = "cpu",
    voters: int = VOTERS,
) -> Asked:
    """Rank each query of a protocol's `lists` (draw, id, part) in its gallery.

    `items` (id, sku, sha256, and any facts of queries) stand in the order of `vectors`; what they lack is
    left out. In part `both` a picture never finds itself. `device` is torch's, `voters` the images that vote.
    Raises DataError for an empty gallery.
    """
    rows = lists.merge(items.assign(row=np.arange(len(items))), on="id", validate="many_to_one").sort_values(
        ["draw", "id"]
    )
    sides = {side: rows[rows["part"].isin([side, "both"])] for side in ("gallery", "query")}
    draws = [
        {side: frame[frame["draw"].eq(draw)] for side, frame in sides.items()}
        for draw in sorted(set(rows["draw"]))
    ]
    answers = [_answer(draw, vectors, backend, device, voters) for draw in draws]
    least = 2 if rows["part"].eq("both").any() else 1
    images = Counter(sides["gallery"]["sku"])
    partners = frozenset(sku for sku, count in images.items() if count >= least)
    hashes = {
        name: content_hash(sides[side]["sha256"], sides[side]["sku"])
        for name, side in (("gallery", "gallery"), ("queries", "query"))
    }
    facts = (
        sides["query"]
        .drop(columns=["part", "row"])
        .assign(gallery_images=sides["query"]["sku"].map(images).fillna(0).astype(int))
    )
    ranking = pooled([ranking for ranking, _ in answers])
    return Asked(
        protocol,
        ranking,
        partners,
        hashes,
        facts.reset_index(drop=True),
        np.concatenate([hits for _, hits in answers]),
    )


def _answer(
    sides: dict[str, pd.DataFrame], vectors: Vectors, backend: Backend, device: str, voters: int
) -> tuple[Ranking, Flags]:
    gallery, query = _side(sides["gallery"], vectors), _side(sides["query"], vectors)
    both = sides["gallery"]["part"].eq("both").any()
    ranking = rank(*gallery, *query, backend, (gallery[1], query[1]) if both else None, device, voters)
    return ranking, prototype_hits(gallery, query, backend, device)


def _side(frame: pd.DataFrame, vectors: Vectors) -> Side:
    return vectors[frame["row"].to_numpy()], frame["id"].tolist(), frame["sku"].tolist()


def hits_without_duplicates(
    asked: Asked, items: pd.DataFrame, vectors: Vectors, backend: Backend = "faiss", device: str = "cpu"
) -> pd.DataFrame:
    """query, sku, hit (top-1) under the protocol `full` if no query found a duplicate of itself: gallery images of its own group are
    passed over. Queries that then have no image of their SKU left are not in it.

    `items` (id, sku, role, group) stand in the order of `vectors`.
    """
    items = items.assign(row=np.arange(len(items))).sort_values("id")
    gallery, query = (items[items["role"].eq(role)] for role in ("gallery", "query"))
    assert query["id"].tolist() == asked.ranking.query_ids.tolist()
    copied = query["group"].isin(gallery["group"]).to_numpy()
    hits = asked.ranking.skus[:, 0] == asked.ranking.query_skus
    if copied.any():
        groups = gallery["group"].tolist(), query["group"][copied].tolist()
        again = rank(*_side(gallery, vectors), *_side(query[copied], vectors), backend, groups, device)
        hits[copied] = again.skus[:, 0] == again.query_skus  # both in order of id
    return _hits(asked.ranking.query_ids, asked.ranking, hits)[_has_other(query, gallery)]


def without_duplicates(
    hits: pd.DataFrame, asked: Asked, params: EvaluateParams, seed: int
) -> NearDuplicateFree | None:
    """The figure of `hits_without_duplicates`. None if no query has a partner left."""
    if hits.empty:
        return None
    groups = asked.facts["group"].to_numpy(dtype=object)[hits.index]
    clusters = clusters_of(hits["sku"].to_numpy(dtype=object), groups)
    top1, bounds = interval(hits["hit"].to_numpy(dtype=np.bool_), clusters, params, seed)
    return NearDuplicateFree(
        top1=top1, interval=bounds, n=len(hits), without_partner=len(asked.ranking) - len(hits)
    )


def _has_other(query: pd.DataFrame, gallery: pd.DataFrame) -> Flags:
    """Whether each query's SKU has a gallery image outside the query's own group."""
    images, duplicates = Counter(gallery["sku"]), Counter(zip(gallery["sku"], gallery["group"], strict=True))
    pairs = zip(query["sku"], query["group"], strict=True)
    return np.array([images[sku] > duplicates[sku, group] for sku, group in pairs], dtype=np.bool_)
