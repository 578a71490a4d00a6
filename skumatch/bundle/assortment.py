"""Assortments: the products of a gallery that one shop sells, searched alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skumatch.bundle.parts import Floats, LabelledVectors
from skumatch.errors import DataError
from skumatch.retrieval.backends import Backend
from skumatch.texts import agreeing, alike, counted, first_of, visible

if TYPE_CHECKING:
    from skumatch.retrieval.search import Nearest, SearchIndex

EVERY_SKU: Final = ("*",)  # a list that stands for the whole gallery, where None can't be given
SHOWN = 3  # missing names in a sentence
NAMES = "SKU names as text"


class Assortment(NamedTuple):
    """The products that a shop sells, as a gallery names them.

    Attributes:
        skus: SKUs of the gallery, sorted, each once.
        missing: names in the list without a product in the gallery, as they were written.
        where: name of the list, for sentences.
    """

    skus: tuple[str, ...]
    missing: tuple[str, ...] = ()
    where: str = "the assortment"

    @property
    def warning(self) -> str | None:
        """One sentence about the missing names; None where there are none."""
        if not self.missing:
            return None
        lacking, total = len(self.missing), len(self.skus) + len(self.missing)
        share = f"{lacking:,} of {counted(total, 'product')} of {self.where} {agreeing(lacking, 'is', 'are')}"
        cause = "not in the model's gallery, so no picture is matched with"
        return f"{share} {cause} {agreeing(lacking, 'it', 'them')}: {first_names(self.missing)}."


def first_names(names: Sequence[str]) -> str:
    """List the first few of `names` in quotes, and the number of the others."""
    return first_of([f"'{visible(name)}'" for name in names], SHOWN)


@dataclass(frozen=True, eq=False)
class GalleryPart:
    """Gallery rows that are searched together.

    The rows are in the whole gallery's order, so equal similarities are ranked as in the whole gallery.

    Attributes:
        gallery: the rows.
        backend: backend of the search.
    """

    gallery: LabelledVectors
    backend: Backend = "torch"

    def __len__(self) -> int:
        return len(self.gallery.ids)

    @cached_property
    def index(self) -> SearchIndex:
        """The search index of the rows."""
        from skumatch.retrieval.search import SearchIndex

        return SearchIndex(self.gallery.embeddings, self.backend)

    @cached_property
    def products(self) -> int:
        """Number of SKUs among the rows."""
        return len(set(self.gallery.skus))

    def nearest(self, vectors: Floats, count: int) -> list[Nearest]:
        """Find the nearest products, exactly.

        Args:
            vectors: the pictures' vectors [n, dim].
            count: number of products for each picture; all where there are fewer.

        Returns:
            For each picture a pair for each product, best first: its best row in this part, and the cosine.
        """
        from skumatch.retrieval.search import nearest_products

        return nearest_products(self.index, self.gallery.skus, vectors, min(count, self.products))


class Shelves:
    """A gallery with a cache of its parts by assortment.

    The parts used last are kept, as long as they have together at most as many rows as the gallery. So many
    shops need at most the gallery's memory once more.

    Args:
        gallery: the whole gallery.
        backend: backend of the search.
    """

    def __init__(self, gallery: LabelledVectors, backend: Backend = "torch") -> None:
        self.whole = GalleryPart(gallery, backend)
        self._parts: dict[tuple[str, ...], GalleryPart] = {}
        self._lock = threading.Lock()  # a server answers several requests at a time

    def resolve(self, names: object, where: str = "the assortment") -> Assortment:
        """Look names up in the gallery; spellings that are `alike` are the same name.

        Args:
            names: names of products, any iterable of texts. Blank and repeated ones are left out.
            where: name of the list, for sentences.

        Returns:
            The assortment, with the names that the gallery has no product for.

        Raises:
            DataError: `names` is no list of texts, has no names, or has only names that the gallery lacks.
        """
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise DataError(f"{where} is no list; give a list of {NAMES}.")
        spelt: dict[str, str] = {}
        for name in names:
            if not isinstance(name, str):
                odd = f"{where} has {visible(repr(name))} in it, which is no text"
                raise DataError(f"{odd}; give a list of {NAMES}.")
            spelt.setdefault(alike(name), name)
        spelt.pop("", None)
        if not spelt:
            raise DataError(f"{where} has no names in it; give a list of {NAMES}.")
        skus = sorted({sku for key in spelt for sku in self._spellings.get(key, ())})
        missing = [name for key, name in spelt.items() if key not in self._spellings]
        if not skus:
            cure = "correct the names, or import pictures of these products and refresh the model"
            none = f"The product of {where} is not"
            if len(missing) > 1:
                none = f"None of the {counted(len(missing), 'product')} of {where} is"
            raise DataError(f"{none} in the model's gallery: {first_names(missing)}; {cure}.")
        return Assortment(tuple(skus), tuple(missing), where)

    def part(self, assortment: Assortment | None) -> GalleryPart:
        """Return the gallery's rows of an assortment in order; for None the whole gallery, not copied."""
        if assortment is None or len(assortment.skus) == self.whole.products:
            return self.whole
        with self._lock:
            known = assortment.skus in self._parts
            part = self._parts.pop(assortment.skus) if known else self._take(assortment.skus)
            self._parts[assortment.skus] = part  # at the end, as the part used last
            self._forget()
        return part

    def _forget(self) -> None:
        """Drop the parts used longest ago, until the others fit; the newest one stays."""
        rows, most = sum(len(part) for part in self._parts.values()), len(self.whole)
        while len(self._parts) > 1 and rows > most:
            rows -= len(self._parts.pop(next(iter(self._parts))))

    def _take(self, skus: Sequence[str]) -> GalleryPart:
        rows = np.sort(np.concatenate([self._rows[sku] for sku in skus]))
        ids, names, embeddings = self.whole.gallery
        places = rows.tolist()
        chosen = LabelledVectors(
            [ids[row] for row in places], [names[row] for row in places], embeddings[rows]
        )
        return GalleryPart(chosen, self.whole.backend)

    @cached_property
    def _rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each SKU, so that the cost of making a part is in proportion to its size."""
        names, numbers = np.unique(np.array(self.whole.gallery.skus, dtype=object), return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(numbers, minlength=len(names)))[:-1])
        return dict(zip(names.tolist(), parts, strict=True))

    @cached_property
    def _spellings(self) -> dict[str, list[str]]:
        """The gallery's SKUs by the key that all spellings of a name share."""
        spellings: dict[str, list[str]] = {}
        for sku in sorted(set(self.whole.gallery.skus)):
            spellings.setdefault(alike(sku), []).append(sku)
        return spellings
