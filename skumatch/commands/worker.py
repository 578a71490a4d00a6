"""`skumatch worker`: the processes of Airflow's tasks.

The message comes as JSON on stdin. Marker lines go out on stdout, the last of them with the result.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from skumatch.config import Settings
from skumatch.config import settings as current_settings
from skumatch.errors import NothingNew, SkumatchError
from skumatch.files import disk_errors, text_errors
from skumatch.pipeline.worker import stage_environment
from skumatch.progress import emit

app = typer.Typer(hidden=True, add_completion=False)


@app.command()
def pull() -> None:
    """Fix the run's inputs."""
    from skumatch.pipeline.pull import RunRequest
    from skumatch.pipeline.pull import pull as task

    _answer(
        lambda settings, message: task(settings, RunRequest.model_validate(message)).model_dump(mode="json")
    )


@app.command()
def stage(names: list[str]) -> None:
    """Run stages, one after the other in one workspace."""
    from skumatch.pipeline.message import Message
    from skumatch.pipeline.worker import run_stages

    _answer(
        lambda settings, message: run_stages(settings, Message.model_validate(message), names).model_dump(
            mode="json"
        )
    )


@app.command()
def register() -> None:
    """Record the run; register and promote a model that passed."""
    from skumatch.pipeline.message import Message
    from skumatch.pipeline.register import register as task

    _answer(lambda settings, message: task(settings, Message.model_validate(message)))


@app.command()
def propose() -> None:
    """Look up the version that a person is to approve."""
    from skumatch.pipeline.releases import Question
    from skumatch.pipeline.releases import propose as task

    _answer(lambda settings, message: task(settings, Question.model_validate(message)).model_dump())


@app.command()
def promote() -> None:
    """Make the approved version the champion."""
    from skumatch.pipeline.releases import Approved
    from skumatch.pipeline.releases import promote as task

    _answer(lambda settings, message: task(settings, Approved.model_validate(message)))


@app.command()
def rollback() -> None:
    """Make an earlier champion the champion again."""
    from skumatch.pipeline.releases import Back
    from skumatch.pipeline.releases import rollback as task

    _answer(lambda settings, message: task(settings, Back.model_validate(message)))


@app.command()
def audit() -> None:
    """Verify the champion's chain of lineage, and an older version's."""
    from skumatch.audit.daily import AuditRequest
    from skumatch.audit.daily import audit as task

    _answer(lambda settings, message: task(settings, AuditRequest.model_validate(message)))


def _answer(task: Callable[[Settings, Any], dict[str, Any]]) -> None:
    settings = _environment()
    signal.signal(signal.SIGTERM, _stop_all)
    try:
        with disk_errors("this task"), text_errors("this task"):
            emit("result", **task(settings, json.load(sys.stdin)))
    except NothingNew as news:
        emit("skip", reason=str(news))
        raise
    except SkumatchError as error:
        emit("error", **error.as_dict())
        raise


def _stop_all(*_: object) -> NoReturn:
    """End the stage along with its task, since DVC would leave it as an orphan beside the retry."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGTERM)
    raise SystemExit(128 + signal.SIGTERM)


def _environment() -> Settings:
    """Set the environment for the stage's process, and return its settings.

    Paths become absolute, since the stage runs in another folder, and this Python comes first.
    """
    os.environ |= {"SKUMATCH_EVENTS": "1"} | stage_environment(current_settings())
    return current_settings()
