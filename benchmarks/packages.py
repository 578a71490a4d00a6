"""The packages that `python -m benchmarks gpu` needs, so that a bare machine can be told in one sentence."""

from __future__ import annotations

import sys
from importlib.util import find_spec

PACKAGES = {  # name on the package index -> module; pip brings what these need themselves
    "numpy": "numpy",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "pydantic-settings": "pydantic_settings",
    "pytorch-metric-learning": "pytorch_metric_learning",
    "pyyaml": "yaml",
    "rich": "rich",
    "safetensors": "safetensors",
    "simplejpeg": "simplejpeg",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "typer": "typer",
}


def check_packages() -> None:
    """Exit with one sentence that names all of `PACKAGES` that are not installed."""
    missing = [name for name, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        sys.exit(f"✗ This Python lacks packages; install {', '.join(missing)} ({sys.executable} -m pip).")
