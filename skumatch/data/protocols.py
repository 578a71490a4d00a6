"""Evaluation protocols: the queries and the gallery of each; every figure belongs to one protocol.

- full: all queries against the whole gallery.
- k5: at most five pictures of each SKU as queries and in the gallery, in ten draws.
- test_loo: the test side against itself, each query itself left out.
- unseen: queries and gallery of the SKUs never trained on.
- catalogue: all queries against catalogue pictures.

Catch-all classes are in no protocol.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pandas as pd
import pyarrow as pa

from skumatch.data.split import GALLERY_ROLES, share

# part: gallery, query or both
SCHEMA = pa.schema([("draw", pa.int64()), ("id", pa.string()), ("part", pa.string())])
DRAWS, AT_MOST = 10, 5
PROTOCOLS = ("full", "k5", "test_loo", "unseen", "catalogue")


def protocols(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Choose the pictures of each protocol.

    Draws hash the pictures' bytes, so names don't matter.

    Args:
        rows: columns id, sku, role, unseen, sha256, and side if catalogue pictures may serve in the gallery.

    Returns:
        For each protocol that has a gallery and queries, its rows, sorted: draw, id, part.
    """
    gallery, query = rows["role"].isin(GALLERY_ROLES), rows["role"].eq("query")
    catalogue = rows["role"].eq("catalogue") | (gallery & rows.get("side", rows["role"]).eq("catalogue"))
    made = {
        "full": _one(rows, gallery, query),
        "k5": pd.concat([_few(rows[gallery], rows[query], draw) for draw in range(DRAWS)]),
        "test_loo": rows[query].assign(draw=0, part="both"),
        "unseen": _one(rows, gallery & rows["unseen"], query & rows["unseen"]),
        "catalogue": _one(rows, catalogue, query),
    }
    whole = {
        name: frame
        for name, frame in made.items()
        if {"gallery", "query"} <= set(frame["part"]) or set(frame["part"]) == {"both"}
    }
    return {
        name: frame[SCHEMA.names].sort_values(SCHEMA.names, ignore_index=True)
        for name, frame in whole.items()
    }


def _one(rows: pd.DataFrame, gallery: pd.Series[bool], query: pd.Series[bool]) -> pd.DataFrame:
    return pd.concat([rows[gallery].assign(draw=0, part="gallery"), rows[query].assign(draw=0, part="query")])


def _few(gallery: pd.DataFrame, query: pd.DataFrame, draw: int) -> pd.DataFrame:
    return pd.concat(
        [
            _sampled(side, draw).assign(draw=draw, part=part)
            for part, side in (("gallery", gallery), ("query", query))
        ]
    )


def _sampled(side: pd.DataFrame, draw: int) -> pd.DataFrame:
    lots = side.assign(lot=[share(f"k5:{draw}:{digest}") for digest in side["sha256"]])
    return lots.sort_values(["lot", "id"]).groupby("sku").head(AT_MOST)


def describe(rows: pd.DataFrame, made: dict[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Describe each protocol.

    Args:
        rows: columns id, sha256 and sku of all pictures.
        made: the protocols' rows, as `protocols` returns them.

    Returns:
        For each protocol: draws (their number), gallery and queries (rows in all draws), and hash, a SHA-256
        of its content that doesn't depend on the files' names.
    """
    facts = {}
    for name, frame in made.items():
        part = frame["part"].value_counts()
        facts[name] = {
            "draws": int(frame["draw"].nunique()),
            "gallery": int(part.get("gallery", part.get("both", 0))),
            "queries": int(part.get("query", part.get("both", 0))),
            "hash": _content(frame.merge(rows[["id", "sha256", "sku"]], on="id", validate="many_to_one")),
        }
    return facts


def _content(frame: pd.DataFrame) -> str:
    columns = (frame[name].astype(str) for name in ("draw", "part", "sha256", "sku"))
    lines = sorted(" ".join(values) + "\n" for values in zip(*columns, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
