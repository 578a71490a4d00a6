"""Pairs of SKUs that a model takes for each other, with a typical picture of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.report.mistakes import Picture, Some, wrong
from skumatch.retrieval.ranking import Ranking


class Confused(NamedTuple):
    """One SKU of a pair. picture: the gallery picture of it that queries match most often. taken: how many of its `n` queries were
    answered with the other SKU.
    """

    sku: str
    picture: str
    taken: int
    n: int


class Pair(NamedTuple):
    """Two SKUs, the one that is more often taken for the other first."""

    one: Confused
    other: Confused


def confused_pairs(
    ranking: Ranking, first_of: Mapping[str, str], picture: Picture, limit: int = 8
) -> Some[Pair]:
    """The pairs with the most wrong first answers, both directions together.

    `first_of` has a gallery image of each SKU; queries of other SKUs are no mistakes. `picture` opens an
    image by its id.
    """
    taken = Counter((ranking.query_skus[i], ranking.skus[i, 0]) for i in wrong(ranking, first_of))
    both: Counter[tuple[str, str]] = Counter()
    for (wanted, answered), count in taken.items():
        both[min(wanted, answered), max(wanted, answered)] += count
    order = sorted(both, key=lambda pair: (-both[pair], pair))
    queries, matched = Counter(ranking.query_skus), _matched(ranking)

    def side(sku: str, other: str) -> Confused:
        return Confused(
            sku,
            thumbnail(picture(_typical(matched.get(sku), first_of[sku]))),
            taken[sku, other],
            queries[sku],
        )

    turned = [(two, one) if taken[two, one] > taken[one, two] else (one, two) for one, two in order[:limit]]
    return Some([Pair(side(one, other), side(other, one)) for one, other in turned], len(order))


def _matched(ranking: Ranking) -> dict[str, Counter[str]]:
    """SKU -> how often each of its gallery images was its best one for a query, whatever the query's SKU."""
    found: dict[str, Counter[str]] = {}
    for skus, ids in zip(ranking.skus, ranking.gallery_ids, strict=True):
        for sku, image_id in zip(skus, ids, strict=True):
            found.setdefault(sku, Counter())[image_id] += 1
    return found


def _typical(matched: Counter[str] | None, first: str) -> str:
    return min(matched, key=lambda image_id: (-matched[image_id], image_id)) if matched else first
