"""A commit and its trees as git keeps them, so that whoever has the files can see, without git, that they are the commit's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from skumatch.files import replacing

TREE_MODE = b"40000"


def keep_proof(project: Path, commit: str, names: Iterable[str], folder: Path) -> bool:
    """Write the commit and the trees on the way to `names` into `folder`, a file an object; False where git doesn't have them."""
    root = _object(project, "commit", commit)
    if root is None:
        return False
    _write(folder / "commit", root)
    folders = {parent for name in names for parent in Path(name).parents}
    for path in sorted(folders, key=str):
        spec = f"{commit}^{{tree}}" if path == Path() else f"{commit}:{path.as_posix()}"
        tree = _object(project, "tree", spec)
        if tree is not None:  # a folder the commit doesn't have: its files are new
            _write(folder / "trees" / _id("tree", tree), tree)
    return True


def committed_files(folder: Path, commit: str) -> dict[str, str]:
    """Path -> blob id of every file that the kept trees name, once their hashes were found to lead to `commit`.

    Raises ValueError where they don't.
    """
    path = folder / "commit"
    data = path.read_bytes() if path.is_file() else b""
    if _id("commit", data) != commit:
        raise ValueError(f"the kept commit isn't {commit[:12]}")
    root = data.split(b"\n", 1)[0].removeprefix(b"tree ").decode()
    return dict(_walk(folder / "trees", root, ""))


def blob_id(data: bytes) -> str:
    """git's name of a file's content."""
    return _id("blob", data)


def _walk(trees: Path, tree: str, prefix: str) -> Iterator[tuple[str, str]]:
    path = trees / tree
    if not path.is_file():
        return  # no code lies below it
    data = path.read_bytes()
    if _id("tree", data) != tree:
        raise ValueError(f"the kept tree of {prefix or 'the root'} was changed")
    for mode, name, entry in _entries(data):
        if mode == TREE_MODE:
            yield from _walk(trees, entry, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", entry


def _entries(data: bytes) -> Iterator[tuple[bytes, str, str]]:
    """Mode, name and id of a tree's entries: `MODE NAME\\0` and 20 bytes each."""
    while data:
        mode, rest = data.split(b" ", 1)
        name, rest = rest.split(b"\0", 1)
        yield mode, name.decode(), rest[:20].hex()
        data = rest[20:]


def _id(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def _object(project: Path, kind: str, name: str) -> bytes | None:
    if not (project / ".git").exists() or not shutil.which("git"):
        return None
    words = ["git", "-C", str(project), "cat-file", kind, name]
    result = subprocess.run(words, capture_output=True, check=False)
    return result.stdout if result.returncode == 0 else None


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as aside:
        aside.write_bytes(data)
