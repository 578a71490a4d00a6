"""Parameters for tests of one ingredient: little augmentation, nothing frozen, validation each epoch."""

from __future__ import annotations

from typing import Any

from skumatch.params import AugmentParams, TowerParams, TrainParams

OFF = {"ratio": 0.0, "rotate": 0.0, "perspective": 0.0, "blur": 0.0, "jpeg": 0.0, "occlude": 0.0}
MILD = {"view": 0.75, "min_crop": 0.6, "jitter": 0.2}


def mild(**changes: Any) -> AugmentParams:
    """Crop, light and cut-out, and `changes`."""
    return AugmentParams(**OFF | MILD | changes)


def plain(**changes: Any) -> TrainParams:
    """Fine-tuning of all layers with `changes`."""
    return TrainParams(**{"validate_every": 1, "augment": mild(), "tower": TowerParams(freeze=0.0)} | changes)
