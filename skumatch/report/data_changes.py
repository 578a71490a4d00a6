"""The changes of a data version against the last one that passed, in a few rows for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from skumatch.data.validation.drift import Profile, drift_frames
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.report.mistakes import SMALL, Picture, Some

LISTED = 12


class Count(NamedTuple):
    """The numbers of images of a SKU or a side.

    Attributes:
        name: the SKU or the side.
        before: number of images in the last version.
        now: number of images in this version.
        picture: a picture of the SKU as a data URI; None where there is none.
    """

    name: str
    before: int
    now: int
    picture: str | None = None


class DataComparison(NamedTuple):
    """The changes between two data versions.

    Attributes:
        sides: numbers of all images, of the gallery side and of the query side.
        new: new SKUs, the largest first.
        gone: SKUs that are gone, the largest first.
        changed: SKUs whose number of images changed, the largest change first.
        size_shift: factor by which a typical picture is larger or smaller; 1 is no change.
        aspect_shift: factor by which a typical picture is wider or narrower; 1 is no change.
    """

    sides: tuple[Count, ...]
    new: Some[Count]
    gone: Some[Count]
    changed: Some[Count]
    size_shift: float
    aspect_shift: float

    @property
    def any(self) -> bool:
        """True if any SKU is new, gone or changed."""
        return bool(self.new.total or self.gone.total or self.changed.total)


def changes_of(
    now: Profile, before: Profile | None, first_of: Mapping[str, str], picture: Picture
) -> DataComparison | None:
    """Compare the profiles of two data versions.

    Args:
        now: profile of this version.
        before: profile of the version before; None if there is none.
        first_of: id of a gallery image by SKU.
        picture: opens an image by its id.

    Returns:
        The changes; None where there are no two versions of the same data.
    """
    frames = drift_frames(now, before)
    if not frames:
        return None
    skus, sides, shifts = frames["drift_skus"], frames["drift_sides"], frames["drift"].iloc[0]
    kept = skus[skus["before"].gt(0) & skus["now"].gt(0)]
    new = _largest(skus[skus["before"].eq(0)], "now", LISTED)
    shown = [
        count._replace(picture=thumbnail(picture(first_of[count.name]), SMALL))
        if count.name in first_of
        else count
        for count in new.shown
    ]
    return DataComparison(
        sides=tuple(_counts(sides.rename(columns={"side": "sku"}))),
        new=Some(shown, new.total),
        gone=_largest(skus[skus["now"].eq(0)], "before", LISTED),
        changed=_largest(kept[kept["change"].gt(1)], "change", LISTED),
        size_shift=float(shifts["size_shift"]),
        aspect_shift=float(shifts["aspect_shift"]),
    )


def _largest(rows: pd.DataFrame, by: str, limit: int) -> Some[Count]:
    return Some(_counts(rows.sort_values([by, "sku"], ascending=[False, True]).head(limit)), len(rows))


def _counts(rows: pd.DataFrame) -> list[Count]:
    return [
        Count(*row)
        for row in zip(rows["sku"].tolist(), rows["before"].tolist(), rows["now"].tolist(), strict=True)
    ]
