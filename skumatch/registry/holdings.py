"""Find the input sets and locks that MLflow's versions and runs need, so that a clean-up keeps them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from skumatch.errors import CleaningRefused
from skumatch.registry.journal import SOURCE, Journal, journal_name
from skumatch.registry.tracking import (
    EXPERIMENT,
    INPUTS_TAG,
    LOCK_NAME,
    MODEL_PARAM,
    PLAIN_TAG,
    RUN_TAG,
    VERSION_TAG,
    Tracking,
    or_none,
)

PAGE = 1000


@dataclass(frozen=True)
class Holding:
    """The files that a version or a run needs.

    Attributes:
        who: the version or run, in words.
        inputs: MD5 of its input set.
        lock: the text of its dvc.lock; empty for a run that has none yet.
    """

    who: str
    inputs: str
    lock: str


def holdings(tracking: Tracking, since: datetime) -> list[Holding]:
    """Return the holdings of all versions and of the runs that have to be kept.

    These are all registered versions of all models, runs that ended since `since`, runs that a journal names,
    and the runs whose lock the next run starts from. Runs that were removed in MLflow hold nothing, except
    the run of a version.

    Args:
        tracking: the server.
        since: start of the period whose runs are kept.

    Raises:
        RegistryUnavailable: the server is away.
        CleaningRefused: the lock of a version or of a finished run is gone, so its needs are unknown.
    """
    with tracking.client() as client:
        versions = list(
            pages(lambda token: client.search_model_versions("", max_results=PAGE, page_token=token))
        )
        runs = list(_runs(client))
        journalled, start_ms = _in_journals(client, versions), since.timestamp() * 1000
        kept = [run for run in runs if _recorded(run) >= start_ms or _registered_as(run) in journalled]
        by_id = {run.info.run_id: run for run in [*kept, *_next_start(runs)]}
        of_runs = [_of_run(client, run) for run in by_id.values()]
        return of_runs + [_of_version(client, version) for version in versions if INPUTS_TAG in version.tags]


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield all results of a search of MLflow, page after page.

    Args:
        search: a function of the page's token (None for the first page).
    """
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def _runs(client: Any) -> Iterator[Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        place = [experiment.experiment_id]
        runs = pages(lambda token: client.search_runs(place, "", max_results=PAGE, page_token=token))
        yield from (run for run in runs if INPUTS_TAG in run.data.tags)


def _recorded(run: Any) -> int:
    """Return when a run ended, in milliseconds; when it began where it has no end."""
    return int(run.info.end_time or run.info.start_time)


def _registered_as(run: Any) -> tuple[str, str]:
    return run.data.params.get(MODEL_PARAM, ""), run.data.tags.get(VERSION_TAG, "")


def _in_journals(client: Any, versions: list[Any]) -> set[tuple[str, str]]:
    """Return (model, version) of each version that a journal names, versions that were removed included."""
    suffix = journal_name("")
    models = {
        version.name.removesuffix(suffix)
        for version in versions
        if version.name.endswith(suffix) and version.source == SOURCE
    }
    named: set[tuple[str, str]] = set()
    for model in models:
        for entry in Journal(client, model, lambda: None).entries():
            champions = {part.champion for part in (entry.before, entry.after) if part}
            versions_named = champions | set(entry.asked.versions)
            named |= {(model, str(version)) for version in versions_named if version is not None}
    return named


def _next_start(runs: list[Any]) -> Iterator[Any]:
    """Yield the runs whose lock the next run may start from, however old they are.

    These are the last finished run, and the last finished one as the schedule would start it.
    """
    finished = [run for run in runs if run.info.status == "FINISHED" and run.data.tags.get(RUN_TAG)]
    plain = [run for run in finished if run.data.tags.get(PLAIN_TAG) == "true"]
    for candidates in (finished, plain):
        yield from sorted(candidates, key=lambda run: run.info.end_time)[-1:]


def _of_run(client: Any, run: Any) -> Holding:
    owner, lock = f"Run {run.data.tags.get(RUN_TAG, run.info.run_id)}", _lock(client, run.info.run_id)
    if not lock and run.info.status == "FINISHED":
        raise _unknown(owner, run.info.run_id)
    return Holding(owner, run.data.tags[INPUTS_TAG], lock)


def _of_version(client: Any, version: Any) -> Holding:
    owner, run_id = f"Version {version.version} of '{version.name}'", version.run_id or ""
    lock = _lock(client, run_id) if run_id and or_none(client.get_run, run_id) else ""
    if not lock:
        raise _unknown(owner, run_id)
    return Holding(owner, version.tags[INPUTS_TAG], lock)


def _lock(client: Any, run_id: str) -> str:
    if not any(item.path == LOCK_NAME for item in client.list_artifacts(run_id)):
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, LOCK_NAME, folder)).read_text("utf-8")


def _unknown(owner: str, run_id: str) -> CleaningRefused:
    lacks = f"the MLflow run {run_id or '(none named)'} has no {LOCK_NAME} for it"
    advice = "restore that run or remove what names it, then clean up"
    return CleaningRefused(f"{owner} rests on what nobody knows: {lacks}; {advice}.")
