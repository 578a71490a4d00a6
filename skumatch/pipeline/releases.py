"""What the release and rollback DAGs do in the registry: look a proposal up, promote it, roll back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from skumatch.config import Settings, check_approval, load_params
from skumatch.errors import NothingNew, StaleChampion
from skumatch.params import Params
from skumatch.pipeline.pull import open_registry
from skumatch.release import promotion, waiting
from skumatch.release.registry import CHALLENGER, RELEASE_TAG, ModelRef, Registry
from skumatch.release.tracking import Tracking

Name = Annotated[str, Field(min_length=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Proposal(_Message):
    """A version that passed the gate, and the champion it was compared with.

    sentence: the gate's decision in words. others_wait_for: `approval` where further versions wait for one,
    else empty.
    """

    version: int
    expected: int | None
    bundle: str
    sentence: str
    page: str
    others_wait_for: str = ""


class Question(_Message):
    """Which version a person is to approve.

    version: None asks for the newest challenger, or, where an event started the run, for the next version
    that waits. run: the run's id where an event started it, else empty.
    """

    version: int | None = None
    run: str = ""


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
    """Look up what a person is to approve.

    Raises:
        StaleChampion: the champion is another than the version was compared with, and no other one waits.
        NothingNew: an event started the run, and another run has taken up what waited.
    """
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    if question.version is not None or not question.run:
        return _proposal(settings, registry, registry.resolve(str(question.version or CHALLENGER)))
    while taken := waiting.take(registry, "approval", question.run):
        try:
            proposal = _proposal(settings, registry, taken.ref)
            return proposal.model_copy(update={"others_wait_for": "approval" if taken.others else ""})
        except StaleChampion as error:
            if not taken.others:
                raise
            print(error)
            waiting.pass_over(registry, taken.ref)
    raise NothingNew("No version waits for an approval that nobody was asked for yet.")


def _proposal(settings: Settings, registry: Registry, ref: ModelRef) -> Proposal:
    """The question about a version. Raises StaleChampion if it was compared with another champion."""
    expected = promotion.compared_with(ref)
    if not promotion.gallery_moved(registry, ref.version, expected):
        expected = promotion.proposed(registry, ref)
    place = settings.mlflow_shown
    page = Tracking(settings.mlflow_url).run_page(ref.run_id, place) if ref.run_id else place
    return Proposal(
        version=ref.version,
        expected=expected,
        bundle=ref.bundle,
        sentence=ref.tags.get("skumatch.decision", ""),
        page=page,
    )


def promote(settings: Settings, approved: Approved) -> dict[str, Any]:
    """Make the approved version the champion, once its bytes were verified.

    If only the champion's gallery changed since the comparison, the version's encoder is to be judged again
    on the newest data, and the approval stands for what comes of it: the answer names the version as
    `judge_again`.
    """
    params, proposal = load_params(settings.project / "params.yaml"), approved.proposal
    registry = _registry(settings, params)
    ref = verified(settings, registry, registry.resolve(str(proposal.version)))
    why = " ".join(filter(None, ["approved;", approved.why, proposal.sentence]))
    try:
        promotion.promote(registry, ref.version, proposal.expected, approved.who, why)
    except StaleChampion:
        if not promotion.gallery_moved(registry, ref.version, proposal.expected):
            raise
        waiting.wait(registry, ref.version, "judgement", approved.who)
        return {
            "version": ref.version,
            "decision": "keep",
            "judge_again": ref.version,
            "approved_by": approved.who,
        }
    return {"version": ref.version, "decision": _verdict(ref, proposal), "who": approved.who}


def _verdict(ref: ModelRef, proposal: Proposal) -> str:
    if RELEASE_TAG in ref.tags:
        return "refresh"
    return "promote" if proposal.expected else "first"


def rollback(settings: Settings, back: Back) -> dict[str, Any]:
    """Make an earlier champion the champion again, once its bytes were verified."""
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    ref, now = rollback_plan(settings, registry, back.version)
    promotion.rollback(registry, ref.version, now, back.who, back.why)
    return {"version": ref.version, "decision": "rollback", "who": back.who}


def rollback_plan(settings: Settings, registry: Registry, version: int | None) -> tuple[ModelRef, int | None]:
    """The earlier champion that a rollback leads to (`version`, or the one before this), verified, and the champion now."""
    now = registry.champion()
    return verified(
        settings, registry, promotion.rollback_target(registry, version)
    ), now.version if now else None


def verified(settings: Settings, registry: Registry, ref: ModelRef) -> ModelRef:
    """The version, once the bytes of its bundle were found to be those that were registered."""
    registry.download_bundle(ref, settings.home_dir / "bundles" / ref.bundle)
    return ref


def _registry(settings: Settings, params: Params) -> Registry:
    check_approval(settings, params)
    return open_registry(settings, params)
