"""Checks of the broker between Airflow and its Celery workers, and of the workers' queues."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from typing import Any

from skumatch.config import shown
from skumatch.doctor.finding import Place, Problem

BROKER = "AIRFLOW__CELERY__BROKER_URL"
DEFAULT, DEFAULT_QUEUE = "AIRFLOW__OPERATORS__DEFAULT_QUEUE", "default"
SECONDS = 4.0


def broker(_: Place) -> str:
    """Check that the broker answers and accepts our login."""
    app, began = _celery(), time.monotonic()
    from kombu.exceptions import KombuError

    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=SECONDS)
    except (KombuError, OSError) as error:
        fault = f"{shown(os.environ[BROKER])} can't be used ({' '.join(str(error).split())[:160]})"
        raise Problem(fault, f"Start it, or check address and password in {BROKER}.") from error
    return f"{shown(os.environ[BROKER])}, answered in {time.monotonic() - began:.1f} s"


def workers(place: Place) -> str:
    """Check that every queue of a stage has a worker."""
    wanted = {os.environ.get(DEFAULT, DEFAULT_QUEUE), *place.params.runtime.queues.values()}
    answers = _celery().control.inspect(timeout=SECONDS).active_queues() or {}
    served = {str(queue["name"]) for queues in answers.values() for queue in queues}
    if not answers:
        raise Problem(
            "no worker answers", f"Start one: airflow celery worker --queues {','.join(sorted(wanted))}"
        )
    if lacking := sorted(wanted - served):
        fix = f"Start one: airflow celery worker --queues {','.join(lacking)}; or change runtime.queues."
        raise Problem(f"no worker serves the queue {', '.join(lacking)}", fix)
    return f"{len(answers)} workers, serving {', '.join(sorted(served))}"


def _celery() -> Any:
    """Return a Celery app for the environment's broker; raise Problem without a broker or its client."""
    if not (url := os.environ.get(BROKER)):
        raise Problem(
            "no broker is known here",
            f"`skumatch up` needs none; with workers, ask where {BROKER} is set.",
            "skipped",
        )
    lacking = [
        name
        for name in ("celery", "redis")
        if not find_spec(name) and (name == "celery" or url.startswith(name))
    ]
    if lacking:  # kombu's transport for Redis doesn't say that its client is missing
        raise Problem(
            f"{lacking[0]} is not installed here",
            "Ask on a worker, or pip install 'skumatch[deployment]'.",
            "skipped",
        )
    from celery import Celery

    return Celery(broker=url, broker_connection_retry_on_startup=False, broker_connection_timeout=SECONDS)
