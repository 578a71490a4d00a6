"""Where a model goes wrong: its worst SKUs, and pictures of its mistakes small enough to be shown in a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from PIL import Image

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.retrieval.evaluate import Ranking

PREDICTED = 3

Picture = Callable[[str], Image.Image]


class Shot(NamedTuple):
    """A small picture (a data URI) of a SKU, and the query's similarity to it (None for the query itself)."""

    sku: str
    picture: str
    similarity: float | None = None


class Mistake(NamedTuple):
    """A query whose nearest SKU is wrong: itself, its own SKU's best gallery picture, and the nearest SKUs, best first.

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


def weak_skus(ranking: Ranking, per_sku: pd.DataFrame, champion_per_sku: pd.DataFrame | None, limit: int = 12) -> list[WeakSku]:
    """The SKUs with the lowest top-1 below 1, the ones with more queries first. `per_sku` has columns sku, n, top1."""
    before = {} if champion_per_sku is None else dict(zip(champion_per_sku["sku"], champion_per_sku["top1"], strict=True))
    taken: dict[str, Counter[str]] = {}
    for sku, first in zip(ranking.query_skus, ranking.skus[:, 0], strict=True):
        if sku != first:
            taken.setdefault(sku, Counter())[first] += 1
    rows = per_sku[per_sku["top1"] < 1].sort_values(["top1", "n", "sku"], ascending=[True, False, True]).head(limit)
    listed = zip(rows["sku"].tolist(), rows["n"].tolist(), rows["top1"].tolist(), strict=True)
    return [WeakSku(sku, n, top1, before.get(sku), _most(taken.get(sku, Counter()))) for sku, n, top1 in listed]


def find_mistakes(
    ranking: Ranking, gallery_ids: Sequence[str], gallery_skus: Sequence[str], picture: Picture, limit: int = 24
) -> list[Mistake]:
    """Up to `limit` mistakes, of as many SKUs as possible, the most confident ones of each first.

    `picture` opens a gallery's or query's image by its id. Queries whose SKU has no gallery picture are no mistakes.
    """
    first_of: dict[str, str] = {}
    for image_id, sku in sorted(zip(gallery_ids, gallery_skus, strict=True)):
        first_of.setdefault(sku, image_id)
    wrong = [i for i in range(len(ranking)) if ranking.query_skus[i] in first_of and ranking.skus[i, 0] != ranking.query_skus[i]]
    wrong.sort(key=lambda i: (-ranking.similarities[i, 0], ranking.query_ids[i]))
    turns: Counter[str] = Counter()
    order: list[tuple[int, int, int]] = []  # turn of its SKU, confidence's rank, query
    for i in wrong:
        turns[ranking.query_skus[i]] += 1
        order.append((turns[ranking.query_skus[i]], len(order), i))
    return [_mistake(ranking, i, first_of, picture) for _, _, i in sorted(order)[:limit]]


def _mistake(ranking: Ranking, i: int, first_of: dict[str, str], picture: Picture) -> Mistake:
    sku, listed = ranking.query_skus[i], list(ranking.skus[i])
    place = listed.index(sku) if sku in listed else None
    shots = [
        Shot(name, thumbnail(picture(image_id)), float(similarity))
        for name, image_id, similarity in zip(listed[:PREDICTED], ranking.gallery_ids[i], ranking.similarities[i], strict=False)
    ]
    if place is None:
        right = Shot(sku, thumbnail(picture(first_of[sku])))
    else:
        right = Shot(sku, thumbnail(picture(ranking.gallery_ids[i, place])), float(ranking.similarities[i, place]))
    return Mistake(Shot(sku, thumbnail(picture(ranking.query_ids[i]))), right, tuple(shots), None if place is None else place + 1)


def _most(counts: Counter[str]) -> str | None:
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None
