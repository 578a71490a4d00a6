"""Slices of both models side by side, family by family, on a common axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from skumatch.report.meters import Mark, dots, lowest
from skumatch.retrieval.figures import Bounds, Evaluation, Slice

MOST = 12  # largest number of slices shown of a family; there can be many product groups
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


class SliceRow(NamedTuple):
    """One slice on the page.

    Attributes:
        name: its name.
        about: its contents in words.
        queries: number of its queries.
        skus: number of its SKUs.
        figures: name, top-1 and interval of each model.
        chart: the drawing of these figures.
    """

    name: str
    about: str
    queries: int
    skus: int
    figures: tuple[tuple[str, float, Bounds], ...]
    chart: Markup


class Family(NamedTuple):
    """The slices by one property.

    Attributes:
        title: the property in words.
        lines: the slices that are shown.
        more: the number of slices that are not shown.
    """

    title: str
    lines: list[SliceRow]
    more: int


def families(models: Sequence[tuple[str, Evaluation]]) -> dict[str, Any] | None:
    """Return the slices of the first model beside those of the others, by family.

    Args:
        models: name and figures of each model.

    Returns:
        The families, and the start of their common axis as `low`; None where there are no slices.
    """
    slices = models[0][1].slices
    marked = [(slice_, _marks(slice_, models)) for slice_ in slices]
    if not marked:
        return None
    low = lowest([mark for _, marks in marked for mark in marks])
    names = dict.fromkeys(slice_.family for slice_ in slices)
    return {"low": low, "families": [_family(name, marked, low) for name in names]}


def _family(name: str, marked: Sequence[tuple[Slice, list[Mark]]], low: float) -> Family:
    own = [(slice_, marks) for slice_, marks in marked if slice_.family == name]
    largest = sorted(own, key=lambda pair: -pair[0].n)[:MOST]
    lines = [_line(slice_, marks, low) for slice_, marks in own if (slice_, marks) in largest]
    return Family(FAMILIES.get(name, name), lines, len(own) - len(lines))


def _line(slice_: Slice, marks: Sequence[Mark], low: float) -> SliceRow:
    name = NAMES.get(slice_.family, {}).get(slice_.name, slice_.name)
    chart = Markup(dots(marks, low))  # noqa: S704 - escaped there
    return SliceRow(
        name,
        slice_.about,
        slice_.n,
        slice_.skus,
        tuple((mark.who, mark.value, mark.bounds) for mark in marks),
        chart,
    )


def _marks(slice_: Slice, models: Sequence[tuple[str, Evaluation]]) -> list[Mark]:
    """Return a mark for each model that has the slice."""
    key = (slice_.family, slice_.name)
    same = [
        (tone, other)
        for tone, figures in models
        for other in figures.slices
        if (other.family, other.name) == key
    ]
    return [Mark(tone, other.top1, other.interval) for tone, other in same]
