"""Retrain, judge, register and audit the model that says which product a shelf photo shows.

In a notebook: `match`, `evaluate` and `compare` do what the commands of these names do. `load_bundle` loads a
model for many calls of `match`, `Registry` lists and reads what is registered, `load_params` reads
params.yaml. Every error is a `SkumatchError` whose text says what to do.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skumatch.version import VERSION

if TYPE_CHECKING:
    from skumatch.api import compare, evaluate, load_bundle, match
    from skumatch.bundle import Bundle
    from skumatch.config import load_params
    from skumatch.errors import SkumatchError
    from skumatch.registry.registry import Registry

__version__ = VERSION
__all__ = [
    "Bundle",
    "Registry",
    "SkumatchError",
    "compare",
    "evaluate",
    "load_bundle",
    "load_params",
    "match",
]
# Imported when they are first used: torch alone takes seconds.
_PLACES = {
    "Bundle": "skumatch.bundle",
    "Registry": "skumatch.registry.registry",
    "SkumatchError": "skumatch.errors",
    "load_params": "skumatch.config",
}

# Read by OpenMP when torch or faiss loads it. Its default, waiting for other threads by spinning, makes small
# parallel loops hundreds of times slower if anything else runs on the same cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES.get(name, "skumatch.api")), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
