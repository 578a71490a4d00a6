"""The expectations of Great Expectations that the suite is made of, each with a sentence for people."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

SHOWN = 12  # rows that break an expectation, kept by name


@dataclass(frozen=True)
class Rule:
    """One expectation. worst: columns that rank the rows that break it, most extreme first.

    `-` before a name: largest first.

    note: what is said of such a row, from its columns. figure: how a one-row frame is told; None where rows
        are counted.
    """

    name: str
    frame: str
    expectation: Any
    worst: tuple[str, ...] = ()
    note: str = ""
    figure: str | None = None

    @property
    def sentence(self) -> str:
        return str(self.expectation.description)


def library() -> tuple[Any, Any]:
    """Great Expectations and its expectations, imported when they are needed (4 s) and without its usage statistics."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the package is imported
    import great_expectations as gx
    import great_expectations.expectations as gxe

    return gx, gxe


def between(
    column: str, sentence: str, low: float | None = None, high: float | None = None, missed: float = 0
) -> Any:
    """`column` lies between the bounds in all rows but a share of `missed`.

    Rows without a value don't count.
    """
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, mostly=round(1 - missed, 12), description=sentence
    )


def equal(a: str, b: str, sentence: str) -> Any:
    _, gxe = library()
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=a, column_B=b, ignore_row_if="either_value_is_missing", description=sentence
    )


def one_of(column: str, values: tuple[str, ...] | list[str], sentence: str) -> Any:
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), description=sentence)


def like(column: str, regex: str, sentence: str) -> Any:
    _, gxe = library()
    return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=regex, description=sentence)


def unique(column: str, sentence: str) -> Any:
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeUnique(column=column, description=sentence)


def empty(column: str, sentence: str, missed: float) -> Any:
    """`column` has no value in all rows but a share of `missed`."""
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeNull(column=column, mostly=round(1 - missed, 12), description=sentence)


def columns_are(columns: list[str], sentence: str) -> Any:
    _, gxe = library()
    return gxe.ExpectTableColumnsToMatchOrderedList(column_list=columns, description=sentence)


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"
