"""Training loops side by side: the same photos, encoder and number of images, nearest neighbour, three ways of asking."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from skumatch.bench.looks import looks
from skumatch.bench.peers import PEERS, Trial
from skumatch.config import EncoderParams, Params, apply_overrides
from skumatch.data.delivery.opening import folder_images
from skumatch.errors import DataError, ParameterError
from skumatch.files import canonical_json, read_json, sha256, write_text
from skumatch.model.embed import vectors_of
from skumatch.model.runtime import prepare
from skumatch.model.train import train
from skumatch.progress import track
from skumatch.retrieval import statistics
from skumatch.retrieval.statistics import Interval

if TYPE_CHECKING:
    from skumatch.data.images import Images
    from skumatch.model.encoder import Encoder

OURS, FROZEN, CONFIDENCE = "ours", "frozen", 0.95
PLAIN_SIDE = 256  # pixels of the peers' canvas
Shares = NDArray[np.float64]
WITHOUT = {  # an ingredient -> what turns it off
    "shelf augmentation": [f"train.augment.{name}=0" for name in ("ratio", "rotate", "perspective", "blur", "jpeg", "occlude")],
    "stronger light": ["train.augment.jitter=0.2"],
    "cut-out": ["train.augment.cutout=0"],
    "larger canvas": ["encoder.height=256", "encoder.width=256", "train.augment.view=0.75"],
    "smaller views": ["train.augment.view=1"],
    "frozen layers": ["train.tower.freeze=0"],
    "layer-wise decay": ["train.optimizer.layer_decay=1"],
    "moving average": ["train.average.ema=0"],
    "probe": ["train.probe.epochs=0"],
    "fix": ["train.fix.epochs=0"],
    "label smoothing": ["train.loss.label_smoothing=0"],
    "margin": ["train.loss.margin=0"],
    "clipping": ["train.optimizer.clip=0"],
}


class Found(BaseModel):
    """One training's outcome. hits: whether each query's nearest gallery picture is of its SKU. key: hash of all that was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    loop: str
    seed: int
    images: int
    seconds: float
    hits: tuple[bool, ...]


@dataclass(frozen=True)
class Line:
    """One loop over all its seeds and folds.

    top1: mean over queries and seeds. gain: of it, over the plain loop's or the frozen encoder's. images, seconds: of the largest training.
    """

    loop: str
    seeds: dict[int, float]
    top1: Interval
    gain: Interval | None
    images: int
    seconds: float


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
        ours = loop.startswith(OURS)
        facts = {
            "loop": loop,
            "seed": seed if loop != FROZEN else 0,
            "epochs": self.epochs if loop != FROZEN else 0,
            "weights": sha256(self.weights) if self.weights else None,
            "encoder": (self.params.encoder if ours else _plain(self.params)).model_dump(mode="json"),
            "train": self.params.train.model_dump(mode="json", exclude={"epochs"}) if ours else {},
            "ids": [side.ids for side in (self.learnt, self.gallery, self.queries)],
        }
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """Which contests are made of a folder in RP2K's layout, or of its SKUs in `skus`.

    unseen: folds of SKUs held out of training in turn, then alone matched and asked. looks: folds of alike gallery pictures
    held out in turn: what to choose parameters by. Neither: all are trained on, the queries asked.
    """

    data: Path
    skus: frozenset[str] | None
    epochs: int
    unseen: int = 0
    looks: int = 0


def contests(asked: Asked, weights: Path | None, params: Params) -> Iterator[Contest]:
    """Raises DataError for a folder without pictures of these SKUs, ParameterError for both kinds of folds."""
    gallery, queries = (_kept(folder_images(asked.data, side, params.data.others), asked) for side in ("train", "test"))
    if asked.unseen and asked.looks:
        raise ParameterError("--unseen and --looks hold out different things; give one of them.")
    if 1 in (asked.unseen, asked.looks) or asked.unseen > len(set(gallery.skus)):
        raise ParameterError("--unseen and --looks need two folds or more, and no more folds than there are SKUs.")
    settled = (weights, params, asked.epochs)
    if asked.unseen:
        for fold in range(asked.unseen):
            held = held_out(set(gallery.skus), fold, asked.unseen)
            sides = _where(gallery, held, False), _where(gallery, held, True), _where(queries, held, True)
            yield Contest(f"protocol unseen fold {fold + 1}", *sides, *settled)
    elif asked.looks:
        frozen = Trial(gallery, _plain(params), weights, 0, params.seed).encoder().eval()
        folds = looks(vectors_of(frozen, gallery, params.embed.batch, params.runtime), gallery.skus, asked.looks, params.seed)
        for fold in range(asked.looks):
            rest, some = (gallery.take(np.flatnonzero(where).tolist()) for where in (folds != fold, folds == fold))
            yield Contest(f"held-out looks fold {fold + 1}", rest, rest, some, *settled)
    else:
        yield Contest("protocol full", gallery, gallery, queries, *settled)


def _kept(images: Images, asked: Asked) -> Images:
    kept = images if asked.skus is None else _where(images, asked.skus, True)
    if not len(kept):
        raise DataError(f"{asked.data} has no pictures of these SKUs on both sides; check the names.")
    return kept


def _where(images: Images, skus: Collection[str], wanted: bool) -> Images:
    return images.take([i for i, sku in enumerate(images.skus) if (sku in skus) == wanted])


def _plain(params: Params) -> EncoderParams:
    return params.encoder.model_copy(update={"height": PLAIN_SIDE, "width": PLAIN_SIDE, "dim": 0, "resize": "squash"})


def held_out(skus: set[str], fold: int, folds: int) -> set[str]:
    """The SKUs of a fold: every `folds`-th in the order of their names' hashes."""
    order = sorted(skus, key=lambda sku: hashlib.sha256(sku.encode()).hexdigest())
    return set(order[fold::folds])


def variant(contest: Contest, loop: str) -> Contest:
    """The contest as `loop` is run, which may be `ours without INGREDIENT`. Raises ParameterError for one that isn't known."""
    name, _, ingredient = loop.partition(" without ")
    if loop not in (OURS, FROZEN, *PEERS) and (name != OURS or ingredient not in WITHOUT):
        known = f"{', '.join((FROZEN, *PEERS, OURS))}, and '{OURS} without' one of: {', '.join(WITHOUT)}"
        raise ParameterError(f"There is no loop '{loop}' (--loops); there are {known}.")
    tree = apply_overrides(contest.params.model_dump(mode="json", by_alias=True), WITHOUT.get(ingredient, []))
    found = replace(contest, params=Params.model_validate(tree))
    if ingredient and found.params == contest.params:
        raise ParameterError(f"'{loop}' (--loops) is 'ours': the parameters have no {ingredient}; leave it out.")
    if name == OURS and contest.epochs <= contest.params.train.fix.epochs:
        raise ParameterError(f"--epochs is {contest.epochs}, of which train.fix.epochs are the last; give more.")
    return found


def bench_recipe(contest: Contest, loops: list[str], seeds: list[int], out: Path) -> Iterator[Found]:
    """Train with each loop and seed, and ask; what `out` has already is not done again. Raises ParameterError for a loop, before any."""
    for loop in loops:
        variant(contest, loop)
    for loop in loops:
        for seed in seeds:
            name = re.sub(r"[^a-z0-9]+", "-", f"{contest.name} {loop} seed {seed}")
            path, chosen = out / f"{name}.json", variant(contest, loop)
            found = Found.model_validate(read_json(path)) if path.is_file() else None
            if found is None or found.key != chosen.key(loop, seed):
                found = _run(chosen, loop, seed)
                write_text(path, found.model_dump_json() + "\n")
            yield found


def _run(contest: Contest, loop: str, seed: int) -> Found:
    prepare(contest.params.runtime)
    began = time.monotonic()
    encoder = _trained(contest, loop, seed)
    seconds = time.monotonic() - began
    batch, runtime = contest.params.embed.batch, contest.params.runtime
    gallery, queries = (vectors_of(encoder, side, batch, runtime) for side in (contest.gallery, contest.queries))
    nearest = (queries @ gallery.T).argmax(axis=1)
    hits = tuple(bool(contest.gallery.skus[row] == sku) for row, sku in zip(nearest, contest.queries.skus, strict=True))
    images = 0 if loop == FROZEN else contest.epochs * len(contest.learnt)
    return Found(key=contest.key(loop, seed), loop=loop, seed=seed, images=images, seconds=round(seconds, 1), hits=hits)


def _trained(contest: Contest, loop: str, seed: int) -> Encoder:
    images, params = contest.learnt, contest.params.train
    trial = Trial(images, _plain(contest.params), contest.weights, contest.epochs, seed)
    if loop == FROZEN:
        return trial.encoder().eval()
    if loop in PEERS:
        encoder = trial.encoder()
        with track(f"{loop}, seed {seed}", contest.epochs * len(images)) as advance:
            for count in PEERS[loop](encoder, trial):
                advance(count)
        return encoder.eval()
    tuned = params.model_copy(update={"epochs": contest.epochs - params.fix.epochs})
    classes, runtime = sorted(set(images.skus)), contest.params.runtime
    return train(images, classes, contest.params.encoder, tuned, seed, contest.weights, None, runtime, None)


def summary(outcomes: list[tuple[Contest, list[Found]]]) -> list[Line]:
    """A line a loop, in their order, over the queries of all contests; hits are averaged over seeds, intervals by bootstrap over SKUs."""
    asked = np.concatenate([contest.queries.skus for contest, _ in outcomes])
    by_loop: dict[str, dict[int, list[Found]]] = {}
    for one in (one for _, found in outcomes for one in found):
        by_loop.setdefault(one.loop, {}).setdefault(one.seed, []).append(one)
    hits = {loop: np.array([_joined(folds) for folds in seeds.values()]) for loop, seeds in by_loop.items()}
    base = next((loop for loop in ("plain", FROZEN) if loop in hits), next(iter(hits)))
    return [_line(loop, seeds, hits[loop], hits[base].mean(axis=0) if loop != base else None, asked) for loop, seeds in by_loop.items()]


def _joined(folds: list[Found]) -> list[bool]:
    return [hit for one in folds for hit in one.hits]


def _line(loop: str, seeds: dict[int, list[Found]], hits: NDArray[np.bool_], base: Shares | None, asked: NDArray[np.str_]) -> Line:
    mean = hits.mean(axis=0)
    return Line(
        loop=loop,
        seeds=dict(zip(seeds, hits.mean(axis=1).tolist(), strict=True)),
        top1=statistics.mean_interval(mean, asked, CONFIDENCE, seed=0),
        gain=None if base is None else statistics.mean_interval(mean - base, asked, CONFIDENCE, seed=0),
        images=max(one.images for folds in seeds.values() for one in folds),
        seconds=max(one.seconds for folds in seeds.values() for one in folds),
    )
