"""The expectations of Great Expectations that the suite uses, each with a sentence for people."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

SHOWN = 12  # rows that break an expectation, kept by name


@dataclass(frozen=True)
class Rule:
    """One expectation on one frame.

    Attributes:
        name: the rule's name, unique in the suite.
        frame: name of the frame that the rule checks.
        expectation: Great Expectations' object.
        worst: columns by which the broken rows are sorted, the smallest values first; with `-` before a
            name, the largest first.
        note: format string, with the columns as fields, of the note on a broken row.
        figure: format string, with the columns as fields, of the observation on a frame of one row; None to
            count the broken rows.
    """

    name: str
    frame: str
    expectation: Any
    worst: tuple[str, ...] = ()
    note: str = ""
    figure: str | None = None

    @property
    def sentence(self) -> str:
        """The expectation as a sentence for people."""
        return str(self.expectation.description)


def library() -> tuple[Any, Any]:
    """Import Great Expectations and its expectations, without its usage statistics.

    The import takes 4 s, so it happens at the first use.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the package is imported
    import great_expectations as gx
    import great_expectations.expectations as gxe

    return gx, gxe


def between(
    column: str, sentence: str, low: float | None = None, high: float | None = None, missed: float = 0
) -> Any:
    """Expect that a column's values lie between bounds.

    Args:
        column: the column; rows without a value don't count.
        sentence: the expectation, for people.
        low: least value; None for no bound.
        high: largest value; None for no bound.
        missed: share of rows that may break the expectation.
    """
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=low, max_value=high, mostly=round(1 - missed, 12), description=sentence
    )


def equal(a: str, b: str, sentence: str) -> Any:
    """Expect that two columns have equal values.

    Args:
        a: the first column.
        b: the second column; rows without a value in either don't count.
        sentence: the expectation, for people.
    """
    _, gxe = library()
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=a, column_B=b, ignore_row_if="either_value_is_missing", description=sentence
    )


def one_of(column: str, values: tuple[str, ...] | list[str], sentence: str) -> Any:
    """Expect that a column has no values but these.

    Args:
        column: the column.
        values: the allowed values.
        sentence: the expectation, for people.
    """
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), description=sentence)


def like(column: str, regex: str, sentence: str) -> Any:
    """Expect that a column's values match a regular expression.

    Args:
        column: the column.
        regex: the regular expression.
        sentence: the expectation, for people.
    """
    _, gxe = library()
    return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=regex, description=sentence)


def unique(column: str, sentence: str) -> Any:
    """Expect that no value of a column occurs twice."""
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeUnique(column=column, description=sentence)


def empty(column: str, sentence: str, missed: float) -> Any:
    """Expect that a column has no values.

    Args:
        column: the column.
        sentence: the expectation, for people.
        missed: share of rows that may have a value.
    """
    _, gxe = library()
    return gxe.ExpectColumnValuesToBeNull(column=column, mostly=round(1 - missed, 12), description=sentence)


def columns_are(columns: list[str], sentence: str) -> Any:
    """Expect that a frame has these columns, in this order."""
    _, gxe = library()
    return gxe.ExpectTableColumnsToMatchOrderedList(column_list=columns, description=sentence)


def percent(share: float) -> str:
    """Return a share as a percentage with three significant digits."""
    return f"{100 * share:.3g} %"
