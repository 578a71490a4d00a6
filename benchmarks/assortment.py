"""Value of knowing a shop's assortment: photos matched with all products and with a part of them.

The SKUs are shuffled and cut into assortments of about one size, many times over, so each SKU is in as many
assortments as any other. Every photo is matched with every assortment: those that have its product and those
that lack it. Thresholds are fitted as for a bundle, once on the whole gallery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.contests import ContestRequest, contests
from skumatch.bundle import LabelledVectors
from skumatch.bundle.assortment import Shelves
from skumatch.errors import ParameterError
from skumatch.model.embed import embed
from skumatch.params import Params
from skumatch.retrieval import statistics
from skumatch.retrieval.calibration import Embedded, fit_thresholds
from skumatch.retrieval.statistics import Interval
from skumatch.retrieval.thresholds import Thresholds, scores_of

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

Flags = NDArray[np.bool_]
Shares = NDArray[np.float64]
CONFIDENCE = 0.95


class ShopPhotos(NamedTuple):
    """Embedded photos of a shop.

    Attributes:
        gallery: the whole gallery.
        skus: SKU of each query, [n].
        vectors: vector of each query, [n, dim].
        thresholds: thresholds that the gallery serves with.
    """

    gallery: LabelledVectors
    skus: NDArray[np.object_]
    vectors: NDArray[np.float32]
    thresholds: Thresholds


@dataclass(frozen=True)
class Worth:
    """Results for assortments of about one size. Shares are means over photos; intervals resample SKUs.

    Attributes:
        size: mean number of products in an assortment.
        assortments: number of assortments.
        queries: number of photos whose product is in the gallery.
        skus: number of their SKUs.
        whole: top-1 of these photos in the whole gallery.
        restricted: top-1 of the same photos in the assortments that have their product.
        gain: paired difference, `restricted` minus `whole`.
        whole_unknown: share of these photos that is called unknown in the whole gallery.
        inside_unknown: share of them that is called unknown in assortments that have their product.
        outside_unknown: share of all photos that is called unknown in assortments that lack their product.
        outside_by_similarity: the same, if the similarity's threshold alone decides.
    """

    size: float
    assortments: int
    queries: int
    skus: int
    whole: Interval
    restricted: Interval
    gain: Interval
    whole_unknown: Interval
    inside_unknown: Interval
    outside_unknown: Interval
    outside_by_similarity: Interval


def bench_assortment(photos: ShopPhotos, shares: Sequence[float], rounds: int, seed: int) -> Iterator[Worth]:
    """Measure assortments of each share of the SKUs.

    Args:
        photos: gallery, queries and thresholds.
        shares: sizes of assortments as shares of the gallery's SKUs, above 0 and at most 0.5.
        rounds: how often the SKUs are shuffled and cut into assortments.
        seed: of the shuffles.

    Raises:
        ParameterError: for a share out of range, or of less than one SKU.
    """
    shelves = Shelves(photos.gallery)
    whole = answers(shelves, photos, None)
    for share in shares:
        cuts = list(assortments(sorted(set(photos.gallery.skus)), share, rounds, seed))
        yield _worth(whole, [answers(shelves, photos, cut) for cut in cuts], cuts, photos, seed)


def assortments(skus: Sequence[str], share: float, rounds: int, seed: int) -> Iterator[tuple[str, ...]]:
    """Yield assortments of about `share` of the `skus`; each SKU is in `rounds` of them.

    Args:
        skus: names of all SKUs.
        share: size of an assortment as a share of the SKUs, above 0 and at most 0.5.
        rounds: how often the SKUs are shuffled and cut into assortments.
        seed: of the shuffles.

    Raises:
        ParameterError: for a share out of range, or of less than one SKU.
    """
    parts = round(1 / share) if 0 < share <= 0.5 else 0
    if not 2 <= parts <= len(skus):
        limits = f"from {1 / len(skus):.2g} to 0.5, as there are {len(skus)} SKUs"
        raise ParameterError(f"--shares has {share:g}; give shares {limits}.")
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        for part in np.array_split(generator.permutation(len(skus)), parts):
            yield tuple(sorted(skus[number] for number in part))


class Answers(NamedTuple):
    """Flags of each query, [n].

    Attributes:
        right: whether the nearest picture is of its product.
        unknown: whether it is called unknown.
        dissimilar: whether it would be called unknown by the similarity's threshold alone.
    """

    right: Flags
    unknown: Flags
    dissimilar: Flags


def answers(shelves: Shelves, photos: ShopPhotos, assortment: Sequence[str] | None) -> Answers:
    """Match the queries with an assortment.

    Args:
        shelves: the gallery, by product.
        photos: queries and thresholds.
        assortment: SKUs of the assortment; None for the whole gallery.
    """
    part = shelves.part(shelves.resolve(assortment) if assortment else None)
    lists = part.nearest(photos.vectors, 2)
    nearest = np.array([part.gallery.skus[row] for [(row, _), *_] in lists], dtype=object)
    scores = scores_of(lists)
    similarity_alone = photos.thresholds.model_copy(update={"margin": None})
    return Answers(
        nearest == photos.skus, photos.thresholds.unknown(scores), similarity_alone.unknown(scores)
    )


def _worth(
    whole: Answers,
    replies: Sequence[Answers],
    cuts: Sequence[Sequence[str]],
    photos: ShopPhotos,
    seed: int,
) -> Worth:
    inside = np.array([np.isin(photos.skus, np.array(cut, dtype=object)) for cut in cuts])
    known = np.isin(photos.skus, np.array(photos.gallery.skus, dtype=object))
    right, unknown, dissimilar = (np.array(columns) for columns in zip(*replies, strict=True))
    restricted = _mean(right, inside)[known]
    skus, before = photos.skus[known], whole.right[known].astype(np.float64)

    def share(values: NDArray[np.float64] | Flags, clusters: NDArray[np.object_]) -> Interval:
        return statistics.mean_interval(values, clusters, CONFIDENCE, seed)

    return Worth(
        size=float(np.mean([len(cut) for cut in cuts])),
        assortments=len(cuts),
        queries=int(known.sum()),
        skus=len(set(skus)),
        whole=share(before, skus),
        restricted=share(restricted, skus),
        gain=statistics.change_interval(restricted - before, skus, CONFIDENCE, seed),
        whole_unknown=share(whole.unknown[known], skus),
        inside_unknown=share(_mean(unknown, inside)[known], skus),
        outside_unknown=share(_mean(unknown, ~inside), photos.skus),
        outside_by_similarity=share(_mean(dissimilar, ~inside), photos.skus),
    )


def _mean(values: Flags, among: Flags) -> Shares:
    """Return each query's mean [n] over the assortments flagged by `among` [cuts, n]; 0 if there are none."""
    counts = among.sum(axis=0)
    shares: Shares = (values & among).sum(axis=0) / np.maximum(counts, 1)
    return shares


def photos_of(encoder: Encoder, folder: Path, skus: Mapping[str, str] | None, params: Params) -> ShopPhotos:
    """Embed a folder's photos and fit thresholds on its gallery, as for SKUs never trained on.

    Args:
        encoder: one that was trained on none of the photos; else its thresholds are too high.
        folder: in RP2K's layout.
        skus: only those SKUs, each with the place that names it.
        params: how to embed, and `evaluate.unknown_rate`.

    Raises:
        DataError: as `contests` does, for a folder without such photos.
    """
    contest = next(contests(ContestRequest(folder, skus, epochs=1), None, params))
    sides = (contest.gallery, contest.queries)
    vectors = [embed(encoder, side, params.embed.batch, params.runtime) for side in sides]
    ids, names = contest.gallery.ids, contest.gallery.skus
    copies = [hashlib.sha256(contest.gallery.read_bytes(row)).hexdigest() for row in range(len(ids))]
    items = pd.DataFrame({"id": ids, "sku": names, "role": "gallery", "group": copies, "trained": False})
    embedded = Embedded(items, vectors[0], params.search.backend)
    thresholds = fit_thresholds(embedded, params.evaluate.unknown_rate)
    gallery = LabelledVectors(ids, names, vectors[0])
    return ShopPhotos(gallery, np.array(contest.queries.skus, dtype=object), vectors[1], thresholds)
