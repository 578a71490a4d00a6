"""The figures that a version's gate measured, kept in one tag of the version.

A top-1 is comparable only with one of the same gallery, queries and protocol. So the tag names these, and has
the comparison that the gate made with the champion of that time.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from skumatch.texts import counted

FIGURES_TAG = "skumatch.figures"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChampionGain(_Record):
    """A figure of the champion and of the version, both measured on the same photos in one run.

    Attributes:
        champion: the champion's version.
        figure: `top-1` of a new encoder; `right answers` of a new gallery, as served.
        before: the champion's share, 0 to 1.
        after: the version's share.
        lower: one-sided lower bound of the gain; None where the gate makes none.
        confidence: of `lower`, 0 to 1; None without it.
    """

    champion: int
    figure: Literal["top-1", "right answers"]
    before: float
    after: float
    lower: float | None = None
    confidence: float | None = None


class GateFigures(_Record):
    """A version's top-1, what it was measured on, and the gain over the champion.

    Attributes:
        protocol: name of the protocol.
        data: MD5 of the data version.
        gallery: hash of the gallery.
        queries: hash of the queries.
        n: number of queries.
        skus: number of their SKUs.
        top1: share of queries whose nearest product is right, 0 to 1.
        low: lower bound of `top1`.
        high: upper bound of `top1`.
        gain: the comparison with the champion; None where there was no champion.
    """

    protocol: str
    data: str
    gallery: str
    queries: str
    n: int
    skus: int
    top1: float
    low: float
    high: float
    gain: ChampionGain | None

    @property
    def basis(self) -> tuple[str, str, str]:
        """What the top-1 rests on: two versions are comparable only if it is the same."""
        return self.protocol, self.gallery, self.queries

    @property
    def words(self) -> str:
        """What the top-1 was measured on, in words."""
        queries = f"{counted(self.n, 'query', 'queries')} ({self.queries[:12]})"
        skus = counted(self.skus, "SKU")
        return (
            f"protocol {self.protocol}, gallery {self.gallery[:12]}, {queries} of {skus}, "
            f"data version {self.data[:12]}"
        )


def read_figures(text: str | None) -> GateFigures | None:
    """Return the figures in a value of the tag; None without a value, or for one of another form."""
    try:
        return GateFigures.model_validate_json(text) if text else None
    except ValidationError:
        return None
