"""The only way open_clip is imported: makes it work beside a CPU-only torch.

The registry's torchvision is compiled against the CUDA torch. Beside the CPU build its compiled part can't be
loaded, and `import torchvision` dies ("operator torchvision::nms does not exist"). Only its transforms are
needed here, so the two missing operators are declared, without a body, before the first import. With a
matching pair nothing is declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a declaration lasts as long as its library object


def ensure() -> None:
    """Make `import torchvision` work; does nothing where its compiled part loads, or on a second call."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.origin is not None, "torchvision is a requirement of this package"
    if _LIBRARIES or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _LIBRARIES.append(library)


def _loads(folder: Path) -> bool:
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
