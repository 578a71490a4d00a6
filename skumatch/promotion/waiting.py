"""Versions that passed the gate and wait for approval by a person, or for a new judgement of their encoder.

Airflow announces them by events, but passes on only the first of several (decision 0018 in docs). So the
record is a tag of the version, and a run that an event started looks here for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skumatch.promotion.promotion import compared_with
from skumatch.registry.registry import ModelRef, Registry

Reason = Literal["approval", "judgement"]
WAITS_TAG, APPROVED_TAG = "skumatch.waits_for", "skumatch.approved_by"


@dataclass(frozen=True)
class Taken:
    """A version that a run takes up.

    Attributes:
        ref: the version.
        others: whether further versions wait for the same.
    """

    ref: ModelRef
    others: bool

    @property
    def approved_by(self) -> str:
        """Name of the person who approved the version's encoder; empty where nobody did."""
        return self.ref.tags.get(APPROVED_TAG, "")


def wait(registry: Registry, version: int, reason: Reason, approved_by: str = "") -> None:
    """Record that a version waits, before an event announces it.

    Args:
        registry: the registry that has the version.
        version: the version's number.
        reason: `approval` or `judgement`.
        approved_by: the person who approved the encoder; empty where nobody did.
    """
    registry.set_tags(version, {WAITS_TAG: reason} | ({APPROVED_TAG: approved_by} if approved_by else {}))


def take(registry: Registry, reason: Reason, run: str) -> Taken | None:
    """Take up the oldest version that waits for `reason`, so that no other run takes it.

    A run whose task is tried again gets the version that it has taken already.

    Args:
        registry: the registry that has the versions.
        reason: `approval` or `judgement`.
        run: name of the run that takes the version.

    Returns:
        The version; None where no version waits.
    """
    taken_by_run = f"{reason} in {run}"
    refs = [ref for ref in reversed(registry.versions()) if ref.tags.get(WAITS_TAG) in (reason, taken_by_run)]
    if reason == "judgement":
        refs = [ref for ref in refs if _comparable(registry, ref)]
    refs.sort(key=lambda ref: ref.tags[WAITS_TAG] != taken_by_run)
    if not refs:
        return None
    registry.set_tags(refs[0].version, {WAITS_TAG: taken_by_run})
    return Taken(refs[0], others=len(refs) > 1)


def pass_over(registry: Registry, ref: ModelRef) -> None:
    """Record that a version waits no longer, since the champion isn't the one it was compared with."""
    registry.set_tags(ref.version, {WAITS_TAG: "nothing"})


def _comparable(registry: Registry, ref: ModelRef) -> bool:
    """Return whether the champion has the encoder that a version was compared with.

    If not, only a retrain can compare.
    """
    champion, expected = registry.champion(), compared_with(ref)
    if champion is None or champion.version == ref.version:
        return False
    return registry.encoder(champion.version) == registry.encoder(expected)
