"""Images that were set aside, for a page: some of each reason, with what can be shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from skumatch.data import quarantine
from skumatch.report.context import Aside
from skumatch.report.mistakes import Some

MOST = 16


def by_reason(entries: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """How many of the import's `quarantined` entries (id, reason, sentence) were set aside for each reason, the most frequent first."""
    return {reason: len(ids) for reason, ids in quarantine.set_aside(entries).items()}


def set_aside(
    entries: Sequence[Mapping[str, str]], pictures: Mapping[str, str], limit: int = MOST
) -> Some[Aside]:
    """Up to `limit` of the import's `quarantined` entries, those with a picture first, the reasons taking turns."""
    by_id = {entry["id"]: entry for entry in entries}
    queues = [
        sorted(ids, key=lambda name: (name not in pictures, name))
        for ids in quarantine.set_aside(entries).values()
    ]
    turns = [image_id for image_id in chain.from_iterable(zip_longest(*queues)) if image_id is not None]
    return Some([_aside(by_id[image_id], pictures.get(image_id)) for image_id in turns[:limit]], len(entries))


def _aside(entry: Mapping[str, str], picture: str | None) -> Aside:
    parts = entry["id"].split("/")
    named = ("/".join(parts[1:-1]), f"{parts[0]} / {parts[-1]}") if len(parts) > 2 else (entry["id"], "")
    return Aside(*named, entry["reason"], entry["sentence"], picture)
