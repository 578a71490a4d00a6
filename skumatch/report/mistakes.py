"""A model's errors: its worst SKUs, and its mistakes with pictures small enough for a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import pandas as pd
from PIL import Image

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.retrieval.ranking import Ranking

SMALL = 112  # pixels: longer side of a neighbour's picture; each query has five of them
T = TypeVar("T")
Picture = Callable[[str], Image.Image]


class Some(NamedTuple, Generic[T]):
    """The first of several things in some order.

    Attributes:
        shown: the things that are shown.
        total: the number of all things.
    """

    shown: Sequence[T]
    total: int

    @property
    def more(self) -> int:
        """The number of things that are not shown."""
        return self.total - len(self.shown)


def nothing() -> Some[Any]:
    """Return a Some without things."""
    return Some((), 0)


class MistakePhoto(NamedTuple):
    """A small picture of a SKU.

    Attributes:
        sku: the SKU.
        picture: the picture as a data URI.
        similarity: the query's similarity to it; None for the query itself, and where it isn't known.
    """

    sku: str
    picture: str
    similarity: float | None = None


class Mistake(NamedTuple):
    """A query whose nearest SKU is wrong.

    Attributes:
        query: the query's picture.
        right: the best gallery picture of the query's SKU.
        predicted: the five nearest SKUs, best first.
        place: the rank of the query's SKU among the listed SKUs, from 1; None if it isn't listed.
    """

    query: MistakePhoto
    right: MistakePhoto
    predicted: tuple[MistakePhoto, ...]
    place: int | None


class WeakSku(NamedTuple):
    """A SKU with a low top-1.

    Attributes:
        sku: the SKU.
        n: number of its scored queries.
        top1: the challenger's top-1, 0 to 1.
        champion_top1: the champion's top-1; None without a champion.
        taken_for: the SKU that it is mostly taken for; None if it never is.
    """

    sku: str
    n: int
    top1: float
    champion_top1: float | None
    taken_for: str | None


def weak_skus(
    ranking: Ranking, per_sku: pd.DataFrame, champion_per_sku: pd.DataFrame | None, limit: int = 12
) -> Some[WeakSku]:
    """Return the SKUs with the lowest top-1 below 1; of equal ones, those with more queries come first.

    Args:
        ranking: the ranked lists of all queries.
        per_sku: the challenger's figures, with the columns sku, n and top1.
        champion_per_sku: the champion's figures, likewise; None without a champion.
        limit: largest number of SKUs.
    """
    before = (
        {}
        if champion_per_sku is None
        else dict(zip(champion_per_sku["sku"], champion_per_sku["top1"], strict=True))
    )
    mistaken: dict[str, Counter[str]] = {}
    for sku, first in zip(ranking.query_skus, ranking.skus[:, 0], strict=True):
        if sku != first:
            mistaken.setdefault(sku, Counter())[first] += 1
    weak = per_sku[per_sku["top1"] < 1].sort_values(["top1", "n", "sku"], ascending=[True, False, True])
    rows = weak.head(limit)
    listed = zip(rows["sku"].tolist(), rows["n"].tolist(), rows["top1"].tolist(), strict=True)
    return Some(
        [
            WeakSku(sku, n, top1, before.get(sku), _most(mistaken.get(sku, Counter())))
            for sku, n, top1 in listed
        ],
        len(weak),
    )


def wrong(ranking: Ranking, skus: Mapping[str, object]) -> list[int]:
    """Return the places of queries whose nearest SKU is wrong.

    Args:
        ranking: the ranked lists of all queries.
        skus: the SKUs with a gallery picture; queries of other SKUs are left out.
    """
    return [
        i
        for i in range(len(ranking))
        if ranking.query_skus[i] in skus and ranking.skus[i, 0] != ranking.query_skus[i]
    ]


def first_pictures(gallery_ids: Sequence[str], gallery_skus: Sequence[str]) -> dict[str, str]:
    """Return for each SKU the first of its gallery images by id."""
    first_of: dict[str, str] = {}
    for image_id, sku in sorted(zip(gallery_ids, gallery_skus, strict=True)):
        first_of.setdefault(sku, image_id)
    return first_of


def find_mistakes(
    ranking: Ranking, first_of: Mapping[str, str], picture: Picture, limit: int = 18
) -> Some[Mistake]:
    """Return mistakes of as many SKUs as possible, the most confident ones of each SKU first.

    Args:
        ranking: the ranked lists of all queries.
        first_of: id of a gallery image by SKU; queries of other SKUs don't count as mistakes.
        picture: opens an image by its id.
        limit: largest number of mistakes.
    """
    mistakes = sorted(
        wrong(ranking, first_of), key=lambda i: (-ranking.similarities[i, 0], ranking.query_ids[i])
    )
    turns: Counter[str] = Counter()
    order: list[tuple[int, int, int]] = []  # turn of its SKU, rank by confidence, query
    for i in mistakes:
        turns[ranking.query_skus[i]] += 1
        order.append((turns[ranking.query_skus[i]], len(order), i))
    return Some([_mistake(ranking, i, first_of, picture) for _, _, i in sorted(order)[:limit]], len(mistakes))


def _mistake(ranking: Ranking, i: int, first_of: Mapping[str, str], picture: Picture) -> Mistake:
    sku, listed = ranking.query_skus[i], list(ranking.skus[i])
    place = listed.index(sku) if sku in listed else None
    shots = [
        MistakePhoto(name, thumbnail(picture(image_id), SMALL), float(similarity))
        for name, image_id, similarity in zip(
            listed, ranking.gallery_ids[i], ranking.similarities[i], strict=True
        )
        if name  # a list that is too short ends in empty names
    ]
    if place is None:
        right = MistakePhoto(sku, thumbnail(picture(first_of[sku])))
    else:
        right = MistakePhoto(
            sku, thumbnail(picture(ranking.gallery_ids[i, place])), float(ranking.similarities[i, place])
        )
    return Mistake(
        MistakePhoto(sku, thumbnail(picture(ranking.query_ids[i]))),
        right,
        tuple(shots),
        None if place is None else place + 1,
    )


def _most(counts: Counter[str]) -> str | None:
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None
