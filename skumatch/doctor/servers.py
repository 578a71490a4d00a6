"""Airflow and MLflow: whether they answer, let us in, are of our versions, and can do what a run asks of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import httpx

from skumatch import network
from skumatch.airflow_api import REFRESH, RETRAIN, Airflow
from skumatch.doctor.finding import Place, Problem
from skumatch.params import STAGES
from skumatch.pipeline.pull import open_registry
from skumatch.release.probes import manifest_hash, server_version, try_artifacts
from skumatch.release.tracking import Tracking

SECONDS = 8.0  # less than a check is waited for, so that it can say which question had no answer
NEEDED = ("metadatabase", "scheduler", "dag_processor")  # of Airflow; a triggerer is optional
LOGS = {"metadatabase": "api-server"}
DRIFT_SECONDS = 30.0


def proxy(_: Place) -> str:
    """The proxy that servers beyond this machine are asked through; what no client can read is a Problem."""
    if network.LEFT_OUT:
        raise Problem(" ".join(network.LEFT_OUT), "Correct or unset the variable.", "warning")
    return network.described()


def airflow(place: Place) -> str:
    """Whether Airflow answers, lets us in, and its parts have been heard of lately.

    And is of the version that is installed here.
    """
    with Airflow(place.settings, SECONDS) as api:
        there, health = str(api.get("/version")["version"]), api.get("/monitor/health")
    ill = [name for name in (*NEEDED, "triggerer") if not _well(name, health.get(name) or {})]
    if ill:
        said = "; ".join(_silence(name, health.get(name) or {}) for name in ill)
        log = LOGS.get(ill[0], ill[0].replace("_", "-"))
        ours = f"`skumatch up` starts what has ended; its log is {place.settings.home_dir}/logs/{log}.log."
        fix = "Start it again where it runs, and read its log." if place.settings.airflow else ours
        raise Problem(said, fix, "failed" if set(ill) & set(NEEDED) else "warning")
    _same("apache-airflow-core", there)
    parts = [name.replace("_", " ") for name, part in health.items() if part and part.get("status")]
    return f"{there} at {place.settings.airflow_url}; healthy: {', '.join(parts)}"


def _well(name: str, part: dict[str, Any]) -> bool:
    return part.get("status") in (("healthy",) if name in NEEDED else ("healthy", None))


def _silence(name: str, part: dict[str, Any]) -> str:
    """What Airflow says of a part that is ill."""
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
    """Whether Airflow could read our DAGs, lets them run, has the pool they wait in, and has the stages and queues that are here."""
    with Airflow(place.settings, SECONDS) as api:
        errors = api.get("/importErrors")["import_errors"]
        found = {
            dag["dag_id"]: dag["is_paused"] for dag in api.get("/dags", dag_id_pattern="skumatch")["dags"]
        }
        pools = {pool["name"] for pool in api.get("/pools")["pools"]}
        rows = api.get(f"/dags/{RETRAIN}/tasks")["tasks"] if RETRAIN in found else []
        tasks = {task["task_id"]: task for task in rows}
    if errors:
        last = errors[0]["stack_trace"].strip().splitlines()[-1]
        raise Problem(
            f"Airflow can't import {errors[0]['filename']}: {last}",
            "Mend the file, or the packages that its DAG processor has.",
        )
    if absent := [dag for dag in (RETRAIN, REFRESH) if dag not in found]:
        raise Problem(f"Airflow has no DAG {absent[0]}", "Check its DAG folder: it is the project's dags/.")
    if waits := sorted({str(task["pool"]) for task in tasks.values()} - pools):
        raise Problem(
            f"Airflow has no pool {waits[0]}, so tasks would wait for ever",
            f"Make it: airflow pools set {waits[0]} 1 gpu",
        )
    if paused := [dag for dag in (RETRAIN, REFRESH) if found[dag]]:
        raise Problem(f"the DAG {paused[0]} is paused", "Unpause it in Airflow, or no run starts.", "warning")
    _check_same_pipeline(place, tasks)
    return f"{len(found)} imported, none with an error; pools: {', '.join(sorted({task['pool'] for task in tasks.values()}))}"


def _check_same_pipeline(place: Place, tasks: dict[str, Any]) -> None:
    """Raises Problem where Airflow's DAG is of another dvc.yaml or params.yaml than those here."""
    fix = "Bring Airflow's machine and this one to the same commit."
    if other := sorted({"pull", *STAGES, "register"} ^ set(tasks)):
        raise Problem(
            f"Airflow's {RETRAIN} is of another checkout: only one of them has the task {other[0]}",
            fix,
            "warning",
        )
    for stage, queue in place.params.runtime.queues.items():
        if tasks[stage]["queue"] != queue:
            raise Problem(
                f"{stage} goes to the queue {tasks[stage]['queue']} in Airflow, to {queue} by params.yaml here",
                fix,
                "warning",
            )


def mlflow(place: Place) -> str:
    """Whether MLflow answers, lets us in, and is of the version that is installed here."""
    tracking = Tracking(place.settings.mlflow_url)
    there = server_version(tracking)
    _same("mlflow", there)
    return f"{there} at {tracking.shown}"


def artifacts(place: Place) -> str:
    """Whether MLflow keeps, gives back and deletes what runs store."""
    return f"written, read and removed in {try_artifacts(Tracking(place.settings.mlflow_url))}"


def champion(place: Place) -> str:
    """Whether the champion can be asked for, and its bundle is the one that was registered."""
    registry = open_registry(place.settings, place.params)
    ref = registry.champion()
    if ref is None:
        return f"{registry.model_name} has none yet"
    if manifest_hash(registry, ref) != ref.bundle:
        raise Problem(
            f"the bundle of version {ref.version} is not what was registered",
            "See `skumatch audit --verify`; roll back.",
        )
    return f"{registry.model_name}, version {ref.version}, bundle {ref.bundle[:12]}"


def clocks(place: Place) -> str:
    """Whether this machine and the servers have the same time, by which runs and heartbeats are ordered."""
    pages = {
        "MLflow": f"{place.settings.mlflow_url}/health",
        "Airflow": f"{place.settings.airflow_url}/api/v2/version",
    }
    apart = {name: seconds for name, url in pages.items() if (seconds := _drift(url)) is not None}
    if not apart:
        raise Problem("no server tells its time", "Start them, or compare the clocks by hand.", "skipped")
    if late := {name: seconds for name, seconds in apart.items() if seconds > DRIFT_SECONDS}:
        said = " and ".join(f"{seconds:,.0f} s from {name}'s" for name, seconds in late.items())
        raise Problem(f"this machine's clock is {said}", "Set them by NTP.", "warning")
    return f"{' and '.join(apart)} have ours, within {max(apart.values()):.0f} s"


def _drift(url: str) -> float | None:
    """Seconds between the clock here and that of a server; None where it tells no time."""
    try:
        with network.http_client(url, SECONDS / 2) as client:
            told = client.get(url).headers.get("date")
    except (httpx.HTTPError, httpx.InvalidURL):  # the server's own check says so
        return None
    return abs(time.time() - parsedate_to_datetime(told).timestamp()) if told else None


def _same(package: str, there: str) -> None:
    try:
        here = version(package)
    except PackageNotFoundError:
        return
    if here != there:
        raise Problem(
            f"{package} is {here} here, {there} there",
            "Build all images and environments from one checkout.",
            "warning",
        )
