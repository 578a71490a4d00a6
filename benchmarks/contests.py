"""Tasks on which training loops are compared: photos to learn, and queries to match afterwards.

There are three protocols: all photos, SKUs held out of training, and alike gallery pictures held out.
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
from skumatch.data.delivery.archives import folder_images
from skumatch.data.delivery.names import chosen
from skumatch.errors import DataError, ParameterError
from skumatch.files import canonical_json, sha256
from skumatch.model.embed import vectors_of
from skumatch.params import Params

if TYPE_CHECKING:
    from skumatch.data.images import Images

OURS, FROZEN, PROBE = "ours", "frozen", "probe"


@dataclass(frozen=True)
class Contest:
    """One task for training loops.

    Attributes:
        name: protocol and fold, in words.
        learnt: pictures to train on.
        gallery: pictures that queries are matched with.
        queries: pictures to match.
        weights: file of the encoder's base weights; None for random ones.
        params: all parameters.
        epochs: number of passes over `learnt`.
    """

    name: str
    learnt: Images
    gallery: Images
    queries: Images
    weights: Path | None
    params: Params
    epochs: int

    def key(self, loop: str, seed: int) -> str:
        """Return the SHA-256 of all inputs that decide the outcome, except the code."""
        is_ours = loop.startswith((OURS, PROBE))
        spec = self.params.encoder if is_ours else plain_spec(self.params.encoder)
        facts = {
            "loop": loop,
            "seed": seed if loop != FROZEN else 0,
            "epochs": self.epochs if loop != FROZEN else 0,
            "weights": sha256(self.weights) if self.weights else None,
            "encoder": spec.model_dump(mode="json"),
            "train": self.params.train.model_dump(mode="json", exclude={"epochs"}) if is_ours else {},
            "ids": [side.ids for side in (self.learnt, self.gallery, self.queries)],
        }
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


@dataclass(frozen=True)
class ContestRequest:
    """Choice of contests from a folder in RP2K's layout.

    Without `unseen` and `looks` there is one contest: all gallery pictures are trained on, all queries
    matched.

    Attributes:
        data: the folder.
        skus: names of the only SKUs to use, each with the place that names it; None for all.
        epochs: number of passes over the training pictures.
        unseen: number of folds of SKUs; each is held out of training in turn, and then matched alone.
        looks: number of folds of alike gallery pictures, held out in turn; parameters are chosen by these.
    """

    data: Path
    skus: Mapping[str, str] | None
    epochs: int
    unseen: int = 0
    looks: int = 0


def contests(choice: ContestRequest, weights: Path | None, params: Params) -> Iterator[Contest]:
    """Yield the contests, one for each fold.

    Args:
        choice: which contests to make, and of which pictures.
        weights: file of the encoder's base weights; None for random ones.
        params: all parameters.

    Raises:
        DataError: for a folder without pictures of the chosen SKUs.
        ParameterError: for both kinds of folds, or an impossible number of folds.
    """
    gallery, queries = _sides(choice, params)
    if choice.unseen and choice.looks:
        raise ParameterError("--unseen and --looks hold out different things; give one of them.")
    if 1 in (choice.unseen, choice.looks) or choice.unseen > len(set(gallery.skus)):
        raise ParameterError(
            "--unseen and --looks need two folds or more, and no more folds than there are SKUs."
        )
    settled = (weights, params, choice.epochs)
    if choice.unseen:
        for fold in range(choice.unseen):
            held = held_out(set(gallery.skus), fold, choice.unseen)
            sides = (_where(gallery, held, False), _where(gallery, held, True), _where(queries, held, True))
            yield Contest(f"protocol unseen fold {fold + 1}", *sides, *settled)
    elif choice.looks:
        frozen = Trial(gallery, plain_spec(params.encoder), weights, 0, params.seed).encoder().eval()
        folds = looks(
            vectors_of(frozen, gallery, params.embed.batch, params.runtime),
            gallery.skus,
            choice.looks,
            params.seed,
        )
        for fold in range(choice.looks):
            rest = gallery.take(np.flatnonzero(folds != fold).tolist())
            held_out_pictures = gallery.take(np.flatnonzero(folds == fold).tolist())
            yield Contest(f"held-out looks fold {fold + 1}", rest, rest, held_out_pictures, *settled)
    else:
        yield Contest("protocol full", gallery, gallery, queries, *settled)


def _sides(choice: ContestRequest, params: Params) -> list[Images]:
    sides = [folder_images(choice.data, side, params.data.others) for side in ("train", "test")]
    if choice.skus is None:
        return sides
    skus = chosen(choice.skus, {sku for images in sides for sku in images.skus}, choice.data)
    kept = [_where(images, skus, True) for images in sides]
    if not all(len(images) for images in kept):
        raise DataError(f"{choice.data} has no pictures of these SKUs on both sides; check the names.")
    return kept


def _where(images: Images, skus: Collection[str], wanted: bool) -> Images:
    return images.take([i for i, sku in enumerate(images.skus) if (sku in skus) == wanted])


def held_out(skus: set[str], fold: int, folds: int) -> set[str]:
    """Return the SKUs of a fold: every `folds`-th in the order of their names' SHA-256.

    Args:
        skus: names of all SKUs.
        fold: number of the fold, from 0.
        folds: number of folds.
    """
    order = sorted(skus, key=lambda sku: hashlib.sha256(sku.encode()).hexdigest())
    return set(order[fold::folds])
