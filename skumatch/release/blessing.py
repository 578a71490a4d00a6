"""The blessing: a clean process loads the bundle, finds gallery pictures again and tells how long each took.

`python -m skumatch.release.blessing BUNDLE PICTURE...` is that process; it prints JSON, a match and its seconds for each picture.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from skumatch.data.images import Extent, Images
from skumatch.release.bundle import Bundle

QUERIES = 40
WARM_UP = 5  # asked before, as a service that runs would have been
LEAST = 0.999  # cosine of a gallery picture to itself; what is missing to 1 is rounding


class Blessing(NamedTuple):
    """blessed: whether the bundle loads and every picture found itself. p95_ms: see `latency`; None if it doesn't load."""

    blessed: bool
    p95_ms: float | None


class Answer(NamedTuple):
    """The best match of one picture, asked alone, and the seconds from its file to the answer."""

    sku: str
    similarity: float
    seconds: float


def bless(folder: Path, rows: pd.DataFrame, pictures: Images, limit_ms: int) -> Blessing:
    """Ask the bundle in `folder` for pictures of its own gallery; `rows` (sku, pixels) are those of `pictures`. Prints how fast it was."""
    single = np.flatnonzero(~rows["pixels"].duplicated(keep=False))  # a copy under another SKU would be as near
    chosen = [int(single[i * len(single) // QUERIES]) for i in range(QUERIES)] if len(single) else []
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{number}{Path(pictures.names[i]).suffix}" for number, i in enumerate(chosen)]
        for path, i in zip(paths, chosen, strict=True):
            path.write_bytes(pictures.read_bytes(i))
        command = [sys.executable, "-m", "skumatch.release.blessing", str(folder.resolve()), *map(str, paths)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not chosen:
        print(answer.stderr[-2000:] or "No picture of the gallery is the only one of its kind.", file=sys.stderr)
        return Blessing(blessed=False, p95_ms=None)
    found = [Answer(*row) for row in json.loads(answer.stdout)]
    right = all(one.sku == rows["sku"].iloc[i] and one.similarity > LEAST for one, i in zip(found, chosen, strict=True))
    return Blessing(right, latency([one.seconds for one in found], limit_ms))


def latency(seconds: Sequence[float], limit_ms: int) -> float:
    """What is recorded of the 95th percentile (nearest rank): `limit_ms` if it keeps it, else the milliseconds it took.

    A stage's results are hashed, so that the same inputs give the same bytes: the figure itself is printed, not recorded.
    """
    p95 = 1000 * sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]
    print(f"95 of 100 queries were answered within {p95:.1f} ms each, of at most {limit_ms} ms ({len(seconds)} queries, each alone)")
    return float(limit_ms if p95 <= limit_ms else math.ceil(p95))


def ask(folder: Path, paths: Sequence[str]) -> list[Answer]:
    """Load the bundle and match one picture file after the other. Raises BundleError if it can't be loaded."""
    bundle = Bundle.load(folder)
    return [_answer(bundle, path) for path in (*paths[:WARM_UP], *paths)][len(paths[:WARM_UP]) :]


def _answer(bundle: Bundle, path: str) -> Answer:
    started = time.perf_counter()
    picture = Images([path], [""], [path], [Extent(path)]).pixels(0)
    best = bundle.match([picture])[0][0]
    return Answer(best.sku, best.similarity, time.perf_counter() - started)


if __name__ == "__main__":
    print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2:]), ensure_ascii=False))
