"""A commit and its trees as git keeps them, so that whoever has the files can see, without git, that they are the commit's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from skumatch.files import replacing
from skumatch.git import NoRepository, checkout, object_id

TREE_MODE = b"40000"


def keep_proof(project: Path, commit: str, names: Iterable[str], folder: Path) -> str:
    """Write the commit and the trees on the way to `names` into `folder`, a file an object.

    Args:
        project: the folder whose repository is asked.
        commit: a commit's id.
        names: files, as paths from the repository's root.
        folder: gets `commit` and `trees/ID`.

    Returns:
        Why that can't be done, empty where it was.

    Raises:
        CodeError: git is missing or refuses to read the repository.
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
        with suppress(LookupError):  # a folder the commit doesn't have: its files are new
            tree = repository.object("tree", f"{commit}:{path}" if path else f"{commit}^{{tree}}")
            _write(folder / "trees" / object_id("tree", tree, commit), tree)
    return ""


def committed_files(folder: Path, commit: str, names: Iterable[str]) -> dict[str, str]:
    """Path -> blob id of the files that the kept trees name, once their hashes lead to `commit`.

    Paths are from the repository's root. names: files whose trees must be there, unless it lacks them.
    Raises ValueError where the trees don't lead to it.
    """
    path = folder / "commit"
    data = path.read_bytes() if path.is_file() else b""
    if object_id("commit", data, commit) != commit:
        raise ValueError(f"the kept commit isn't {commit[:12]}")
    root = data.split(b"\n", 1)[0].removeprefix(b"tree ").decode("ascii")
    return dict(_walk(folder / "trees", root, "", _on_the_way(names)))


def blob_id(data: bytes, commit: str) -> str:
    """git's name of a file's content, in the repository of that commit."""
    return object_id("blob", data, commit)


def _on_the_way(names: Iterable[str]) -> set[str]:
    """The folders above the files, the root as an empty path."""
    paths = {path for name in names for path in PurePosixPath(name).parents}
    return {"" if path == PurePosixPath() else str(path) for path in paths}


def _walk(trees: Path, tree: str, where: str, needed: set[str]) -> Iterator[tuple[str, str]]:
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
    """Mode, name and id of a tree's entries: `MODE NAME\\0` and the id's `size` bytes each."""
    while data:
        mode, rest = data.split(b" ", 1)
        name, rest = rest.split(b"\0", 1)
        yield mode, os.fsdecode(name), rest[:size].hex()
        data = rest[size:]


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as aside:
        aside.write_bytes(data)
