"""Slices of both models side by side, family by family, on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from skumatch.report.meters import Mark, dots, lowest
from skumatch.retrieval.figures import Bounds, Evaluation, Slice

MOST = 12  # slices shown of a family; product groups can be many
FAMILIES = {
    "thirds": "By gallery pictures of the product",
    "size": "By size of the photo",
    "aspect": "By shape of the photo",
    "blur": "By sharpness",
    "brightness": "By brightness",
    "unseen": "Products it never trained on",
    "new": "New products",
    "catalogue_only": "Products served from a catalogue picture",
    "group": "By product group",
}
NAMES = {
    "thirds": {"head": "Many", "middle": "Some", "tail": "Few"},
    "size": {"low": "Small", "middle": "Medium", "high": "Large"},
    "aspect": {"low": "Tall", "middle": "Medium", "high": "Wide"},
    "blur": {"low": "Blurred", "middle": "Medium", "high": "Sharp"},
    "brightness": {"low": "Dark", "middle": "Medium", "high": "Bright"},
    "unseen": {"unseen": "Never trained on", "seen": "Trained on"},
    "new": {"new": "New", "known": "Known before"},
    "catalogue_only": {"catalogue": "Catalogue picture alone", "shelf": "Shelf photos"},
}


class Line(NamedTuple):
    """One slice: its name, what is in it, and the drawing of each model's share of right first answers with its interval."""

    name: str
    about: str
    queries: int
    skus: int
    figures: tuple[tuple[str, float, Bounds], ...]
    chart: Markup


class Family(NamedTuple):
    """Slices told apart by one thing; `more` are not shown."""

    title: str
    lines: list[Line]
    more: int


def families(models: Sequence[tuple[str, Evaluation]]) -> dict[str, Any] | None:
    """All slices of the first model beside those of the others, and where their common axis begins.

    None where there are no slices.
    """
    ours = models[0][1].slices
    found = [(slice_, _marks(slice_, models)) for slice_ in ours]
    if not found:
        return None
    low = lowest([mark for _, marks in found for mark in marks])
    return {
        "low": low,
        "families": [_family(name, found, low) for name in dict.fromkeys(slice_.family for slice_ in ours)],
    }


def _family(name: str, found: Sequence[tuple[Slice, list[Mark]]], low: float) -> Family:
    own = [(slice_, marks) for slice_, marks in found if slice_.family == name]
    largest = sorted(own, key=lambda pair: -pair[0].n)[:MOST]
    lines = [_line(slice_, marks, low) for slice_, marks in own if (slice_, marks) in largest]
    return Family(FAMILIES.get(name, name), lines, len(own) - len(lines))


def _line(slice_: Slice, marks: Sequence[Mark], low: float) -> Line:
    name = NAMES.get(slice_.family, {}).get(slice_.name, slice_.name)
    chart = Markup(dots(marks, low))  # noqa: S704 - escaped there
    return Line(
        name,
        slice_.about,
        slice_.n,
        slice_.skus,
        tuple((mark.who, mark.value, mark.bounds) for mark in marks),
        chart,
    )


def _marks(slice_: Slice, models: Sequence[tuple[str, Evaluation]]) -> list[Mark]:
    """The same slice of each model that has it."""
    key = (slice_.family, slice_.name)
    same = [
        (tone, other)
        for tone, figures in models
        for other in figures.slices
        if (other.family, other.name) == key
    ]
    return [Mark(tone, other.top1, other.interval) for tone, other in same]
