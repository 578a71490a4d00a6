"""One link of the chain from a promotion back to the pictures, and how well it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

Verdict = Literal["holds", "broken", "unchecked"]


class Link(BaseModel):
    """name: what is linked. hash: of it, where it has one. said: what an auditor reads of it.

    verdict: None where nobody has looked yet. reason: what was found, or why it doesn't hold or can't be checked.
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
