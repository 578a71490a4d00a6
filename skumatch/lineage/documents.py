"""A run as standard documents: a bill of materials in CycloneDX, and run events in OpenLineage."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import attr
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import DatasetFacet, RunFacet
from openlineage.client.transport import Transport
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement

from skumatch.config import shown
from skumatch.lineage.lineage import Lineage


def bill(record: Lineage, constraints: str, model: str) -> str:
    """Return the bill of materials of a run as CycloneDX 1.6 in JSON; the same for the same run.

    Args:
        record: the run's lineage record.
        constraints: the text of constraints.txt, which pins the packages.
        model: the registered model's name.
    """
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    inputs = record.inputs

    def sha256(digest: str | None) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []

    document = Bom(serial_number=UUID(record.results.bundle[:32]))
    times = {"started": record.started, "ended": record.ended}
    facts = {"run": record.run} | {name: moment.isoformat() for name, moment in times.items() if moment}
    document.metadata.timestamp = _end(record)
    document.metadata.component = Component(
        name=model, version=record.results.bundle[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model",
        hashes=sha256(record.results.bundle),
        properties=[Property(name=f"skumatch:{name}", value=value) for name, value in facts.items()],
    )  # fmt: skip
    md5 = [HashType(alg=HashAlgorithm.MD5, content=inputs.data.removeprefix("md5:").removesuffix(".dir"))]
    parts = [
        Component(
            name="data",
            version=inputs.data.removeprefix("md5:"),
            type=ComponentType.DATA,
            bom_ref="data",
            hashes=md5,
        ),
        Component(
            name=inputs.weights,
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref="weights",
            hashes=sha256(inputs.weights_sha256),
        ),
    ]
    for name, version in packages(constraints):
        purl = PackageURL("pypi", name=name, version=version)
        parts.append(
            Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=str(purl), purl=purl)
        )
    document.components.update(parts)
    document.register_dependency(document.metadata.component, parts)
    return str(JsonV1Dot6(document).output_as_string(indent=2)) + "\n"


def packages(constraints: str) -> Iterator[tuple[str, str]]:
    """Yield name and version of each package that the lock pins for this Python and platform."""
    for line in constraints.splitlines():
        try:
            requirement = Requirement(line.split("#")[0].strip())
        except InvalidRequirement:
            continue  # a comment, an empty line
        marker: Marker | None = requirement.marker
        pinned = [clause.version for clause in requirement.specifier if clause.operator == "=="]
        if pinned and (marker is None or marker.evaluate()):
            yield requirement.name, pinned[0]


NAMESPACE = "skumatch"
PRODUCER = "urn:skumatch:register:1"


@attr.define
class DataVersionFacet(DatasetFacet):
    """The facet of the run's data.

    Attributes:
        version: DVC's hash of the data.
    """

    version: str


@attr.define
class ModelVersion(DatasetFacet):
    """The facet of the run's model.

    Attributes:
        bundle: SHA-256 of the bundle.
        version: its number in the registry; None where it wasn't registered.
    """

    bundle: str
    version: int | None


@attr.define
class DecisionFacet(RunFacet):
    """The facet of the gate's decision.

    Attributes:
        verdict: the gate's verdict.
        sentence: the decision in words.
        record: hash of the lineage record.
    """

    verdict: str
    sentence: str
    record: str


def events(
    record: Lineage, digest: str, sentence: str, model: str, version: int | None
) -> tuple[RunEvent, ...]:
    """Return the START and the COMPLETE event of a run. Its job has the name of the DAG for the run's kind.

    Args:
        record: the run's lineage record, with the times of both.
        digest: hash of `record`.
        sentence: the gate's decision in words.
        model: the registered model's name.
        version: the registered version; None where nothing was registered.

    Returns:
        Both events; COMPLETE alone where the start isn't recorded.
    """
    data = InputDataset(NAMESPACE, "data", facets={"skumatch_data": DataVersionFacet(record.inputs.data)})
    outs = OutputDataset(
        NAMESPACE, model, facets={"skumatch_model": ModelVersion(record.results.bundle, version)}
    )
    decision = DecisionFacet(record.results.verdict, sentence, digest)
    run_id = str(uuid5(NAMESPACE_URL, f"skumatch:{record.run}"))
    job = Job(NAMESPACE, f"skumatch_{record.inputs.kind}")
    inputs = [data, InputDataset(NAMESPACE, f"weights: {record.inputs.weights}")]
    complete = RunEvent(
        eventTime=_end(record).isoformat(), eventType=RunState.COMPLETE, producer=PRODUCER,
        run=Run(run_id, facets={"skumatch_decision": decision}), job=job, inputs=inputs, outputs=[outs],
    )  # fmt: skip
    if record.started is None:
        return (complete,)
    start = RunEvent(
        eventTime=record.started.isoformat(), eventType=RunState.START, producer=PRODUCER,
        run=Run(run_id), job=job, inputs=inputs,
    )  # fmt: skip
    return start, complete


def _end(record: Lineage) -> datetime:
    assert record.ended, "what is registered now says when it ended"
    return record.ended


def emit(run_event: RunEvent, target: str) -> None:
    """Send an event to an HTTP endpoint, or append it to a file.

    An event that can't be sent is reported on stderr; the run goes on.

    Args:
        run_event: the event.
        target: an http(s) URL, or the path of a file.
    """
    try:
        OpenLineageClient(transport=transport(target)).emit(run_event)
    # A transport may raise anything, and a listener that is away is no reason to fail a run.
    except Exception as error:  # noqa: BLE001
        reason = shown(str(error))[:200]
        print(
            f"The OpenLineage event could not be sent to {shown(target)} ({reason}); the run goes on.",
            file=sys.stderr,
        )


def transport(target: str) -> Transport:
    """Return the transport to an http(s) URL, or to a file that gets one JSON object a line."""
    if target.startswith(("http://", "https://")):
        return HttpTransport(HttpConfig(url=target, retry={"total": 1}))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return FileTransport(FileConfig(log_file_path=target, append=True))


def airflow_transport(target: str) -> Mapping[str, Any]:
    """Return the same transport as a setting of Airflow's provider: [openlineage] transport."""
    if target.startswith(("http://", "https://")):
        return {"type": "http", "url": target}
    return {"type": "file", "log_file_path": target, "append": True}
