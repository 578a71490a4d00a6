"""Read a git checkout through git's command: file names unquoted, refusals in git's own words."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from skumatch.errors import CodeError

# Variables of hooks, or set by hand: they make git read another repository, or our patterns differently.
ELSEWHERE = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
}  # fmt: skip
PLAIN = {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}  # English refusals; nothing is written
OUTSIDE = "not a git repository (or any"  # ... of the parent directories, parent up to a mount point
UNBORN = "does not have any commits yet"


class NoRepository(Exception):
    """A folder lies in no git repository; the message has git's words.

    Attributes:
        passed: A `.git` that git passed over, or None.
    """

    def __init__(self, words: str, passed: Path | None = None) -> None:
        super().__init__(f"{words}; it passes over {passed}" if passed else words)
        self.passed = passed


class _Refusal(Exception):
    """git's error message, on one line."""


@dataclass(frozen=True)
class Checkout:
    """A git repository's working tree, seen from one of its folders.

    Attributes:
        folder: The folder.
        prefix: Its path below the repository's root, with a trailing slash; empty for the root itself.
    """

    folder: Path
    prefix: str

    def read(self, *words: str) -> bytes:
        """Return the output of a git command.

        Raises:
            CodeError: The command fails; with git's own reason.
        """
        return _read(self.folder, *words)

    def names(self, *words: str) -> list[str]:
        """Return the file names that a git command prints with NUL between them (`-z`)."""
        return split_names(self.read(*words))

    def object(self, kind: str, name: str) -> bytes:
        """Return the content of an object.

        Args:
            kind: `commit`, `tree` or `blob`.
            name: Its id.

        Raises:
            LookupError: There is no such object; with git's words.
        """
        try:
            return _output(self.folder, "cat-file", kind, "--end-of-options", name)
        except _Refusal as refusal:
            raise LookupError(str(refusal)) from refusal

    def commit(self) -> str | None:
        """Return the id of the checked-out commit; None before the first commit.

        Raises:
            CodeError: git can't read the repository.
        """
        try:
            head = _output(self.folder, "log", "-1", "--no-show-signature", "--format=%H")
            return head.decode("ascii").strip()
        except _Refusal as refusal:
            if UNBORN in str(refusal):
                return None
            raise _refused(self.folder, refusal) from refusal

    def committed(self, *names: str) -> dict[str, tuple[str, str]]:
        """Return HEAD's entries under `names`: by file name the kind (`commit`: a submodule) and the id."""
        entries = [entry.partition("\t") for entry in self.names("ls-tree", "-r", "-z", "HEAD", "--", *names)]
        return {name: (facts.split()[1], facts.split()[2]) for facts, _, name in entries}


def checkout(folder: Path, holding: str = "") -> Checkout:
    """Return the working tree that contains `folder`.

    Args:
        folder: The tree's root, or any folder below it.
        holding: A file in the folder. A repository further up that ignores this file doesn't count: it may
            be one for the settings of a home folder.

    Raises:
        NoRepository: The folder lies in no repository.
        CodeError: It lies in one, but git is missing or refuses to read it.
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


def run_git(folder: Path, *words: str) -> bytes:
    """Return the output of a git command in a folder that may not be a repository yet.

    Raises:
        CodeError: git is missing, or the command fails; with git's own reason.
    """
    try:
        return _output(folder, *words)
    except _Refusal as refusal:
        raise CodeError(
            f"git refused `git {words[0]}` in {folder} ({refusal}); mend that, then try again."
        ) from refusal


def split_names(listing: bytes) -> list[str]:
    """Return the file names of a listing with NUL between them."""
    return [os.fsdecode(name) for name in listing.split(b"\0") if name]


def object_id(kind: str, content: bytes, like: str) -> str:
    """Return the id that git gives an object.

    Args:
        kind: `commit`, `tree` or `blob`.
        content: The object's content.
        like: An id of the repository; its length selects SHA-1 or SHA-256.
    """
    data = f"{kind} {len(content)}\0".encode() + content
    digest = hashlib.sha256(data) if len(like) == 64 else hashlib.sha1(data, usedforsecurity=False)
    return digest.hexdigest()


def _read(folder: Path, *words: str) -> bytes:
    try:
        return _output(folder, *words)
    except _Refusal as refusal:
        raise _refused(folder, refusal) from refusal


def _output(folder: Path, *words: str) -> bytes:
    """Return a git command's output; raise _Refusal if it fails, or warns that it passes over a folder."""
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
