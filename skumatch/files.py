"""Files that are whole or absent: written aside, flushed, renamed; hashed when they are read back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skumatch.errors import DataError, StorageError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Hex MD5 of a file's bytes: what DVC names a file by."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no float surprises (NaN raises ValueError)."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Raises StorageError where the disk refuses (full, read-only), with `path` as it was before.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        aside = Path(name)
        yield aside
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        aside.chmod(mode)
        aside.replace(path)
    except OSError as error:
        cure = "free some space or check the disk, then run again"
        raise StorageError(f"Could not write {path}: {error.strerror or error}; {cure}.") from error
    finally:
        if aside:
            aside.unlink(missing_ok=True)


def store_errors() -> tuple[type[Exception], ...]:
    """What a disk or an object store raises that refuses or is away: for `except`. botocore's are no OSError."""
    botocore = sys.modules.get("botocore.exceptions")  # imported by whoever talks to S3
    return (OSError, botocore.BotoCoreError) if botocore else (OSError,)


@contextmanager
def store_refusals(what: str, cure: str = "check the disk or the remote, then run again") -> Iterator[None]:
    """Turn what a disk or an object store raises that refuses or is away into StorageError.

    Args:
        what: the store and what is kept in it, as the subject of a sentence.
        cure: what to do.
    """
    try:
        yield
    except store_errors() as error:
        raise StorageError(f"{what} can't be read or written ({error}); {cure}.") from error


def put_whole(fs: Any, path: str, data: bytes) -> None:
    """Write a file of an fsspec file system, whole or not at all: aside, then renamed."""
    aside = f"{path}.{uuid.uuid4().hex}.part"
    fs.pipe_file(aside, data)
    fs.mv(aside, path)


def disk_refused(error: BaseException | None) -> OSError | None:
    """The refusal of a full, read-only or failing disk that an error comes from, if it comes from one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def file_system(url: str) -> tuple[Any, str]:
    """Open a URL or a path with fsspec.

    Args:
        url: Of any fsspec file system, or a path, in which no character has a meaning of its own.

    Returns:
        The file system, and the folder in it without a slash at its end.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in url:  # fsspec would read a `::` in it as a chain of file systems
        return LocalFileSystem(), str(Path(url).absolute()).rstrip("/")
    fs, root = fsspec.core.url_to_fs(url)
    return fs, str(root).rstrip("/")


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn what a full, read-only or failing disk raises in `what` into StorageError.

    Every other OSError is a bug of ours.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        cure = "free some space or check its permissions, then run again"
        raise StorageError(f"The disk refused a write in {what}: {error.strerror}{where}; {cure}.") from error


@contextmanager
def text_errors(what: str) -> Iterator[None]:
    """Turn a name or text in `what` that can't be encoded or decoded into DataError.

    Linux allows any bytes in a file name. Python keeps those that aren't UTF-8 as surrogates.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        around = bytes(error.object[max(error.start - 20, 0) : error.end + 20])
        sentence = f"A text in {what} isn't {error.encoding}: {around!r}; save it as UTF-8, then run again."
        raise DataError(sentence) from error
    except UnicodeError as error:
        text = f": {error.object!a}" if isinstance(error, UnicodeEncodeError) else f" ({error})"
        sentence = f"A name or text in {what} can't be encoded{text}; rename or correct it, then run again."
        raise DataError(sentence) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")


def write_private(path: Path, text: str) -> None:
    """As write_text, for its owner's eyes only from the first byte on: so mkstemp makes its files."""
    with replacing(path, 0o600) as aside:
        aside.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON, whole or not at all."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))
