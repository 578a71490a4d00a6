"""What training loops are asked: which photos they learn, which they must tell apart afterwards.

Three ways of asking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.looks import looks
from benchmarks.peers import Trial, plain_spec
from skumatch.data.delivery.names import chosen
from skumatch.data.delivery.opening import folder_images
from skumatch.errors import DataError, ParameterError
from skumatch.files import canonical_json, sha256
from skumatch.model.embed import vectors_of
from skumatch.params import Params

if TYPE_CHECKING:
    from skumatch.data.images import Images

OURS, FROZEN, PROBE = "ours", "frozen", "probe"


@dataclass(frozen=True)
class Contest:
    """What is asked, in words, and of which pictures: `learnt` are trained on, `queries` are looked for in the gallery."""

    name: str
    learnt: Images
    gallery: Images
    queries: Images
    weights: Path | None
    params: Params
    epochs: int

    def key(self, loop: str, seed: int) -> str:
        """SHA-256 of all that decides the outcome, but code."""
        ours = loop.startswith((OURS, PROBE))
        facts = {
            "loop": loop,
            "seed": seed if loop != FROZEN else 0,
            "epochs": self.epochs if loop != FROZEN else 0,
            "weights": sha256(self.weights) if self.weights else None,
            "encoder": (self.params.encoder if ours else plain_spec(self.params.encoder)).model_dump(
                mode="json"
            ),
            "train": self.params.train.model_dump(mode="json", exclude={"epochs"}) if ours else {},
            "ids": [side.ids for side in (self.learnt, self.gallery, self.queries)],
        }
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """Which contests are made of a folder in RP2K's layout.

    skus: only those SKUs, each with the place that names it. unseen: folds of SKUs held out of training in
    turn, then alone matched and asked. looks: folds of alike gallery pictures held out in turn: what to
    choose parameters by. Neither: all are trained on, the queries asked.
    """

    data: Path
    skus: Mapping[str, str] | None
    epochs: int
    unseen: int = 0
    looks: int = 0


def contests(asked: Asked, weights: Path | None, params: Params) -> Iterator[Contest]:
    """Raises DataError for a folder without pictures of these SKUs, ParameterError for both kinds of folds."""
    gallery, queries = _sides(asked, params)
    if asked.unseen and asked.looks:
        raise ParameterError("--unseen and --looks hold out different things; give one of them.")
    if 1 in (asked.unseen, asked.looks) or asked.unseen > len(set(gallery.skus)):
        raise ParameterError(
            "--unseen and --looks need two folds or more, and no more folds than there are SKUs."
        )
    settled = (weights, params, asked.epochs)
    if asked.unseen:
        for fold in range(asked.unseen):
            held = held_out(set(gallery.skus), fold, asked.unseen)
            sides = _where(gallery, held, False), _where(gallery, held, True), _where(queries, held, True)
            yield Contest(f"protocol unseen fold {fold + 1}", *sides, *settled)
    elif asked.looks:
        frozen = Trial(gallery, plain_spec(params.encoder), weights, 0, params.seed).encoder().eval()
        folds = looks(
            vectors_of(frozen, gallery, params.embed.batch, params.runtime),
            gallery.skus,
            asked.looks,
            params.seed,
        )
        for fold in range(asked.looks):
            rest, some = (
                gallery.take(np.flatnonzero(where).tolist()) for where in (folds != fold, folds == fold)
            )
            yield Contest(f"held-out looks fold {fold + 1}", rest, rest, some, *settled)
    else:
        yield Contest("protocol full", gallery, gallery, queries, *settled)


def _sides(asked: Asked, params: Params) -> list[Images]:
    sides = [folder_images(asked.data, side, params.data.others) for side in ("train", "test")]
    if asked.skus is None:
        return sides
    skus = chosen(asked.skus, {sku for images in sides for sku in images.skus}, asked.data)
    kept = [_where(images, skus, True) for images in sides]
    if not all(len(images) for images in kept):
        raise DataError(f"{asked.data} has no pictures of these SKUs on both sides; check the names.")
    return kept


def _where(images: Images, skus: Collection[str], wanted: bool) -> Images:
    return images.take([i for i, sku in enumerate(images.skus) if (sku in skus) == wanted])


def held_out(skus: set[str], fold: int, folds: int) -> set[str]:
    """The SKUs of a fold: every `folds`-th in the order of their names' hashes."""
    order = sorted(skus, key=lambda sku: hashlib.sha256(sku.encode()).hexdigest())
    return set(order[fold::folds])
