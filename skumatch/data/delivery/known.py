"""Facts of pictures that were examined before, so that decoding is done once: those of the version that is
there, and those of an import that was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.data.delivery.examine import FACTS_VERSION, Facts
from skumatch.data.manifest import SCHEMA, write_table
from skumatch.errors import DataError

COLUMNS = pa.schema([SCHEMA.field(name) for name in Facts._fields])
PART = 4096  # pictures whose facts a stopped import loses at most


class KnownFacts(Mapping[str, Facts]):
    """Facts by the SHA-256 of a picture's bytes, in columns: a dict of them would take four times the memory."""

    def __init__(self, table: pa.Table) -> None:
        """`table`: columns of Facts; others are left out."""
        digests = np.array(table["sha256"].to_pylist(), "S64")
        self._digests, first = np.unique(digests, return_index=True)
        self._rows = table.select(COLUMNS.names).take(pa.array(first))

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Any:
        return (digest.decode() for digest in self._digests)

    def __getitem__(self, sha256: str) -> Facts:
        at = int(np.searchsorted(self._digests, sha256.encode()))
        if at == len(self) or self._digests[at] != sha256.encode():
            raise KeyError(sha256)
        return Facts(**self._rows.slice(at, 1).to_pylist()[0])


class Examined:
    """The facts of an import that is under way, beside the data version `root`.

    The next import of a stopped one reads them.

    Used as a context: an import that ends well, or is refused, removes them.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root.with_name(f".{root.name}.examined-{FACTS_VERSION}")
        self._open: list[dict[str, Any]] = []
        self._parts = len(list(self.folder.glob("*.parquet")))

    def known(self, manifest: pa.Table | None) -> KnownFacts:
        """What is known of pictures: from `manifest`, that of the version that is there, and from a stopped import."""
        tables = [pq.read_table(path, schema=COLUMNS) for path in sorted(self.folder.glob("*.parquet"))]
        tables += [] if manifest is None else [manifest.select(COLUMNS.names).cast(COLUMNS)]
        return KnownFacts(pa.concat_tables(tables) if tables else COLUMNS.empty_table())

    def add(self, facts: Facts) -> None:
        """Keep the facts of a picture that was decoded."""
        self._open.append(facts._asdict())
        if len(self._open) == PART:
            self._flush()

    def _flush(self) -> None:
        self.folder.mkdir(exist_ok=True)
        write_table(
            self.folder / f"{self._parts:06}.parquet", pa.Table.from_pylist(self._open, schema=COLUMNS)
        )
        self._parts += 1
        self._open = []

    def __enter__(self) -> Examined:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or isinstance(error, DataError):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._open and isinstance(error, KeyboardInterrupt):
            self._flush()
