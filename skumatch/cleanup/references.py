"""Find the objects that a clean-up keeps: those that versions, runs and the project's history refer to."""

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

from skumatch.cleanup.stores import ObjectStore
from skumatch.errors import CleaningRefused, CodeError
from skumatch.git import Checkout, NoRepository, checkout
from skumatch.texts import visible

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
POINTERS = ("data.dvc", "dvc.lock")
# In any folder of the repository, because the project's folder may have had another name before.
ANYWHERE = tuple(f":(top,glob)**/{name}" for name in POINTERS)


def named(text: str, where: str) -> set[str]:
    """Return the objects that a .dvc file or a dvc.lock names.

    Args:
        text: of the file.
        where: name of the file for the error, as the beginning of a sentence.

    Raises:
        CleaningRefused: the text can't be parsed.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CleaningRefused(
            f"{where} can't be read, so what it names isn't known; mend or remove it, then clean up."
        ) from error
    return set(_hashes(tree))


def _hashes(tree: Any) -> Iterator[str]:
    """Yield every value that looks like an object's name, wherever it stands.

    Such a value may be something else. Then the clean-up keeps an object too many, which does no harm.
    """
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _hashes(part)
    elif isinstance(tree, str) and OBJECT.fullmatch(tree):
        yield tree


def in_history(project: Path) -> set[str]:
    """Return the objects that data.dvc and dvc.lock name in the working tree and in all commits.

    These are the commits of every branch and tag. The project may be a folder within its repository.

    Raises:
        CleaningRefused: git can't read the history, or a pointer can't be parsed.
    """
    texts = {name: (project / name).read_bytes() for name in POINTERS if (project / name).is_file()}
    try:
        texts |= _history(project)
    except CodeError as error:
        raise CleaningRefused(f"Which data versions {project} has isn't known. {error}") from error
    decoded = {name: text.decode("utf-8", "replace") for name, text in texts.items()}
    return {digest for name, text in decoded.items() for digest in named(text, f"{name} of {project}")}


def _history(project: Path) -> dict[str, bytes]:
    """Return every content that a pointer ever had, by its path and blob hash; empty without a repository.

    Raises:
        CleaningRefused: the clone is shallow, or git passes over a repository further up.
        CodeError: git refuses.
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
    """Return blob hash -> path of every content that a pointer ever had."""
    options = ("--all", "--full-history", "--raw", "-z", "--no-abbrev", "--no-renames", "--format=")
    fields = iter(tree.names("log", "-m", *options, "--", *ANYWHERE))  # -m: also contents made by a merge
    changes = [(field.split()[3], next(fields)) for field in fields if field.lstrip().startswith(":")]
    return {blob: path for blob, path in changes if blob.strip("0")}


def path_of(digest: str) -> str:
    """Return the path at which DVC keeps an object, in a cache and in a remote."""
    return f"files/md5/{digest[:2]}/{digest[2:]}"


class Objects:
    """A reader of objects by their hash, which caches each object.

    It looks into the stores in their order, so the nearest one comes first.
    """

    def __init__(self, stores: Iterable[ObjectStore]) -> None:
        self.stores, self._known = tuple(stores), dict[str, bytes]()

    def read(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Return MD5 -> bytes of the objects that exist, verified against their MD5.

        Raises:
            CleaningRefused: every copy of an object is damaged, so the objects that it refers to are unknown.
            StorageError: a store can't be read.
        """
        requested = set(digests)
        damaged: set[str] = set()
        for store in self.stores:
            paths = {path_of(digest): digest for digest in requested - self._known.keys()}
            stored = {paths[path]: data for path, data in store.read(paths).items()}
            sound = {
                digest: data for digest, data in stored.items() if _md5(data) == digest.removesuffix(".dir")
            }
            damaged |= stored.keys() - sound.keys()
            self._known |= sound
        if lost := sorted(damaged - self._known.keys()):
            where = " and ".join(store.shown for store in self.stores)
            fault = f"The object {lost[0]} in {where} is damaged"
            raise CleaningRefused(f"{fault}, so what it refers to isn't known; restore it, then clean up.")
        return {digest: self._known[digest] for digest in requested & self._known.keys()}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def closure(roots: Iterable[str], archives: Iterable[str], objects: Objects) -> set[str]:
    """Return all objects that the roots and input sets refer to, themselves included.

    Input sets refer to the objects that their pointers name. Folders (.dir) refer to their members.

    Args:
        roots: MD5s of objects.
        archives: MD5s of input sets.
        objects: reads them.

    Raises:
        CleaningRefused: an input set or a folder is damaged.
        StorageError: a store can't be read.
    """
    archives = set(archives)
    kept = set(roots) | archives
    for archive, data in objects.read(archives).items():
        for text in pointers(data):
            kept |= named(text, f"The input set {archive}")
    for data in objects.read(digest for digest in kept if digest.endswith(".dir")).values():
        kept |= {str(member["md5"]) for member in json.loads(data)}
    return kept


def pointers(archive: bytes) -> Iterator[str]:
    """Yield the texts of the .dvc files in an input set."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.name.endswith(".dvc") else None
            if stream is not None:
                yield stream.read().decode()
