"""The chain of a version, from its promotion back to the pictures: what each link is, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skumatch.audit import checks, told
from skumatch.audit.checks import Check
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
    check: Check


STEPS = (
    Step("journal", "Promotions", told.journal, checks.journal),
    Step("version", "Registered version", told.version, checks.version),
    Step("provenance", "Provenance statement", told.origin, checks.origin),
    Step("bundle", "Bundle", told.bundle, checks.bundle),
    Step("index", "Gallery index", told.index, checks.index),
    Step("decision", "Gate's decision", told.decision, checks.decision),
    Step("evaluation", "Evaluations", told.evaluation, checks.evaluation),
    Step("champion", "Champion before it", told.champion, checks.champion),
    Step("stages", "Run and stages", told.stages, checks.stages),
    Step("inputs", "Input set", told.input_set, checks.input_set),
    Step("parameters", "Parameters", told.parameters, checks.parameters),
    Step("environment", "Environment", told.environment, checks.environment),
    Step("commit", "Commit", told.commit, checks.commit),
    Step("tree", "Working tree", told.tree, checks.tree),
    Step("code", "Code", told.code, checks.code),
    Step("weights", "Base weights", told.weights, checks.weights),
    Step("split", "Split", told.split, checks.split),
    Step("validation", "Validation", told.validation, checks.validation),
    Step("manifest", "Manifest", told.manifest, checks.manifest),
    Step("data", "Pictures", told.data, checks.data),
)


def links(dossier: Dossier, verify: bool) -> list[Link]:
    """Every link with what is told of it; with `verify` each is checked."""
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
    except (SkumatchError, OSError, ValueError, KeyError) as error:
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
    except (SkumatchError, OSError, ValueError, KeyError, TypeError) as error:  # a part that is missing or can't be read
        return _unread(dossier, error)


def _unread(dossier: Dossier, error: Exception) -> dict[str, str]:
    """Where a store didn't give a part, its words say why: it was away, or it has something else there than it should."""
    missing = dossier.facts.missing
    if not missing:
        return {"verdict": "broken", "reason": _words(error)}
    verdict = "broken" if any(one.broken for one in missing) else "unchecked"
    return {"verdict": verdict, "reason": "; ".join(dict.fromkeys(one.reason for one in missing))}


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] if not isinstance(error, SkumatchError) else str(error)
