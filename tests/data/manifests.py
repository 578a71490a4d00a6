"""A sound manifest made without pictures: small, deterministic, with SKUs in several scripts."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from skumatch.data.manifest import COLUMNS, SCHEMA

NAMES = ("太太乐鸡精", "Café crème", "Milch 1 l", "ぶどうジュース", "Кефир")
PLACE, LENGTH = 1536, 1000


def made(skus: int = 20, train: int = 8, test: int = 3) -> pd.DataFrame:
    """A manifest: `train` and `test` images of each SKU, about 100 x 150 px, all of different pixels."""
    rows = [
        (f"{NAMES[i % len(NAMES)]} {i}", side, n)
        for i in range(skus)
        for side, count in (("train", train), ("test", test))
        for n in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["sku", "side", "number"])
    frame["name"] = [f"{number}_{place}.jpg" for place, number in enumerate(frame["number"])]
    frame["sha256"] = [
        hashlib.sha256(f"{sku}{name}".encode()).hexdigest()
        for sku, name in zip(frame["sku"], frame["name"], strict=True)
    ]
    frame["pixels"] = [digest[::-1] for digest in frame["sha256"]]
    frame["shard"] = [f"{place // 100:016x}.tar" for place in range(len(frame))]
    frame["offset"] = np.arange(len(frame)) % 100 * PLACE + 512
    frame["length"] = LENGTH
    frame["width"] = 100 + np.arange(len(frame)) % 7
    frame["height"] = 150 + np.arange(len(frame)) % 11
    frame["mode"], frame["format"] = "RGB", "JPEG"
    for field in SCHEMA:
        if field.type == pa.uint64():
            frame[field.name] = np.arange(len(frame), dtype=np.uint64)
    return typed(named(frame))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it would be read back from its file."""
    read: pd.DataFrame = pa.Table.from_pandas(frame[COLUMNS], schema=SCHEMA, preserve_index=False).to_pandas()
    return read


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the ids that its sides, SKUs and names ask for."""
    return frame.assign(id=frame["side"] + "/" + frame["sku"] + "/" + frame["name"])


def cell(frame: pd.DataFrame, column: str, value: Any, row: int = 3) -> pd.DataFrame:
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


def summary_of(frame: pd.DataFrame, quarantined: int = 0) -> dict[str, Any]:
    """The summary that an import would give."""
    aside = [
        {"id": f"train/x/{n}.jpg", "reason": "tiny", "sentence": "It is tiny."} for n in range(quarantined)
    ]
    return {"images": len(frame), "skus": int(frame["sku"].nunique()), "junk": {}, "quarantined": aside}
