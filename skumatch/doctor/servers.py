"""Airflow, its database, broker and workers, and MLflow."""

from __future__ import annotations

import os
import time
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version

import httpx

from skumatch.airflow_api import DAG, Airflow
from skumatch.config import shown
from skumatch.doctor.finding import Place, Problem
from skumatch.pipeline.pull import open_registry

SECONDS = 10.0
BROKER = "AIRFLOW__CELERY__BROKER_URL"
DEFAULT_QUEUE = "default"
DRIFT_SECONDS = 30.0


def airflow(place: Place) -> str:
    """Whether Airflow answers, lets us in, and its parts have been heard of lately; and is of the version that is installed here."""
    with Airflow(place.settings, SECONDS) as api:
        there, health = str(api.get("/version")["version"]), api.get("/monitor/health")
    ill = [name for name, part in health.items() if part and part.get("status") not in ("healthy", None)]
    if ill:
        raise Problem(
            f"Airflow at {place.settings.airflow_url} says that its {', '.join(ill)} isn't healthy", "Start it again; see its log."
        )
    _same("apache-airflow-core", there)
    parts = [name.replace("_", " ") for name, part in health.items() if part and part.get("status") == "healthy"]
    return f"Airflow {there} at {place.settings.airflow_url}; healthy: {', '.join(parts)}"


def dags(place: Place) -> str:
    """Whether Airflow could read our DAGs, lets them run, and has the pool they wait in."""
    with Airflow(place.settings, SECONDS) as api:
        errors = api.get("/importErrors")["import_errors"]
        found = {dag["dag_id"]: dag["is_paused"] for dag in api.get("/dags", dag_id_pattern="skumatch")["dags"]}
        pools = {pool["name"] for pool in api.get("/pools")["pools"]}
    if errors:
        last = errors[0]["stack_trace"].strip().splitlines()[-1]
        raise Problem(
            f"Airflow can't import {errors[0]['filename']}: {last}", "Mend the file, or the environment that the DAG processor has."
        )
    if DAG not in found:
        raise Problem(f"Airflow has no DAG {DAG}", "Check its DAG folder: it is the project's dags/.")
    if found[DAG]:
        raise Problem(f"the DAG {DAG} is paused", "Unpause it in Airflow, or no run starts.", "warning")
    if "gpu" not in pools:
        raise Problem("Airflow has no pool `gpu`, so trainings would wait for ever", "Make it: airflow pools set gpu 1 gpu")
    return f"{len(found)} DAGs, none with an error; pool gpu"


def workers(place: Place) -> str:
    """Whether the broker answers, and every queue that a stage needs has a worker."""
    url = os.environ.get(BROKER)
    if not url:
        raise Problem(f"no broker is known here ({BROKER})", "Ask on a worker; `skumatch up` has none.", "skipped")
    from celery import Celery
    from kombu.exceptions import KombuError

    try:
        asked = Celery(broker=url).control.inspect(timeout=3).active_queues() or {}
    except (KombuError, OSError) as error:
        said = f"the broker {shown(url)} doesn't answer ({type(error).__name__})"
        raise Problem(said, "See whether it runs, and whether its password is the one that is known here.") from error
    served = {str(queue["name"]) for queues in asked.values() for queue in queues}
    if not asked:
        raise Problem("no worker answers", "Start one: airflow celery worker --queues default,gpu")
    if lacking := sorted({DEFAULT_QUEUE, *place.params.runtime.queues.values()} - served):
        raise Problem(f"no worker serves the queue {lacking[0]}", f"Start one with --queues {lacking[0]}, or change runtime.queues.")
    return f"{len(asked)} workers, serving {', '.join(sorted(served))}"


def mlflow(place: Place) -> str:
    """Whether MLflow answers and lets us in, is of the version that is installed here, and what it has for champion."""
    registry = open_registry(place.settings, place.params)
    champion = registry.champion()
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    account = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    there = httpx.get(f"{registry.url}/version", timeout=SECONDS, auth=account).raise_for_status().text.strip()
    _same("mlflow", there)
    serves = f"champion: version {champion.version}" if champion else "no champion yet"
    return f"MLflow {there} at {registry.shown}; {registry.model_name}: {serves}"


def clocks(place: Place) -> str:
    """Whether this machine and MLflow's have the same time, by which runs are ordered."""
    try:
        told = httpx.get(f"{place.settings.mlflow_url}/health", timeout=SECONDS).headers.get("date")
    except httpx.HTTPError:
        told = None
    if told is None:
        raise Problem("MLflow tells no time", "See above, or compare the clocks by hand.", "skipped")
    apart = abs(time.time() - parsedate_to_datetime(told).timestamp())
    if apart > DRIFT_SECONDS:
        raise Problem(f"this clock and MLflow's are {apart:,.0f} s apart", "Set them by NTP.", "warning")
    return f"{apart:.0f} s apart from MLflow's"


def _same(package: str, there: str) -> None:
    try:
        here = version(package)
    except PackageNotFoundError:
        return
    if here != there:
        raise Problem(f"{package} is {here} here, and {there} there", "Build all images from one checkout.", "warning")
