"""Checks of Airflow, MLflow and the broker: address, access, version, and what a run needs of them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import httpx

from skumatch import network
from skumatch.config import shown
from skumatch.doctor.finding import Place, Problem
from skumatch.params import STAGES
from skumatch.pipeline.pull import open_registry, open_tracking
from skumatch.registry.probes import manifest_hash, server_version, try_artifacts
from skumatch.servers.airflow_api import REFRESH, RETRAIN, Airflow
from skumatch.texts import counted

BROKER = "AIRFLOW__CELERY__BROKER_URL"
DEFAULT, DEFAULT_QUEUE = "AIRFLOW__OPERATORS__DEFAULT_QUEUE", "default"
BROKER_SECONDS = 4.0


def broker(_: Place) -> str:
    """Check that the broker answers and accepts our login."""
    app, began = _celery(), time.monotonic()
    from kombu.exceptions import KombuError

    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except (KombuError, OSError) as error:
        fault = f"{shown(os.environ[BROKER])} can't be used ({' '.join(str(error).split())[:160]})"
        raise Problem(fault, f"Start it, or check address and password in {BROKER}.") from error
    return f"{shown(os.environ[BROKER])}, answered in {time.monotonic() - began:.1f} s"


def workers(place: Place) -> str:
    """Check that every queue of a stage has a worker."""
    wanted = {os.environ.get(DEFAULT, DEFAULT_QUEUE), *place.params.runtime.queues.values()}
    answers = _celery().control.inspect(timeout=BROKER_SECONDS).active_queues() or {}
    served = {str(queue["name"]) for queues in answers.values() for queue in queues}
    if not answers:
        raise Problem(
            "no worker answers", f"Start one: airflow celery worker --queues {','.join(sorted(wanted))}"
        )
    if lacking := sorted(wanted - served):
        fix = f"Start one: airflow celery worker --queues {','.join(lacking)}; or change runtime.queues."
        raise Problem(f"no worker serves the queue {', '.join(lacking)}", fix)
    return f"{counted(len(answers), 'worker')}, serving {', '.join(sorted(served))}"


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

    return Celery(
        broker=url, broker_connection_retry_on_startup=False, broker_connection_timeout=BROKER_SECONDS
    )


SECONDS = 8.0  # below a check's time limit, so that the finding can name the request without an answer
NEEDED = ("metadatabase", "scheduler", "dag_processor")  # parts of Airflow; a triggerer is optional
LOGS = {"metadatabase": "api-server"}
DRIFT_SECONDS = 30.0


def proxy(_: Place) -> str:
    """Describe the proxy for servers on other machines. Raises Problem if its variables can't be read."""
    if network.LEFT_OUT:
        raise Problem(" ".join(network.LEFT_OUT), "Correct or unset the variable.", "warning")
    return network.described()


def airflow(place: Place) -> str:
    """Check that Airflow answers, accepts our login, has healthy parts and has the version installed here."""
    with Airflow(place.settings, SECONDS) as api:
        version_there, health = str(api.get("/version")["version"]), api.get("/monitor/health")
    ill = [name for name in (*NEEDED, "triggerer") if not _well(name, health.get(name) or {})]
    if ill:
        fault = "; ".join(_silence(name, health.get(name) or {}) for name in ill)
        log = LOGS.get(ill[0], ill[0].replace("_", "-"))
        own = f"`skumatch up` starts what has ended; its log is {place.settings.home_dir}/logs/{log}.log."
        fix = "Start it again where it runs, and read its log." if place.settings.airflow else own
        raise Problem(fault, fix, "failed" if set(ill) & set(NEEDED) else "warning")
    _same("apache-airflow-core", version_there)
    parts = [name.replace("_", " ") for name, part in health.items() if part and part.get("status")]
    return f"{version_there} at {place.settings.airflow_url}; healthy: {', '.join(parts)}"


def _well(name: str, part: dict[str, Any]) -> bool:
    return part.get("status") in (("healthy",) if name in NEEDED else ("healthy", None))


def _silence(name: str, part: dict[str, Any]) -> str:
    """Return a sentence about a part that isn't healthy."""
    shown, beat = name.replace("_", " "), part.get(f"latest_{name}_heartbeat")
    if name == "metadatabase":
        return "Airflow can't reach its metadata database"
    if not beat:
        return f"Airflow never heard of a {shown}"
    return f"Airflow last heard of its {shown} {_ago(datetime.fromisoformat(beat))} ago"


def _ago(moment: datetime) -> str:
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"


def dags(place: Place) -> str:
    """Check that Airflow can run our DAGs.

    They must be imported without errors and not paused, their pools must exist, and their stages and queues
    must be those of the project here.
    """
    with Airflow(place.settings, SECONDS) as api:
        errors = api.get("/importErrors")["import_errors"]
        listed = api.get("/dags", dag_id_pattern="skumatch")["dags"]
        is_paused = {dag["dag_id"]: dag["is_paused"] for dag in listed}
        pools = {pool["name"] for pool in api.get("/pools")["pools"]}
        listed_tasks = api.get(f"/dags/{RETRAIN}/tasks")["tasks"] if RETRAIN in is_paused else []
        tasks = {task["task_id"]: task for task in listed_tasks}
    if errors:
        last_line = errors[0]["stack_trace"].strip().splitlines()[-1]
        raise Problem(
            f"Airflow can't import {errors[0]['filename']}: {last_line}",
            "Mend the file, or the packages that its DAG processor has.",
        )
    if absent := [dag for dag in (RETRAIN, REFRESH) if dag not in is_paused]:
        raise Problem(f"Airflow has no DAG {absent[0]}", "Check its DAG folder: it is the project's dags/.")
    if waits := sorted({str(task["pool"]) for task in tasks.values()} - pools):
        raise Problem(
            f"Airflow has no pool {waits[0]}, so tasks would wait for ever",
            f"Make it: airflow pools set {waits[0]} 1 gpu",
        )
    if paused := [dag for dag in (RETRAIN, REFRESH) if is_paused[dag]]:
        raise Problem(f"the DAG {paused[0]} is paused", "Unpause it in Airflow, or no run starts.", "warning")
    _check_same_pipeline(place, tasks)
    used_pools = ", ".join(sorted({task["pool"] for task in tasks.values()}))
    return f"{len(is_paused)} imported, none with an error; pools: {used_pools}"


def _check_same_pipeline(place: Place, tasks: dict[str, Any]) -> None:
    """Raise Problem if Airflow's DAG is of another dvc.yaml or params.yaml than those here."""
    fix = "Bring Airflow's machine and this one to the same commit."
    if unmatched := sorted({"pull", *STAGES, "register"} ^ set(tasks)):
        raise Problem(
            f"Airflow's {RETRAIN} is of another checkout: only one of them has the task {unmatched[0]}",
            fix,
            "warning",
        )
    for stage, queue in place.params.runtime.queues.items():
        if tasks[stage]["queue"] != queue:
            queue_there = f"the queue {tasks[stage]['queue']} in Airflow"
            raise Problem(f"{stage} goes to {queue_there}, to {queue} by params.yaml here", fix, "warning")


def mlflow(place: Place) -> str:
    """Check that MLflow answers, accepts our login and has the version installed here."""
    tracking = open_tracking(place.settings)
    version_there = server_version(tracking)
    _same("mlflow", version_there)
    return f"{version_there} at {tracking.shown}"


def artifacts(place: Place) -> str:
    """Check that MLflow stores, returns and deletes an artifact."""
    return f"written, read and removed in {try_artifacts(open_tracking(place.settings))}"


def champion(place: Place) -> str:
    """Check that the champion is the one that the journal names, and its bundle the registered one."""
    registry = open_registry(place.settings, place.params)
    state, ref = registry.champion_state(), registry.champion()
    if state.kind == "never":
        return state.sentence
    if ref is None:
        raise Problem(state.sentence, f"{state.cure}.")
    if manifest_hash(registry, ref) != ref.bundle:
        raise Problem(
            f"the bundle of version {ref.version} is not what was registered",
            "See `skumatch audit --verify`; roll back.",
        )
    if state.kind == "moved":
        raise Problem(state.sentence, f"{state.cure}.", "warning")
    return f"{registry.model_name}, version {ref.version}, bundle {ref.bundle[:12]}"


def clocks(place: Place) -> str:
    """Check that this machine's clock agrees with the servers'; runs and heartbeats are ordered by time."""
    pages = {
        "MLflow": f"{place.settings.mlflow_url}/health",
        "Airflow": f"{place.settings.airflow_url}/api/v2/version",
    }
    drifts = {name: seconds for name, url in pages.items() if (seconds := _drift(url)) is not None}
    if not drifts:
        raise Problem("no server tells its time", "Start them, or compare the clocks by hand.", "skipped")
    if excessive := {name: seconds for name, seconds in drifts.items() if seconds > DRIFT_SECONDS}:
        distances = " and ".join(f"{seconds:,.0f} s from {name}'s" for name, seconds in excessive.items())
        raise Problem(f"this machine's clock is {distances}", "Set them by NTP.", "warning")
    return f"{' and '.join(drifts)} have ours, within {max(drifts.values()):.0f} s"


def _drift(url: str) -> float | None:
    """Return the seconds between this clock and a server's; None if the server doesn't tell its time."""
    try:
        with network.http_client(url, SECONDS / 2) as client:
            date = client.get(url).headers.get("date")
    except (httpx.HTTPError, httpx.InvalidURL):  # the server's own check reports it
        return None
    return abs(time.time() - parsedate_to_datetime(date).timestamp()) if date else None


def _same(package: str, version_there: str) -> None:
    """Raise Problem if a server runs another version of a package than the one installed here."""
    try:
        version_here = version(package)
    except PackageNotFoundError:
        return
    if version_here != version_there:
        raise Problem(
            f"{package} is {version_here} here, {version_there} there",
            "Build all images and environments from one checkout.",
            "warning",
        )
