"""A contact sheet of matches: each product with its matched pictures, the least similar ones first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from jinja2 import Environment
from PIL import Image

from skumatch.data.images import Images
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.matching.batch import MatchPlan, without_thresholds
from skumatch.texts import page_environment

SIDE = 144  # pixels of a picture's longer side
GROUPS, EACH, STRANGERS = 80, 12, 60  # products, pictures of each, unknown pictures shown
COLUMNS = ["id", "sku", "unknown", "similarity", "skus", "problem"]


class MatchedPhoto(NamedTuple):
    """A matched picture.

    Attributes:
        name: Its id.
        picture: A thumbnail, as a data URI.
        similarity: To the nearest gallery image.
        nearest: The SKU of that image.
    """

    name: str
    picture: str
    similarity: float
    nearest: str


class Group(NamedTuple):
    """Pictures with the same answer.

    Attributes:
        sku: The answer; None for unknown.
        shots: The first pictures.
        total: Number of all pictures.
        gallery: A thumbnail of a gallery picture of the product, as a data URI; None where there is none.
    """

    sku: str | None
    shots: list[MatchedPhoto]
    total: int
    gallery: str | None

    @property
    def more(self) -> int:
        """Number of pictures that are not shown."""
        return self.total - len(self.shots)


def page(plan: MatchPlan, gallery: Callable[[str], Image.Image | None]) -> str:
    """Render the plan's table as one HTML file with everything in it; all text is escaped.

    `gallery` returns a picture of a SKU, or None.
    """
    images = plan.images
    rows = (
        pq.read_table(plan.out, columns=COLUMNS)
        .to_pandas()
        .assign(at=range(len(images)))
        .sort_values(["similarity", "id"])
    )
    known, unknown = rows[rows["sku"].notna()], rows[rows["unknown"].eq(True)]
    sizes = known["sku"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    facts = {
        "pictures": len(rows),
        "matched": len(known),
        "skus": len(sizes),
        "unknown": _group(None, unknown[::-1], images, STRANGERS, gallery),
        "problems": rows["problem"].value_counts().to_dict(),
        "groups": [
            _group(str(sku), known[known["sku"].eq(sku)], images, EACH, gallery)
            for sku in sizes.index[:GROUPS]
        ],
        "unknown_words": plan.unknown_words,
        "no_thresholds": without_thresholds(plan.bundle),
        "bundle": plan.bundle.hash,
    }
    return _environment().get_template("matches.html.jinja").render(facts)


def _group(
    sku: str | None,
    rows: pd.DataFrame,
    images: Images,
    limit: int,
    gallery: Callable[[str], Image.Image | None],
) -> Group:
    shots = [_shot(row, images) for _, row in rows.head(limit).iterrows()]
    product = None if sku is None else gallery(sku)
    return Group(sku, shots, len(rows), thumbnail(product, SIDE) if product else None)


def _shot(row: Any, images: Images) -> MatchedPhoto:
    return MatchedPhoto(
        row["id"], thumbnail(images[row["at"]], SIDE), float(row["similarity"]), str(row["skus"][0])
    )


@cache
def _environment() -> Environment:
    return page_environment("skumatch.matching")
