"""Every Python that the tests' worker starts loads this first (PYTHONPATH): the task that the plan names then fails.

The plan, SKUMATCH_TEST_PLAN, is {"task": ..., "error": a class of skumatch.errors or SIGKILL}. The rest of the process is the
real one: the stage's runner, DVC and the worker tell the error onward.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

SENTENCE = "{task} is broken by a test; mend it."


def fail(task: str, error: str) -> NoReturn:
    if error == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    from skumatch import errors  # only now: the workspace's own package, not the one that is installed

    raise getattr(errors, error)(SENTENCE.format(task=task))


def place() -> tuple[str, str]:
    """The module and function that this process is about to import and call."""
    words = sys.orig_argv[1:]
    if words[:3] == ["-m", "skumatch", "stage"]:
        return f"skumatch.stages.{words[3]}", "run"
    if words == ["-m", "skumatch", "worker", "register"]:
        return "skumatch.pipeline.register", "register"
    return "", ""


def sabotage(plan: dict[str, str]) -> None:
    module, function = place()
    if plan and module.rpartition(".")[2] == plan["task"]:
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], function, lambda *_: fail(**plan))


if "SKUMATCH_TEST_PLAN" in os.environ:
    sabotage(json.loads(Path(os.environ["SKUMATCH_TEST_PLAN"]).read_text("utf-8")))
