"""What is still needed: the objects that versions, runs, the project's history and runs in progress refer to."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from skumatch.errors import CleaningRefused, CodeError
from skumatch.git import Checkout, NoRepository, checkout
from skumatch.pipeline.stores import Store
from skumatch.texts import visible

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
POINTERS = ("data.dvc", "dvc.lock")
ANYWHERE = tuple(
    f":(top,glob)**/{name}" for name in POINTERS
)  # the project's folder may have had another name before


def named(text: str, where: str) -> set[str]:
    """The objects that a .dvc file or a dvc.lock names. Raises CleaningRefused if it can't be read."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CleaningRefused(
            f"{where} can't be read, so what it names isn't known; mend or remove it, then clean up."
        ) from error
    return set(_hashes(tree))


def _hashes(tree: Any) -> Iterator[str]:
    """Whatever looks like an object's name, wherever it stands: one too many is kept rather than one too few."""
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _hashes(part)
    elif isinstance(tree, str) and OBJECT.fullmatch(tree):
        yield tree


def in_history(project: Path) -> set[str]:
    """What data.dvc and dvc.lock name in the working tree and in every commit of every branch and tag.

    The project may be a folder within its repository. Raises CleaningRefused where git can't tell.
    """
    texts = {name: (project / name).read_bytes() for name in POINTERS if (project / name).is_file()}
    try:
        texts |= _history(project)
    except CodeError as error:
        raise CleaningRefused(f"Which data versions {project} has isn't known. {error}") from error
    decoded = {name: text.decode("utf-8", "replace") for name, text in texts.items()}
    return {digest for name, text in decoded.items() for digest in named(text, f"{name} of {project}")}


def _history(project: Path) -> dict[str, bytes]:
    """Every content that a pointer ever had, by its path and git's name for it; none without a repository.

    Raises CleaningRefused for half a history, and for a repository further up that git passes over; CodeError
    where git refuses.
    """
    try:
        tree = checkout(project)
    except NoRepository as error:
        if error.passed:
            why = f"Which data versions {project} has isn't known, as git can't read its repository ({error})"
            raise CleaningRefused(f"{why}; mend or remove that, then clean up.") from error
        return {}
    if tree.read("rev-parse", "--is-shallow-repository").strip() == b"true":
        half = f"{project} has only a part of its history, so data versions may be unknown"
        raise CleaningRefused(f"{half}; `git fetch --unshallow`.")
    changes = _committed(tree).items()
    return {f"{visible(path)} ({blob})": tree.read("cat-file", "-p", blob) for blob, path in changes}


def _committed(tree: Checkout) -> dict[str, str]:
    """Every content that a pointer ever had, as git names it, with its path."""
    words = ("--all", "--full-history", "--raw", "-z", "--no-abbrev", "--no-renames", "--format=")
    fields = iter(tree.names("log", "-m", *words, "--", *ANYWHERE))  # -m: what only a merge made, too
    changes = [(field.split()[3], next(fields)) for field in fields if field.lstrip().startswith(":")]
    return {blob: path for blob, path in changes if blob.strip("0")}


def path_of(digest: str) -> str:
    """Where DVC keeps an object, in a cache as in a remote."""
    return f"files/md5/{digest[:2]}/{digest[2:]}"


class Objects:
    """Objects by their hash from the stores that may have them, the nearest first; each is read once."""

    def __init__(self, stores: Iterable[Store]) -> None:
        self.stores, self._known = tuple(stores), dict[str, bytes]()

    def read(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Those that are there, whole.

        Raises CleaningRefused for one of which every copy is damaged: what it refers to is unknown.
        """
        wanted = set(digests)
        damaged: set[str] = set()
        for store in self.stores:
            paths = {path_of(digest): digest for digest in wanted - self._known.keys()}
            found = {paths[path]: data for path, data in store.read(paths).items()}
            whole = {
                digest: data for digest, data in found.items() if _md5(data) == digest.removesuffix(".dir")
            }
            damaged |= found.keys() - whole.keys()
            self._known |= whole
        if lost := sorted(damaged - self._known.keys()):
            where = " and ".join(store.shown for store in self.stores)
            raise CleaningRefused(
                f"The object {lost[0]} in {where} is damaged, so what it refers to isn't known; restore it, then clean up."
            )
        return {digest: self._known[digest] for digest in wanted & self._known.keys()}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def closure(roots: Iterable[str], archives: Iterable[str], objects: Objects) -> set[str]:
    """The roots, the input sets, what these point to, and the members of every folder (.dir) among all those."""
    archives = set(archives)
    kept = set(roots) | archives
    for digest, data in objects.read(archives).items():
        kept |= {found for text in pointers(data) for found in named(text, f"The input set {digest}")}
    for data in objects.read(digest for digest in kept if digest.endswith(".dir")).values():
        kept |= {str(member["md5"]) for member in json.loads(data)}
    return kept


def pointers(archive: bytes) -> Iterator[str]:
    """The texts of the .dvc files in an input set."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.name.endswith(".dvc") else None
            if stream is not None:
                yield stream.read().decode()
