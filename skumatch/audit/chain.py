"""The chain of a version, from its promotion back to the pictures: what each link is, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skumatch.audit import told
from skumatch.audit.checks import data, release, run
from skumatch.audit.dossier import Dossier
from skumatch.audit.link import Broken, Link, Unchecked
from skumatch.errors import SkumatchError
from skumatch.progress import track


@dataclass(frozen=True)
class Step:
    """A link's name, what it is in words, what is told of it, and the check that says whether it holds."""

    name: str
    title: str
    tell: Callable[[Dossier], tuple[str | None, dict[str, str]]]
    check: Callable[[Dossier], str]


STEPS = (
    Step("journal", "Promotions", told.journal, release.journal),
    Step("version", "Registered version", told.version, release.version),
    Step("provenance", "Provenance statement", told.origin, release.origin),
    Step("bundle", "Bundle", told.bundle, release.bundle),
    Step("index", "Gallery index", told.index, release.index),
    Step("decision", "Gate's decision", told.decision, release.decision),
    Step("evaluation", "Evaluations", told.evaluation, release.evaluation),
    Step("champion", "Champion before it", told.champion, release.champion),
    Step("stages", "Run and stages", told.stages, run.stages),
    Step("inputs", "Input set", told.input_set, run.input_set),
    Step("parameters", "Parameters", told.parameters, run.parameters),
    Step("environment", "Environment", told.environment, run.environment),
    Step("commit", "Commit", told.commit, run.commit),
    Step("tree", "Working tree", told.tree, run.tree),
    Step("code", "Code", told.code, run.code),
    Step("weights", "Base weights", told.weights, data.weights),
    Step("split", "Split", told.split, data.split),
    Step("validation", "Validation", told.validation, data.validation),
    Step("manifest", "Manifest", told.manifest, data.manifest),
    Step("data", "Pictures", told.data, data.data),
)


def links(dossier: Dossier, verify: bool) -> list[Link]:
    """Every link with what is told of it; with `verify` each is checked."""
    _ = dossier.facts  # a folder that is no dossier has no chain
    with track("verify" if verify else "audit", len(STEPS), "links") as advance:
        found = []
        for step in STEPS:
            found.append(linked(dossier, step, verify))
            advance(text=step.title)
    return found


def linked(dossier: Dossier, step: Step, verify: bool) -> Link:
    """One link of the chain."""
    try:
        digest, said = step.tell(dossier)
    except Exception as error:  # noqa: BLE001 - whatever someone put into a dossier, the other links are still told
        digest, said = None, {"not readable": _words(error)}
    link = Link(name=step.name, title=step.title, hash=digest, said=said)
    return link.model_copy(update=_verdict(dossier, step)) if verify else link


def _verdict(dossier: Dossier, step: Step) -> dict[str, str]:
    try:
        return {"verdict": "holds", "reason": step.check(dossier)}
    except Unchecked as error:
        return {"verdict": "unchecked", "reason": str(error)}
    except Broken as error:
        return {"verdict": "broken", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - a part that is missing or can't be read, in whatever way someone damaged it
        return _unread(dossier, error)


def _unread(dossier: Dossier, error: Exception) -> dict[str, str]:
    """What is absent since its store was away is unchecked, in the store's words; all else that can't be read is broken."""
    path = _absent(error)
    if path is None:
        return {"verdict": "broken", "reason": _words(error)}
    if missing := dossier.why(path):
        return {"verdict": "broken" if missing.broken else "unchecked", "reason": missing.reason}
    shown = path.relative_to(dossier.folder) if path.is_relative_to(dossier.folder) else path.name
    return {"verdict": "broken", "reason": f"{shown} is missing"}


def _absent(error: BaseException | None) -> Path | None:
    """The path whose absence an error comes from, if it comes from that."""
    while error is not None:
        if isinstance(error, FileNotFoundError) and error.filename:
            return Path(error.filename)
        error = error.__cause__
    return None


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] if not isinstance(error, SkumatchError) else str(error)
