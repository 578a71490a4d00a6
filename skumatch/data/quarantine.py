"""The quarantine: delivered images that can't be used, by reason, with thumbnails of some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from skumatch.data.images import glimpse
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.files import read_json

QUARANTINE = "quarantine.json"
# Thumbnails kept for each reason. They are made at once, since the data version doesn't have the bytes.
A_REASON = 8


class Pictured:
    """Thumbnails of the first images of each reason that can be shown at all.

    Attributes:
        found: id -> data URI.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._reasons: Counter[str] = Counter()

    def add(self, image_id: str, reason: str, data: bytes) -> None:
        """Keep a thumbnail of an image, if it can be shown and its reason has fewer than A_REASON.

        Args:
            image_id: the image's id.
            reason: why it can't be used, one of images.REASONS.
            data: its bytes.
        """
        if self._reasons[reason] < A_REASON and (picture := glimpse(data)):
            self._reasons[reason] += 1
            self.found[image_id] = thumbnail(picture)


def read_pictures(root: Path) -> dict[str, str]:
    """Read the thumbnails of the data version at `root`, as id -> data URI.

    The result is empty for a version that was imported before thumbnails were kept.
    """
    path = root / QUARANTINE
    pictures: dict[str, str] = read_json(path) if path.is_file() else {}
    return pictures


def set_aside(quarantined: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Return the ids of quarantined images by reason, the most frequent reason first."""
    counts = Counter(entry["reason"] for entry in quarantined)
    reasons = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return {reason: [entry["id"] for entry in quarantined if entry["reason"] == reason] for reason in reasons}
