"""The answers that a gallery gives in service: the nearest product, or `unknown` for none of its products."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from skumatch.params import EvaluateParams
from skumatch.retrieval import statistics
from skumatch.retrieval.calibration import Embedded, scores
from skumatch.retrieval.clusters import clusters_of
from skumatch.retrieval.metrics import Flags, Places
from skumatch.retrieval.search import Backend, SearchIndex, Vectors, nearest_products
from skumatch.retrieval.thresholds import Thresholds, scores_of

# A query of at least this cosine counts as a gallery's own picture; batches change a cosine by 1e-6.
SAME_COSINE = 0.9999
CANDIDATES = ("served", "released", "refreshed", "challenger")
OLD, NEW, RETIRED, OTHER = "old", "new", "retired", "other"
PHOTO, GALLERY = "photo", "gallery"
HELD = "held-back"  # the role of gallery pictures of products that are held back
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("query", "asked_as", "sku", "group", "status")),
        *(column for name in CANDIDATES for column in ((name, pa.string()), (f"{name}_unknown", pa.bool_()))),
    ]
)


@dataclass(frozen=True, eq=False)
class ServedGallery:
    """A candidate's gallery as it serves, and its encoder's vectors of today's pictures.

    Attributes:
        skus: [n], products of the gallery's images, in order of their ids.
        vectors: [n, d], of the same images.
        thresholds: The thresholds that the gallery serves with.
        backend: The library that proposes neighbours.
        device: torch's name of the device to search on.
        pictures: [m, d], vectors of all of today's pictures, by the same encoder.
    """

    skus: list[str]
    vectors: Vectors
    thresholds: Thresholds
    backend: Backend
    device: str
    pictures: Vectors

    def answer(self, rows: Places) -> tuple[list[str], Flags]:
        """Return each picture's nearest product, and whether the picture is called unknown.

        Args:
            rows: Places of the pictures among today's pictures.
        """
        if not len(rows):
            return [], np.zeros(0, np.bool_)
        index = SearchIndex(self.vectors, self.backend, self.device)
        lists = nearest_products(index, self.skus, self.pictures[rows], min(2, len(set(self.skus))))
        return [self.skus[nearest[0][0]] for nearest in lists], self.thresholds.unknown(scores_of(lists))

    def holds(self, rows: Places) -> Flags:
        """Return whether each of today's pictures at `rows` is one of the gallery's own, by its vector."""
        similarities, _ = SearchIndex(self.vectors, self.backend, self.device).nearest(self.pictures[rows], 1)
        own: Flags = similarities[:, 0] >= SAME_COSINE
        return own


def ask(embedded: Embedded, galleries: dict[str, ServedGallery], candidate: str) -> pd.DataFrame:
    """Query the galleries with all photos that show how well they serve.

    These are the test photos, all photos of retired products, and the gallery photos of new products that
    have no test photo left. The latter are matched with the candidate's gallery without their own duplicates.
    Photos that a gallery holds itself, and all of their duplicate groups, are left out; pictures of products
    that are held back count as held, too.

    Args:
        embedded: Today's pictures, embedded by the candidate's encoder, and its gallery.
        galleries: Galleries by names of CANDIDATES; `served` and `candidate` are among them.
        candidate: `refreshed` or `challenger`.

    Returns:
        One row per query, columns as in SCHEMA (those of absent candidates are empty), sorted by query.
    """
    items = embedded.items
    served, today = set(galleries["served"].skus), set(embedded.gallery["sku"])
    photos = _unseen_photos(items, [gallery for name, gallery in galleries.items() if name != candidate])
    rows = [photos.assign(asked_as=PHOTO, **_answers(photos.index.to_numpy(), galleries))]
    new_without_photo = today - served - set(photos["sku"])
    alone = items[items["role"].eq("gallery") & items["sku"].isin(new_without_photo)]
    if len(alone):
        rows.append(_left_out(embedded, alone, galleries[candidate].thresholds, candidate))
    table = pd.concat(rows).rename(columns={"id": "query"})
    status = {sku: _status(sku, served, today) for sku in table["sku"].unique()}
    whole = table.assign(status=table["sku"].map(status)).reindex(columns=SCHEMA.names)
    return whole.sort_values(["asked_as", "query"], ignore_index=True)


def beside(table: pd.DataFrame, other: pd.DataFrame, candidate: str) -> pd.DataFrame:
    """Put `candidate`'s answers from another table in the place of its answers in `table`.

    Args:
        table: As `ask` made it.
        other: As `ask` made it for `candidate`; its queries include those of `table`.
        candidate: A name of CANDIDATES.
    """
    key, columns = ["query", "asked_as"], [candidate, f"{candidate}_unknown"]
    whole = table.drop(columns=columns).merge(other[key + columns], on=key, how="left", validate="one_to_one")
    return whole.reindex(columns=SCHEMA.names)


def _unseen_photos(items: pd.DataFrame, others: list[ServedGallery]) -> pd.DataFrame:
    """Return queries and photos of retired products of which no gallery holds the photo or a duplicate."""
    photos = items[items["role"].isin(["query", RETIRED])]
    groups = set(items.loc[items["role"].isin(["gallery", HELD]), "group"])
    for gallery in others:
        groups |= set(photos["group"][gallery.holds(photos.index.to_numpy())])
    return photos[~photos["group"].isin(groups)][["id", "sku", "group"]]


def _answers(rows: Places, galleries: dict[str, ServedGallery]) -> dict[str, Any]:
    """Return the columns of all galleries' answers to the pictures at `rows`."""
    columns: dict[str, Any] = {}
    for name, gallery in galleries.items():
        columns[name], columns[f"{name}_unknown"] = gallery.answer(rows)
    return columns


def _left_out(embedded: Embedded, rows: pd.DataFrame, thresholds: Thresholds, candidate: str) -> pd.DataFrame:
    """Match gallery photos with the candidate's gallery without their duplicates.

    A product that has no other gallery photo gets one row without an answer.
    """
    ranking = embedded.rank(rows)
    assert ranking.depth is not None
    answerable = ranking.depth.right > 0
    groups = dict(zip(rows["id"], rows["group"], strict=True))
    nearest = zip(ranking.skus[:, 0], thresholds.unknown(scores(ranking)), answerable, strict=True)
    replies = [(sku, bool(unknown)) if has_other else (None, None) for sku, unknown, has_other in nearest]
    table = pd.DataFrame(
        {
            "id": ranking.query_ids,
            "sku": ranking.query_skus,
            "group": [groups[name] for name in ranking.query_ids],
            "asked_as": GALLERY,
            candidate: [sku for sku, _ in replies],
            f"{candidate}_unknown": [unknown for _, unknown in replies],
        }
    )
    silent = table[~table["sku"].isin(table.loc[answerable, "sku"])].drop_duplicates("sku")
    return pd.concat([table[answerable], silent])


def _status(sku: str, served: Collection[str], today: Collection[str]) -> str:
    if sku in today:
        return OLD if sku in served else NEW
    return RETIRED if sku in served else OTHER


class Share(BaseModel):
    """Answers to the photos of some products.

    Attributes:
        n: Number of photos.
        skus: Number of products among them.
        right: Share of photos whose answer is the right product, from 0 to 1.
        wrong: Share of photos whose answer is another product.
        unknown: Share of photos called unknown.
        interval: Two-sided bounds of `right`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    skus: int
    right: float
    wrong: float
    unknown: float
    interval: tuple[float, float]


Shares = dict[str, dict[str, Share]]  # candidate -> part of the products -> its shares


def shares(table: pd.DataFrame, params: EvaluateParams, seed: int) -> Shares:
    """Summarise each candidate's answers to the test photos of today's products.

    A right answer names the product and doesn't call the photo unknown. A candidate whose gallery lacks a
    product can't answer its photos right.

    Args:
        table: As `ask` made it.
        params: Confidence and number of resamples of the intervals.
        seed: Of the resamples.

    Returns:
        Candidate -> `all`, OLD and NEW, as far as there are such photos -> shares.
    """
    photos = table[table["asked_as"].eq(PHOTO) & table["status"].isin([OLD, NEW])]
    parts = {"all": photos, OLD: photos[photos["status"].eq(OLD)], NEW: photos[photos["status"].eq(NEW)]}
    present = [name for name in CANDIDATES if photos[name].notna().any()]
    return {
        name: {part: _share(rows, name, params, seed) for part, rows in parts.items() if len(rows)}
        for name in present
    }


def _share(rows: pd.DataFrame, name: str, params: EvaluateParams, seed: int) -> Share:
    unknown = rows[f"{name}_unknown"].to_numpy(dtype=np.bool_)
    right = rows[name].eq(rows["sku"]).to_numpy(dtype=np.bool_) & ~unknown
    clusters = clusters_of(rows["sku"].to_numpy(dtype=object), rows["group"].to_numpy(dtype=object))
    bounds = statistics.mean_interval(right, clusters, params.confidence, seed, params.resamples)
    return Share(
        n=len(rows),
        skus=rows["sku"].nunique(),
        right=float(right.mean()),
        wrong=float((~right & ~unknown).mean()),
        unknown=float(unknown.mean()),
        interval=(bounds.low, bounds.high),
    )
