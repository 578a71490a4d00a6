"""What a clean-up takes: of each kind a pile, in the order in which it may be deleted.

And the deletion of what was shown.

Everything here that decides is pure. A result (an entry of DVC's run cache) goes before the folders it names,
a folder (.dir) before its members: DVC takes a folder that is there for whole, so whoever is stopped in
between leaves nothing that claims more than there is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import yaml

from skumatch.pipeline.claims import Claim
from skumatch.pipeline.stores import GONE, File

STORED = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
RESULT = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")
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
class Item:
    """What is deleted as one: lower ranks go before higher ones. size: bytes."""

    rank: int
    name: str
    size: int


def digest_of(name: str) -> str | None:
    """The object that a file of a store is, None for any other file."""
    found = STORED.fullmatch(name)
    return "".join(found.groups()) if found else None


def stored(files: Mapping[str, File], since: float) -> set[str]:
    """The objects that a store got since then, in seconds since 1970."""
    return {digest for name, file in files.items() if file.touched >= since and (digest := digest_of(name))}


def outs_of(result: bytes) -> set[str] | None:
    """The objects that an entry of the run cache offers, None where it is no such entry."""
    try:
        return {str(out["md5"]) for out in yaml.safe_load(result)["outs"]}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return None


def unneeded(files: Mapping[str, File], results: Mapping[str, bytes], kept: set[str]) -> list[Item]:
    """Of a store's files: results of which an out isn't kept, then objects that aren't kept.

    No other file is touched.
    """
    found = [Item(0, name, files[name].size) for name in files if REMOVED.fullmatch(name)]
    for name, data in results.items():
        outs = outs_of(data)
        if outs is not None and not outs <= kept:
            found.append(Item(0, name, files[name].size))
    for name, file in files.items():
        digest = digest_of(name)
        if digest and digest not in kept:
            found.append(Item(1 if digest.endswith(".dir") else 2, name, file.size))
    return sorted(found)


def idle_checkpoints(files: Mapping[str, File], since: float) -> list[Item]:
    """The checkpoints of trainings that saved none since then.

    A folder that holds anything else is left alone.
    """
    folders = _folders_of(files, "checkpoints")
    items: list[Item] = []
    for group in folders:
        if all(CHECKPOINT.fullmatch(n) and f.touched < since for n, f in group.items()):
            items += [Item(_checkpoint_rank(name), name, file.size) for name, file in group.items()]
    return sorted(items)


def _folders_of(files: Mapping[str, File], kind: str) -> list[dict[str, File]]:
    """The files of each folder of one kind."""
    folders: dict[str, dict[str, File]] = {}
    for name, file in files.items():
        if name.startswith(f"{kind}/"):
            folders.setdefault("/".join(name.split("/")[:2]), {})[name] = file
    return list(folders.values())


def idle_vectors(files: Mapping[str, File], needed: Collection[str], since: float) -> list[Item]:
    """List vectors that nobody uses any more (model/vector_store.py).

    Args:
        files: Of the remote.
        needed: Objects that a version, kept run or run in progress rests on. A folder's `used-MD5.json` names
            its encoder among them.
        since: In seconds since 1970; what was touched later stays.

    Returns:
        All of an encoder's vectors where no needed object is that encoder's and no run used them since. Of
        other encoders what killed runs left: files that are half written, and parts without an index. A
        folder that holds anything else is left alone.
    """
    items: list[Item] = []
    for group in _folders_of(files, "vectors"):
        matches = {name: match for name in group if (match := VECTORS.fullmatch(name))}
        if len(matches) < len(group):
            continue
        kept = any(match["digest"] in needed for match in matches.values() if match["digest"])
        if kept or any(file.touched >= since for file in group.values()):
            indexed = {match["part"] for name, match in matches.items() if name.endswith(".json")}
            left = [name for name, match in matches.items() if match["half"] or match["part"] not in indexed]
        else:
            left = list(matches)
        items += [
            Item(_vectors_rank(name), name, group[name].size) for name in left if group[name].touched < since
        ]
    return sorted(items)


def _vectors_rank(name: str) -> int:
    """A part's index is what makes it one, so it goes first; the notes of use go last, with the folder."""
    return 2 if "/used-" in name else 0 if name.endswith(".json") else 1


def _checkpoint_rank(name: str) -> int:
    """A checkpoint's JSON is what makes it one, so it goes first; the owner goes last, with the folder."""
    return 2 if "/owner.json" in name else 0 if name.endswith(".json") else 1


def old_claims(
    files: Mapping[str, File], claims: Mapping[str, Claim], since: float, now: float
) -> list[Item]:
    """Claims of runs that have done nothing since then, and what was left of writing one."""
    names = [name for name, file in files.items() if HALF_WRITTEN.fullmatch(name) and file.touched < since]
    names += [f"claims/{name}" for name, claim in claims.items() if not counts(claim, since, now)]
    return sorted(Item(0, name, files[name].size) for name in names if name in files)


def counts(claim: Claim, since: float, now: float) -> bool:
    """Whether what a claim names is kept for its run."""
    return claim.at >= since or claim.at_work(now)
