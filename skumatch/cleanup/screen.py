"""What a clean-up or an erasure deletes, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

TITLES = {
    "workspaces": "Workspaces of killed processes",
    "cache": "This machine's cache",
    "remote": "The remote",
    "checkpoints": "Checkpoints",
    "vectors": "Vectors",
    "claims": "Claims of old runs",
    "mlflow": "Files in MLflow",
    "bundles": "This machine's bundles",
    "reports": "This machine's reports",
    "project": "Stages run by hand",
}


def table_of(title: str, piles: Mapping[str, Sequence[Any]], first: str = "what") -> Table:
    """Return a table of deletable things: number, size and the largest of each kind.

    Args:
        title: The table's title.
        piles: Kind, a key of TITLES -> its things, with `name` and `size` in bytes.
        first: Heading of the first column.
    """
    table = Table(title=title)
    for name in (first, "how many", "size", "for example"):
        table.add_column(name, justify="right" if name in ("how many", "size") else "left")
    for kind, items in piles.items():
        largest = max(items, key=lambda item: item.size, default=None)
        example = Text(largest.name, overflow="ellipsis", no_wrap=True) if largest else ""
        table.add_row(TITLES[kind], f"{len(items):,}", size_of(items), example, style="" if items else "dim")
    return table


def size_of(items: Sequence[Any]) -> str:
    """Return the total size of items in words, such as `1.2 MB`."""
    return decimal(sum(item.size for item in items))
