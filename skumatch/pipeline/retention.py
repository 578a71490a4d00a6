"""What a clean-up takes: of each kind a pile, in the order in which it may be deleted; and the deletion of what was shown.

Everything here that decides is pure. A result (an entry of DVC's run cache) goes before the folders it names, a folder (.dir) before its
members: DVC takes a folder that is there for whole, so whoever is stopped in between leaves nothing that claims more than there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from skumatch.pipeline.claims import Claim
from skumatch.pipeline.stores import GONE, File

STORED = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30}(?:\.dir)?)")
RESULT = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")
REMOVED = re.compile(rf"{GONE}/[0-9a-f]{{32}}/[0-9a-f]{{64}}")
CHECKPOINT = re.compile(r"(checkpoints/[0-9a-f]{64})/(?:owner\.json|\d{8,}-\d{4,}\.(?:json|safetensors))(?:\.[0-9a-f]{32}\.part)?")
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
    """Of a store's files: results of which an out isn't kept, then objects that aren't kept; no other file is touched."""
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
    """The checkpoints of trainings that saved none since then; a folder that holds anything else is left alone."""
    folders: dict[str, dict[str, File]] = {}
    for name, file in files.items():
        if name.startswith("checkpoints/"):
            folders.setdefault("/".join(name.split("/")[:2]), {})[name] = file
    idle = [group for group in folders.values() if all(CHECKPOINT.fullmatch(n) and f.touched < since for n, f in group.items())]
    return sorted(Item(_checkpoint_rank(name), name, file.size) for group in idle for name, file in group.items())


def _checkpoint_rank(name: str) -> int:
    """A checkpoint's JSON is what makes it one, so it goes first; the owner goes last, with the folder."""
    return 2 if "/owner.json" in name else 0 if name.endswith(".json") else 1


def old_claims(files: Mapping[str, File], claims: Mapping[str, Claim], since: float, now: float) -> list[Item]:
    """Claims of runs that have done nothing since then, and what was left of writing one."""
    names = [name for name, file in files.items() if HALF_WRITTEN.fullmatch(name) and file.touched < since]
    names += [f"claims/{name}" for name, claim in claims.items() if not counts(claim, since, now)]
    return sorted(Item(0, name, files[name].size) for name in names if name in files)


def counts(claim: Claim, since: float, now: float) -> bool:
    """Whether what a claim names is kept for its run."""
    return claim.at >= since or claim.at_work(now)
