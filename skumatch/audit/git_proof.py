"""Proof that files belong to a commit: the commit and its trees as git stores them.

The proof can be checked against the files without git.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from skumatch.files import replacing
from skumatch.git import NoRepository, checkout, object_id

TREE_MODE = b"40000"


def keep_proof(project: Path, commit: str, names: Iterable[str], folder: Path) -> str:
    """Write a commit and the trees on the way to some files into a folder, one file per git object.

    Args:
        project: A folder in the repository.
        commit: The commit's id.
        names: The files, as paths from the repository's root.
        folder: The folder for `commit` and `trees/ID`.

    Returns:
        The reason why that can't be done; empty if it was done.

    Raises:
        CodeError: Git is missing or refuses to read the repository.
    """
    try:
        repository = checkout(project)
    except NoRepository as error:
        return f"{project} is in no git repository ({error})"
    try:
        _write(folder / "commit", repository.object("commit", commit))
    except LookupError as error:
        return f"the repository of {project} doesn't have the commit {commit[:12]} ({error})"
    for path in sorted(_on_the_way(names)):
        with suppress(LookupError):  # the commit doesn't have a folder whose files are all new
            tree = repository.object("tree", f"{commit}:{path}" if path else f"{commit}^{{tree}}")
            _write(folder / "trees" / object_id("tree", tree, commit), tree)
    return ""


def committed_files(folder: Path, commit: str, names: Iterable[str]) -> dict[str, str]:
    """Check that kept trees belong to a commit, and return the files that they name.

    Args:
        folder: The folder that keep_proof wrote.
        commit: The commit's id.
        names: Files whose trees must be kept, unless the commit lacks them.

    Returns:
        Path from the repository's root -> blob id.

    Raises:
        ValueError: The hashes of the kept objects don't lead to the commit, or a tree is missing.
    """
    path = folder / "commit"
    data = path.read_bytes() if path.is_file() else b""
    if object_id("commit", data, commit) != commit:
        raise ValueError(f"the kept commit isn't {commit[:12]}")
    root = data.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii")
    return dict(_walk(folder / "trees", root, "", _on_the_way(names)))


def blob_id(data: bytes, commit: str) -> str:
    """Return the id that git gives a file's content, with the hash algorithm of the commit's id."""
    return object_id("blob", data, commit)


def _on_the_way(names: Iterable[str]) -> set[str]:
    """Return the folders above the files; the root is an empty path."""
    paths = {path for name in names for path in PurePosixPath(name).parents}
    return {"" if path == PurePosixPath() else str(path) for path in paths}


def _walk(trees: Path, tree: str, where: str, needed: set[str]) -> Iterator[tuple[str, str]]:
    """Yield path and blob id of all files below a kept tree, after a check of each tree's hash.

    Args:
        trees: The folder with the kept trees.
        tree: Id of the tree.
        where: The tree's path from the repository's root; empty for the root.
        needed: Paths whose trees must be kept; any other tree may be missing.

    Raises:
        ValueError: A needed tree is missing, or a tree has another hash than its id.
    """
    path = trees / tree
    if not path.is_file():
        if where in needed:
            raise ValueError(f"the kept tree of {where or 'the root'} is missing")
        return  # no code lies below it
    data = path.read_bytes()
    if object_id("tree", data, tree) != tree:
        raise ValueError(f"the kept tree of {where or 'the root'} was changed")
    for mode, name, entry in _entries(data, len(tree) // 2):
        inner = f"{where}/{name}" if where else name
        if mode == TREE_MODE:
            yield from _walk(trees, entry, inner, needed)
        else:
            yield inner, entry


def _entries(data: bytes, size: int) -> Iterator[tuple[bytes, str, str]]:
    r"""Yield mode, name and id of a tree's entries; each is `MODE NAME\0` and `size` bytes of the id."""
    while data:
        mode, rest = data.split(b" ", 1)
        name, rest = rest.split(b"\0", 1)
        yield mode, os.fsdecode(name), rest[:size].hex()
        data = rest[size:]


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as aside:
        aside.write_bytes(data)
