"""The census of duplicates in a data version: exact ones by their pixels, near ones by hash and alignment.

Near-duplicates are scaled, recompressed, cropped by up to 5 % at an edge, or lit otherwise. Pairs with close
perceptual hashes, across SKUs too, are aligned and compared in colour. Confirmed pairs are joined to groups,
so that no pair is ever separated. Reasons and measurements: docs/decisions/0011-near-duplicates.md.
"""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skumatch.config import cores
from skumatch.data.duplicates.alignment import SIDE, Pictures, residuals, thumbnail
from skumatch.data.duplicates.neighbours import RADIUS, Codes, Indices, near_pairs
from skumatch.data.fingerprints import KINDS, Fingerprint, fingerprint, near_copy
from skumatch.data.images import Images
from skumatch.progress import Advance, track

SAMPLE = 256  # number of pictures in the sample
FOUND = 0.99  # share of made copies that the threshold must let pass
APART = 0.5  # the threshold is at most this share of the look-alikes' low residual


@dataclass(frozen=True)
class Calibration:
    """Residuals (share of variance that differs) of a sample of pictures, and the threshold that follows.

    Attributes:
        threshold: largest residual of a copy.
        sample: number of pictures.
        copies: 99th percentile of the residuals of copies made of them.
        within: 5th percentile for the nearest picture of the same SKU, by hash; None if there is none.
        across: 5th percentile for the nearest picture of another SKU, by hash; None if there is none.
        recall: share of the made copies that hash and threshold both find.
        look_alikes: share of the nearest pictures of other SKUs that the threshold calls copies.
    """

    threshold: float
    sample: int
    copies: float
    within: float | None
    across: float | None
    recall: float
    look_alikes: float


def calibrate(
    codes: Codes, pixels: list[str], skus: NDArray[Any], pictures: Images, max_residual: float
) -> Calibration:
    """Choose the threshold for distinct pictures, in order of pixel hash.

    It lets 99 % of made copies pass, and is at most half of the look-alikes' low residual and at most
    `max_residual`. If these contradict, the copies win over the look-alikes, and `max_residual` over both.

    Args:
        codes: perceptual hashes of each picture, [n, w].
        pixels: pixel hashes, in hex.
        skus: the SKU of each picture, [n].
        pictures: the pictures.
        max_residual: upper bound of the threshold.
    """
    sample = np.sort(np.argsort([_draw(digest) for digest in pixels], kind="stable")[:SAMPLE])
    with track("calibrate", 3 * len(sample)) as advance:
        small = np.stack([thumbnail(pictures[i]) for i in sample])
        copies = []
        for place, i in enumerate(sample.tolist()):
            copies.append(_copy(pictures, i, pixels[i], KINDS[place % len(KINDS)]))
            advance()
        near = {
            same: _nearest_residuals(codes, skus, sample, pictures, same, advance) for same in (True, False)
        }
    differ = residuals(small, np.stack([thumbnail(copy) for copy in copies]))
    hashed = np.array(
        [
            _bits_apart(codes[i : i + 1], fingerprint(copy))[0] <= RADIUS
            for i, copy in zip(sample, copies, strict=True)
        ]
    )
    high, low = float(np.quantile(differ, FOUND)), _low(near[False])
    threshold = min(max_residual, max(high, APART * (low if low is not None else max_residual)))
    return Calibration(
        threshold=threshold,
        sample=len(sample),
        copies=high,
        within=_low(near[True]),
        across=low,
        recall=float(np.mean(hashed & (differ <= threshold))),
        look_alikes=float(np.mean(near[False] <= threshold)) if len(near[False]) else 0.0,
    )


def _draw(digest: str) -> str:
    return hashlib.sha256(f"calibrate:{digest}".encode()).hexdigest()


def _copy(pictures: Images, i: int, digest: str, kind: str) -> Any:
    seed = list(hashlib.sha256(digest.encode()).digest())
    return near_copy(pictures[i], np.random.default_rng(seed), kind)


def _bits_apart(codes: Codes, hashes: Any) -> Indices:
    """Return the least bits by which any hash of each row of `codes` differs from any of `hashes`."""
    apart = [np.bitwise_count(codes ^ np.uint64(value)).min(axis=1) for value in hashes]
    least: Indices = np.min(apart, axis=0).astype(np.int64)
    return least


def _nearest_residuals(
    codes: Codes,
    skus: NDArray[Any],
    sample: Indices,
    pictures: Images,
    same: bool,
    advance: Advance,
) -> NDArray[np.float64]:
    """Return the residual of each sampled picture and its nearest picture, by hash.

    Args:
        codes: perceptual hashes of each picture, [n, w].
        skus: the SKU of each picture, [n].
        sample: rows of the sampled pictures.
        pictures: the pictures.
        same: True for the nearest picture of the same SKU, False for that of another SKU.
        advance: is called after each sampled picture.
    """
    pairs = []
    for i in sample.tolist():
        others = np.flatnonzero((skus == skus[i]) == same)
        others = others[others != i]
        if len(others):
            pairs.append((i, int(others[np.argmin(_bits_apart(codes[others], codes[i]))])))
        advance()
    if not pairs:
        return np.empty(0)
    first = np.stack([thumbnail(pictures[sampled]) for sampled, _ in pairs])
    second = np.stack([thumbnail(pictures[nearest]) for _, nearest in pairs])
    return residuals(first, second)


def _low(values: NDArray[np.float64]) -> float | None:
    return float(np.quantile(values, 0.05)) if len(values) else None


PAIRS = 2048  # compared at a time


@dataclass(frozen=True)
class Census:
    """Result of the search for duplicates.

    Attributes:
        groups: for each row of the manifest the least pixel hash of its group. A picture without copies is a
            group of its own.
        facts: counts of pairs, groups and images, and the calibration, for split.json.
    """

    groups: NDArray[Any]
    facts: dict[str, Any]


def find_duplicates(manifest: pd.DataFrame, pictures: Images, max_residual: float) -> Census:
    """Group the manifest's pictures by their content alone; neither names nor order matter.

    Args:
        manifest: the rows.
        pictures: the rows' pictures, in their order.
        max_residual: upper bound on the share of a picture's variance by which a copy may differ; the
            calibration on the data may choose a lower one.

    Raises:
        ImageError: for a picture that can't be decoded.
        StorageError: for a picture that can't be read.
    """
    place = np.lexsort((manifest["sku"].astype(str), manifest["pixels"].astype(str)))
    distinct = place[~manifest["pixels"].iloc[place].duplicated().to_numpy()]
    rows, pictures = manifest.iloc[distinct].reset_index(drop=True), pictures.take(distinct.tolist())
    codes = rows[list(Fingerprint._fields)].to_numpy(np.uint64)
    skus = pd.factorize(rows["sku"])[0]  # numbers are compared much faster than names
    calibration = calibrate(codes, rows["pixels"].tolist(), skus, pictures, max_residual)
    pairs, _ = near_pairs(codes)
    confirmed = pairs[_differences(pairs, pictures) <= calibration.threshold]
    label = _joined(confirmed, len(rows))
    # Rows are in order of pixel hash, so the first row of a group has its least hash.
    leader = rows["pixels"].to_numpy()[np.unique(label, return_index=True)[1]][label]
    groups = manifest["pixels"].map(dict(zip(rows["pixels"], leader, strict=True))).to_numpy()
    facts = {
        "candidate_pairs": len(pairs),
        "confirmed_pairs": len(confirmed),
        "calibration": asdict(calibration),
    }
    return Census(groups, facts | _counts(manifest, groups))


def _differences(pairs: Indices, pictures: Images) -> NDArray[np.float64]:
    """Return the residual of each pair.

    Thumbnails are in a memory-mapped file, so that memory doesn't grow with the data.
    """
    used, at = np.unique(pairs, return_inverse=True)
    at = at.reshape(pairs.shape)
    differences = np.empty(len(pairs))
    with tempfile.TemporaryDirectory() as folder:
        thumbnails = _thumbnails(Path(folder) / "thumbnails", pictures, used)
        with track("compare", len(pairs), "pairs") as advance:
            for start in range(0, len(pairs), PAIRS):
                part = at[start : start + PAIRS]
                differences[start : start + PAIRS] = residuals(thumbnails[part[:, 0]], thumbnails[part[:, 1]])
                advance(len(part))
        del thumbnails
    return differences


def _thumbnails(path: Path, pictures: Images, used: Indices) -> Pictures:
    if not len(used):
        return np.empty((0, SIDE, SIDE, 3), np.uint8)
    thumbnails = np.memmap(path, np.uint8, "w+", shape=(len(used), SIDE, SIDE, 3))
    with track("thumbnails", len(used)) as advance, ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(used), PAIRS):
            part = used[start : start + PAIRS]
            for i, small in enumerate(pool.map(lambda row: thumbnail(pictures[row]), part.tolist())):
                thumbnails[start + i] = small
                advance()
    return thumbnails


def _joined(pairs: Indices, count: int) -> NDArray[Any]:
    """Return the group's number of each picture; confirmed pairs connect pictures to groups."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
    label: NDArray[Any] = connected_components(graph, directed=False)[1]
    return label


def _counts(manifest: pd.DataFrame, groups: NDArray[Any]) -> dict[str, int]:
    frame = manifest[["pixels", "sku"]].assign(group=groups)
    exact, group = frame.groupby("pixels").size(), frame.groupby("group")
    distinct = group["pixels"].nunique()
    return {
        "exact_groups": int(exact.gt(1).sum()),
        "exact_images": int(exact[exact.gt(1)].sum()),
        "near_groups": int(distinct.gt(1).sum()),
        "near_images": int(group.size()[distinct.gt(1)].sum()),
        "largest_group": int(group.size().max()),
        "groups_of_several_skus": int(group["sku"].nunique().gt(1).sum()),
    }
