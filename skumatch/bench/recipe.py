"""Training loops side by side: the same photos, encoder and number of images, nearest neighbour, the protocols `full` and `unseen`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from skumatch.bench.peers import PEERS, Trial
from skumatch.config import Params, apply_overrides
from skumatch.data.delivery.opening import folder_images
from skumatch.errors import DataError, ParameterError
from skumatch.files import canonical_json, read_json, write_text
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
    """One loop over all its seeds. top1: mean over queries and seeds; gain: of it, over the reference's. seconds: of the slowest seed."""

    loop: str
    seeds: dict[int, float]
    top1: Interval
    gain: Interval | None
    images: int
    seconds: float


@dataclass(frozen=True)
class Contest:
    """gallery: what is trained on and matched against. queries: asked. fold: SKUs held out of training, number of so many; then they alone
    are matched and asked.
    """

    gallery: Images
    queries: Images
    weights: Path | None
    params: Params
    epochs: int
    fold: tuple[int, int] | None = None

    def sides(self) -> tuple[Images, Images, Images]:
        """Training pictures, gallery, queries."""
        if self.fold is None:
            return self.gallery, self.gallery, self.queries
        held = held_out(set(self.gallery.skus), *self.fold)
        parts = [[i for i, sku in enumerate(side.skus) if (sku in held) == wanted] for side, wanted in self._wanted()]
        return self.gallery.take(parts[0]), self.gallery.take(parts[1]), self.queries.take(parts[2])

    def _wanted(self) -> list[tuple[Images, bool]]:
        return [(self.gallery, False), (self.gallery, True), (self.queries, True)]

    def key(self, loop: str, seed: int) -> str:
        params = self.params.model_dump(mode="json", include={"encoder", "train"}) if loop not in PEERS else {}
        facts = {
            "loop": loop,
            "seed": seed,
            "epochs": self.epochs,
            "fold": self.fold,
            "encoder": [self.params.encoder.model, self.params.encoder.weights],
            "params": params,
            "ids": [side.ids for side in (self.gallery, self.queries)],
        }
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def contests(data: Path, skus: frozenset[str] | None, weights: Path | None, params: Params, epochs: int, folds: int) -> Iterator[Contest]:
    """One contest over all SKUs of a folder in RP2K's layout (of those in `skus`), or one a fold of unseen ones."""
    sides = [folder_images(data, side, params.data.others) for side in ("train", "test")]
    if skus is not None:
        sides = [side.take([i for i, sku in enumerate(side.skus) if sku in skus]) for side in sides]
    if not all(map(len, sides)):
        raise DataError(f"{data} has no pictures of these SKUs on both sides; check the names.")
    for fold in range(folds) if folds else [None]:
        yield Contest(sides[0], sides[1], weights, params, epochs, (fold, folds) if fold is not None else None)


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
    return replace(contest, params=Params.model_validate(tree))


def bench_recipe(contest: Contest, loops: list[str], seeds: list[int], out: Path) -> Iterator[Found]:
    """Train with each loop and seed, and ask; what `out` has already is not done again."""
    for loop in loops:
        for seed in seeds:
            fold = f"-unseen{contest.fold[0]}" if contest.fold else ""
            path, chosen = out / f"{loop.replace(' ', '-')}{fold}-{seed}.json", variant(contest, loop)
            found = Found.model_validate(read_json(path)) if path.is_file() else None
            if found is None or found.key != chosen.key(loop, seed):
                found = _run(chosen, loop, seed)
                write_text(path, found.model_dump_json() + "\n")
            yield found


def _run(contest: Contest, loop: str, seed: int) -> Found:
    prepare(contest.params.runtime)
    learnt, gallery, queries = contest.sides()
    began = time.monotonic()
    encoder = _trained(contest, learnt, loop, seed)
    seconds = time.monotonic() - began
    batch, runtime = contest.params.embed.batch, contest.params.runtime
    sides = [vectors_of(encoder, side, batch, runtime) for side in (gallery, queries)]
    nearest = (sides[1] @ sides[0].T).argmax(axis=1)
    hits = tuple(bool(gallery.skus[row] == sku) for row, sku in zip(nearest, queries.skus, strict=True))
    images = 0 if loop == FROZEN else contest.epochs * len(learnt)
    return Found(key=contest.key(loop, seed), loop=loop, seed=seed, images=images, seconds=round(seconds, 1), hits=hits)


def _trained(contest: Contest, images: Images, loop: str, seed: int) -> Encoder:
    spec, params = contest.params.encoder, contest.params.train
    plain_spec = spec.model_copy(update={"height": 256, "width": 256, "dim": 0})
    trial = Trial(images, plain_spec, contest.weights, contest.epochs, seed)
    if loop == FROZEN:
        return trial.encoder().eval()
    if loop in PEERS:
        encoder = trial.encoder()
        with track(f"{loop}, seed {seed}", contest.epochs * len(images)) as advance:
            for count in PEERS[loop](encoder, trial):
                advance(count)
        return encoder.eval()
    tuned = params.model_copy(update={"epochs": contest.epochs - params.fix.epochs})
    classes = sorted(set(images.skus))
    return train(images, classes, spec, tuned, seed, contest.weights, None, contest.params.runtime, None)


def summary(contest: Contest, found: list[Found]) -> list[Line]:
    """A line a loop, in their order: hits are averaged over seeds, intervals are of the cluster bootstrap over SKUs."""
    by_loop: dict[str, list[Found]] = {}
    for one in found:
        by_loop.setdefault(one.loop, []).append(one)
    asked = np.array(contest.sides()[2].skus)
    means = {loop: np.mean([one.hits for one in some], axis=0) for loop, some in by_loop.items()}
    reference = next((loop for loop in ("plain", FROZEN) if loop in means), next(iter(means)))
    return [_line(loop, some, means[loop], means[reference] if loop != reference else None, asked) for loop, some in by_loop.items()]


def _line(loop: str, found: list[Found], hits: Shares, base: Shares | None, asked: NDArray[np.str_]) -> Line:
    gain = None if base is None else statistics.mean_interval(hits - base, asked, CONFIDENCE, seed=0)
    return Line(
        loop=loop,
        seeds={one.seed: sum(one.hits) / len(one.hits) for one in found},
        top1=statistics.mean_interval(hits, asked, CONFIDENCE, seed=0),
        gain=gain,
        images=found[0].images,
        seconds=max(one.seconds for one in found),
    )
