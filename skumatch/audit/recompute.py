"""What follows from other links is computed again: cheap stages, figures from ranked lists, hashes of folders."""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import yaml

from skumatch.audit.dossier import WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.errors import ParameterError, SkumatchError
from skumatch.files import md5, read_json
from skumatch.params import Params
from skumatch.retrieval.answers import shares as served_shares
from skumatch.retrieval.evaluate import Ranking, evaluate

HERE = Path(__file__).parents[2]
COMPARED = (".json", ".parquet")
FIGURES = ("n", "skus", "without_partner", "top1", "top3", "top5", "macro_top1")
NEEDED = ("split/protocols/full.parquet", "embed/items.parquet")  # besides an evaluation's own files
Hits = dict[str, tuple[str, bool]]


def stage(dossier: Dossier, name: str) -> str:
    """Run a stage again on the dossier's inputs, with the code that is installed here, and compare what it writes.

    Raises Broken where it writes something else, Unchecked where it does, but with other code than the run's.
    """
    other = _other_code(dossier, name)
    dossier.there(WORKSPACE, "out", name)
    for dep in _deps(dossier, name):
        dossier.there(WORKSPACE, dep)
    try:
        differing = _differing(dossier, name)
    except (OSError, Broken, Unchecked):  # a part that is absent is told as such, in the chain
        raise
    except Exception as error:  # a stage that worked for the run and fails here, on data of any shape
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


def _differing(dossier: Dossier, name: str) -> list[str]:
    told = dossier.path(WORKSPACE, "out", name)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in (*dossier.workspace.iterdir(), *(dossier.workspace / "out").iterdir()):
            if path.name not in ("out", "log", name) or (
                path.parent == dossier.workspace and path.name == name
            ):
                target = root / path.relative_to(dossier.workspace)
                target.parent.mkdir(exist_ok=True)
                target.symlink_to(path.resolve())
        (root / "out" / name).mkdir(parents=True)
        importlib.import_module(f"skumatch.stages.{name}").run(root, params(dossier))
        found, recorded = _files(root / "out" / name), _files(told)
        paths = found.keys() | recorded.keys()
        return sorted(path for path in paths if found.get(path) != recorded.get(path))


def params(dossier: Dossier) -> Params:
    """The run's parameters.

    Raises Unchecked where this version of skumatch can't read them; whether they were changed, their hash
    says.
    """
    try:
        return dossier.params
    except ParameterError as error:
        raise Unchecked(
            f"the run's parameters can't be read here ({error}); audit with the run's version of skumatch"
        ) from error


def _files(folder: Path) -> dict[str, str]:
    """Path -> hash of the files that say what was found; pages only show it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix in COMPARED)
    return {path.relative_to(folder).as_posix(): md5(path) for path in paths}


def _other_code(dossier: Dossier, name: str) -> list[str]:
    """Code that the stage depends on and that differs between the run and this installation."""
    rooms = [dep for dep in _deps(dossier, name) if dep.startswith("skumatch/")]
    files = [path for room in rooms for path in _sources(dossier.workspace / room)]
    names = sorted(path.relative_to(dossier.workspace).as_posix() for path in files)
    return [
        one
        for one in names
        if not (HERE / one).is_file() or (HERE / one).read_bytes() != (dossier.workspace / one).read_bytes()
    ]


def _deps(dossier: Dossier, name: str) -> list[str]:
    try:
        tree = yaml.safe_load((dossier.workspace / "dvc.yaml").read_text("utf-8"))
        return [str(dep) for dep in tree["stages"][name]["deps"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise Broken(
            f"the run's dvc.yaml has no stage {name} that can be read ({type(error).__name__})"
        ) from error


def _sources(path: Path) -> list[Path]:
    return [path] if path.is_file() else [one for one in path.rglob("*.py") if one.is_file()]


def answers(dossier: Dossier) -> None:
    """Sum up the served answers again.

    Raises Broken where answers.json doesn't follow from them, Unchecked where other code is here.
    """
    table = pq.read_table(dossier.there(WORKSPACE, "out/evaluate/answers.parquet")).to_pandas()
    recorded = read_json(dossier.there(WORKSPACE, "out/evaluate/answers.json"))
    recipe = params(dossier)
    shares = served_shares(table, recipe.evaluate, recipe.seed)
    again = {
        who: {part: share.model_dump(mode="json") for part, share in parts.items()}
        for who, parts in shares.items()
    }
    if again == recorded:
        return
    if other := _other_code(dossier, "evaluate"):
        raise Unchecked(f"answers.json comes out otherwise here, {_where(other)}")
    raise Broken("answers.json isn't of answers.parquet")


def figures(dossier: Dossier, candidate: str) -> None:
    """Count an evaluation's figures, and the hits that the gate goes by, again from its ranked lists and the gallery's SKUs.

    Raises Broken where they don't follow, Unchecked where they don't, but by other code than the run's.
    """
    other, who = _other_code(dossier, "evaluate"), dossier.file_of(candidate)
    for name in (f"evaluate/{who}.json", f"evaluate/{who}.parquet", f"evaluate/{who}-hits.parquet", *NEEDED):
        dossier.there(WORKSPACE, "out", name)
    try:
        wrong = _miscounted(dossier, candidate)
    except (OSError, Broken, Unchecked):
        raise
    except Exception as error:  # tables of any shape fail in any way
        if other:
            raise Unchecked(
                f"the figures of the {who} can't be counted here ({type(error).__name__}), {_where(other)}"
            ) from error
        raise Broken(f"the figures of the {who} can't be counted again ({_words(error)})") from error
    if wrong and other:
        raise Unchecked(f"{wrong}, {_where(other)}")
    if wrong:
        raise Broken(wrong)


def _miscounted(dossier: Dossier, candidate: str) -> str:
    """What doesn't follow from the ranked lists, in words."""
    root, who = dossier.path(WORKSPACE, "out"), dossier.file_of(candidate)
    recorded = dossier.evaluation(f"{WORKSPACE}/out", candidate)
    ranking = Ranking.from_frame(pq.read_table(root / f"evaluate/{who}.parquet").to_pandas())
    lists, items = (pq.read_table(root / name).to_pandas() for name in NEEDED)
    images = Counter(items[items["id"].isin(lists[lists["part"].isin(["gallery", "both"])]["id"])]["sku"])
    found = evaluate(ranking, set(images), "full", params(dossier).evaluate, params(dossier).seed)
    wrong = [name for name in FIGURES if getattr(found, name) != getattr(recorded, name)]
    if wrong:
        name = wrong[0]
        return f"{name} of the {who} is {getattr(recorded, name)}, from its ranked lists it is {getattr(found, name)}"
    told_hits = pq.read_table(root / f"evaluate/{who}-hits.parquet").to_pandas()
    few = {sku for sku, count in images.items() if count <= params(dossier).evaluate.tail_images}
    for name, skus in {"full": set(images), "tail": few}.items():
        if _hits(ranking, skus) != _told(told_hits, name):
            return (
                f"the hits of the {who} that the gate goes by (slice {name}) aren't those of its ranked lists"
            )
    return ""


def _hits(ranking: Ranking, skus: set[str]) -> Hits:
    """Query -> its SKU, and whether the nearest one is of it; of the queries of these SKUs."""
    pairs = zip(ranking.query_ids, ranking.query_skus, ranking.skus[:, 0], strict=True)
    return {str(query): (str(own), bool(own == nearest)) for query, own, nearest in pairs if own in skus}


def _told(hits: pd.DataFrame, name: str) -> Hits:
    """The same as the table of hits has it, in the slice of that name."""
    rows = hits[hits["slice"].eq(name)]
    return {
        str(query): (str(sku), bool(hit))
        for query, sku, hit in zip(rows["query"], rows["sku"], rows["hit"], strict=True)
    }


def changed(dossier: Dossier, paths: dict[str, str]) -> list[str]:
    """Of the workspace's files and folders (path -> `md5:hash`) those that are there and have another hash."""
    return sorted(
        path for path, digest in paths.items() if hash_of(dossier.workspace / path) not in (None, digest)
    )


def hash_of(path: Path) -> str | None:
    """A file's or folder's hash as DVC names it; None if it is missing.

    A folder's is that of the list of its files' hashes.
    """
    if path.is_file():
        return f"md5:{md5(path)}"
    if not path.is_dir():
        return None
    files = sorted((one.relative_to(path).as_posix(), md5(one)) for one in path.rglob("*") if one.is_file())
    listing = json.dumps([{"md5": digest, "relpath": name} for name, digest in files], sort_keys=True)
    return f"md5:{hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest()}.dir"
