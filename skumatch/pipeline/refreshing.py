"""A refresh trains nothing; dvc.yaml says which parameters it therefore has no use for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from skumatch.errors import ParameterError
from skumatch.recipe.overrides import assignments
from skumatch.stages.runner import TRAINING

PRINTING = ("report",)  # it shows the whole recipe, whoever follows it


def refuse_unused(project: Path, overrides: Iterable[str]) -> None:
    """Refuse what a refresh would not heed, so that nobody takes its result for that of the override.

    Args:
        project: the folder with dvc.yaml.
        overrides: each `section.name=value`.

    Raises:
        ParameterError: an override is read by the stages that train, and by no other.
    """
    unused = unused_in_refresh(project)
    for name, _ in assignments(overrides):
        if any(f"{name}.".startswith(f"{part}.") for part in unused):
            raise ParameterError(
                f"'{name}' can't be set for a refresh, which trains nothing and would not heed it; "
                "give it to `skumatch retrain`, or leave it out."
            )


def unused_in_refresh(project: Path) -> set[str]:
    """Sections or parameters that dvc.yaml names for the stages that train, and for no other that computes."""
    stages = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]
    named = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    computing = (params for name, params in named.items() if name not in (*TRAINING, *PRINTING))
    training = (params for name, params in named.items() if name in TRAINING)
    return set().union(*training) - set().union(*computing)
