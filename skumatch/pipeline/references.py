"""What is still needed: the objects that versions, runs, the project's history and runs in progress refer to."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from skumatch.errors import CleaningRefused
from skumatch.pipeline.stores import Store

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
POINTERS = ("data.dvc", "dvc.lock")
ANYWHERE = tuple(f":(top,glob)**/{name}" for name in POINTERS)  # the project's folder may have had another name before


def named(text: str, where: str) -> set[str]:
    """The objects that a .dvc file or a dvc.lock names. Raises CleaningRefused if it can't be read."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CleaningRefused(f"{where} can't be read, so what it names isn't known; mend or remove it, then clean up.") from error
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
    texts = {name: (project / name).read_text("utf-8") for name in POINTERS if (project / name).is_file()}
    if any((folder / ".git").exists() for folder in (project, *project.resolve().parents)):
        if _git(project, "rev-parse", "--is-shallow-repository").strip() == "true":
            raise CleaningRefused(f"{project} has only a part of its history, so data versions may be unknown; `git fetch --unshallow`.")
        texts |= {f"{path} ({blob})": _git(project, "cat-file", "-p", blob) for blob, path in _committed(project).items()}
    return {digest for name, text in texts.items() for digest in named(text, f"{name} of {project}")}


def _committed(project: Path) -> dict[str, str]:
    """Every content that a pointer ever had, as git names it, with its path."""
    words = ("--all", "--full-history", "-m", "--raw", "--no-abbrev", "--no-renames", "--format=")  # -m: what only a merge made, too
    changes = [line.split(maxsplit=5) for line in _git(project, "log", *words, "--", *ANYWHERE).splitlines() if line.startswith(":")]
    return {blob: path for _, _, _, blob, _, path in changes if blob.strip("0")}


def _git(project: Path, *words: str) -> str:
    if not shutil.which("git"):
        raise CleaningRefused(f"{project} is a git repository, but there is no git here to read its data versions with; install it.")
    result = subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=False)
    if result.returncode:
        said = " ".join(result.stderr.split())
        raise CleaningRefused(f"git can't tell which data versions {project} has ({said}); mend that, then clean up.")
    return result.stdout


def path_of(digest: str) -> str:
    """Where DVC keeps an object, in a cache as in a remote."""
    return f"files/md5/{digest[:2]}/{digest[2:]}"


class Objects:
    """Objects by their hash from the stores that may have them, the nearest first; each is read once."""

    def __init__(self, stores: Iterable[Store]) -> None:
        self.stores, self._known = tuple(stores), dict[str, bytes]()

    def read(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Those that are there, whole. Raises CleaningRefused for one of which every copy is damaged: what it refers to is unknown."""
        wanted = set(digests)
        damaged: set[str] = set()
        for store in self.stores:
            paths = {path_of(digest): digest for digest in wanted - self._known.keys()}
            found = {paths[path]: data for path, data in store.read(paths).items()}
            whole = {digest: data for digest, data in found.items() if _md5(data) == digest.removesuffix(".dir")}
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
        kept |= {found for text in _pointers(data) for found in named(text, f"The input set {digest}")}
    for data in objects.read(digest for digest in kept if digest.endswith(".dir")).values():
        kept |= {str(member["md5"]) for member in json.loads(data)}
    return kept


def _pointers(archive: bytes) -> Iterator[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.name.endswith(".dvc") else None
            if stream is not None:
                yield stream.read().decode()
