"""The examination of a delivery, in which each picture is decoded once.

Facts that are known come from the version that is there, and from an import that was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skumatch.data.delivery.examine import FACTS_VERSION, PictureFacts, examine_all
from skumatch.data.delivery.layout import DeliveredImage
from skumatch.data.delivery.source import Source
from skumatch.data.manifest import SCHEMA
from skumatch.data.quarantine import Pictured
from skumatch.errors import DataError, ImageError
from skumatch.files import write_table
from skumatch.progress import track

COLUMNS = pa.schema([SCHEMA.field(name) for name in PictureFacts._fields])
PART = 4096  # facts in a file; a stopped import loses at most so many


class KnownFacts(Mapping[str, PictureFacts]):
    """Facts by the SHA-256 of a picture's bytes, in columns; a dict would take four times the memory."""

    def __init__(self, table: pa.Table) -> None:
        """Index a table by its column sha256; columns that PictureFacts doesn't have are left out."""
        digests = np.array(table["sha256"].to_pylist(), "S64")
        self._digests, first = np.unique(digests, return_index=True)
        self._rows = table.select(COLUMNS.names).take(pa.array(first))

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Any:
        return (digest.decode() for digest in self._digests)

    def __getitem__(self, sha256: str) -> PictureFacts:
        at = int(np.searchsorted(self._digests, sha256.encode()))
        if at == len(self) or self._digests[at] != sha256.encode():
            raise KeyError(sha256)
        return PictureFacts(**self._rows.slice(at, 1).to_pylist()[0])


class Examination:
    """A delivery's pictures: those that can be used, and those that are set aside.

    Facts of decoded pictures are kept in a folder beside the data version `root`. If the import is stopped,
    the next one reads them. As a context manager, it removes them when the import succeeds or is refused with
    a DataError.

    Attributes:
        folder: the folder of the facts.
        quarantined: id, reason and sentence of each picture that was set aside.
        pictures: thumbnails of some of those.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root.with_name(f".{root.name}.examined-{FACTS_VERSION}")
        self.quarantined: list[dict[str, str]] = []
        self.pictures = Pictured()
        self._open: list[dict[str, Any]] = []
        self._parts = len(list(self.folder.glob("*.parquet")))

    def usable(
        self,
        source: Source,
        items: Collection[DeliveredImage],
        min_short_side: int,
        erased: Collection[str],
        manifest: pa.Table | None,
        task: str,
    ) -> Iterator[tuple[DeliveredImage, bytes, PictureFacts]]:
        """Yield the items that can be used, with bytes and facts, in their order; set the others aside.

        Args:
            source: the delivery; erased pictures are counted in its `junk`.
            items: the delivery's images.
            min_short_side: in pixels; smaller images are set aside.
            erased: SHA-256, of bytes or pixels, of pictures that were erased; they are left out.
            manifest: of the version that is there; None if its facts can't be used.
            task: the bar's name.
        """
        known = self._known(manifest)
        with track(task, len(items)) as advance:
            for item, data, facts in examine_all(items, source.read, min_short_side, known):
                if isinstance(facts, ImageError):
                    self.quarantined.append({"id": item.id, "reason": facts.reason, "sentence": str(facts)})
                    self.pictures.add(item.id, facts.reason, data)
                elif facts.sha256 in erased or facts.pixels in erased:
                    source.junk["erased"] += 1
                else:
                    if facts.sha256 not in known:
                        self._add(facts)
                    yield item, data, facts
                advance()

    def _known(self, manifest: pa.Table | None) -> KnownFacts:
        """Return the facts of `manifest` and those that a stopped import left."""
        tables = [pq.read_table(path, schema=COLUMNS) for path in sorted(self.folder.glob("*.parquet"))]
        tables += [] if manifest is None else [manifest.select(COLUMNS.names).cast(COLUMNS)]
        return KnownFacts(pa.concat_tables(tables) if tables else COLUMNS.empty_table())

    def _add(self, facts: PictureFacts) -> None:
        """Store the facts of a picture that was decoded."""
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

    def __enter__(self) -> Examination:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or isinstance(error, DataError):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self._open and isinstance(error, KeyboardInterrupt):
            self._flush()
