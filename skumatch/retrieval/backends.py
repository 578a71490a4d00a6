"""Backends that propose nearest neighbours in float32: faiss or torch, on a CPU or a GPU.

Memory stays bounded: similarities are computed tile by tile, never all pairs at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skumatch.errors import ParameterError

Vectors = NDArray[np.float32]
Indices = NDArray[np.int64]
Backend = Literal["faiss", "torch"]
Propose = Callable[[Vectors, int], tuple[Vectors, Indices]]

QUERY_BLOCK, GALLERY_BLOCK = 1024, 32768  # torch's tile: 128 MiB of similarities
# Numbers in a batch of queries from which faiss uses BLAS, for the whole process. At its default of 128,000 a
# batch of 400 queries of 256 numbers takes four times as long; fewer than 64 queries are slower with BLAS.
BLAS_NUMBERS = 2**14
GPU_MOST = 2048  # neighbours that faiss's kernels for a GPU can list


def proposer(gallery: Vectors, backend: Backend, device: str) -> tuple[Propose, int]:
    """Return a function that lists neighbours in a gallery, and the library's number of CPU threads.

    Args:
        gallery: [n, d], contiguous, float32.
        backend: The library.
        device: torch's name of the device. faiss uses a GPU where this names one, its build supports GPUs,
            and k is within the limit of its kernels.

    Returns:
        A function of queries [m, d] and k that returns similarities and indices [m, k], best first; and the
            number of threads.

    Raises:
        ParameterError: The backend is not installed.
    """
    if backend == "torch":
        import torch

        return _torch(gallery, device), torch.get_num_threads()
    faiss = _faiss()
    propose = _faiss_cpu(faiss, gallery)
    if device.startswith("cuda") and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        propose = _either(_faiss_gpu(faiss, gallery), propose)
    return propose, faiss.omp_get_max_threads()


def _either(on_gpu: Propose, on_cpu: Propose) -> Propose:
    return lambda queries, k: (on_gpu if k <= GPU_MOST else on_cpu)(queries, k)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ParameterError(
            "search.backend is faiss, which is not installed; "
            "install skumatch[cpu] or set search.backend=torch."
        ) from error
    faiss.cvar.distance_compute_blas_threshold = BLAS_NUMBERS
    return faiss


def _faiss_cpu(faiss: Any, gallery: Vectors) -> Propose:
    # brute force, blocked inside; makes no copy of the gallery
    return lambda queries, k: faiss.knn(queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _faiss_gpu(faiss: Any, gallery: Vectors) -> Propose:
    resources = faiss.StandardGpuResources()
    return lambda queries, k: faiss.knn_gpu(resources, queries, gallery, k, metric=faiss.METRIC_INNER_PRODUCT)


def _torch(gallery: Vectors, device: str) -> Propose:
    import torch

    on_device = torch.from_numpy(gallery).to(device)

    def propose(queries: Vectors, k: int) -> tuple[Vectors, Indices]:
        values, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            best, index = _best(on_device, torch.from_numpy(queries[part]).to(device), k)
            values[part], indices[part] = best.cpu().numpy(), index.cpu().numpy()
        return values, indices

    return propose


def _best(gallery: Any, queries: Any, k: int) -> tuple[Any, Any]:
    """Return similarities and indices [m, k] of the best rows, tile by tile over the gallery."""
    import torch

    best, index = queries.new_empty(len(queries), 0), queries.new_empty(len(queries), 0, dtype=torch.int64)
    for first in range(0, len(gallery), GALLERY_BLOCK):
        scores = queries @ gallery[first : first + GALLERY_BLOCK].T
        values, places = scores.topk(min(k, scores.shape[1]), dim=1)
        best, keep = torch.cat([best, values], 1).topk(min(k, best.shape[1] + values.shape[1]), dim=1)
        index = torch.cat([index, places + first], 1).gather(1, keep)
    return best, index
