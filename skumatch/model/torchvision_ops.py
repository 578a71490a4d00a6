"""The single place that imports open_clip, and makes the import work with a CPU-only torch.

The torchvision of the package registry is compiled for the CUDA build of torch. With the CPU build its
compiled part can't be loaded, and `import torchvision` fails ("operator torchvision::nms does not exist").
Only its transforms are needed here. So this module declares the two missing operators, without a body, before
the first import. If torch and torchvision match, it declares nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a declaration lives as long as its library object


def ensure() -> None:
    """Make `import torchvision` work; do nothing if its compiled part loads, or on a second call."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None, "torchvision is a requirement of this package"
    if _LIBRARIES or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)


def _loads(folder: Path) -> bool:
    """Return True if the compiled part in torchvision's folder can be loaded."""
    for path in folder.glob("_C*"):
        try:
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False


ensure()

import open_clip  # noqa: E402  # after ensure()

open_clip.add_model_config(Path(__file__).parent / "configs")

__all__ = ["ensure", "open_clip"]
