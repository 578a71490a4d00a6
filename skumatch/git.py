"""git's command: the checkout that a folder lies in, file names as they are, refusals in git's own words."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from skumatch.errors import CodeError

# Set for hooks, or by hand: with them git would read another repository, or our patterns in another way.
ELSEWHERE = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
}  # fmt: skip
PLAIN = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}  # English refusals; nothing is written
OUTSIDE = "not a git repository (or any"  # ... of the parent directories, parent up to a mount point
UNBORN = "does not have any commits yet"


class NoRepository(Exception):
    """A folder that lies in no git repository, in git's words. passed: a `.git` that it passed over."""

    def __init__(self, words: str, passed: Path | None = None) -> None:
        super().__init__(f"{words}; it passes over {passed}" if passed else words)
        self.passed = passed


class _Refusal(Exception):
    """What git said instead of an answer, on one line."""


@dataclass(frozen=True)
class Checkout:
    """A git repository's working tree, seen from a folder of it.

    prefix: the folder's path below the repository's root, with a slash at its end; empty for the root itself.
    """

    folder: Path
    prefix: str

    def read(self, *words: str) -> bytes:
        """What a git command prints. Raises CodeError with git's own reason."""
        return _read(self.folder, *words)

    def names(self, *words: str) -> list[str]:
        """The file names that a git command prints with NUL between them (`-z`)."""
        return split_names(self.read(*words))

    def object(self, kind: str, name: str) -> bytes:
        """The content of an object (commit, tree, blob). Raises LookupError, in git's words, for none."""
        try:
            return _output(self.folder, "cat-file", kind, "--end-of-options", name)
        except _Refusal as refusal:
            raise LookupError(str(refusal)) from refusal

    def commit(self) -> str | None:
        """The commit that is checked out; None before the first one. Raises CodeError."""
        try:
            head = _output(self.folder, "log", "-1", "--no-show-signature", "--format=%H")
            return head.decode("ascii").strip()
        except _Refusal as refusal:
            if UNBORN in str(refusal):
                return None
            raise _refused(self.folder, refusal) from refusal

    def committed(self, *names: str) -> dict[str, tuple[str, str]]:
        """File name -> kind (`commit`: a submodule) and id, of what HEAD has under `names`."""
        entries = [entry.partition("\t") for entry in self.names("ls-tree", "-r", "-z", "HEAD", "--", *names)]
        return {name: (facts.split()[1], facts.split()[2]) for facts, _, name in entries}


def checkout(folder: Path, holding: str = "") -> Checkout:
    """The working tree that `folder` lies in, which may be its root or any folder below.

    holding: a file in the folder that a repository further up must not ignore, as a home's settings may.
    Raises NoRepository where there is none, and CodeError where there is one but git is missing or refuses.
    """
    possible = (path / ".git" for path in (folder, *folder.resolve().parents))
    above = next((path for path in possible if os.path.lexists(path)), None)
    if not shutil.which("git"):
        if above is None:
            raise NoRepository("there is no git here, nor a repository")
        where = f"{above.parent} is a git repository"
        raise CodeError(f"{where}, but there is no git here (on the PATH) to read it; install git.")
    try:
        answer = _output(folder, "rev-parse", "--is-inside-work-tree", "--show-prefix")
    except _Refusal as refusal:
        if OUTSIDE in str(refusal) and above != folder / ".git":
            raise NoRepository(str(refusal), above) from refusal
        raise _refused(folder, refusal) from refusal
    inside, _, prefix = answer.partition(b"\n")
    if inside != b"true":
        raise _refused(folder, _Refusal("it is a bare repository, or git's own folder"))
    if holding and prefix.strip() and _run(folder, "check-ignore", "--quiet", "--", holding).returncode == 0:
        raise NoRepository("the repository that it lies in ignores it")
    return Checkout(folder, os.fsdecode(prefix.removesuffix(b"\n")))


def split_names(listing: bytes) -> list[str]:
    """File names out of a listing with NUL between them."""
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def object_id(kind: str, content: bytes, like: str) -> str:
    """git's name of an object (kind: commit, tree, blob), by the same hash as `like`."""
    data = f"{kind} {len(content)}\0".encode() + content
    digest = hashlib.sha256(data) if len(like) == 64 else hashlib.sha1(data, usedforsecurity=False)
    return digest.hexdigest()


def _read(folder: Path, *words: str) -> bytes:
    try:
        return _output(folder, *words)
    except _Refusal as refusal:
        raise _refused(folder, refusal) from refusal


def _output(folder: Path, *words: str) -> bytes:
    """Raises _Refusal also for a folder that git passes over, which it only warns of."""
    result = _run(folder, *words)
    reason = " ".join(result.stderr.decode("utf-8", "replace").split())
    if result.returncode or "could not open directory" in reason:
        reason = reason.removeprefix("fatal: ").removeprefix("warning: ")
        raise _Refusal(reason or f"it ended with {result.returncode}")
    return result.stdout


def _refused(folder: Path, refusal: _Refusal) -> CodeError:
    return CodeError(f"git can't read the repository of {folder} ({refusal}); mend that, then run again.")


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in os.environ.items() if name not in ELSEWHERE} | PLAIN
    command = ["git", "--no-replace-objects", "-C", str(folder), *words]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False)
    except OSError as error:
        raise CodeError(f"git can't be started ({error.strerror}); mend that, then run again.") from error
