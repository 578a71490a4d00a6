"""Delivered images that could not be used, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def set_aside(quarantined: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The ids of quarantined images (id, reason) by reason, the most frequent reason first."""
    counts = Counter(entry["reason"] for entry in quarantined)
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return {reason: [entry["id"] for entry in quarantined if entry["reason"] == reason] for reason in reasons}
