"""Recompute links that follow from others: cheap stages, figures from ranked lists, hashes of folders."""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from skumatch.audit.dossier import WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.errors import ParameterError, SkumatchError
from skumatch.files import md5, read_json
from skumatch.params import Params
from skumatch.retrieval.answers import shares as served_shares
from skumatch.retrieval.evaluate import Ranking, evaluate
from skumatch.stages import artefacts

HERE = Path(__file__).parents[2]
COMPARED = (".json", ".parquet")
FIGURES = ("n", "skus", "without_partner", "top1", "top3", "top5", "macro_top1")
# Files from which an evaluation's figures are computed again.
NEEDED = (
    artefacts.EVALUATION,
    artefacts.RANKING,
    artefacts.HITS,
    artefacts.PROTOCOL,
    artefacts.ITEMS,
)
Hits = dict[str, tuple[str, bool]]
# What stages wrote in this process (path -> MD5), by what they read. A daily audit verifies two versions,
# which often are of the same data, whose split takes minutes.
_MADE: dict[str, dict[str, str]] = {}


def stage(dossier: Dossier, name: str) -> str:
    """Run a stage again on the dossier's inputs, with the code that is installed here, and compare its outs.

    In one process a stage runs once on the same bytes and parameters.

    Returns:
        A sentence that says that the outs are the same.

    Raises:
        Broken: The stage fails or writes other outs, with the run's code.
        Unchecked: The stage fails or writes other outs, but the code here isn't the run's.
        OSError: A part of the dossier that the stage needs is absent.
    """
    other = _other_code(dossier, name)
    dossier.there(WORKSPACE, artefacts.out(name))
    for dep in _deps(dossier, name):
        dossier.there(WORKSPACE, dep)
    try:
        differing = _differing(dossier, name, None if other else _read_by(dossier, name))
    except (OSError, Broken, Unchecked):  # the chain reports an absent part as such
        raise
    except Exception as error:  # a stage that worked in the run can fail here, on data of any shape
        if other:
            raise Unchecked(f"stage {name} can't be run here ({_words(error)}), {_where(other)}") from error
        raise Broken(f"stage {name} fails when it is run again: {_words(error)}") from error
    if differing and other:
        raise Unchecked(f"{', '.join(differing)} comes out otherwise here, {_where(other)}")
    if differing:
        raise Broken(f"{', '.join(differing)} comes out otherwise when it is computed again")
    return "computed again, the same" + (f" (by other code: {other[0]})" if other else "")


def _words(error: Exception) -> str:
    if isinstance(error, SkumatchError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _where(other: list[str]) -> str:
    return f"where {other[0]} isn't the run's; audit with the run's version"


def _differing(dossier: Dossier, name: str, read: str | None) -> list[str]:
    """Return the outs that come out otherwise; `read` is what decides them, None where that isn't known."""
    outs = dossier.path(WORKSPACE, artefacts.out(name))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in (*dossier.workspace.iterdir(), *(dossier.workspace / "out").iterdir()):
            if path.name not in ("out", "log", name) or (
                path.parent == dossier.workspace and path.name == name
            ):
                target = root / path.relative_to(dossier.workspace)
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(path.resolve())
        made, recorded = _MADE.get(read) if read else None, _files(outs)
        if made is None:
            (root / artefacts.out(name)).mkdir(parents=True)
            importlib.import_module(f"skumatch.stages.{name}").run(root, params(dossier))
            made = _files(root / artefacts.out(name))
            if read:
                _MADE[read] = made
        paths = made.keys() | recorded.keys()
        return sorted(path for path in paths if made.get(path) != recorded.get(path))


def _read_by(dossier: Dossier, name: str) -> str:
    """Return what decides a stage's outs, by its code: name, parameters, and the hashes of its inputs."""
    tree, values = _stage_of(dossier, name), params(dossier).model_dump(mode="json")
    used = {str(section): values.get(str(section)) for section in tree.get("params") or values}
    inputs = {dep: hash_of(dossier.workspace / dep) for dep in _deps(dossier, name) if not _is_code(dep)}
    return json.dumps([name, used, inputs], sort_keys=True)


def params(dossier: Dossier) -> Params:
    """Return the run's parameters.

    Raises:
        Unchecked: This version of skumatch can't read them. A change of the file shows in its hash, which
            another check compares.
    """
    try:
        return dossier.params
    except ParameterError as error:
        raise Unchecked(
            f"the run's parameters can't be read here ({error}); audit with the run's version of skumatch"
        ) from error


def _files(folder: Path) -> dict[str, str]:
    """Return path -> MD5 of the files with results; pages, which only show results, are left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in COMPARED)
    return {path.relative_to(folder).as_posix(): md5(path) for path in paths}


def _other_code(dossier: Dossier, name: str) -> list[str]:
    """Return the stage's code files that differ between the run and this installation."""
    rooms = [dep for dep in _deps(dossier, name) if _is_code(dep)]
    files = [path for room in rooms for path in _sources(dossier.workspace / room)]
    names = sorted(path.relative_to(dossier.workspace).as_posix() for path in files)
    return [
        file
        for file in names
        if not (HERE / file).is_file()
        or (HERE / file).read_bytes() != (dossier.workspace / file).read_bytes()
    ]


def _is_code(dep: str) -> bool:
    return dep.startswith("skumatch/")


def _deps(dossier: Dossier, name: str) -> list[str]:
    return [str(dep) for dep in _stage_of(dossier, name)["deps"]]


def _stage_of(dossier: Dossier, name: str) -> dict[str, Any]:
    try:
        tree = dict(yaml.safe_load((dossier.workspace / "dvc.yaml").read_text("utf-8"))["stages"][name])
        list(tree["deps"])
        return tree
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise Broken(
            f"the run's dvc.yaml has no stage {name} that can be read ({type(error).__name__})"
        ) from error


def _sources(path: Path) -> list[Path]:
    return [path] if path.is_file() else [source for source in path.rglob("*.py") if source.is_file()]


def answers(dossier: Dossier) -> None:
    """Compute answers.json again from answers.parquet and compare.

    Raises:
        Broken: answers.json doesn't follow from answers.parquet.
        Unchecked: It doesn't follow, but the code here isn't the run's.
    """
    table = artefacts.ANSWERS.read(dossier.workspace)
    recorded = read_json(dossier.there(WORKSPACE, artefacts.SHARES.path))
    recipe = params(dossier)
    shares = served_shares(table, recipe.evaluate, recipe.seed)
    again = {
        candidate: {part: share.model_dump(mode="json") for part, share in parts.items()}
        for candidate, parts in shares.items()
    }
    if again == recorded:
        return
    if other := _other_code(dossier, "evaluate"):
        raise Unchecked(f"answers.json comes out otherwise here, {_where(other)}")
    raise Broken("answers.json isn't of answers.parquet")


def figures(dossier: Dossier, candidate: str) -> None:
    """Compute an evaluation's figures, and the hits that the gate uses, again and compare.

    Both follow from the evaluation's ranked lists and the gallery's SKUs.

    Args:
        dossier: The dossier with the evaluation.
        candidate: `challenger` or `refreshed`.

    Raises:
        Broken: The figures don't follow.
        Unchecked: The figures don't follow, but the code here isn't the run's.
        OSError: A part of the dossier that is needed is absent.
    """
    other, stem = _other_code(dossier, "evaluate"), dossier.file_of(candidate)
    for artefact in NEEDED:
        artefact.at(dossier.workspace, candidate=stem, protocol="full").stat()
    try:
        wrong = _miscounted(dossier, candidate)
    except (OSError, Broken, Unchecked):
        raise
    except Exception as error:  # a table of unknown shape can raise any error
        if other:
            raise Unchecked(
                f"the figures of the {stem} can't be counted here ({type(error).__name__}), {_where(other)}"
            ) from error
        raise Broken(f"the figures of the {stem} can't be counted again ({_words(error)})") from error
    if wrong and other:
        raise Unchecked(f"{wrong}, {_where(other)}")
    if wrong:
        raise Broken(wrong)


def _miscounted(dossier: Dossier, candidate: str) -> str:
    """Return a sentence about the first figure that doesn't follow from the ranked lists; empty if all do."""
    root, stem = dossier.workspace, dossier.file_of(candidate)
    recorded = dossier.evaluation(f"{WORKSPACE}/out", candidate)
    ranking = Ranking.from_frame(artefacts.RANKING.read(root, candidate=stem))
    lists, items = artefacts.PROTOCOL.read(root, protocol="full"), artefacts.ITEMS.read(root)
    images = Counter(items[items["id"].isin(lists[lists["part"].isin(["gallery", "both"])]["id"])]["sku"])
    recomputed = evaluate(ranking, set(images), "full", params(dossier).evaluate, params(dossier).seed)
    wrong = [name for name in FIGURES if getattr(recomputed, name) != getattr(recorded, name)]
    if wrong:
        name = wrong[0]
        figures = f"{getattr(recorded, name)}, from its ranked lists it is {getattr(recomputed, name)}"
        return f"{name} of the {stem} is {figures}"
    recorded_hits = artefacts.HITS.read(root, candidate=stem)
    few = {sku for sku, count in images.items() if count <= params(dossier).evaluate.tail_images}
    for name, skus in {"full": set(images), "tail": few}.items():
        if _hits(ranking, skus) != _recorded_hits(recorded_hits, name):
            hits = f"the hits of the {stem} that the gate goes by (slice {name})"
            return f"{hits} aren't those of its ranked lists"
    return ""


def _hits(ranking: Ranking, skus: set[str]) -> Hits:
    """Return query -> (its SKU, True if the nearest SKU is the same), for the queries of `skus`."""
    pairs = zip(ranking.query_ids, ranking.query_skus, ranking.skus[:, 0], strict=True)
    return {str(query): (str(own), bool(own == nearest)) for query, own, nearest in pairs if own in skus}


def _recorded_hits(hits: pd.DataFrame, name: str) -> Hits:
    """Return query -> (its SKU, hit) from the rows of a table of hits that are in the slice `name`."""
    rows = hits[hits["slice"].eq(name)]
    return {
        str(query): (str(sku), bool(hit))
        for query, sku, hit in zip(rows["query"], rows["sku"], rows["hit"], strict=True)
    }


def changed(dossier: Dossier, paths: dict[str, str]) -> list[str]:
    """Return the files and folders of the workspace that exist with another hash than in `paths`.

    Args:
        dossier: The dossier with the workspace.
        paths: Path below the workspace -> `md5:hash`.
    """
    return sorted(
        path for path, digest in paths.items() if hash_of(dossier.workspace / path) not in (None, digest)
    )


def hash_of(path: Path) -> str | None:
    """Return a file's or folder's hash as DVC writes it; None if it is missing.

    The hash is `md5:...` for a file and `md5:....dir` for a folder. A folder's hash is that
    of the list of its files' names and hashes.
    """
    if path.is_file():
        return f"md5:{md5(path)}"
    if not path.is_dir():
        return None
    members = (member for member in path.rglob("*") if member.is_file())
    files = sorted((member.relative_to(path).as_posix(), md5(member)) for member in members)
    listing = json.dumps([{"md5": digest, "relpath": name} for name, digest in files], sort_keys=True)
    return f"md5:{hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()}.dir"
