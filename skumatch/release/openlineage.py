"""A run as an OpenLineage event: which data version and weights went in, which model came out, what the gate decided.

Airflow's provider tells of tasks; this tells of what they were about. OpenLineage 2.0.2, to a file or over HTTP.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import DatasetFacet, RunFacet
from openlineage.client.transport import Transport
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport

from skumatch.config import shown
from skumatch.release.lineage import Lineage

NAMESPACE = "skumatch"
PRODUCER = "urn:skumatch:register:1"


@attr.define
class DataVersion(DatasetFacet):
    """version: DVC's hash of the data."""

    version: str


@attr.define
class ModelVersion(DatasetFacet):
    """bundle: the bundle's SHA-256. version: its number in the registry, None where it wasn't registered."""

    bundle: str
    version: int | None


@attr.define
class Decision(RunFacet):
    """The gate's verdict and its words; record: hash of the lineage record."""

    verdict: str
    sentence: str
    record: str


def event(
    record: Lineage, digest: str, sentence: str, model: str, version: int | None, ended: datetime
) -> RunEvent:
    """The COMPLETE event of a run, whose job is named as the DAG of the run's kind is.

    Args:
        record: the run's lineage record.
        digest: hash of `record`.
        sentence: the gate's decision in words.
        model: the registered model's name.
        version: the registered version; None where nothing was registered.
        ended: when the run was registered.
    """
    data = InputDataset(NAMESPACE, "data", facets={"skumatch_data": DataVersion(record.inputs.data)})
    outs = OutputDataset(
        NAMESPACE, model, facets={"skumatch_model": ModelVersion(record.results.bundle, version)}
    )
    decision = Decision(record.results.verdict, sentence, digest)
    return RunEvent(
        eventTime=ended.isoformat(), eventType=RunState.COMPLETE, producer=PRODUCER,
        run=Run(str(uuid5(NAMESPACE_URL, f"skumatch:{record.run}")), facets={"skumatch_decision": decision}),
        job=Job(NAMESPACE, f"skumatch_{record.inputs.kind}"),
        inputs=[data, InputDataset(NAMESPACE, f"weights: {record.inputs.weights}")], outputs=[outs],
    )  # fmt: skip


def emit(made: RunEvent, where: str) -> None:
    """Send an event to an HTTP endpoint or append it to a file.

    One that can't be sent is told, and stops nothing.
    """
    try:
        OpenLineageClient(transport=transport(where)).emit(made)
    except Exception as error:  # noqa: BLE001 - whatever a transport raises: a listener that is away is no reason to fail a run
        print(
            f"The OpenLineage event could not be sent to {shown(where)} ({shown(str(error))[:200]}); the run goes on.",
            file=sys.stderr,
        )


def transport(where: str) -> Transport:
    """By the place: an http(s) URL, or a file that events are appended to, one JSON a line."""
    if where.startswith(("http://", "https://")):
        return HttpTransport(HttpConfig(url=where, retry={"total": 1}))
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    return FileTransport(FileConfig(log_file_path=where, append=True))


def airflow_transport(where: str) -> Mapping[str, Any]:
    """The same for Airflow's provider: its setting [openlineage] transport."""
    if where.startswith(("http://", "https://")):
        return {"type": "http", "url": where}
    return {"type": "file", "log_file_path": where, "append": True}
