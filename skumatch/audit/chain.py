"""The chain of a version from its promotion back to the pictures: each link's facts and verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skumatch.audit import facts
from skumatch.audit.checks import data, release, run
from skumatch.audit.dossier import Dossier
from skumatch.audit.link import UNREADABLE, Broken, Link, Unchecked, Verdict
from skumatch.errors import SkumatchError
from skumatch.progress import track

WORSE: tuple[Verdict, ...] = ("holds", "unchecked", "broken")  # in this order


@dataclass(frozen=True)
class ChainStep:
    """One kind of link.

    Attributes:
        name: Name of the link.
        title: The name for readers.
        tell: Returns the link's hash, if it has one, and its facts.
        check: Returns a sentence if the link holds; raises otherwise.
    """

    name: str
    title: str
    tell: Callable[[Dossier], tuple[str | None, dict[str, str]]]
    check: Callable[[Dossier], str]


STEPS = (
    ChainStep("journal", "Promotions", facts.journal, release.journal),
    ChainStep("version", "Registered version", facts.version, release.version),
    ChainStep("provenance", "Provenance statement", facts.origin, release.origin),
    ChainStep("bundle", "Bundle", facts.bundle, release.bundle),
    ChainStep("index", "Gallery index", facts.index, release.index),
    ChainStep("decision", "Gate's decision", facts.decision, release.decision),
    ChainStep("evaluation", "Evaluations", facts.evaluation, release.evaluation),
    ChainStep("champion", "Champion before it", facts.champion, release.champion),
    ChainStep("stages", "Run and stages", facts.stages, run.stages),
    ChainStep("inputs", "Input set", facts.input_set, run.input_set),
    ChainStep("parameters", "Parameters", facts.parameters, run.parameters),
    ChainStep("environment", "Environment", facts.environment, run.environment),
    ChainStep("commit", "Commit", facts.commit, run.commit),
    ChainStep("tree", "Working tree", facts.tree, run.tree),
    ChainStep("code", "Code", facts.code, run.code),
    ChainStep("weights", "Base weights", facts.weights, data.weights),
    ChainStep("split", "Split", facts.split, data.split),
    ChainStep("validation", "Validation", facts.validation, data.validation),
    ChainStep("manifest", "Manifest", facts.manifest, data.manifest),
    ChainStep("data", "Pictures", facts.data, data.data),
)


def links(dossier: Dossier, verify: bool) -> list[Link]:
    """Return every link of the chain with its facts.

    Args:
        dossier: The version's dossier.
        verify: Check each link. Otherwise only links whose facts can't be read get a verdict.

    Raises:
        DataError: The folder is no dossier.
    """
    _ = dossier.facts  # raises for a folder that is no dossier
    with track("verify" if verify else "audit", len(STEPS), "links") as advance:
        chain = []
        for step in STEPS:
            chain.append(linked(dossier, step, verify))
            advance(text=step.title)
    return chain


def linked(dossier: Dossier, step: ChainStep, verify: bool) -> Link:
    """Return one link of the chain; a link whose facts can't be read never holds.

    Args:
        dossier: The version's dossier.
        step: The kind of link.
        verify: Check the link as well.
    """
    judged: list[tuple[Verdict, str]] = []
    try:
        digest, table = step.tell(dossier)
    except (Unchecked, Broken, *UNREADABLE) as error:
        digest, table = None, {"not readable": _words(error)}
        judged.append(_failed(dossier, error))
    if verify:
        judged.insert(0, _checked(dossier, step))
    verdict, reason = max(judged, key=lambda judgement: WORSE.index(judgement[0]), default=(None, ""))
    return Link(name=step.name, title=step.title, hash=digest, said=table, verdict=verdict, reason=reason)


def _checked(dossier: Dossier, step: ChainStep) -> tuple[Verdict, str]:
    """Return the verdict of a link's check, and its reason."""
    try:
        return "holds", step.check(dossier)
    except (Unchecked, Broken, *UNREADABLE) as error:
        return _failed(dossier, error)


def _failed(dossier: Dossier, error: Exception) -> tuple[Verdict, str]:
    """Return the verdict for an error, and its reason.

    A part that is absent because its store was away is unchecked, with the store's message as reason. Any
    other part that can't be read is broken.
    """
    if isinstance(error, Unchecked | Broken):
        return "unchecked" if isinstance(error, Unchecked) else "broken", str(error)
    path = _absent(error)
    if path is None:
        return "broken", _words(error)
    if missing := dossier.why(path):
        return "broken" if missing.broken else "unchecked", missing.reason
    shown = path.relative_to(dossier.folder) if path.is_relative_to(dossier.folder) else path.name
    return "broken", f"{shown} is missing"


def _absent(error: BaseException | None) -> Path | None:
    """Return the path whose absence caused an error; None if the error has another cause."""
    while error is not None:
        if isinstance(error, FileNotFoundError):
            return Path(error.filename or str(error))  # Arrow's message is the path alone
        error = error.__cause__
    return None


def _words(error: Exception) -> str:
    if isinstance(error, SkumatchError | Unchecked | Broken):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
