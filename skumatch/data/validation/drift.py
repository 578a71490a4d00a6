"""The profile of a data version, and the drift from the version before."""

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
    """A data version in a few numbers.

    Attributes:
        format: version of this file format.
        skus: each SKU's number of images on the train side and on the test side.
        short_sides: 101 quantiles, from 0 to 1 in equal steps, of the shorter side in pixels, over all images
            of both sides.
        aspects: the same quantiles of width over height.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["skumatch-profile-1"] = "skumatch-profile-1"
    skus: dict[str, tuple[Count, Count]]
    short_sides: Quantiles
    aspects: Quantiles

    @property
    def rendered(self) -> bool:
        """True if all SKUs are made-up ones of `skumatch data sample`."""
        made_up = {sku.name for sku in catalogue(CATALOGUE)}
        return all(name.partition(" Edition ")[0] in made_up for name in self.skus)

    def counts(self) -> pd.DataFrame:
        """Return each SKU's images as columns train and test, indexed by SKU."""
        return pd.DataFrame.from_dict(self.skus, orient="index", columns=["train", "test"])


def profile_of(manifest: pd.DataFrame, data: DataParams) -> Profile | None:
    """Return the profile of a manifest that passed the schema; None if its train and test side are empty."""
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
    quantiles = np.quantile(values.to_numpy(dtype=float), np.linspace(0, 1, QUANTILES))
    return tuple(float(f"{value:.6g}") for value in quantiles)  # rounded: the same text on every machine


def read_baseline(path: Path) -> Profile | None:
    """Read the profile of the version before, which `pull` puts into the inputs.

    Returns:
        The profile; None if there was no such version, or `pull` did not run.

    Raises:
        DataError: for a file that is no such profile.
    """
    if not path.is_file():  # the stage was run by hand; DVC runs it with all its inputs only
        return None
    try:
        baseline = read_json(path)["baseline"]
        return None if baseline is None else Profile.model_validate(baseline)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no profile of an earlier data version; lay it there again with `skumatch pull`."
        ) from error


def drift_frames(now: Profile | None, before: Profile | None) -> Frames:
    """Return the frames of the drift: by SKU, by side, and over all images.

    Return no frames if a profile is missing, or one is of the rendered sample: the sample stands in until
    there is data, so it is no earlier version of that data.
    """
    if now is None or before is None or now.rendered or before.rendered:
        return {}
    return {
        "drift_skus": sku_changes(now, before),
        "drift_sides": side_changes(now, before),
        "drift": shifts(now, before),
    }


def sku_changes(now: Profile, before: Profile) -> pd.DataFrame:
    """Compare the SKUs of two versions.

    Returns:
        One row for each SKU of either version, with the columns:

        - sku; before, now: its images in each version.
        - kept: `now`, if the SKU was there before; else NaN.
        - known: `before`, if the SKU is there now; else NaN.
        - change: the larger count over the smaller, if the SKU is in both versions; else NaN.
    """
    joined = (
        before.counts()
        .sum(axis=1)
        .rename("before")
        .to_frame()
        .join(now.counts().sum(axis=1).rename("now"), how="outer")
    )
    rows = joined.fillna(0).astype(int).rename_axis("sku").sort_index().reset_index()
    in_before, in_now = rows["before"].gt(0), rows["now"].gt(0)
    larger, smaller = rows[["before", "now"]].max(axis=1), rows[["before", "now"]].min(axis=1)
    return rows.assign(
        kept=rows["now"].where(in_before),
        known=rows["before"].where(in_now),
        change=(larger / smaller).where(in_before & in_now),
    )


def side_changes(now: Profile, before: Profile) -> pd.DataFrame:
    """Compare the number of images, in all and on each side.

    Returns:
        Columns side (all, train or test), before, now (images) and ratio, now over before; NaN for none
        before.
    """
    totals = [
        counts.assign(all=counts.sum(axis=1))[["all", "train", "test"]].sum()
        for counts in (before.counts(), now.counts())
    ]
    rows = pd.DataFrame({"before": totals[0], "now": totals[1]}).rename_axis("side").reset_index()
    return rows.assign(ratio=(rows["now"] / rows["before"]).where(rows["before"].gt(0)))


def shifts(now: Profile, before: Profile) -> pd.DataFrame:
    """Return one row: size_shift and aspect_shift, factors of 1 or more."""
    return pd.DataFrame(
        {
            "size_shift": [shift(now.short_sides, before.short_sides)],
            "aspect_shift": [shift(now.aspects, before.aspects)],
        }
    )


def shift(now: Quantiles, before: Quantiles) -> float:
    """Return the factor by which a typical value moved between two distributions.

    It is exp of the earth mover's distance between the distributions' logarithms. For equal numbers of
    equally weighted values that distance is the mean distance of the sorted values (Vallender 1974).
    """
    return float(np.exp(np.abs(np.log(now) - np.log(before)).mean()))
