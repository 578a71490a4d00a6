"""Run one stage in its own process: check its params, write its outs, record its seconds and its error."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from skumatch.config import load_params
from skumatch.errors import ParameterError, SkumatchError
from skumatch.files import disk_errors, text_errors, write_json
from skumatch.params import STAGES as STAGES
from skumatch.progress import followed
from skumatch.stages import artefacts
from skumatch.stages.together import ERROR as ERROR
from skumatch.stages.together import signal_of_parents_death, together
from skumatch.texts import did_you_mean, visible

SECONDS = "log/{stage}.json"
LIVE = "log/live.jsonl"  # figures that a stage reports while it works, one record per line
VECTORS = "log/vectors.json"  # number of vectors of each encoder that a stage computed, and that were known
PAGES = "log/pages"  # pages that a failed stage leaves for a person
TOGETHER = ("train", "embed")  # stages that `runtime.nproc` processes can share
# Stages that a refresh skips: it keeps the champion's encoder, or judges a trained one again.
TRAINING = ("frozen", "train")


def run(stage: str, root: Path) -> None:
    """Run `stage` in the workspace `root`; a failed stage leaves no outs.

    Raises:
        SkumatchError: The stage's own error, or ParameterError for an unknown stage.
    """
    if stage not in STAGES:
        problem = f"There is no stage '{visible(stage)}'; the stages are {', '.join(STAGES)}"
        raise ParameterError(f"{did_you_mean(stage, STAGES)}{problem}.")
    end_with_parent()
    for name in (ERROR, LIVE, VECTORS):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / PAGES, ignore_errors=True)
    started = time.monotonic()
    try:
        _run(stage, root)
    except SkumatchError as error:
        write_json(root / ERROR, error.as_dict())
        raise
    write_json(
        root / SECONDS.format(stage=stage),
        {"seconds": round(time.monotonic() - started, 3), "machine": machine()},
    )


def _run(stage: str, root: Path) -> None:
    params = load_params(root / "params.yaml")
    with disk_errors(f"stage {stage}"), text_errors(f"stage {stage}"), _outs(root / artefacts.out(stage)):
        if stage in TRAINING and kind_of(root) == "refresh":
            _hand_on(root, root / artefacts.out(stage))
        elif stage in TOGETHER and params.runtime.nproc > 1:
            together(stage, root, params.runtime)
        else:
            importlib.import_module(f"skumatch.stages.{stage}").run(root, params)


def _hand_on(root: Path, out: Path) -> None:
    """Write, in place of a training's outs, the trained encoder to judge again, or a note of its absence."""
    trained = artefacts.TRAINED.at(root)
    if out.name == "train" and (trained / "encoder").is_dir():
        shutil.copytree(trained / "encoder", artefacts.ENCODER.at(root))
        shutil.copyfile(trained / "training.parquet", artefacts.TRAINING_PIXELS.at(root))
    else:
        write_json(out / artefacts.ABSENT, {"encoder": None})


def kind_of(root: Path) -> str:
    """Return the run's kind, `retrain` or `refresh`.

    Without inputs/run.json, as when a stage is run by hand, it is `retrain`.
    """
    return artefacts.RUN.read(root).kind if artefacts.RUN.exists(root) else "retrain"


def machine() -> str:
    """Describe this machine: system, processor, cores, and the GPU where one was used."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # a stage that used none has not imported it
    gpu = f", {cuda.get_device_name()}" if cuda and cuda.is_available() else ""
    return f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores{gpu}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "processor unknown")


@contextmanager
def _outs(out: Path) -> Iterator[None]:
    """Provide an empty folder and remove it after a failure.

    So nothing half-written stays, and a full disk has room to write the error.
    """
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, out, ignore_errors=True)
        out.mkdir(parents=True)
        yield
        undo.pop_all()


def end_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that a retry never runs beside an orphan."""
    if followed():
        signal_of_parents_death(signal.SIGTERM)()
