"""Pairs of SKUs that a model takes for each other, with a typical picture of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.report.mistakes import Picture, Some, wrong
from skumatch.retrieval.ranking import Ranking


class Confused(NamedTuple):
    """One SKU of a pair.

    Attributes:
        sku: the SKU.
        picture: its gallery picture that queries match most often, as a data URI.
        taken: number of its queries that were answered with the other SKU.
        n: number of its queries.
    """

    sku: str
    picture: str
    taken: int
    n: int


class Pair(NamedTuple):
    """Two SKUs that are confused.

    Attributes:
        one: the SKU that is more often taken for the other.
        other: the other SKU.
    """

    one: Confused
    other: Confused


def confused_pairs(
    ranking: Ranking, first_of: Mapping[str, str], picture: Picture, limit: int = 8
) -> Some[Pair]:
    """Return the pairs of SKUs with the most wrong first answers, both directions together.

    Args:
        ranking: the ranked lists of all queries.
        first_of: id of a gallery image by SKU; queries of other SKUs don't count as mistakes.
        picture: opens an image by its id.
        limit: largest number of pairs.
    """
    counts = Counter((ranking.query_skus[i], ranking.skus[i, 0]) for i in wrong(ranking, first_of))
    both: Counter[tuple[str, str]] = Counter()
    for (shown, answered), count in counts.items():
        both[min(shown, answered), max(shown, answered)] += count
    order = sorted(both, key=lambda pair: (-both[pair], pair))
    queries, matched = Counter(ranking.query_skus), _matched(ranking)

    def side(sku: str, other: str) -> Confused:
        return Confused(
            sku,
            thumbnail(picture(_typical(matched.get(sku), first_of[sku]))),
            counts[sku, other],
            queries[sku],
        )

    pairs = [(b, a) if counts[b, a] > counts[a, b] else (a, b) for a, b in order[:limit]]
    return Some([Pair(side(first, second), side(second, first)) for first, second in pairs], len(order))


def _matched(ranking: Ranking) -> dict[str, Counter[str]]:
    """Count for each SKU how often each of its gallery images was its best one, for queries of any SKU."""
    counts: dict[str, Counter[str]] = {}
    for skus, ids in zip(ranking.skus, ranking.gallery_ids, strict=True):
        for sku, image_id in zip(skus, ids, strict=True):
            counts.setdefault(sku, Counter())[image_id] += 1
    return counts


def _typical(matched: Counter[str] | None, first: str) -> str:
    return min(matched, key=lambda image_id: (-matched[image_id], image_id)) if matched else first
