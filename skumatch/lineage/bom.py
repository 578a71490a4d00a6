"""A bundle's bill of materials in CycloneDX: the model, its data, its weights, and all packages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement

from skumatch.lineage.lineage import Lineage


def bill(record: Lineage, constraints: str, model: str, ended: datetime) -> str:
    """Return the bill of materials of a run as CycloneDX 1.6 in JSON; the same for the same run.

    Args:
        record: the run's lineage record.
        constraints: the text of constraints.txt, which pins the packages.
        model: the registered model's name.
        ended: time of the registration.
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
    document.metadata.timestamp = ended
    document.metadata.component = Component(
        name=model, version=record.results.bundle[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="model",
        hashes=sha256(record.results.bundle),
        properties=[Property(name="skumatch:run", value=record.run)],
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
