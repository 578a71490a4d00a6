"""What changed between two versions: data, parameters, code, environment, figures, and the SKUs that gained or lost."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.audit.dossier import RUN, WORKSPACE, Dossier
from skumatch.audit.link import UNREADABLE
from skumatch.errors import DataError
from skumatch.params import Params
from skumatch.pipeline import inputs
from skumatch.pipeline.register import flat
from skumatch.release.bundle.manifest import WEIGHTS
from skumatch.retrieval import statistics
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.statistics import Interval

CONFIDENCE = 0.95
FIGURES = ("top1", "top3", "top5", "macro_top1")


@dataclass(frozen=True)
class Data:
    """Pictures by the hash of their bytes: new ones, ones that are gone, and ones that have another SKU or side."""

    added: int
    removed: int
    moved: int
    new_skus: tuple[str, ...]
    gone_skus: tuple[str, ...]

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed or self.moved)


@dataclass(frozen=True)
class Sku:
    """One SKU's top-1 on the n queries that both were asked.

    The gain's interval takes these as independent.
    """

    name: str
    n: int
    before: float
    after: float
    gain: Interval


@dataclass(frozen=True)
class Gain:
    """Top-1 of the later version minus the earlier one's, on the n queries that both were asked."""

    interval: Interval
    n: int
    skus: tuple[Sku, ...]


@dataclass(frozen=True)
class Diff:
    """params: name -> before and after. code, packages: names with + (new), - (gone) or ~ (changed). gain: None without common queries.

    same_encoder: whether only the gallery differs, as between two gallery releases.
    """

    same_encoder: bool
    data: Data
    params: dict[str, tuple[Any, Any]]
    code: tuple[str, ...]
    packages: tuple[str, ...]
    figures: dict[str, tuple[float, float]]
    gain: Gain | None


def diff(before: Dossier, after: Dossier) -> Diff:
    """What changed from one dossier to the other.

    Raises DataError for a dossier that lacks what is compared, or has it damaged.
    """
    for one in (before, after):
        if lacking := [
            missing.reason for missing in one.facts.missing if missing.part in (RUN, WORKSPACE, "data")
        ]:
            raise DataError(f"Version {one.facts.registered.version} can't be compared: {lacking[0]}")
    try:
        return _diff(before, after)
    except UNREADABLE as error:
        which = f"{before.facts.registered.version} or {after.facts.registered.version}"
        raise DataError(
            f"A part of version {which} is missing or can't be read ({' '.join(str(error).split())}); audit both with --verify."
        ) from error


def _diff(before: Dossier, after: Dossier) -> Diff:
    return Diff(
        data=_data(*(_rows(one) for one in (before, after))),
        params=_params(before.params, after.params),
        code=_changes(*(_code(one) for one in (before, after))),
        packages=_changes(*(_packages(one.path(RUN, "constraints.txt")) for one in (before, after))),
        same_encoder=len({one.manifest.parts[WEIGHTS].sha256 for one in (before, after)}) == 1,
        figures=_figures(*(one.evaluation(RUN, one.released) for one in (before, after))),
        gain=_gain(
            *(
                pd.read_parquet(one.path(RUN, f"evaluate/{one.released}-hits.parquet"))
                for one in (before, after)
            )
        ),
    )


def _rows(dossier: Dossier) -> pd.DataFrame:
    return pd.read_parquet(
        dossier.path(WORKSPACE, "data/manifest.parquet"), columns=["sha256", "sku", "side"]
    )


def _data(before: pd.DataFrame, after: pd.DataFrame) -> Data:
    """A picture that is there several times counts as often."""
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
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            found.append(f"+ {name} {_short(after[name])}".rstrip())
        elif name not in after:
            found.append(f"- {name} {_short(before[name])}".rstrip())
        elif before[name] != after[name]:
            found.append(f"~ {name} {_between(before[name], after[name])}")
    return tuple(found)


def _short(text: str) -> str:
    """A version as it is; nothing of a file."""
    return text if len(text) < 60 and "\n" not in text else ""


def _between(before: str, after: str) -> str:
    if _short(before) and _short(after):
        return f"{before} -> {after}"
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    return f"(+{sum(line.startswith('+') for line in lines)} -{sum(line.startswith('-') for line in lines)} lines)"


def _packages(path: Path) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    found: dict[str, str] = {}
    for line in lines:
        name, pinned, version = line.partition("==")
        if pinned:
            found[name.strip()] = f"{found[name]}, {version}" if name.strip() in found else version.strip()
    return found


def _figures(before: Evaluation, after: Evaluation) -> dict[str, tuple[float, float]]:
    return {name: (getattr(before, name), getattr(after, name)) for name in FIGURES}


def _gain(before: pd.DataFrame, after: pd.DataFrame) -> Gain | None:
    """Under the protocol `full`; both models' hits of the queries that both were asked."""
    sides = [frame[frame["slice"].eq("full")] if "slice" in frame else frame for frame in (before, after)]
    both = sides[0].merge(sides[1], on=["query", "sku"], suffixes=("_before", "_after"))
    if both.empty:
        return None
    both["change"] = both["hit_after"].astype(float) - both["hit_before"].astype(float)
    moved = [_sku(str(name), rows) for name, rows in both.groupby("sku") if rows["change"].any()]
    return Gain(
        _interval(both, "sku"), len(both), tuple(sorted(moved, key=lambda sku: -sku.gain.value * sku.n))
    )


def _sku(name: str, rows: pd.DataFrame) -> Sku:
    return Sku(
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
