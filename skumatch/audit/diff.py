"""The differences of two versions: data, parameters, code, environment, figures, and each SKU's gain."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skumatch.audit.dossier import RUN, WORKSPACE, Dossier
from skumatch.audit.link import UNREADABLE
from skumatch.audit.served import by_hand
from skumatch.bundle.manifest import WEIGHTS
from skumatch.errors import DataError
from skumatch.params import Params
from skumatch.pipeline import inputs
from skumatch.pipeline.register import flat
from skumatch.registry.registry import CHALLENGER, REFRESHED
from skumatch.retrieval import statistics
from skumatch.retrieval.statistics import Interval
from skumatch.stages import artefacts

CONFIDENCE = 0.95
FIGURES = {"top1": "top-1", "top3": "top-3", "top5": "top-5", "macro_top1": "macro top-1"}


@dataclass(frozen=True)
class Data:
    """Differences of the data; pictures are compared by the hash of their bytes.

    Attributes:
        added: Number of new pictures.
        removed: Number of pictures that are gone.
        moved: Number of pictures with another SKU or side.
        new_skus: SKUs that only the later version has, sorted.
        gone_skus: SKUs that only the earlier version has, sorted.
    """

    added: int
    removed: int
    moved: int
    new_skus: tuple[str, ...]
    gone_skus: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """True if any picture was added, removed or moved."""
        return bool(self.added or self.removed or self.moved)


@dataclass(frozen=True)
class SkuGain:
    """Change of one SKU's top-1 on queries that were asked of both encoders.

    Attributes:
        name: The SKU.
        n: Number of queries of the SKU.
        before: Top-1 of the earlier version's encoder, from 0 to 1.
        after: Top-1 of the later version's encoder.
        gain: The difference with its interval, which takes the queries as independent.
    """

    name: str
    n: int
    before: float
    after: float
    gain: Interval


@dataclass(frozen=True)
class VersionFigures:
    """The figures of a version, and what they were measured on.

    Attributes:
        version: The version's number.
        data: MD5 of its run's data version.
        protocol: Name of the protocol.
        gallery: Hash of the gallery.
        queries: Hash of the queries.
        n: Number of queries.
        skus: Number of their SKUs.
        interval: Bounds of top-1.
        shares: Name in FIGURES -> share, from 0 to 1.
    """

    version: int
    data: str
    protocol: str
    gallery: str
    queries: str
    n: int
    skus: int
    interval: tuple[float, float]
    shares: dict[str, float]

    def comparable(self, other: VersionFigures) -> bool:
        """Return whether both were measured by one protocol, on the same gallery and queries."""
        mine, others = ((each.protocol, each.gallery, each.queries) for each in (self, other))
        return mine == others and all(mine)


@dataclass(frozen=True)
class VersionGain:
    """Change of top-1 from one encoder to another on the same gallery and the same queries.

    Attributes:
        basis: The gallery and queries, in words.
        before: Top-1 of the earlier version's encoder, from 0 to 1.
        after: Top-1 of the later version's encoder.
        interval: The difference, with its interval.
        n: Number of queries.
        skus: The SKUs with a changed hit, sorted by their gained hits, most first.
    """

    basis: str
    before: float
    after: float
    interval: Interval
    n: int
    skus: tuple[SkuGain, ...]


@dataclass(frozen=True)
class AnswerChange:
    """Shares of right answers to the same photos, before and after a gallery release.

    Attributes:
        before: Of the version that served, from 0 to 1.
        after: Of the gallery release.
        n: Number of photos.
    """

    before: float
    after: float
    n: int


@dataclass(frozen=True)
class Diff:
    """All differences of two versions.

    Attributes:
        same_encoder: True if both have the same encoder, as two gallery releases may have.
        data: Differences of the data.
        params: Parameter -> values before and after, for the parameters that differ.
        code: Code files, each with + (new), - (gone) or ~ (changed) before its name.
        packages: Pinned packages, in the same form.
        before: Figures of the earlier version.
        after: Figures of the later version. They can be subtracted only if they are `comparable`.
        gain: Change of top-1 on the same gallery and queries; None where no run compared the two encoders.
        answers: Change of the answers as served, if one is a gallery release that the other served before.
        moved_by_hand: Moves of the champion outside the journal, in words.
    """

    same_encoder: bool
    data: Data
    params: dict[str, tuple[Any, Any]]
    code: tuple[str, ...]
    packages: tuple[str, ...]
    before: VersionFigures
    after: VersionFigures
    gain: VersionGain | None
    answers: AnswerChange | None = None
    moved_by_hand: tuple[str, ...] = ()


def diff(before: Dossier, after: Dossier) -> Diff:
    """Compare two dossiers.

    Raises:
        DataError: A dossier lacks a part that is compared, or the part is damaged.
    """
    for dossier in (before, after):
        if lacking := [
            missing.reason for missing in dossier.facts.missing if missing.part in (RUN, WORKSPACE, "data")
        ]:
            raise DataError(f"Version {dossier.facts.registered.version} can't be compared: {lacking[0]}")
    try:
        return _diff(before, after)
    except UNREADABLE as error:
        versions = f"{before.facts.registered.version} or {after.facts.registered.version}"
        detail = " ".join(str(error).split())
        raise DataError(
            f"A part of version {versions} is missing or can't be read ({detail}); audit both with --verify."
        ) from error


def _diff(before: Dossier, after: Dossier) -> Diff:
    return Diff(
        data=_data(_rows(before), _rows(after)),
        params=_params(before.params, after.params),
        code=_changes(_code(before), _code(after)),
        packages=_changes(_packages(before), _packages(after)),
        same_encoder=_weights(before) == _weights(after),
        before=_figures(before),
        after=_figures(after),
        gain=_gain(before, after),
        answers=_answers(before, after),
        moved_by_hand=tuple(by_hand(after.facts.journal, after.facts.registered.champion)),
    )


def _weights(dossier: Dossier) -> str:
    return dossier.manifest.parts[WEIGHTS].sha256


def _hits(dossier: Dossier, candidate: str) -> pd.DataFrame:
    """Return the hits of a candidate of a version's run, under the protocol `full`."""
    path = dossier.path(RUN, artefacts.HITS.logged(candidate=dossier.file_of(candidate)))
    rows = pd.read_parquet(path)
    return rows[rows["slice"].eq("full")] if "slice" in rows else rows


def _rows(dossier: Dossier) -> pd.DataFrame:
    return pd.read_parquet(
        dossier.path(WORKSPACE, "data/manifest.parquet"), columns=["sha256", "sku", "side"]
    )


def _data(before: pd.DataFrame, after: pd.DataFrame) -> Data:
    """Compare two manifests; a picture that stands in a manifest several times is counted as often."""
    counts = [frame["sha256"].value_counts() for frame in (before, after)]
    change = counts[1].sub(counts[0], fill_value=0)
    places = before.drop_duplicates().merge(after.drop_duplicates(), how="outer", indicator=True)
    elsewhere = places[
        places["_merge"].ne("both")
        & places["sha256"].isin(counts[0].index)
        & places["sha256"].isin(counts[1].index)
    ]
    skus = [set(frame["sku"]) for frame in (before, after)]
    return Data(
        added=int(change.clip(lower=0).sum()),
        removed=int(-change.clip(upper=0).sum()),
        moved=int(elsewhere["sha256"].nunique()),
        new_skus=tuple(sorted(skus[1] - skus[0])),
        gone_skus=tuple(sorted(skus[0] - skus[1])),
    )


def _params(before: Params, after: Params) -> dict[str, tuple[Any, Any]]:
    sides = flat(before), flat(after)
    names = sorted(sides[0].keys() | sides[1].keys())
    return {
        name: (sides[0].get(name), sides[1].get(name))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    }


def _code(dossier: Dossier) -> dict[str, str]:
    members = inputs.members(dossier.path(WORKSPACE, inputs.ARCHIVE))
    return {
        name: data.decode("utf-8", "replace")
        for name, data in members.items()
        if not name.startswith(inputs.OWN)
    }


def _changes(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"+ {name} {_short(after[name])}".rstrip())
        elif name not in after:
            lines.append(f"- {name} {_short(before[name])}".rstrip())
        elif before[name] != after[name]:
            lines.append(f"~ {name} {_between(before[name], after[name])}")
    return tuple(lines)


def _short(text: str) -> str:
    """Return a package's version unchanged; an empty string for the text of a file."""
    return text if len(text) < 60 and "\n" not in text else ""


def _between(before: str, after: str) -> str:
    if _short(before) and _short(after):
        return f"{before} -> {after}"
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    added = sum(line.startswith("+") for line in lines)
    removed = sum(line.startswith("-") for line in lines)
    return f"(+{added} -{removed} lines)"


def _packages(dossier: Dossier) -> dict[str, str]:
    """Return package -> pinned version; versions of a package that is pinned several times are listed."""
    text = dossier.path(RUN, "constraints.txt").read_text("utf-8")
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    pins: dict[str, str] = {}
    for line in lines:
        name, pinned, version = line.partition("==")
        if pinned:
            pins[name.strip()] = f"{pins[name]}, {version}" if name.strip() in pins else version.strip()
    return pins


def _figures(dossier: Dossier) -> VersionFigures:
    evaluation = dossier.evaluation(RUN, dossier.released)
    return VersionFigures(
        version=dossier.facts.registered.version,
        data=dossier.record.inputs.data.removeprefix("md5:"),
        protocol=evaluation.protocol,
        gallery=evaluation.hashes.get("gallery", ""),
        queries=evaluation.hashes.get("queries", ""),
        n=evaluation.n,
        skus=evaluation.skus,
        interval=evaluation.interval.top1,
        shares={name: getattr(evaluation, name) for name in FIGURES},
    )


def _gain(before: Dossier, after: Dossier) -> VersionGain | None:
    """Compare two versions' encoders on one gallery and the same queries, if a run measured both there.

    That is where both runs had the same gallery and queries, and where the gate of one version's run compared
    its encoder with that of the other version.
    """
    if _figures(before).comparable(_figures(after)):
        hits = _hits(before, before.released), _hits(after, after.released)
        return _paired(*hits, "on the same gallery and queries")
    if _compared(after, before):
        return _paired(_hits(after, REFRESHED), _hits(after, CHALLENGER), _basis(after))
    if _compared(before, after):
        return _paired(_hits(before, CHALLENGER), _hits(before, REFRESHED), _basis(before))
    return None


def _compared(run: Dossier, other: Dossier) -> bool:
    """Return whether a version's run scored the encoder of another version beside its own."""
    if run.released != CHALLENGER or run.record.results.champion is None:
        return False
    return run.evaluation(RUN, REFRESHED).hashes.get("encoder") == _weights(other)


def _basis(run: Dossier) -> str:
    version = run.facts.registered.version
    return f"by the gate of version {version}: both encoders on its run's gallery and queries"


def _paired(before: pd.DataFrame, after: pd.DataFrame, basis: str) -> VersionGain | None:
    """Compare the hits of two encoders on the same queries; None if they have none in common."""
    both = before.merge(after, on=["query", "sku"], suffixes=("_before", "_after"))
    if both.empty:
        return None
    both["change"] = both["hit_after"].astype(float) - both["hit_before"].astype(float)
    moved = [_sku(str(name), rows) for name, rows in both.groupby("sku") if rows["change"].any()]
    return VersionGain(
        basis=basis,
        before=float(both["hit_before"].mean()),
        after=float(both["hit_after"].mean()),
        interval=_interval(both, "sku"),
        n=len(both),
        skus=tuple(sorted(moved, key=lambda sku: -sku.gain.value * sku.n)),
    )


def _answers(before: Dossier, after: Dossier) -> AnswerChange | None:
    """Return the change of the served answers that the run of a gallery release measured."""
    if after.released != REFRESHED or after.record.inputs.champion != before.facts.registered.bundle:
        return None
    shares = after.json(RUN, artefacts.SHARES.logged())
    served, refreshed = shares["served"]["all"], shares["refreshed"]["all"]
    return AnswerChange(served["right"], refreshed["right"], served["n"])


def _sku(name: str, rows: pd.DataFrame) -> SkuGain:
    return SkuGain(
        name,
        len(rows),
        float(rows["hit_before"].mean()),
        float(rows["hit_after"].mean()),
        _interval(rows, "query"),
    )


def _interval(rows: pd.DataFrame, clusters: str) -> Interval:
    return statistics.change_interval(
        rows["change"].to_numpy(), rows[clusters].to_numpy(str), CONFIDENCE, seed=0
    )
