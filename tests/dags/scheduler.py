"""Airflow's own scheduler over a fresh database: which runs it makes of events.

test_events.py starts it as a process. It prints, as JSON, the versions that each run's events name.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from airflow.assets.manager import AssetManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models import DagModel, DagRun
from airflow.models.asset import AssetEvent
from airflow.models.dagbundle import DagBundleModel
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from sqlalchemy import select

DAGS = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]


class Scheduler:
    """Makes the runs for events that it gets, without working on their tasks."""

    def __init__(self) -> None:
        bag = DagBag(DAGS, bundle_name="dags-folder")
        assert not bag.import_errors, bag.import_errors
        with create_session() as session:
            session.merge(DagBundleModel(name="dags-folder"))
        sync_bag_to_db(bag, "dags-folder", None)
        with create_session() as session:
            for dag in session.scalars(select(DagModel)):
                dag.is_paused = False
                dag.next_dagrun_create_after = None  # by time nothing starts here
        self.runner = SchedulerJobRunner(Job())

    def event(self, asset: Any, version: int) -> None:
        with create_session() as session:
            AssetManager.register_asset_change(asset=asset, extra={"version": version}, session=session)

    def loop(self) -> None:
        """The part of a loop of Airflow's scheduler that makes runs."""
        with create_session() as session, prohibit_commit(session) as guard:
            self.runner._create_dagruns_for_dags(guard, session)

    def end(self, dag: str) -> None:
        """Every run of a DAG has ended."""
        with create_session() as session:
            for run in session.scalars(select(DagRun).where(DagRun.dag_id == dag)):
                run.state = DagRunState.SUCCESS

    def versions(self, dag: str) -> list[list[int]]:
        """The versions that the events of each run name."""
        with create_session() as session:
            runs = session.scalars(select(DagRun).where(DagRun.dag_id == dag).order_by(DagRun.id)).all()
            return [[event.extra["version"] for event in run.consumed_asset_events] for run in runs]

    def events(self) -> int:
        with create_session() as session:
            return len(session.scalars(select(AssetEvent)).all())


def main() -> None:
    sys.path.insert(0, DAGS)
    from events import CHALLENGER, TRAINED

    scheduler, seen = Scheduler(), dict[str, Any]()
    scheduler.event(CHALLENGER, 1)
    scheduler.event(CHALLENGER, 2)
    scheduler.loop()
    scheduler.loop()
    seen["two before a loop"] = scheduler.versions("skumatch_release")
    scheduler.event(CHALLENGER, 3)
    scheduler.loop()
    seen["a third after it"] = scheduler.versions("skumatch_release")
    scheduler.event(TRAINED, 1)
    scheduler.loop()
    for version in (2, 3, 4):
        scheduler.event(TRAINED, version)
        scheduler.loop()
    seen["three while a run is queued"] = scheduler.versions("skumatch_refresh")
    scheduler.end("skumatch_refresh")
    scheduler.loop()
    scheduler.end("skumatch_refresh")
    scheduler.loop()
    seen["after its end"] = scheduler.versions("skumatch_refresh")
    seen["events that Airflow keeps"] = scheduler.events()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
