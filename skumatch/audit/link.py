"""One link of the chain from a promotion back to the pictures, and how well it holds."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Literal, get_args

import pyarrow as pa
import yaml
from pydantic import BaseModel, ConfigDict

from skumatch.errors import SkumatchError

# What reading a part raises that is missing, damaged or of another shape. An AttributeError is a bug of ours.
UNREADABLE = (
    SkumatchError, OSError, ValueError, LookupError, TypeError, RecursionError,
    tarfile.TarError, yaml.YAMLError, pa.ArrowException,
)  # fmt: skip
Verdict = Literal["holds", "broken", "unchecked"]


class Link(BaseModel):
    """name: what is linked. hash: of it, where it has one. said: what an auditor reads of it.

    verdict: None where nobody has looked yet, and what is told could be read.
    reason: what was found, or why it doesn't hold or can't be checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    hash: str | None
    said: dict[str, str]
    verdict: Verdict | None = None
    reason: str = ""


def counted(links: Sequence[Link]) -> dict[Verdict, int]:
    """How many links hold, are broken, can't be checked."""
    verdicts: tuple[Verdict, ...] = get_args(Verdict)
    return {verdict: sum(link.verdict == verdict for link in links) for verdict in verdicts}


class Broken(Exception):
    """A check that found something else than it should; its words say what."""


class Unchecked(Exception):
    """A check that can't be made here; its words say why."""
