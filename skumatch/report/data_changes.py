"""What a data version has that the last one that passed had not, in a few rows for a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from skumatch.data.validation.drift import Profile, drift_frames
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.report.mistakes import SMALL, Picture, Some

LISTED = 12


class Count(NamedTuple):
    """Images of something in the last version and in this one.

    Of a SKU perhaps with a picture (a data URI).
    """

    name: str
    before: int
    now: int
    picture: str | None = None


class Changes(NamedTuple):
    """sides: all images, gallery side, query side. new, gone, changed: SKUs, the largest change first.

    size_shift, aspect_shift: by which factor a typical picture is larger or smaller, wider or narrower; 1 is
        no change.
    """

    sides: tuple[Count, ...]
    new: Some[Count]
    gone: Some[Count]
    changed: Some[Count]
    size_shift: float
    aspect_shift: float

    @property
    def any(self) -> bool:
        return bool(self.new.total or self.gone.total or self.changed.total)


def changes_of(
    now: Profile, before: Profile | None, first_of: Mapping[str, str], picture: Picture
) -> Changes | None:
    """None where there are no two versions of the same data.

    `first_of` has a gallery image of SKUs, `picture` opens an image by its id.
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
    return Changes(
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
