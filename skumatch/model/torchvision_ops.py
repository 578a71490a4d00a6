"""The single place that imports open_clip, and makes the import work with a CPU-only torch.

The torchvision of the package registry is compiled for the CUDA build of torch. With the CPU build its
compiled part can't be loaded, and `import torchvision` fails ("operator torchvision::nms does not exist").
Only its transforms are needed here. So this module declares the two missing operators, without a body, before
the first import. If torch and torchvision match, it declares nothing.

It also keeps torchvision and timm from importing torch's compiler, which takes as long as torch itself and
which nothing here uses.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

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


@contextmanager
def without_compiler() -> Iterator[None]:
    """Put an empty module in place of torch's compiler, unless that is imported already.

    torchvision imports it to ask whether a device can compile; here the answer is no. timm imports it to mark
    functions that must not be compiled; here they stay as they are.
    """
    names = ("torch._dynamo", "torch._dynamo.utils")
    empty = {name: ModuleType(name) for name in names if names[0] not in sys.modules}
    for module in empty.values():
        module.__dict__.update(
            is_compile_supported=lambda _: False, disable=lambda function, *_, **__: function
        )
    sys.modules.update(empty)
    try:
        yield
    finally:
        for name in empty:
            del sys.modules[name]


ensure()
# Later packages may need more of the compiler. Then they are imported as they are.
with without_compiler(), suppress(ImportError, AttributeError):
    import open_clip
import open_clip  # noqa: E402

open_clip.add_model_config(Path(__file__).parent / "configs")

__all__ = ["ensure", "open_clip"]
