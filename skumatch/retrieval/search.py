"""Exact nearest neighbours by inner product, with the same answer from every backend.

A backend (faiss, torch) only proposes candidates in float32. Their similarities are then computed again, each as one
dot product in float64, so identical vectors tie exactly and ties go to the lower gallery index. Candidates are added
until float32's rounding can't hide a better one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skumatch.errors import DataError, ParameterError

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]
Backend = Literal["faiss", "torch"]

SPARE = 16  # candidates proposed beyond k in the first round
ROUNDING = 1e-5  # bound of float32's error in an inner product of unit vectors, with room for any order of summation
QUERY_BLOCK, GALLERY_BLOCK = 1024, 32768  # torch's tile: 128 MiB of similarities
RESCORE_BYTES = 64 * 2**20


def top_k(gallery: Vectors, queries: Vectors, k: int, backend: Backend = "faiss", device: str = "cpu") -> tuple[Vectors, Indices]:
    """The k gallery rows of largest inner product with each query, best first; ties go to the lower index.

    gallery [n, d], queries [m, d]; returns similarities float32 [m, min(k, n)] and indices int64 of the same shape.
    `device` is torch's. Raises DataError for an empty gallery or vectors that are no numbers, ParameterError if the
    backend is not installed.
    """
    assert k >= 1 and gallery.ndim == queries.ndim == 2 and gallery.shape[1] == queries.shape[1]
    if len(gallery) == 0:
        raise DataError("The gallery is empty, so nothing can be found in it; add images of the SKUs to match.")
    gallery, queries = _checked(gallery, "gallery"), _checked(queries, "query set")
    k = min(k, len(gallery))
    similarities, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    slack = ROUNDING * float(np.linalg.norm(gallery, axis=1).max()) * np.linalg.norm(queries, axis=1)
    pending, proposed = np.arange(len(queries)), k + SPARE
    while pending.size:
        proposed = min(proposed, len(gallery))
        rough, candidates = _propose(gallery, queries[pending], proposed, backend, device)
        exact, order = _order(gallery, queries[pending], candidates)
        # whatever was not proposed is at most the worst proposal plus rounding: settled if the k-th best is above that
        settled = (proposed == len(gallery)) | (exact[:, k - 1] > rough.min(axis=1) + slack[pending])
        similarities[pending[settled]], indices[pending[settled]] = exact[settled, :k], order[settled, :k]
        pending, proposed = pending[~settled], proposed * 4
    return similarities, indices


def _checked(vectors: Vectors, name: str) -> Vectors:
    good = np.isfinite(vectors).all(axis=1)
    if not good.all():
        raise DataError(f"The {name} holds vectors that are no numbers (first: row {int(np.argmin(good))}); embed the images again.")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _order(gallery: Vectors, queries: Vectors, candidates: Indices) -> tuple[Vectors, Indices]:
    """Candidates' exact similarities and indices, sorted by (-similarity, index)."""
    exact = np.empty(candidates.shape, np.float32)
    block = max(1, RESCORE_BYTES // (8 * candidates.shape[1] * gallery.shape[1]))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        exact[part] = np.vecdot(gallery[candidates[part]].astype(np.float64), queries[part, None].astype(np.float64))
    order = np.lexsort((candidates, -exact), axis=1)
    return np.take_along_axis(exact, order, axis=1), np.take_along_axis(candidates, order, axis=1)


def _propose(gallery: Vectors, queries: Vectors, k: int, backend: Backend, device: str) -> tuple[Vectors, Indices]:
    if backend == "faiss":
        return _faiss(gallery, queries, k)
    return _torch(gallery, queries, k, device)


def _faiss(gallery: Vectors, queries: Vectors, k: int) -> tuple[Vectors, Indices]:
    try:
        import faiss
    except ImportError as error:
        raise ParameterError(
            "search.backend is faiss, which is not installed; install skumatch[cpu] or set search.backend=torch."
        ) from error
    knn: Callable[..., tuple[Vectors, Indices]] = faiss.knn  # brute force, blocked inside; makes no copy of the gallery
    return knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _torch(gallery: Vectors, queries: Vectors, k: int, device: str) -> tuple[Vectors, Indices]:
    import torch

    found = []
    for start in range(0, len(queries), QUERY_BLOCK):
        block = torch.from_numpy(queries[start : start + QUERY_BLOCK]).to(device)
        best, index = torch.empty(len(block), 0, device=device), torch.empty(len(block), 0, dtype=torch.int64, device=device)
        for first in range(0, len(gallery), GALLERY_BLOCK):
            scores = block @ torch.from_numpy(gallery[first : first + GALLERY_BLOCK]).to(device).T
            values, places = scores.topk(min(k, scores.shape[1]), dim=1)
            best, keep = torch.cat([best, values], 1).topk(min(k, best.shape[1] + values.shape[1]), dim=1)
            index = torch.cat([index, places + first], 1).gather(1, keep)
        found.append((best.cpu().numpy(), index.cpu().numpy()))
    return np.concatenate([values for values, _ in found]), np.concatenate([places for _, places in found])
