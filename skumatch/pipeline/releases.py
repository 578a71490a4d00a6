"""The tasks of the release and rollback DAGs, and the refusal of overrides that a refresh would not use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from skumatch.config import Settings, check_approval, load_params
from skumatch.errors import NothingNew, ParameterError, StaleChampion
from skumatch.params import Params
from skumatch.pipeline.pull import open_registry
from skumatch.promotion import promotion, waiting
from skumatch.recipe.overrides import assignments
from skumatch.registry.registry import CHALLENGER, RELEASE_TAG, ModelRef, Registry
from skumatch.registry.tracking import Tracking
from skumatch.stages.runner import TRAINING

PRINTING = ("report",)  # stages that print all parameters, also those that no computation uses


def refuse_unused(project: Path, overrides: Iterable[str]) -> None:
    """Refuse overrides that have no effect on a refresh, so that nobody takes its result for theirs.

    Args:
        project: the folder with dvc.yaml.
        overrides: each `section.name=value`.

    Raises:
        ParameterError: only the training stages read a parameter that is overridden.
    """
    unused = unused_in_refresh(project)
    for name, _ in assignments(overrides):
        if any(f"{name}.".startswith(f"{part}.") for part in unused):
            raise ParameterError(
                f"'{name}' can't be set for a refresh, which trains nothing and would not heed it; "
                "give it to `skumatch retrain`, or leave it out."
            )


def unused_in_refresh(project: Path) -> set[str]:
    """Return the sections and parameters that dvc.yaml names for training stages only.

    The stages that print all parameters don't count.
    """
    stages = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))["stages"]
    named = {name: set(stage.get("params", ())) for name, stage in stages.items()}
    computing = (params for name, params in named.items() if name not in (*TRAINING, *PRINTING))
    training = (params for name, params in named.items() if name in TRAINING)
    return set().union(*training) - set().union(*computing)


Name = Annotated[str, Field(min_length=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Proposal(_Message):
    """A version that passed the gate and that a person is asked to approve.

    Attributes:
        version: the number of the version.
        expected: the champion that it was compared with; None where there was none.
        bundle: the hash of its bundle.
        sentence: the gate's decision in words.
        page: address of the run's page in MLflow.
        others_wait_for: `approval` where further versions wait for one, else empty.
    """

    version: int
    expected: int | None
    bundle: str
    sentence: str
    page: str
    others_wait_for: str = ""


class Question(_Message):
    """The request for a proposal.

    Attributes:
        version: the version to propose. None means the newest challenger, or, where an event started the
            run, the next version that waits.
        run: the run's id where an event started it, else empty.
    """

    version: int | None = None
    run: str = ""


class Approved(_Message):
    """A person's approval of a proposal.

    Attributes:
        proposal: the approved version.
        who: the person.
        why: the reason in words; may be empty.
    """

    proposal: Proposal
    who: Name
    why: str = ""


class Back(_Message):
    """The request for a rollback.

    Attributes:
        version: the version to roll back to; None for the champion before this one.
        who: the person who asks for it.
        why: the reason in words; may be empty.
    """

    version: int | None = None
    who: Name
    why: str = ""


def propose(settings: Settings, question: Question) -> Proposal:
    """Look up the version that a person is to approve.

    Raises:
        StaleChampion: the champion is another than the version was compared with, and no other version waits.
        NothingNew: an event started the run, and another run has taken the version that waited.
    """
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    if question.version is not None or not question.run:
        return _proposal(settings, registry, registry.resolve(str(question.version or CHALLENGER)))
    while proposed := waiting.take(registry, "approval", question.run):
        try:
            proposal = _proposal(settings, registry, proposed.ref)
            return proposal.model_copy(update={"others_wait_for": "approval" if proposed.others else ""})
        except StaleChampion as error:
            if not proposed.others:
                raise
            print(error)
            waiting.pass_over(registry, proposed.ref)
    raise NothingNew("No version waits for an approval that nobody was asked for yet.")


def _proposal(settings: Settings, registry: Registry, ref: ModelRef) -> Proposal:
    """Return the proposal of a version.

    Raises:
        StaleChampion: the version was compared with another champion.
    """
    expected = promotion.compared_with(ref)
    if not promotion.gallery_moved(registry, ref.version, expected):
        expected = promotion.proposed(registry, ref)
    page = settings.models_page
    if ref.run_id:
        page = Tracking(settings.mlflow_url).run_page(ref.run_id, settings.mlflow_shown)
    return Proposal(
        version=ref.version,
        expected=expected,
        bundle=ref.bundle,
        sentence=ref.tags.get("skumatch.decision", ""),
        page=page,
    )


def promote(settings: Settings, approved: Approved) -> dict[str, Any]:
    """Verify the bytes of the approved version and make it the champion.

    If only the champion's gallery changed since the comparison, the version isn't promoted. Its encoder has
    to be judged again on the newest data, and the approval holds for the result.

    Returns:
        The task's summary: `version`, `decision` and `who`; or `judge_again` with the version and
        `approved_by`, where its encoder has to be judged again.

    Raises:
        StaleChampion: the champion has another encoder than the one that the version was compared with.
        BundleError: the bundle's bytes changed, are gone or were erased.
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
    """Return the gate's verdict on a version, by its tags and the champion that it was compared with."""
    if RELEASE_TAG in ref.tags:
        return "refresh"
    return "promote" if proposal.expected else "first"


def rollback(settings: Settings, back: Back) -> dict[str, Any]:
    """Verify the bytes of an earlier champion and make it the champion again."""
    registry = _registry(settings, load_params(settings.project / "params.yaml"))
    ref, champion_version = rollback_plan(settings, registry, back.version)
    promotion.rollback(registry, ref.version, champion_version, back.who, back.why)
    return {"version": ref.version, "decision": "rollback", "who": back.who}


def rollback_plan(settings: Settings, registry: Registry, version: int | None) -> tuple[ModelRef, int | None]:
    """Return the target of a rollback, with its bytes verified, and the number of today's champion.

    Args:
        settings: this machine's settings.
        registry: of the model.
        version: an earlier champion; None for the champion before this one.
    """
    champion = registry.champion()
    target = verified(settings, registry, promotion.rollback_target(registry, version))
    return target, champion.version if champion else None


def verified(settings: Settings, registry: Registry, ref: ModelRef) -> ModelRef:
    """Download a version's bundle, verify its bytes against the registered hash, and return the version.

    Args:
        settings: this machine's settings.
        registry: of the model.
        ref: the version.

    Raises:
        BundleError: the bytes changed, are gone or were erased.
    """
    registry.download_bundle(ref, settings.home_dir / "bundles" / ref.bundle)
    return ref


def _registry(settings: Settings, params: Params) -> Registry:
    """Open the registry, once the settings for approvals were checked."""
    check_approval(settings, params)
    return open_registry(settings, params)
