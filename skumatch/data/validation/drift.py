"""What a data version is like, in a few numbers, and how far one has drifted from the last one that passed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from skumatch.data.packages import CATALOGUE, catalogue
from skumatch.data.validation.frames import Frames, per_sku
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.params import DataParams

QUANTILES = 101
Count = Annotated[int, Field(ge=0)]
Quantiles = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=QUANTILES, max_length=QUANTILES)
]


class Profile(BaseModel):
    """A data version in small. skus: images on the train and on the test side of each. short_sides (pixels), aspects (width over
    height): quantiles over all images of both sides, in 101 equal steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["skumatch-profile-1"] = "skumatch-profile-1"
    skus: dict[str, tuple[Count, Count]]
    short_sides: Quantiles
    aspects: Quantiles

    @property
    def rendered(self) -> bool:
        """Whether all SKUs are made-up ones of `skumatch data sample`."""
        made_up = {sku.name for sku in catalogue(CATALOGUE)}
        return all(name.partition(" Edition ")[0] in made_up for name in self.skus)

    def counts(self) -> pd.DataFrame:
        return pd.DataFrame.from_dict(self.skus, orient="index", columns=["train", "test"])


def profile_of(manifest: pd.DataFrame, data: DataParams) -> Profile | None:
    """The profile of a manifest whose columns are sound; None if nothing is on its train and test side."""
    shelf = manifest[manifest["side"].isin(["train", "test"])]
    if shelf.empty:
        return None
    sides = shelf[["width", "height"]].clip(lower=1)
    skus = per_sku(manifest, data)
    rows = zip(skus["sku"].tolist(), skus["train"].tolist(), skus["test"].tolist(), strict=True)
    return Profile(
        skus={sku: (train, test) for sku, train, test in rows},
        short_sides=_quantiles(sides.min(axis=1)),
        aspects=_quantiles(sides["width"] / sides["height"]),
    )


def _quantiles(values: pd.Series[Any]) -> tuple[float, ...]:
    found = np.quantile(values.to_numpy(dtype=float), np.linspace(0, 1, QUANTILES))
    return tuple(float(f"{value:.6g}") for value in found)  # one text on every machine


def read_baseline(path: Path) -> Profile | None:
    """The profile of the last version that passed, as `pull` laid it into the inputs.

    None if there was none, or no `pull`.

    Raises DataError for a file that is no such thing.
    """
    if not path.is_file():  # the stage alone, by hand; DVC runs it only with all its inputs
        return None
    try:
        baseline = read_json(path)["baseline"]
        return None if baseline is None else Profile.model_validate(baseline)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no profile of an earlier data version; lay it there again with `skumatch pull`."
        ) from error


def drift_frames(now: Profile | None, before: Profile | None) -> Frames:
    """What is new, gone and changed: by SKU, by side, and as a whole.

    Nothing where there are no two versions of the same data.

    The rendered sample is an earlier version of nothing: it stands in until there is data.
    """
    if now is None or before is None or now.rendered or before.rendered:
        return {}
    return {
        "drift_skus": sku_changes(now, before),
        "drift_sides": side_changes(now, before),
        "drift": shifts(now, before),
    }


def sku_changes(now: Profile, before: Profile) -> pd.DataFrame:
    """One row a SKU of either version: sku, before, now (images).

    kept: `now` of the SKUs that were there before. known: `before` of those that are there now. change: the
    larger count over the smaller, of those that are in both. NaN for all others.
    """
    joined = (
        before.counts()
        .sum(axis=1)
        .rename("before")
        .to_frame()
        .join(now.counts().sum(axis=1).rename("now"), how="outer")
    )
    rows = joined.fillna(0).astype(int).rename_axis("sku").sort_index().reset_index()
    was, is_ = rows["before"].gt(0), rows["now"].gt(0)
    larger, smaller = rows[["before", "now"]].max(axis=1), rows[["before", "now"]].min(axis=1)
    return rows.assign(
        kept=rows["now"].where(was),
        known=rows["before"].where(is_),
        change=(larger / smaller).where(was & is_),
    )


def side_changes(now: Profile, before: Profile) -> pd.DataFrame:
    """side, before, now (images), ratio: over all images and on each side.

    Ratio is NaN where there were none before.
    """
    totals = [
        counts.assign(all=counts.sum(axis=1))[["all", "train", "test"]].sum()
        for counts in (before.counts(), now.counts())
    ]
    rows = pd.DataFrame({"before": totals[0], "now": totals[1]}).rename_axis("side").reset_index()
    return rows.assign(ratio=(rows["now"] / rows["before"]).where(rows["before"].gt(0)))


def shifts(now: Profile, before: Profile) -> pd.DataFrame:
    """One row: size_shift and aspect_shift, factors of 1 or more."""
    return pd.DataFrame(
        {
            "size_shift": [shift(now.short_sides, before.short_sides)],
            "aspect_shift": [shift(now.aspects, before.aspects)],
        }
    )


def shift(now: Quantiles, before: Quantiles) -> float:
    """By which factor a typical value moved: the earth mover's distance between two distributions of logarithms, as a factor.

    Between equal numbers of equally weighted values it is the mean distance of the sorted ones (Vallender 1974).
    """
    return float(np.exp(np.abs(np.log(now) - np.log(before)).mean()))
