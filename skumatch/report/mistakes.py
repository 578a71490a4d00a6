"""Where a model goes wrong: its worst SKUs, and pictures of its mistakes small enough to be shown in a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import pandas as pd
from PIL import Image

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.retrieval.ranking import Ranking

SMALL = 112  # pixels of a neighbour's longer side; there are five of them for each query
T = TypeVar("T")
Picture = Callable[[str], Image.Image]


class Some(NamedTuple, Generic[T]):
    """What is shown of `total` things, the first in some order."""

    shown: Sequence[T]
    total: int

    @property
    def more(self) -> int:
        return self.total - len(self.shown)


def nothing() -> Some[Any]:
    return Some((), 0)


class Shot(NamedTuple):
    """A small picture (a data URI) of a SKU, and the query's similarity to it (None for the query itself)."""

    sku: str
    picture: str
    similarity: float | None = None


class Mistake(NamedTuple):
    """A query whose nearest SKU is wrong: itself, its own SKU's best gallery picture, and the five nearest SKUs, best first.

    place: where its own SKU came among the listed SKUs, from 1; None if it is not listed.
    """

    query: Shot
    right: Shot
    predicted: tuple[Shot, ...]
    place: int | None


class WeakSku(NamedTuple):
    """A SKU, its scored queries, top-1 of challenger and champion (None = no champion), and what it is mostly taken for."""

    sku: str
    n: int
    top1: float
    champion_top1: float | None
    taken_for: str | None


def weak_skus(
    ranking: Ranking, per_sku: pd.DataFrame, champion_per_sku: pd.DataFrame | None, limit: int = 12
) -> Some[WeakSku]:
    """The SKUs with the lowest top-1 below 1, the ones with more queries first.

    `per_sku` has columns sku, n, top1.
    """
    before = (
        {}
        if champion_per_sku is None
        else dict(zip(champion_per_sku["sku"], champion_per_sku["top1"], strict=True))
    )
    taken: dict[str, Counter[str]] = {}
    for sku, first in zip(ranking.query_skus, ranking.skus[:, 0], strict=True):
        if sku != first:
            taken.setdefault(sku, Counter())[first] += 1
    weak = per_sku[per_sku["top1"] < 1].sort_values(["top1", "n", "sku"], ascending=[True, False, True])
    rows = weak.head(limit)
    listed = zip(rows["sku"].tolist(), rows["n"].tolist(), rows["top1"].tolist(), strict=True)
    return Some(
        [WeakSku(sku, n, top1, before.get(sku), _most(taken.get(sku, Counter()))) for sku, n, top1 in listed],
        len(weak),
    )


def wrong(ranking: Ranking, skus: Mapping[str, object]) -> list[int]:
    """The queries whose nearest SKU is another one, among those of `skus`, which have a gallery picture."""
    return [
        i
        for i in range(len(ranking))
        if ranking.query_skus[i] in skus and ranking.skus[i, 0] != ranking.query_skus[i]
    ]


def first_pictures(gallery_ids: Sequence[str], gallery_skus: Sequence[str]) -> dict[str, str]:
    """SKU -> the first of its gallery images by id."""
    first_of: dict[str, str] = {}
    for image_id, sku in sorted(zip(gallery_ids, gallery_skus, strict=True)):
        first_of.setdefault(sku, image_id)
    return first_of


def find_mistakes(
    ranking: Ranking, first_of: Mapping[str, str], picture: Picture, limit: int = 18
) -> Some[Mistake]:
    """Up to `limit` mistakes, of as many SKUs as possible, the most confident ones of each first.

    `first_of` has a gallery image of each SKU; queries of other SKUs are no mistakes. `picture` opens an
    image by its id.
    """
    found = sorted(
        wrong(ranking, first_of), key=lambda i: (-ranking.similarities[i, 0], ranking.query_ids[i])
    )
    turns: Counter[str] = Counter()
    order: list[tuple[int, int, int]] = []  # turn of its SKU, confidence's rank, query
    for i in found:
        turns[ranking.query_skus[i]] += 1
        order.append((turns[ranking.query_skus[i]], len(order), i))
    return Some([_mistake(ranking, i, first_of, picture) for _, _, i in sorted(order)[:limit]], len(found))


def _mistake(ranking: Ranking, i: int, first_of: Mapping[str, str], picture: Picture) -> Mistake:
    sku, listed = ranking.query_skus[i], list(ranking.skus[i])
    place = listed.index(sku) if sku in listed else None
    shots = [
        Shot(name, thumbnail(picture(image_id), SMALL), float(similarity))
        for name, image_id, similarity in zip(
            listed, ranking.gallery_ids[i], ranking.similarities[i], strict=True
        )
        if name  # a list that is too short ends in empty names
    ]
    if place is None:
        right = Shot(sku, thumbnail(picture(first_of[sku])))
    else:
        right = Shot(
            sku, thumbnail(picture(ranking.gallery_ids[i, place])), float(ranking.similarities[i, place])
        )
    return Mistake(
        Shot(sku, thumbnail(picture(ranking.query_ids[i]))),
        right,
        tuple(shots),
        None if place is None else place + 1,
    )


def _most(counts: Counter[str]) -> str | None:
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None
