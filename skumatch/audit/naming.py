"""From when to when a product could be named by what served."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from skumatch.audit.served import Service
from skumatch.errors import SkumatchError
from skumatch.texts import alike

Labels = Callable[[int], Collection[str]]


@dataclass(frozen=True)
class Naming:
    """A time without a gap in which what served had the product in its gallery.

    until: None if it still serves. versions: the champions of that time, in order. reason: empty, or why
    nobody knows whether the version could name the product.
    """

    since: datetime
    until: datetime | None
    versions: tuple[int, ...]
    reason: str = ""


def namings(services: Sequence[Service], sku: str, labels: Labels) -> list[Naming]:
    """When a product could be named, in order.

    Args:
        services: the champions and their times, in order.
        sku: the product's name, in any spelling that means the same.
        labels: returns the SKUs that a version's gallery has; raises SkumatchError where that can't be read.
    """
    wanted, known = alike(sku), dict[int, bool | str]()
    times: list[Naming] = []
    for service in services:
        if service.version is None or service.since is None:
            continue
        if service.version not in known:
            known[service.version] = _names(labels, service.version, wanted)
        answer = known[service.version]
        if answer is False:
            continue
        reason = answer if isinstance(answer, str) else ""
        naming = Naming(service.since, service.until, (service.version,), reason)
        if times and times[-1].until == naming.since and not times[-1].reason and not reason:
            times[-1] = replace(
                times[-1], until=naming.until, versions=(*times[-1].versions, service.version)
            )
        else:
            times.append(naming)
    return times


def in_words(times: Sequence[Naming]) -> list[str]:
    """A sentence about the times that are known, and one for each that is not."""
    spells = [f"{_span(time)}, by {_versions(time.versions)}" for time in times if not time.reason]
    unknown = [time for time in times if time.reason]
    never = "could not be named by what served" if unknown else "could never be named by what served"
    first = f"Nameable by what served: {'; '.join(spells)} (UTC)." if spells else f"It {never}."
    return [
        first,
        *(f"Not known {_span(time)}, of version {time.versions[0]}: {time.reason}" for time in unknown),
    ]


def _names(labels: Labels, version: int, wanted: str) -> bool | str:
    """Whether the version can name the product; a sentence where its labels can't be read."""
    try:
        return any(alike(sku) == wanted for sku in labels(version))
    except SkumatchError as error:
        return str(error)


def _span(time: Naming) -> str:
    until = f"to {time.until:%Y-%m-%d %H:%M}" if time.until else "until now"
    return f"from {time.since:%Y-%m-%d %H:%M} {until}"


def _versions(versions: Sequence[int]) -> str:
    *most, last = dict.fromkeys(versions)
    return f"versions {', '.join(map(str, most))} and {last}" if most else f"version {last}"
