"""Pure functions that decide which files a clean-up deletes, and in which order.

DVC assumes that a result (an entry of its run cache) implies the folders that it names, and that a folder
(.dir object) implies its members. So results are deleted first, then folders, then files: an interrupted
clean-up leaves a consistent store.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import yaml

from skumatch.cleanup.stores import GONE, File
from skumatch.pipeline.claims import Claim

STORED = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
REMOVED = re.compile(rf"{GONE}/[0-9a-f]{{32}}/[0-9a-f]{{64}}")
CHECKPOINT = re.compile(
    r"(checkpoints/[0-9a-f]{64})/(?:owner\.json|\d{8,}-\d{4,}\.(?:json|safetensors))(?:\.[0-9a-f]{32}\.part)?"
)
VECTORS = re.compile(
    r"(?P<part>vectors/[0-9a-f]{64}/(?:used-(?P<digest>[0-9a-f]{32})|[0-9a-f]{64}))\.(?:json|safetensors)"
    r"(?P<half>\.[0-9a-f]{32}\.part)?"
)
HALF_WRITTEN = re.compile(r"claims/.*\.json\.[0-9a-f]{32}\.part")


@dataclass(frozen=True, order=True)
class Deletable:
    """A file or folder that is deleted as a whole.

    Attributes:
        rank: items of lower rank are deleted before those of higher rank.
        name: path below the store, absolute path, or address in MLflow.
        size: in bytes.
    """

    rank: int
    name: str
    size: int


def digest_of(name: str) -> str | None:
    """Return the MD5 of the object in a store's file (with `.dir` for a folder); None for any other file."""
    match = STORED.fullmatch(name)
    return "".join(match.groups()) if match else None


def stored(files: Mapping[str, File], since: float) -> set[str]:
    """Return the objects that were written to a store at `since` or later, in seconds since 1970."""
    return {digest for name, file in files.items() if file.touched >= since and (digest := digest_of(name))}


def outs_of(result: bytes) -> set[str] | None:
    """Return the MD5s of the outs of an entry of the run cache; None where the file is no such entry."""
    try:
        return {str(out["md5"]) for out in yaml.safe_load(result)["outs"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None


def unneeded(files: Mapping[str, File], results: Mapping[str, bytes], kept: set[str]) -> list[Deletable]:
    """List a store's results of which an out isn't kept, and then its objects that aren't kept.

    Files that a killed clean-up had put aside are listed, too; no other file is.

    Args:
        files: all files of the store.
        results: name -> content of the entries of its run cache.
        kept: MD5s of the objects to keep.
    """
    items = [Deletable(0, name, files[name].size) for name in files if REMOVED.fullmatch(name)]
    for name, data in results.items():
        outs = outs_of(data)
        if outs is not None and not outs <= kept:
            items.append(Deletable(0, name, files[name].size))
    for name, file in files.items():
        digest = digest_of(name)
        if digest and digest not in kept:
            items.append(Deletable(1 if digest.endswith(".dir") else 2, name, file.size))
    return sorted(items)


def idle_checkpoints(files: Mapping[str, File], since: float) -> list[Deletable]:
    """List the checkpoints of trainings that saved none since `since`, in seconds since 1970.

    A folder that holds anything else is left alone.
    """
    folders = _folders_of(files, "checkpoints")
    items: list[Deletable] = []
    for group in folders:
        if all(CHECKPOINT.fullmatch(n) and f.touched < since for n, f in group.items()):
            items += [Deletable(_checkpoint_rank(name), name, file.size) for name, file in group.items()]
    return sorted(items)


def _folders_of(files: Mapping[str, File], kind: str) -> list[dict[str, File]]:
    """Return the files of each folder of one kind."""
    folders: dict[str, dict[str, File]] = {}
    for name, file in files.items():
        if name.startswith(f"{kind}/"):
            folders.setdefault("/".join(name.split("/")[:2]), {})[name] = file
    return list(folders.values())


def idle_vectors(files: Mapping[str, File], needed: Collection[str], since: float) -> list[Deletable]:
    """List the files of vectors that no run uses any more (model/vector_store.py).

    Args:
        files: files of the remote.
        needed: MD5s of objects that a version, a kept run or a run in progress needs. A folder's file
            `used-MD5.json` names the object of its encoder.
        since: in seconds since 1970; files that were touched at that time or later stay.

    Returns:
        All files of an encoder that is not needed and that no run used since. Of other encoders only the
        files that killed runs left: half-written files, and parts without an index. A folder that holds
        anything else is left alone.
    """
    items: list[Deletable] = []
    for group in _folders_of(files, "vectors"):
        matches = {name: match for name in group if (match := VECTORS.fullmatch(name))}
        if len(matches) < len(group):
            continue
        kept = any(match["digest"] in needed for match in matches.values() if match["digest"])
        if kept or any(file.touched >= since for file in group.values()):
            indexed = {match["part"] for name, match in matches.items() if name.endswith(".json")}
            idle = [name for name, match in matches.items() if match["half"] or match["part"] not in indexed]
        else:
            idle = list(matches)
        old = [name for name in idle if group[name].touched < since]
        items += [Deletable(_vectors_rank(name), name, group[name].size) for name in old]
    return sorted(items)


def _vectors_rank(name: str) -> int:
    """Rank a part's index before its vectors, which count only with an index, and the notes of use last."""
    if "/used-" in name:
        return 2
    return 0 if name.endswith(".json") else 1


def _checkpoint_rank(name: str) -> int:
    """Rank a checkpoint's JSON before its weights, which count only with the JSON, and the owner last."""
    if "/owner.json" in name:
        return 2
    return 0 if name.endswith(".json") else 1


def old_claims(
    files: Mapping[str, File], claims: Mapping[str, Claim], since: float, now: float
) -> list[Deletable]:
    """List claims that don't count any more, and half-written claims that are old.

    Args:
        files: files of the remote.
        claims: file name -> claim.
        since: claims and files of that time or later stay; in seconds since 1970.
        now: in seconds since 1970.
    """
    names = [name for name, file in files.items() if HALF_WRITTEN.fullmatch(name) and file.touched < since]
    names += [f"claims/{name}" for name, claim in claims.items() if not counts(claim, since, now)]
    return sorted(Deletable(0, name, files[name].size) for name in names if name in files)


def counts(claim: Claim, since: float, now: float) -> bool:
    """Return whether a clean-up keeps the objects that a claim names.

    Args:
        claim: of a run.
        since: claims of that time or later count; in seconds since 1970.
        now: in seconds since 1970; a claim counts while its task may be at work.
    """
    return claim.at >= since or claim.at_work(now)
