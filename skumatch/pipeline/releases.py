"""What the release and rollback DAGs do in the registry: look a proposal up, promote it, roll back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from skumatch.config import Settings, check_approval, load_params
from skumatch.params import Params
from skumatch.pipeline.pull import open_registry
from skumatch.release import promotion
from skumatch.release.registry import CHALLENGER, ModelRef, Registry
from skumatch.release.tracking import Tracking

Name = Annotated[str, Field(min_length=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Proposal(_Message):
    """A version that passed the gate and the champion it was compared with; sentence: the gate's decision in words."""

    version: int
    expected: int | None
    bundle: str
    sentence: str
    page: str


class Question(_Message):
    """version: None asks for the newest challenger."""

    version: int | None = None


class Approved(_Message):
    proposal: Proposal
    who: Name
    why: str = ""


class Back(_Message):
    """version: None asks for the champion before this one."""

    version: int | None = None
    who: Name
    why: str = ""


def propose(settings: Settings, question: Question) -> Proposal:
    """Look up what a person is to approve. Raises StaleChampion where the champion is another than it was compared with."""
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    ref = registry.resolve(CHALLENGER if question.version is None else str(question.version))
    expected = promotion.proposed(registry, ref)
    place = settings.mlflow_shown
    page = Tracking(settings.mlflow_url).run_page(ref.run_id, place) if ref.run_id else place
    return Proposal(version=ref.version, expected=expected, bundle=ref.bundle, sentence=ref.tags.get("skumatch.decision", ""), page=page)


def promote(settings: Settings, approved: Approved) -> dict[str, Any]:
    """Make the approved version the champion, once its bytes were verified."""
    params, proposal = load_params(settings.project / "params.yaml"), approved.proposal
    registry = _registry(settings, params)
    ref = verified(settings, registry, registry.resolve(str(proposal.version)))
    why = " ".join(filter(None, ["approved;", approved.why, proposal.sentence]))
    promotion.promote(registry, ref.version, proposal.expected, approved.who, why)
    return {"version": ref.version, "decision": "promote" if proposal.expected else "first", "who": approved.who}


def rollback(settings: Settings, back: Back) -> dict[str, Any]:
    """Make an earlier champion the champion again, once its bytes were verified."""
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    ref, now = rollback_plan(settings, registry, back.version)
    promotion.rollback(registry, ref.version, now, back.who, back.why)
    return {"version": ref.version, "decision": "rollback", "who": back.who}


def rollback_plan(settings: Settings, registry: Registry, version: int | None) -> tuple[ModelRef, int | None]:
    """The earlier champion that a rollback leads to (`version`, or the one before this), verified, and the champion now."""
    now = registry.champion()
    return verified(settings, registry, promotion.rollback_target(registry, version)), now.version if now else None


def verified(settings: Settings, registry: Registry, ref: ModelRef) -> ModelRef:
    """The version, once the bytes of its bundle were found to be those that were registered."""
    registry.download_bundle(ref, settings.home_dir / "bundles" / ref.bundle)
    return ref


def _registry(settings: Settings, params: Params) -> Registry:
    check_approval(settings, params)
    return open_registry(settings, params)
