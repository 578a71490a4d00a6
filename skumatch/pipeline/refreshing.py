"""Refuse overrides that a refresh doesn't use, because it trains nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from skumatch.errors import ParameterError
from skumatch.recipe.overrides import assignments
from skumatch.stages.runner import TRAINING

PRINTING = ("report",)  # stages that print all parameters, also those that no computation uses


def refuse_unused(project: Path, overrides: Iterable[str]) -> None:
    """Refuse overrides that have no effect on a refresh, so that nobody takes its result for theirs.

    Args:
        project: the folder with dvc.yaml.
        overrides: each `section.name=value`.

    Raises:
        ParameterError: only the training stages read a parameter that is overridden.
    """
    unused = unused_in_refresh(project)
    for name, _ in assignments(overrides):
        if any(f"{name}.".startswith(f"{part}.") for part in unused):
            raise ParameterError(
                f"'{name}' can't be set for a refresh, which trains nothing and would not heed it; "
                "give it to `skumatch retrain`, or leave it out."
            )


def unused_in_refresh(project: Path) -> set[str]:
    """Return the sections and parameters that dvc.yaml names for training stages only.

    The stages that print all parameters don't count.
    """
    stages = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]
    named = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    computing = (params for name, params in named.items() if name not in (*TRAINING, *PRINTING))
    training = (params for name, params in named.items() if name in TRAINING)
    return set().union(*training) - set().union(*computing)
