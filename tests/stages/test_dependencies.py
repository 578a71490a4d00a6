"""A stage reruns when code it uses changes: dvc.yaml lists at least the imports of the stage's module."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from skumatch.stages.runner import STAGES
from skumatch.stages.train import CODE

ROOT = Path(__file__).resolve().parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
# How a stage says things, not what it finds.
NAMES = (
    "errors",
    "network",
    "config",
    "params",
    "cron",
    "texts",
    "files",
    "progress",
    "stages.artefacts",
    "stages.runner",
    "stages.together",
)
RECIPE = ("recipe", "recipe.knobs", "recipe.overrides", "recipe.refusal", "recipe.strict_yaml")
PLUMBING = {f"skumatch.{name}" for name in (*NAMES, *RECIPE)}


@cache
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("skumatch", exclude_type_checking_imports=True)


def used_by(stage: str) -> set[str]:
    """Files of the modules that the stage's own imports, at any distance, named from the root."""
    module = f"skumatch.stages.{stage}"
    modules = {module, *imports().find_upstream_modules(module)} - PLUMBING
    return {
        f"{name.replace('.', '/')}.py" for name in modules if not (ROOT / name.replace(".", "/")).is_dir()
    }


def uncovered(files: set[str], deps: list[str]) -> set[str]:
    return {name for name in files if not any(name == dep or name.startswith(f"{dep}/") for dep in deps)}


def code_of(stage: str) -> set[str]:
    return {dep for dep in PIPELINE[stage]["deps"] if dep.startswith(("skumatch/", "requirements/"))}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_it_imports(stage: str) -> None:
    assert uncovered(used_by(stage), PIPELINE[stage]["deps"]) == set()


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_depends_on_exists_or_is_another_stages_out(stage: str) -> None:
    made = {
        "data",
        "data/manifest.parquet",
        "inputs/weights",
        "inputs/champion",
        "inputs/code.json",
        "inputs/baseline.json",
    }
    made |= {"inputs/run.json", "inputs/released", "inputs/trained"}
    made |= {out for name in STAGES[: STAGES.index(stage)] for out in PIPELINE[name]["outs"]}
    assert [dep for dep in PIPELINE[stage]["deps"] if dep not in made and not (ROOT / dep).exists()] == []


def test_the_stages_are_the_same_wherever_they_are_listed() -> None:
    assert tuple(PIPELINE) == STAGES  # that the DAG's tasks are dvc.yaml's stages is seen in tests/dags
    assert [fields["cmd"] for fields in PIPELINE.values()] == [
        f"python -m skumatch stage {name}" for name in STAGES
    ]
    files = {path.stem for path in (ROOT / "skumatch/stages").glob("*.py")}
    assert set(STAGES) <= files


def test_a_training_goes_on_only_from_checkpoints_of_the_same_code() -> None:
    assert set(CODE) == code_of("train")


def test_a_missing_dependency_would_be_seen() -> None:
    deps = [dep for dep in PIPELINE["train"]["deps"] if dep != "skumatch/model"]
    assert "skumatch/model/train.py" in uncovered(used_by("train"), deps)
    assert "skumatch/data/images.py" in used_by("train")  # two imports away
