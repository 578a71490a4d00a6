"""Pictures as users name them; an unreadable one becomes a row with a problem and doesn't stop the others."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from skumatch.data.images import MAX_BYTES, Extent
from skumatch.errors import ImageError
from skumatch.texts import composed

NO_PICTURE, MISSING, NO_FILE = "no-picture", "missing", "no-file"
FORBIDDEN, TOO_LARGE = "forbidden", "too-large"
NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)  # errors of paths that no file can have
SENTENCES = {  # for problems of the place; data.images.REASONS has those of a picture's bytes
    NO_PICTURE: "The row has neither bytes nor a path; write one.",
    MISSING: "There is no such file; correct the path.",
    NO_FILE: "The path is a folder, a device or a pipe; give a picture's file.",
    FORBIDDEN: "The file may not be read; correct its permissions.",
    TOO_LARGE: f"The file has over {MAX_BYTES:,} bytes; give it smaller.",
}


@dataclass(frozen=True)
class Given(Extent):
    """An extent that may lead to no picture.

    Attributes:
        problem: A key of SENTENCES that is known without a look at the file; None if there is none.
    """

    problem: str | None = None

    def stamp(self) -> tuple[int, int]:
        """Return the extent's stamp, or one that names the problem: mending the picture changes the stamp."""
        problem = self.trouble()
        return (-1, list(SENTENCES).index(problem)) if problem else super().stamp()

    def read(self) -> bytes:
        """Read the picture's bytes.

        Raises:
            ImageError: With one of SENTENCES.
            StorageError: The disk fails.
        """
        problem = self.trouble()
        if problem:
            raise ImageError(problem, SENTENCES[problem])
        return super().read()

    def trouble(self) -> str | None:
        """Return the problem that keeps the file from being read now, or None.

        The file is not opened, since opening a pipe would wait for its writer.
        """
        if self.problem:
            return self.problem
        try:
            status = os.stat(self.path)  # noqa: PTH116 - as Extent.stamp
        except PermissionError:
            return FORBIDDEN
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character
            return MISSING
        except OSError as error:
            if error.errno in NO_NAME:
                return MISSING
            raise self._unread(error) from error
        if not stat.S_ISREG(status.st_mode):
            return NO_FILE
        if self.length is None and status.st_size > MAX_BYTES:
            return TOO_LARGE
        return None if os.access(self.path, os.R_OK) else FORBIDDEN


def place(folder: Path, text: str | None) -> Given:
    """Resolve a table's `path`, relative to `folder`; `~` is a home directory.

    Where there is no such file, the name is tried without surrounding blanks, in composed and in decomposed
    Unicode.
    """
    if text is None or not text.strip():
        return Given("", problem=NO_PICTURE)
    bare = text.strip()
    spellings = dict.fromkeys((text, bare, composed(bare), unicodedata.normalize("NFD", bare)))
    paths = [str(folder / _at_home(spelling)) for spelling in spellings]
    if len(paths) == 1:
        return Given(paths[0])
    present = (path for path in paths if os.path.exists(path))  # noqa: PTH110 - Path's raises for some texts
    return Given(next(present, paths[0]))


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user, so `~...` is a plain name
        return Path(text)
