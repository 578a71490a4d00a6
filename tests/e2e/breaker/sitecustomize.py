"""Makes the task that a plan names fail; each Python of the tests' worker loads this first (PYTHONPATH).

The plan, SKUMATCH_TEST_PLAN, is {"task": ..., "error": a class of skumatch.errors or SIGKILL}. The rest of
the process is the real one: the stage's runner, DVC and the worker pass the error on. The error's sentence
has the environment variable SPOKEN.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

SENTENCE = "{task} is broken by a test ({word}); mend it."
RELEASES = ("propose", "promote", "rollback")


class Given:
    """Stands for the forms of messages that a broken module would have checked."""

    model_validate = staticmethod(dict)


def fail(task: str, error: str) -> NoReturn:
    if error == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    from skumatch import errors  # only now: the workspace's own package, not the one that is installed

    raise getattr(errors, error)(SENTENCE.format(task=task, word=os.environ["SPOKEN"]))


def place() -> tuple[str, str, str]:
    """The task that this process is about to do, and the module and function that it will import and call."""
    words = sys.orig_argv[1:]
    if words[:3] == ["-m", "skumatch", "stage"]:
        return words[3], f"skumatch.stages.{words[3]}", "run"
    if words[:3] == ["-m", "skumatch", "worker"] and words[3] in ("register", *RELEASES):
        return words[3], f"skumatch.pipeline.{'releases' if words[3] in RELEASES else words[3]}", words[3]
    return "", "", ""


def sabotage(plan: dict[str, str]) -> None:
    task, module, function = place()
    if plan and task == plan["task"]:
        broken = ModuleType(module)
        vars(broken).update({"__getattr__": lambda _: Given, function: lambda *_: fail(**plan)})
        sys.modules[module] = broken


if "SKUMATCH_TEST_PLAN" in os.environ:
    sabotage(json.loads(Path(os.environ["SKUMATCH_TEST_PLAN"]).read_text("utf-8")))
