"""Announce a new data version to Airflow, so that a refresh starts."""

from __future__ import annotations

from skumatch.config import Settings
from skumatch.errors import SkumatchError
from skumatch.params import NEVER, ScheduleParams
from skumatch.servers.airflow_api import Airflow
from skumatch.started import server_fault

ASSET = "skumatch_data"  # as dags/events.py calls it; a test compares
SECONDS = 10.0


def announce(settings: Settings, schedule: ScheduleParams, data: str) -> str:
    """Post an event of the data's asset to Airflow, if `schedule.on_new_data` is set.

    Errors become part of the sentence, so no import fails because of Airflow.

    Args:
        settings: Address of Airflow.
        schedule: The section `schedule` of params.yaml.
        data: MD5 of the new data version, which the event carries.

    Returns:
        A sentence on the next refresh; empty if imports start none.
    """
    if not schedule.on_new_data:
        return ""
    if not settings.airflow and server_fault(settings, "api-server"):
        return f"Airflow isn't running, so no refresh starts now; {_later(schedule)}."
    try:
        with Airflow(settings, SECONDS) as airflow:
            assets = airflow.get("/assets", name_pattern=ASSET)["assets"]
            ids = [asset["id"] for asset in assets if asset["name"] == ASSET]
            if not ids:
                return (
                    f"Airflow does not know the data's asset {ASSET} yet, "
                    f"so no refresh starts now; {_later(schedule)}."
                )
            airflow.post("/assets/events", {"asset_id": ids[0], "extra": {"data": data}})
    except (SkumatchError, OSError) as error:
        return f"No refresh starts now: {str(error).rstrip('.')}; {_later(schedule)}."
    wait = f" once no import came for {schedule.debounce_minutes} min" if schedule.debounce_minutes else ""
    return f"Airflow was told; a refresh starts{wait}."


def _later(schedule: ScheduleParams) -> str:
    if schedule.refresh == NEVER:
        return "`skumatch refresh` starts one"
    return "the next scheduled refresh will see this version"
