"""Validation and the search for near-duplicates, measured on a synthetic manifest.

It may have any length. Its SKUs have a long tail, the hashes of a SKU's pictures are close to each other, and
some pictures are near-copies of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.measure import Row, cost
from skumatch.data.manifest import read_manifest, write_manifest
from skumatch.params import DataParams, ValidateParams

PER_SHARD = 15_000
FLAT, COPIES = 0.05, 0.1  # shares of images that all have the same hash, and that are near-copies
APART = 10  # random bits that are flipped in the hash of each picture of a SKU
HASHES = ["phash", "phash95", "phash90"]


def bench_manifest(folder: Path, rows: int, skus: Sequence[str]) -> Iterator[Row]:
    """Measure Great Expectations on a synthetic manifest, and the search for near-duplicates in it.

    Args:
        folder: working folder; it must not exist yet.
        rows: number of rows of the manifest.
        skus: names of SKUs.
    """
    folder.mkdir(parents=True)
    write_manifest(folder, made_manifest(rows, skus))
    validated, searched = cost(validate_rows, folder), cost(search_rows, folder)
    yield Row(
        "validate a manifest", validated.seconds, 60, "s", f"{rows:,} rows, {validated.result} expectations"
    )
    yield Row("validate a manifest, peak memory", validated.peak_mib, 2048, "MiB")
    yield Row(
        "search for near-duplicates",
        searched.seconds,
        120,
        "s",
        f"{rows:,} images, {searched.result:,} pairs to compare",
    )
    yield Row("search for near-duplicates, peak memory", searched.peak_mib, 2048, "MiB")


def validate_rows(folder: Path) -> int:
    """Check every expectation, with drift against the manifest itself, and assert that all hold.

    Returns:
        The number of expectations.
    """
    from skumatch.data.validation.drift import profile_of
    from skumatch.data.validation.validate import validate

    manifest, data = read_manifest(folder), DataParams()
    summary: dict[str, Any] = {
        "images": len(manifest),
        "skus": int(manifest["sku"].nunique()),
        "junk": {},
        "quarantined": [],
    }
    findings = validate(manifest, summary, ValidateParams(), data, profile_of(manifest, data))
    broken = [finding.rule.name for finding in findings if not finding.passed]
    assert not broken, f"the made manifest is sound, but broke {broken}"
    return len(findings)


def search_rows(folder: Path) -> int:
    """Search for pairs of close hashes and return their number."""
    from skumatch.data.duplicates.neighbours import near_pairs

    return len(near_pairs(read_manifest(folder)[HASHES].to_numpy(np.uint64))[0])


def made_manifest(rows: int, skus: Sequence[str]) -> pd.DataFrame:
    """Return a manifest as an import writes it, without pictures; a tenth of the images are queries."""
    rng = np.random.default_rng(3)
    skus = skus[: max(rows // 10, 2)]
    weights = 1 / np.arange(1, len(skus) + 1) ** 0.7
    label = np.concatenate(
        [
            np.repeat(np.arange(len(skus)), 4),
            rng.choice(len(skus), rows - 4 * len(skus), p=weights / weights.sum()),
        ]
    )
    side = np.where(np.arange(rows) % 10 == 3, "test", "train").astype(object)
    side[: 4 * len(skus)] = np.tile(["train", "train", "train", "test"], len(skus))
    name = [f"{number:06d}.jpg" for number in range(rows)]
    length = rng.integers(5_000, 40_000, rows)
    frame = pd.DataFrame(
        {"sku": np.array(skus, dtype=object)[label], "side": side, "name": name, "length": length}
    )
    frame["id"] = frame["side"] + "/" + frame["sku"] + "/" + frame["name"]
    frame["sha256"], frame["pixels"] = (
        [row.tobytes().hex() for row in rng.integers(0, 256, (rows, 32), dtype=np.uint8)] for _ in range(2)
    )
    frame[HASHES] = _hashes(label, rng)
    frame["shard"] = [f"{number // PER_SHARD:016x}.tar" for number in range(rows)]
    ends = (512 + -(-frame["length"] // 512) * 512).groupby(frame["shard"]).cumsum()
    frame["offset"] = ends - -(-frame["length"] // 512) * 512
    frame["width"], frame["height"] = rng.integers(100, 300, rows), rng.integers(200, 600, rows)
    return frame.assign(mode="RGB", format="JPEG")


def _hashes(label: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint64]:
    """Draw hashes [n, 3]: each image has those of its SKU with some bits flipped.

    A share of the images is flat, so all have the same hashes; a share are near-copies of other images.
    """
    base = rng.integers(0, 2**63, (int(label.max()) + 1, len(HASHES)), dtype=np.uint64)
    codes = _turned(base[label], APART, rng)
    rows = len(codes)
    copies = rng.choice(rows, int(COPIES * rows), replace=False)
    codes[copies] = _turned(codes[rng.integers(0, rows, len(copies))], 2, rng)
    codes[rng.choice(rows, int(FLAT * rows), replace=False)] = codes[0]
    return codes


def _turned(codes: NDArray[np.uint64], bits: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    for _ in range(bits):
        codes = codes ^ (np.uint64(1) << rng.integers(0, 64, (len(codes), 1), dtype=np.uint64))
    return codes
