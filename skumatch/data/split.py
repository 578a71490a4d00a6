"""Who is trained on, who calibrates, who is in the gallery and who asks: a pure function of the manifest's content.

Roles: `train` and `val` (gallery images of trained SKUs), `gallery` (gallery images never trained on), `query` (the test
side) and `other` (catch-all classes). The gallery is train + val + gallery. Every draw hashes content, so neither order nor
the rest of the data changes it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa

from skumatch.config import DataParams, SplitParams
from skumatch.errors import DataError

SCHEMA = pa.schema([("id", pa.string()), ("sku", pa.string()), ("role", pa.string()), ("unseen", pa.bool_())])
GALLERY_ROLES = ("train", "val", "gallery")
MIN_FOR_VAL = 3


def share(text: str) -> float:
    """A number in [0, 1) fixed by `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def split(manifest: pd.DataFrame, params: SplitParams, data: DataParams, seed: int) -> pd.DataFrame:
    """Return id, sku, role, unseen for each row of the manifest, in order of id.

    A fixed `unseen_share` of SKUs (by their name alone) is never trained on. Of each other SKU's gallery images about
    `val_share` (by their pixels, so copies stay together) are kept from training, if it has at least three.
    Raises DataError if fewer than two SKUs remain to train on.
    """
    frame = manifest.sort_values("id", ignore_index=True)
    unseen = {sku: share(f"unseen:{sku}") < params.unseen_share for sku in frame["sku"].unique()}
    frame["unseen"] = frame["sku"].map(unseen).astype(bool)
    in_val = np.array([share(f"val:{seed}:{pixels}") < params.val_share for pixels in frame["pixels"]])
    gallery = frame["side"].eq("train")
    large = frame["sku"].map(frame[gallery].groupby("sku").size()).fillna(0).ge(MIN_FOR_VAL)
    frame["role"] = np.select(
        [frame["sku"].isin(data.others), ~gallery, frame["unseen"], large & in_val],
        ["other", "query", "gallery", "val"],
        "train",
    )
    trained = frame.loc[frame["role"].eq("train"), "sku"].nunique()
    if trained < 2:
        raise DataError(f"Only {trained} SKU would be left to train on; deliver more SKUs or lower split.unseen_share.")
    roles: pd.DataFrame = frame[SCHEMA.names]
    return roles
