"""Versions that passed the gate and wait: for a person's approval, or for their encoder to be judged again.

Airflow tells of them by events, but hands on only the first of several (decision 0018 in docs). So the record
is a tag of the version, and a run that an event started looks here for the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skumatch.release.promotion import compared_with
from skumatch.release.registry import ModelRef, Registry

Reason = Literal["approval", "judgement"]
WAITS_TAG, APPROVED_TAG = "skumatch.waits_for", "skumatch.approved_by"


@dataclass(frozen=True)
class Taken:
    """A version that a run takes up; others: whether further versions wait for the same."""

    ref: ModelRef
    others: bool

    @property
    def approved_by(self) -> str:
        """Who approved the version's encoder; empty where nobody did."""
        return self.ref.tags.get(APPROVED_TAG, "")


def wait(registry: Registry, version: int, reason: Reason, approved_by: str = "") -> None:
    """Record that a version waits, before an event tells of it."""
    registry.set_tags(version, {WAITS_TAG: reason} | ({APPROVED_TAG: approved_by} if approved_by else {}))


def take(registry: Registry, reason: Reason, run: str) -> Taken | None:
    """Take up the oldest version that waits for `reason`; no other run takes it from then on.

    A run that asks again, since its task was tried again, gets the version that it has taken already.

    Returns:
        None where no version waits.
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
    """Record that a version waits no longer, since the champion is another than it was compared with."""
    registry.set_tags(ref.version, {WAITS_TAG: "nothing"})


def _comparable(registry: Registry, ref: ModelRef) -> bool:
    """Whether the champion has the encoder that a version was compared with; if not, a retrain compares."""
    champion, expected = registry.champion(), compared_with(ref)
    if champion is None or champion.version == ref.version:
        return False
    return registry.encoder(champion.version) == registry.encoder(expected)
