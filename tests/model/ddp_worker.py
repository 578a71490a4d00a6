"""Train the tiny encoder briefly, alone or under torchrun: -m tests.model.ddp_worker SHELF OUT WHAT..."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from skumatch.data.images import Extent, Images, Pixels
from skumatch.errors import DataError, SkumatchError
from skumatch.model.checkpoint import Checkpoints
from skumatch.model.distributed import World, joined
from skumatch.model.encoder import Encoder, save
from skumatch.model.train import train
from skumatch.params import (
    AverageParams,
    EncoderParams,
    FixParams,
    LossParams,
    OptimizerParams,
    ProbeParams,
    RuntimeParams,
    SamplingParams,
    TowerParams,
)
from tests.model.plain import mild, plain

STEPS = 12
CPU = RuntimeParams(device="cpu", threads=1)
SPEC = EncoderParams(model="smoke", weights="none", height=32, width=32, dim=16)
PLAIN = plain(epochs=4, batch=8, optimizer=OptimizerParams(lr_tower=1e-3), augment=mild(cutout=16))
PARAMS = {
    "arcface": PLAIN,
    "supcon": PLAIN.model_copy(
        update={"loss": LossParams(kind="supcon"), "sampling": SamplingParams(per_sku=4)}
    ),
    "all": PLAIN.model_copy(
        update={
            "epochs": 3,
            "fix": FixParams(epochs=1),
            "probe": ProbeParams(epochs=2, batch=8),
            "patience": 5,
            "average": AverageParams(ema=0.5, wise=(0.5,)),
            "tower": TowerParams(freeze=0.3),
            "optimizer": OptimizerParams(lr_tower=1e-3, layer_decay=0.8, clip=1.0),
        }
    ),
}


def read(folder: Path) -> Images:
    names = sorted(path.stem for path in folder.glob("*.png"))
    return Images(
        names,
        [name.split("-")[0] for name in names],
        names,
        [Extent(str(folder / f"{name}.png")) for name in names],
    )


class Mischief(Images):
    """Pictures that send SIGTERM to the process, or can't be read, in the second step; reads are counted."""

    what, asked = "", 0

    def pixels(self, index: int) -> Pixels:
        self.asked += 1
        if self.asked == 6 and self.what == "failing":
            raise DataError("The pictures of process 1 are gone; restore them.")
        if self.asked == 6 and self.what == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().pixels(index)


def fit(world: World, images: Images, out: Path, what: str) -> None:
    """Train with the parameters PARAMS[what].

    `failing` fails and `terminated` gets SIGTERM in process 1; `resumed` goes on after `terminated`.
    """
    if what not in PARAMS and world.rank == 1:
        images = Mischief(images.ids, images.skus, images.names, images.extents)
        images.what = what  # type: ignore[attr-defined]
    classes = sorted({*images.skus})

    def judge(encoder: Encoder) -> float:
        """Differs between processes: only the first one's word counts."""
        return float(np.round(next(encoder.parameters()).detach().abs().mean() * 100, 3)) + world.rank

    encoder = train(
        images=images,
        classes=classes,
        spec=SPEC,
        params=PARAMS.get(what, PLAIN),
        seed=3,
        weights=None,
        checkpoints=Checkpoints(str(out), "terminated" if what == "resumed" else what)
        if world.first
        else None,
        runtime=CPU,
        history=out / f"{what}.jsonl",
        judge=judge if what == "all" else None,
        world=world,
    )
    save(encoder, out / f"{what}-{world.rank}")
    if isinstance(images, Mischief):
        (out / f"{what}-reads.txt").write_text(str(images.asked))


def main(folder: str, out: str, *tasks: str) -> None:
    """Run all tasks in turn; errors and exit codes are written to OUT/RANK.txt."""
    rank = os.environ["RANK"]
    report_path = Path(out, f"{rank}.txt")
    try:
        with joined(CPU) as world:
            for task in tasks:
                try:
                    fit(world, read(Path(folder)), Path(out), task)
                except SystemExit as stopped:
                    report_path.write_text(f"{task} {stopped.code}")
    except SkumatchError as error:
        report_path.write_text(f"{report_path.read_text()}, {error.kind} {error.exit_code} {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
