"""Reference model of a shop's data in plain dicts, with random changes: the results expected of deltas.

Nothing here calls the code that it is compared with.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import draw

SIDES = ("train", "test", "catalogue")
SKUS = ("Cola", "Tea", "Café crème", "绿茶 100%", "Milk 1 l", "Soap")
NAMES = ("0.png", "1.png", "2.png")
PICTURES = 24
Picture = tuple[str, str, str]  # side, SKU, name


def share(name: str) -> float:
    """Return the draw that decides what is held out: eight bytes of a SHA-256 as a number from 0 to 1."""
    return int.from_bytes(hashlib.sha256(f"unseen:{name}".encode()).digest()[:8], "big") / 2**64


class Pool:
    """Real pictures, each drawn once."""

    def __init__(self, folder: Path) -> None:
        self.files = [draw(folder / f"{number}.png", f"picture {number}") for number in range(PICTURES)]
        self.data = {hashlib.sha256(path.read_bytes()).hexdigest(): path.read_bytes() for path in self.files}
        self.digests = list(self.data)


@dataclass
class Product:
    state: str = "sold"
    until: str = ""
    drawn_as: str = ""


@dataclass
class Shop:
    """rows: SHA-256 of each picture's bytes. products: attributes of products that have a picture."""

    rows: dict[Picture, str] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)

    def copy(self) -> Shop:
        return copy.deepcopy(self)

    @property
    def skus(self) -> list[str]:
        return sorted({sku for _, sku, _ in self.rows})

    def retired(self) -> list[str]:
        return [sku for sku in self.skus if self.products.get(sku, Product()).state == "retired"]

    def usable(self) -> bool:
        sold = [(side, sku) for side, sku, _ in self.rows if sku not in self.retired()]
        sides = [side for side, _ in sold]
        return len({sku for side, sku in sold if side == "train"}) > 1 and "test" in sides

    def draw_name(self, sku: str) -> str:
        return self.products.get(sku, Product()).drawn_as or sku

    def put(self, picture: Picture, digest: str) -> None:
        """A picture of a name that is taken by other bytes gets its hash into its name."""
        side, sku, name = picture
        if self.rows.get(picture, digest) != digest:
            stem, _, ending = name.rpartition(".")
            picture = (side, sku, f"{stem}-{digest[:8]}.{ending}")
        self.rows.setdefault(picture, digest)

    def settle(self) -> None:
        """Forget products without a picture, and empty attributes."""
        for sku in list(self.products):
            if self.products[sku].drawn_as == sku:
                self.products[sku].drawn_as = ""
            if sku not in self.skus or self.products[sku] == Product():
                del self.products[sku]

    def retire(self, skus: Iterable[str], until: str) -> None:
        for sku in skus:
            product = self.products.setdefault(sku, Product())
            product.state, product.until = "retired", until or product.until

    def bring_back(self, skus: Iterable[str]) -> None:
        for sku in skus:
            self.products[sku].state, self.products[sku].until = "sold", ""

    def relabel(self, moves: Iterable[tuple[Picture, str]]) -> None:
        before = self.copy()
        moved = [(picture, sku) for picture, sku in moves if picture[1] != sku]
        digests = [self.rows.pop(picture) for picture, _ in moved]
        sources: dict[str, list[str]] = {}
        for (picture, sku), digest in zip(moved, digests, strict=True):
            sources.setdefault(sku, []).append(picture[1])
            self.put((picture[0], sku, picture[2]), digest)
        for sku in sources.keys() - set(before.skus):
            first = min(map(before.draw_name, sources[sku]), key=lambda name: (share(name), name))
            gone = all(source in before.retired() for source in sources[sku])
            self.products[sku] = Product("retired" if gone else "sold", drawn_as=first)

    def rename(self, old: str, new: str) -> None:
        names = [self.draw_name(sku) for sku in (old, new) if sku in self.skus]
        kept = self.products.get(new if new in self.skus else old, Product())
        moved = {picture: digest for picture, digest in sorted(self.rows.items()) if picture[1] == old}
        self.products.pop(old, None)
        first = min(names, key=lambda name: (share(name), name))
        self.products[new] = Product(kept.state, kept.until, first)
        for picture in moved:
            del self.rows[picture]
        for (side, _, name), digest in moved.items():
            self.put((side, new, name), digest)

    def counts(self) -> dict[str, int]:
        """The counts in import.json."""
        shelf = {sku for side, sku, _ in self.rows if side != "catalogue"}
        catalogue = [sku for side, sku, _ in self.rows if side == "catalogue"]
        return {
            "images": len(self.rows),
            "skus": len(shelf),
            "catalogue": len(catalogue),
            "catalogue_only": len(set(catalogue) - shelf),
        }

    def deliver(self, folder: Path, pool: Pool) -> Path:
        """The shop's data as one whole delivery."""
        for (side, sku, name), digest in self.rows.items():
            path = folder / "all" / side / sku / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pool.data[digest])
        with (folder / "products.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["sku", "state", "until", "drawn_as"])
            for sku, product in self.products.items():
                table.writerow([sku, product.state, product.until, product.drawn_as])
        return folder


class Customer:
    """Random changes, each made as a delta's arguments and in the model."""

    def __init__(self, seed: int, pool: Pool) -> None:
        self.choice, self.pool = random.Random(seed), pool  # noqa: S311 no secret

    def some(self, things: list[str]) -> list[str]:
        return self.choice.sample(things, self.choice.randint(1, min(2, len(things))))

    def pictures(self, shop: Shop, folder: Path) -> tuple[Path, str]:
        """A delivery of new pictures, as a folder with the side that goes with it; the shop has them then."""
        skus = [sku for sku in SKUS if sku not in shop.retired()]
        flat, side = self.choice.random() < 0.4, self.choice.choice(("train", "test"))
        items: dict[Picture, str] = {}
        for _ in range(self.choice.randint(1, 6)):
            place = side if flat else self.choice.choice(SIDES)
            picture = place, self.choice.choice(skus), self.choice.choice(NAMES)
            items[picture] = self.choice.choice(self.pool.digests)
        for (place, sku, name), digest in sorted(items.items(), key=lambda item: "/".join(item[0])):
            path = folder / sku / name if flat else folder / "all" / place / sku / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.pool.data[digest])
            shop.put((place, sku, name), digest)
        return folder, side

    def labels(self, shop: Shop) -> tuple[list[tuple[str, str]], list[tuple[Picture, str]]]:
        """Rows of a table of labels, and the pictures that they move, in the table's order."""
        skus = [sku for sku in SKUS if sku not in shop.retired()]
        rows, moves = list[tuple[str, str]](), dict[Picture, str]()
        for _ in range(self.choice.randint(1, 3)):
            picture = self.choice.choice(sorted(shop.rows, key="/".join))
            sku, digest = self.choice.choice(skus), shop.rows[picture]
            by_hash = self.choice.random() < 0.3
            meant = [place for place in sorted(shop.rows, key="/".join) if shop.rows[place] == digest]
            meant = meant if by_hash else [picture]
            if any(moves.get(place, sku) != sku for place in meant):
                continue
            rows.append((digest.upper() if by_hash else "/".join(picture), sku))
            moves |= dict.fromkeys(meant, sku)
        return rows, list(moves.items())


def restore(folder: Path, root: Path) -> None:
    """Put a stored version back in the place of `root`."""
    shutil.rmtree(root)
    shutil.copytree(folder, root)
