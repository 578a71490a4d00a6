"""One link of the chain from a promotion back to the pictures, and its verdict."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Literal, get_args

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict

from skumatch.errors import SkumatchError

# The errors of reading a part that is missing, damaged or of another shape. An AttributeError is a bug.
UNREADABLE = (
    SkumatchError, OSError, ValueError, LookupError, TypeError, RecursionError,
    tarfile.TarError, yaml.YAMLError, pa.ArrowException,
)  # fmt: skip
Verdict = Literal["holds", "broken", "unchecked"]


class Link(BaseModel):
    """One link of the chain.

    Attributes:
        name: The link's name, such as `bundle`.
        title: The name for readers.
        hash: Hash of the linked thing; None if it has none.
        said: The link's facts, name -> words.
        verdict: None if the link was not checked and its facts could be read.
        reason: The check's result in words, or the reason why the link doesn't hold or can't be checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    hash: str | None
    said: dict[str, str]
    verdict: Verdict | None = None
    reason: str = ""


def count_verdicts(links: Sequence[Link]) -> dict[Verdict, int]:
    """Return the number of links with each verdict."""
    verdicts: tuple[Verdict, ...] = get_args(Verdict)
    return {verdict: sum(link.verdict == verdict for link in links) for verdict in verdicts}


class Broken(Exception):
    """A check failed; the message says which difference it found."""


class Unchecked(Exception):
    """A check can't be made here; the message says why."""
