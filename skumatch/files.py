"""Atomic and durable writes of files, hashes, and disk errors as sentences.

A file is written beside its place, flushed to disk and renamed, so it is either complete or absent.
"""

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
from typing import TYPE_CHECKING, Any

from skumatch.errors import DataError, StorageError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5(path: Path) -> str:
    """Return the MD5 of a file's bytes in hex, by which DVC names a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of a value: sorted keys, indented by two, ended by a line break.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def replacing(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Args:
        path: The file to write; its folder is made if need be.
        mode: Permissions of the new file.

    Raises:
        StorageError: The disk refuses (full, read-only); `path` is as it was before.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Shortened, since the longest name that a disk takes would have no room for more.
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=path.suffix[:10], dir=path.parent
        )
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


def check_writable(path: Path) -> None:
    """Try whether a file can be written at a path, before long work; nothing is left behind.

    Args:
        path: The file; neither it nor its folders have to exist.

    Raises:
        StorageError: The place is a folder or a device, can't be written to, or the name is too long.
    """
    cure = "give the path of a file in a folder that can be written to"
    try:
        if path.absolute().parent == Path("/dev") or (path.exists() and not path.is_file()):
            kind = "a folder" if path.is_dir() else "no regular file"
            raise StorageError(f"{path} can't be written: it is {kind}; {cure}.")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        longest = os.pathconf(folder, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in path.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror or error}; {cure}.") from error


def store_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a disk or object store that refuses or is away, for an `except` clause.

    botocore's exceptions are no OSError.
    """
    botocore = sys.modules.get("botocore.exceptions")  # imported where S3 is used
    return (OSError, botocore.BotoCoreError) if botocore else (OSError,)


@contextmanager
def store_refusals(
    subject: str, cure: str = "check the disk or the remote, then run again"
) -> Iterator[None]:
    """Raise StorageError in place of an exception of a disk or object store that refuses or is away.

    Args:
        subject: The store and its content, as the subject of a sentence.
        cure: Advice for the user.

    Raises:
        StorageError: The disk or the store refuses or is away.
    """
    try:
        yield
    except store_errors() as error:
        raise StorageError(f"{subject} can't be read or written ({error}); {cure}.") from error


def files_below(fs: Any, folder: str) -> dict[str, Any]:
    """Return path -> fsspec's facts of all files below a folder of a file system; empty for a missing folder.

    fsspec itself takes a local folder that can't be read for an empty one.
    """
    raising = {"on_error": "raise"} if "file" in fs.protocol else {}
    try:
        return dict(fs.find(folder, detail=True, **raising))
    except FileNotFoundError:
        return {}


def put_whole(fs: Any, path: str, data: bytes) -> None:
    """Write a file of an fsspec file system atomically: to a temporary name, then renamed.

    Args:
        fs: The fsspec file system.
        path: Path of the file in it.
        data: The whole content.
    """
    aside = f"{path}.{uuid.uuid4().hex}.part"
    fs.pipe_file(aside, data)
    fs.mv(aside, path)


def disk_refused(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full, read-only or failing disk in an error's chain of causes, or None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def file_system(url: str) -> tuple[Any, str]:
    """Open a URL or a path with fsspec.

    Args:
        url: URL of any fsspec file system, or a path, in which no character has a special meaning.

    Returns:
        The file system, and the folder in it without a trailing slash.
    """
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in url:  # fsspec would read a `::` in it as a chain of file systems
        return LocalFileSystem(), str(Path(url).absolute()).rstrip("/")
    fs, root = fsspec.core.url_to_fs(url)
    return fs, str(root).rstrip("/")


@contextmanager
def disk_errors(activity: str) -> Iterator[None]:
    """Raise an error of ours in place of the OSError of a disk that refuses, or of a name that is too long.

    Every other OSError is a bug of ours, and passes unchanged.

    Args:
        activity: The work that is done, as `this command`, for the sentence.

    Raises:
        StorageError: The disk is full, read-only or fails.
        DataError: No file can have a name that was given.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(
                f"No file can be called {error.filename}: that is too long; correct it."
            ) from error
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        cure = "free some space or check its permissions, then run again"
        raise StorageError(
            f"The disk refused a write in {activity}: {error.strerror}{where}; {cure}."
        ) from error


@contextmanager
def text_errors(activity: str) -> Iterator[None]:
    """Raise DataError in place of the error of a name or text that can't be encoded or decoded.

    Linux allows any bytes in a file name. Python keeps those that aren't UTF-8 as surrogates.

    Args:
        activity: The work that is done, as `this command`, for the sentence.

    Raises:
        DataError: A name or text is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        around = bytes(error.object[max(error.start - 20, 0) : error.end + 20])
        sentence = (
            f"A text in {activity} isn't {error.encoding}: {around!r}; save it as UTF-8, then run again."
        )
        raise DataError(sentence) from error
    except UnicodeError as error:
        text = f": {error.object!a}" if isinstance(error, UnicodeEncodeError) else f" ({error})"
        sentence = (
            f"A name or text in {activity} can't be encoded{text}; rename or correct it, then run again."
        )
        raise DataError(sentence) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")


def write_private(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, readable by its owner only from the first byte on (see mkstemp)."""
    with replacing(path, 0o600) as aside:
        aside.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON atomically."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    return json.loads(path.read_text("utf-8"))


def write_parquet(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    """Write a data frame as Parquet atomically; the same rows give the same bytes.

    Args:
        path: The file.
        frame: The rows.
        schema: Names and types of the columns.
    """
    import pyarrow as pa

    write_table(
        path, pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    )


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as Parquet atomically."""
    import pyarrow.parquet as pq

    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")
