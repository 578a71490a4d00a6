"""Automatic starts of a refresh: by a new data version, or by a trained encoder to be judged again.

A new data version waits until no further import comes.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.definitions.context import Context
from events import DATA, TRAINED
from recipe import SCHEDULE
from stage_process import request

log = logging.getLogger(__name__)
POLL_SECONDS = 5.0
MOST_SECONDS = 3600.0  # imports without an end must not keep the gallery as it is


def refresh_request(context: Context) -> dict[str, Any]:
    """Return the message of a refresh's first task.

    If an import started the run, wait until imports have paused.
    """
    if context["dag_run"].run_type == "asset_triggered" and not tells_of_an_encoder(context):
        wait_for_pause(context)
    encoder = context["params"]["encoder"]
    return request(context, kind="refresh") | ({"encoder": encoder} if encoder else {})


def tells_of_an_encoder(context: Context) -> bool:
    """Return whether the run was started for an encoder that waits to be judged; MLflow knows which."""
    return any(asset.name == TRAINED.name for asset in context["triggering_asset_events"])


def wait_for_pause(context: Context) -> None:
    """Return once the newest event of the data's asset is `schedule.debounce_minutes` old, or after an hour.

    The run then takes the newest data. Airflow merges all events that come while it waits or works into one
    further run after its end (max_active_runs=1), which is skipped if nothing is new.
    """
    pause, until = 60.0 * SCHEDULE["debounce_minutes"], time.monotonic() + MOST_SECONDS
    while time.monotonic() < until and (left := pause - newest_age(context)) > 0:
        log.info("Data was imported lately; the refresh waits %.0f s for further imports.", left)
        time.sleep(min(left, POLL_SECONDS))


def newest_age(context: Context) -> float:
    """Return the seconds since the newest event of the data's asset, fetched from Airflow at each call."""
    newest = context["inlet_events"][DATA].ascending(False).limit(1)
    moment = newest[0].timestamp if len(newest) else datetime.fromtimestamp(0, UTC)
    return (datetime.now(UTC) - moment).total_seconds()
