"""Delivered images that could not be used: by reason, and small pictures of some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from skumatch.data.images import glimpse
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.files import read_json

QUARANTINE = "quarantine.json"
# Pictures kept of each reason: their bytes are not in the data version, so later there is nothing to make
# them of.
A_REASON = 8


class Pictured:
    """Small pictures of the first images of each reason of which anything can be shown: `found` is id -> data URI."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._reasons: Counter[str] = Counter()

    def add(self, image_id: str, reason: str, data: bytes) -> None:
        if self._reasons[reason] < A_REASON and (picture := glimpse(data)):
            self._reasons[reason] += 1
            self.found[image_id] = thumbnail(picture)


def read_pictures(root: Path) -> dict[str, str]:
    """Id -> data URI, of the data version at `root`.

    None for one that was imported before pictures were kept.
    """
    path = root / QUARANTINE
    found: dict[str, str] = read_json(path) if path.is_file() else {}
    return found


def set_aside(quarantined: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """The ids of quarantined images (id, reason) by reason, the most frequent reason first."""
    counts = Counter(entry["reason"] for entry in quarantined)
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return {reason: [entry["id"] for entry in quarantined if entry["reason"] == reason] for reason in reasons}
