"""One stage in a process of its own: checked params in, outs written, seconds and errors left for whoever follows."""

from __future__ import annotations

import ctypes
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
from skumatch.files import disk_errors, read_json, text_errors, write_json
from skumatch.params import STAGES as STAGES
from skumatch.progress import followed
from skumatch.stages.together import ERROR as ERROR
from skumatch.stages.together import together

SECONDS = "log/{stage}.json"
LIVE = "log/live.jsonl"  # what a stage says of itself while it works: lines of figures
VECTORS = "log/vectors.json"  # how many vectors of each encoder a stage computed, and how many were known
PAGES = "log/pages"  # what a stage that failed has to show a person
TOGETHER = ("train", "embed")  # what `runtime.nproc` processes can share
TRAINING = (
    "frozen",
    "train",
)  # what a refresh doesn't do: it keeps the champion's encoder, or judges a trained one again
PR_SET_PDEATHSIG = 1


def run(stage: str, root: Path) -> None:
    """Run `stage` in the workspace `root`; its outs are new or absent. Raises the stage's SkumatchError."""
    if stage not in STAGES:
        raise ParameterError(f"There is no stage '{stage}'; the stages are {', '.join(STAGES)}.")
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
    with disk_errors(f"stage {stage}"), text_errors(f"stage {stage}"), _outs(root / "out" / stage):
        if stage in TRAINING and kind_of(root) == "refresh":
            _hand_on(root, root / "out" / stage)
        elif stage in TOGETHER and params.runtime.nproc > 1:
            together(stage, root, params.runtime)
        else:
            importlib.import_module(f"skumatch.stages.{stage}").run(root, params)


def _hand_on(root: Path, out: Path) -> None:
    """Lay out, in place of what a training would make, the trained encoder that is judged again.

    Or that there is none.
    """
    trained = root / "inputs/trained"
    if out.name == "train" and (trained / "encoder").is_dir():
        shutil.copytree(trained / "encoder", out / "encoder")
        shutil.copyfile(trained / "training.parquet", out / "training.parquet")
    else:
        write_json(out / "none.json", {"encoder": None})


def kind_of(root: Path) -> str:
    """The run's kind: `retrain` or `refresh`.

    Without inputs/run.json, as when a stage is run by hand, a retrain.
    """
    path = root / "inputs/run.json"
    return str(read_json(path)["kind"]) if path.is_file() else "retrain"


def machine() -> str:
    """This machine in words: system, processor, cores, and the GPU where one was used."""
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
    """An empty folder, which is gone after a failure: nothing half-written, and on a full disk room for the error's words."""
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, out, ignore_errors=True)
        out.mkdir(parents=True)
        yield
        undo.pop_all()


def end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies, so that a retry never runs beside an orphan."""
    if sys.platform == "linux" and followed():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
