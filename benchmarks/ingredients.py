"""Ablations of skumatch's training recipe: with one ingredient more or less, and the probe alone."""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError

from benchmarks.contests import FROZEN, OURS, PROBE, Contest
from benchmarks.peers import PEERS
from skumatch.errors import ParameterError
from skumatch.params import Params
from skumatch.recipe.overrides import apply_overrides

WITHOUT = {  # an ingredient -> what turns it off
    "shelf augmentation": [
        f"train.augment.{name}=0" for name in ("ratio", "rotate", "perspective", "blur", "jpeg", "occlude")
    ],
    "stronger light": ["train.augment.jitter=0.2"],
    "cut-out": ["train.augment.cutout=0"],
    "larger canvas": ["encoder.height=256", "encoder.width=256", "train.augment.view=0.9"],
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
WITH = {  # an option that is off by default -> what turns it on
    "probe": ["train.probe.epochs=20"],
    "projection": ["train.probe.epochs=20", "encoder.dim=256"],
    "fix": ["train.fix.epochs=2"],
    "layer-wise decay": ["train.optimizer.layer_decay=0.9"],
    "moving average": ["train.average.ema=0.99"],
    "clipping": ["train.optimizer.clip=1"],
    "sub-centres": ["train.loss.kind=subcentre"],
    "CosFace": ["train.loss.kind=cosface"],
    "SupCon": ["train.loss.kind=supcon", "train.sampling.per_sku=4"],
    "P-K sampling": ["train.sampling.per_sku=4"],
    "balanced sampling": ["train.sampling.power=0.5"],
    "flips": ["train.augment.flip=0.5"],
}
PROBED = [
    "train.epochs=0",
    "train.fix.epochs=0",
    "train.patience=0",
    "train.average.wise=[]",
    "train.probe.epochs=30",
    "encoder.dim=256",
]


def variant(contest: Contest, loop: str) -> Contest:
    """Return the contest with the parameters that `loop` is run with.

    The loops `ours with INGREDIENT` and `ours without INGREDIENT` change the parameters of `ours`.

    Raises:
        ParameterError: for a loop that isn't known, or that changes nothing.
    """
    changed = replace(contest, params=_changed(contest.params, _overrides(loop), loop))
    if loop.startswith(OURS):
        changed = replace(changed, params=_tuned(changed))
    return changed


def _overrides(loop: str) -> list[str]:
    known = {f"{OURS} with {name}": changes for name, changes in WITH.items()}
    known |= {f"{OURS} without {name}": changes for name, changes in WITHOUT.items()} | {PROBE: PROBED}
    known |= {name: [] for name in (FROZEN, *PEERS, OURS)}
    if loop not in known:
        plain = ", ".join((FROZEN, PROBE, *PEERS, OURS))
        loops = (
            f"{plain}, 'ours with' one of: {', '.join(WITH)}, and 'ours without' one of: {', '.join(WITHOUT)}"
        )
        raise ParameterError(f"There is no loop '{loop}' (--loops); there are {loops}.")
    return known[loop]


def _changed(params: Params, overrides: list[str], loop: str) -> Params:
    tree = apply_overrides(params.model_dump(mode="json", by_alias=True), overrides)
    try:
        changed = Params.model_validate(tree)
    except ValidationError as error:
        words = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ParameterError(
            f"'{loop}' (--loops) can't be with these parameters ({words}); change them, or leave it out."
        ) from error
    if overrides and changed == params:
        raise ParameterError(f"'{loop}' (--loops) is 'ours' as the parameters are; leave it out.")
    return changed


def _tuned(contest: Contest) -> Params:
    """Return the parameters with the contest's number of epochs, those of the fix included."""
    train = contest.params.train
    if train.patience or train.average.wise:
        raise ParameterError(
            "All pictures are trained on here, so none is left to validate on; "
            "set train.patience=0 and train.average.wise=[]."
        )
    if contest.epochs <= train.fix.epochs:
        raise ParameterError(
            f"--epochs is {contest.epochs}, of which train.fix.epochs are the last; give more."
        )
    tuned = train.model_copy(update={"epochs": contest.epochs - train.fix.epochs})
    return contest.params.model_copy(update={"train": tuned})
