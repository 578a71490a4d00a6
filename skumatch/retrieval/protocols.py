"""Ranked lists under a protocol; the stage split lists the protocol's queries and galleries by id."""

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
class ProtocolAnswers:
    """Ranked lists of a protocol's queries, those of all its draws together.

    Attributes:
        protocol: The protocol's name.
        ranking: The ranked lists, [n] queries.
        partners: SKUs that have a gallery image to be found.
        hashes: `gallery` and `queries` -> hash of their pictures and SKUs.
        facts: One row per query: draw, sku, gallery_images (of its SKU), and the columns of its item.
        prototype: [n], whether each query is nearest to its SKU's prototype.
    """

    protocol: Protocol
    ranking: Ranking
    partners: frozenset[str]
    hashes: dict[str, str]
    facts: pd.DataFrame
    prototype: Flags

    @property
    def answerable(self) -> bool:
        """True if any query has an image of its SKU to be found."""
        return bool(self.partners & set(self.ranking.query_skus))

    def evaluate(self, params: EvaluateParams, seed: int, encoder: str) -> Evaluation:
        """Score the lists; slices are made under `full` only.

        Args:
            params: Confidence and number of resamples of the intervals.
            seed: Of the resamples.
            encoder: Hash of the encoder's weights, which stands in the evaluation.

        Raises:
            DataError: No query can be answered.
        """
        facts = self.facts if self.protocol == "full" else self.facts.drop(columns="gallery_images")
        hashes = {"encoder": encoder} | self.hashes
        return evaluate(
            self.ranking,
            self.partners,
            self.protocol,
            params,
            seed,
            hashes=hashes,
            facts=facts,
            scorers={"prototype": self.prototype},
        )

    def hits(self) -> pd.DataFrame:
        """Return query, sku, hit (top-1) of each scored query; a query of several draws is named DRAW/ID."""
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
) -> ProtocolAnswers:
    """Rank the gallery of a protocol for each of its queries.

    Args:
        protocol: The protocol's name.
        lists: Columns draw, id, part (`gallery`, `query` or `both`); a picture of part `both` never finds
            itself.
        items: Columns id, sku, sha256, and any facts of queries, in the order of `vectors`. Ids of `lists`
            that are missing here are left out.
        vectors: [n, d], L2-normalised.
        backend: The library that proposes neighbours; it doesn't change the result.
        device: torch's name of the device to search on.
        voters: Number of nearest images that vote for a SKU.

    Raises:
        DataError: The gallery is empty.
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
    return ProtocolAnswers(
        protocol,
        ranking,
        partners,
        hashes,
        facts=facts.reset_index(drop=True),
        prototype=np.concatenate([hits for _, hits in answers]),
    )


def _answer(
    sides: dict[str, pd.DataFrame], vectors: Vectors, backend: Backend, device: str, voters: int
) -> tuple[Ranking, Flags]:
    """Return one draw's ranked lists and its prototype hits."""
    gallery, query = _side(sides["gallery"], vectors), _side(sides["query"], vectors)
    both = sides["gallery"]["part"].eq("both").any()
    ignored = (gallery[1], query[1]) if both else None
    ranking = rank(*gallery, *query, backend=backend, ignored=ignored, device=device, voters=voters)
    return ranking, prototype_hits(gallery, query, backend, device)


def _side(frame: pd.DataFrame, vectors: Vectors) -> Side:
    return vectors[frame["row"].to_numpy()], frame["id"].tolist(), frame["sku"].tolist()


def hits_without_duplicates(
    ranked: ProtocolAnswers,
    items: pd.DataFrame,
    vectors: Vectors,
    backend: Backend = "faiss",
    device: str = "cpu",
) -> pd.DataFrame:
    """Return the hits under the protocol `full` with each query's duplicates left out of its gallery.

    A query's duplicates are the gallery images of its own group. Queries that then have no image of their SKU
    left are dropped.

    Args:
        ranked: The ranked lists under `full`.
        items: Columns id, sku, role, group, in the order of `vectors`.
        vectors: [n, d], L2-normalised.
        backend: The library that proposes neighbours; it doesn't change the result.
        device: torch's name of the device to search on.

    Returns:
        Columns query, sku, hit (top-1); the index is the query's place in `ranked.ranking`.
    """
    items = items.assign(row=np.arange(len(items))).sort_values("id")
    gallery, query = (items[items["role"].eq(role)] for role in ("gallery", "query"))
    assert query["id"].tolist() == ranked.ranking.query_ids.tolist()
    copied = query["group"].isin(gallery["group"]).to_numpy()
    hits = ranked.ranking.skus[:, 0] == ranked.ranking.query_skus
    if copied.any():
        groups = gallery["group"].tolist(), query["group"][copied].tolist()
        ranking = rank(
            *_side(gallery, vectors),
            *_side(query[copied], vectors),
            backend=backend,
            ignored=groups,
            device=device,
        )
        hits[copied] = ranking.skus[:, 0] == ranking.query_skus  # both in order of id
    return _hits(ranked.ranking.query_ids, ranked.ranking, hits)[_has_other(query, gallery)]


def without_duplicates(
    hits: pd.DataFrame, ranked: ProtocolAnswers, params: EvaluateParams, seed: int
) -> NearDuplicateFree | None:
    """Return top-1 of the hits of `hits_without_duplicates`, or None if there are none.

    Args:
        hits: As `hits_without_duplicates` returned them.
        ranked: The ranked lists that they were made from.
        params: Confidence and number of resamples of the interval.
        seed: Of the resamples.
    """
    if hits.empty:
        return None
    groups = ranked.facts["group"].to_numpy(dtype=object)[hits.index]
    clusters = clusters_of(hits["sku"].to_numpy(dtype=object), groups)
    top1, bounds = interval(hits["hit"].to_numpy(dtype=np.bool_), clusters, params, seed)
    return NearDuplicateFree(
        top1=top1, interval=bounds, n=len(hits), without_partner=len(ranked.ranking) - len(hits)
    )


def _has_other(query: pd.DataFrame, gallery: pd.DataFrame) -> Flags:
    """Return whether each query's SKU has a gallery image outside the query's own group."""
    images, duplicates = Counter(gallery["sku"]), Counter(zip(gallery["sku"], gallery["group"], strict=True))
    pairs = zip(query["sku"], query["group"], strict=True)
    return np.array([images[sku] > duplicates[sku, group] for sku, group in pairs], dtype=np.bool_)
