"""The blessing: a clean process loads the bundle, matches gallery pictures and reports their processor time.

`python -m skumatch.release.blessing BUNDLE LIMIT_MS PICTURE...` is that process. It prints JSON: for each
picture its match and the least processor seconds that the answer took in up to ROUNDS rounds.
"""

from __future__ import annotations

import json
import math
import os
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
from skumatch.errors import LatencyExceeded
from skumatch.release.bundle import Bundle

QUERIES = 40
WARM_UP = 5  # asked before, as a service that runs would have been
ROUNDS = 3  # of asking all pictures; later ones only while the limit is not kept
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # more would add their waiting to the processor time
LEAST = 0.999  # cosine of a gallery picture to itself; what is missing to 1 is rounding


class Blessing(NamedTuple):
    """Facts about a bundle that the gate judges.

    blessed: whether the bundle loads and every picture was matched to its own SKU.
    p95_ms: the limit that 95 of 100 queries keep; None if the bundle is not blessed.
    """

    blessed: bool
    p95_ms: float | None


class Answer(NamedTuple):
    """The best match of a picture queried alone, and the processor seconds from its file to the answer."""

    sku: str
    similarity: float
    seconds: float


def bless(folder: Path, rows: pd.DataFrame, pictures: Images, limit_ms: int) -> Blessing:
    """Query the bundle for pictures of its own gallery in a clean process.

    The result is a stage's hashed output, so the same inputs must give the same bytes on any machine. A
    latency within the limit is therefore recorded as the limit, and the measured figure is printed. Over the
    limit it is an error: DVC keeps no output of a failed stage, so the next attempt measures again.

    Args:
        folder: The bundle.
        rows: One row a gallery picture with the columns `sku` and `pixels` (hash of its pixels).
        pictures: The pictures of `rows`, in their order.
        limit_ms: `gate.max_p95_ms`, in milliseconds of processor time.

    Returns:
        Whether the bundle is blessed, and the limit if it is.

    Raises:
        LatencyExceeded: if a blessed bundle needs more than the limit.
    """
    single = np.flatnonzero(
        ~rows["pixels"].duplicated(keep=False)
    )  # a copy under another SKU would be as near
    chosen = [int(single[i * len(single) // QUERIES]) for i in range(QUERIES)] if len(single) else []
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / str(number) for number in range(len(chosen))]
        for path, i in zip(paths, chosen, strict=True):
            path.write_bytes(pictures.read_bytes(i))
        command = [
            sys.executable,
            "-m",
            "skumatch.release.blessing",
            str(folder.resolve()),
            str(limit_ms),
            *map(str, paths),
        ]
        one_thread = os.environ | ONE_THREAD
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    if process.returncode != 0 or not chosen:
        print(
            process.stderr[-2000:] or "No picture of the gallery is the only one of its kind.",
            file=sys.stderr,
        )
        return Blessing(blessed=False, p95_ms=None)
    answers = [Answer(*row) for row in json.loads(process.stdout)]
    matches = zip(answers, rows["sku"].iloc[chosen], strict=True)
    if not all(answer.sku == sku and answer.similarity > LEAST for answer, sku in matches):
        return Blessing(blessed=False, p95_ms=None)
    check_latency([answer.seconds for answer in answers], limit_ms)
    return Blessing(blessed=True, p95_ms=float(limit_ms))


def check_latency(seconds: Sequence[float], limit_ms: int) -> None:
    """Print the 95th percentile of `seconds`. Raises LatencyExceeded where it is over `limit_ms`."""
    p95_ms = percentile_95_ms(seconds)
    print(f"95 of 100 queries took up to {p95_ms:.1f} ms of processor time each; the limit is {limit_ms} ms")
    if p95_ms > limit_ms:
        raise LatencyExceeded(
            f"95 of 100 queries of the new model took up to {p95_ms:.0f} ms of processor time each, over "
            f"gate.max_p95_ms = {limit_ms}; run again (it is measured anew), choose a smaller encoder or "
            "canvas, or raise the limit."
        )


def percentile_95_ms(seconds: Sequence[float]) -> float:
    """The 95th percentile of `seconds` by nearest rank, in milliseconds."""
    return 1000 * sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1]


def answer_all(folder: Path, limit_ms: int, paths: Sequence[str]) -> list[Answer]:
    """Match each picture file alone and keep its fastest answer.

    Processor time hardly depends on what else the machine does, and the least of several rounds even less.

    Args:
        folder: The bundle.
        limit_ms: No further round is made once 95 of 100 queries keep it.
        paths: The picture files.

    Raises:
        BundleError: if the bundle can't be loaded.
    """
    bundle = Bundle.load(folder)
    for path in paths[:WARM_UP]:
        _answer(bundle, path)
    fastest: list[Answer] = []
    for _ in range(ROUNDS):
        answers = [_answer(bundle, path) for path in paths]
        pairs = zip(answers, fastest or answers, strict=True)
        fastest = [min(pair, key=lambda answer: answer.seconds) for pair in pairs]
        if percentile_95_ms([answer.seconds for answer in fastest]) <= limit_ms:
            break
    return fastest


def _answer(bundle: Bundle, path: str) -> Answer:
    started = time.process_time()
    picture = Images([path], [""], [path], [Extent(path)]).pixels(0)
    best = bundle.match([picture])[0][0]
    return Answer(best.sku, best.similarity, time.process_time() - started)


if __name__ == "__main__":
    print(json.dumps(answer_all(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
