"""Times in which the serving model could name a product: journals and galleries without any run."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

import pytest

from skumatch.audit.served import Service, in_words, namings
from skumatch.errors import ReferenceNotFound


def served(*champions: int | None) -> list[Service]:
    """Each champion serves two days, from 2026-11-02 12:00 on; the last one still does."""
    moments = [datetime(2026, 11, 2 + 2 * number, 12, tzinfo=UTC) for number in range(len(champions))]
    times = zip(champions, moments, [*moments[1:], None], strict=True)
    return [
        Service(None, None, moments[0]),
        *(Service(version, since, until) for version, since, until in times),
    ]


def labels(version: int) -> Collection[str]:
    if version == 9:
        raise ReferenceNotFound("The model has no version 9.")
    return {1: ["tea"], 2: ["tea", "Caf\u00e9 Cola"], 3: ["Caf\u00e9 Cola"]}[version]


@pytest.mark.parametrize(
    ("champions", "sentences"),
    [
        ((1,), ["It could never be named by what served."]),
        ((1, 2), ["Nameable by what served: from 2026-11-04 12:00 until now, by version 2 (UTC)."]),
        ((2, 1), ["Nameable by what served: from 2026-11-02 12:00 to 2026-11-04 12:00, by version 2 (UTC)."]),
        ((2, 3), ["Nameable by what served: from 2026-11-02 12:00 until now, by versions 2 and 3 (UTC)."]),
        ((2, None, 2), [
            "Nameable by what served: from 2026-11-02 12:00 to 2026-11-04 12:00, by version 2; "
            "from 2026-11-06 12:00 until now, by version 2 (UTC)."
        ]),
        ((2, 1, 3, 2), [
            "Nameable by what served: from 2026-11-02 12:00 to 2026-11-04 12:00, by version 2; "
            "from 2026-11-06 12:00 until now, by versions 3 and 2 (UTC)."
        ]),
        ((9, 2), [
            "Nameable by what served: from 2026-11-04 12:00 until now, by version 2 (UTC).",
            "Not known from 2026-11-02 12:00 to 2026-11-04 12:00, of version 9: The model has no version 9.",
        ]),
        ((9,), [
            "It could not be named by what served.",
            "Not known from 2026-11-02 12:00 until now, of version 9: The model has no version 9.",
        ]),
    ],
)  # fmt: skip
def test_a_product_is_nameable_from_when_to_when(
    champions: tuple[int | None, ...], sentences: list[str]
) -> None:
    assert in_words(namings(served(*champions), "cafe\u0301  cola", labels)) == sentences


def test_a_version_is_asked_for_its_products_once() -> None:
    versions: list[int] = []

    def counted(version: int) -> Collection[str]:
        versions.append(version)
        return labels(version)

    namings(served(2, 1, 2, 1), "tea", counted)
    assert versions == [2, 1]
