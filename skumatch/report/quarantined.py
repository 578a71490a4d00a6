"""Images that were set aside, for a page: some for each reason, with their picture where possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from skumatch.data import quarantine
from skumatch.report.context import Aside
from skumatch.report.mistakes import Some

MOST = 16


def by_reason(entries: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Count the import's `quarantined` entries by reason, the most frequent reason first.

    Args:
        entries: entries with the keys id, reason and sentence.
    """
    return {reason: len(ids) for reason, ids in quarantine.set_aside(entries).items()}


def set_aside(
    entries: Sequence[Mapping[str, str]], pictures: Mapping[str, str], limit: int = MOST
) -> Some[Aside]:
    """Choose some of the import's `quarantined` entries for a page.

    The reasons take turns; within a reason entries with a picture come first.

    Args:
        entries: entries with the keys id, reason and sentence.
        pictures: pictures as data URIs by the entry's id.
        limit: largest number of entries.
    """
    by_id = {entry["id"]: entry for entry in entries}
    queues = [
        sorted(ids, key=lambda name: (name not in pictures, name))
        for ids in quarantine.set_aside(entries).values()
    ]
    turns = [image_id for image_id in chain.from_iterable(zip_longest(*queues)) if image_id is not None]
    return Some([_aside(by_id[image_id], pictures.get(image_id)) for image_id in turns[:limit]], len(entries))


def _aside(entry: Mapping[str, str], picture: str | None) -> Aside:
    parts = entry["id"].split("/")
    sku, file = entry["id"], ""
    if len(parts) > 2:
        sku, file = "/".join(parts[1:-1]), f"{parts[0]} / {parts[-1]}"
    return Aside(sku=sku, file=file, reason=entry["reason"], sentence=entry["sentence"], picture=picture)
