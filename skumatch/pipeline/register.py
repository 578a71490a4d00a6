"""The task `register`: log a run to MLflow, and register and promote the bundle that passed the gate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from skumatch.bundle import MANIFEST, bundle_hash
from skumatch.config import Settings, load_params
from skumatch.errors import StaleChampion
from skumatch.files import read_json, sha256, write_json, write_text
from skumatch.gate.gate import Decision
from skumatch.lineage import documents, lineage, provenance
from skumatch.params import Params
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.message import Message, run_name
from skumatch.pipeline.pull import open_registry, open_tracking
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.worker import reports, stages, workspace
from skumatch.promotion import waiting
from skumatch.promotion.promotion import gallery_moved, history, promote, withdrawn
from skumatch.registry.registry import (
    CHALLENGER,
    COMPARED_TAG,
    ENCODER_TAG,
    REFRESHED,
    RELEASE_TAG,
    TOP1_TAG,
    TRAINED_TAG,
    Registry,
)
from skumatch.registry.tracking import (
    DATA_TAG,
    INPUTS_TAG,
    KIND_TAG,
    MACHINE_TAG,
    PLAIN_TAG,
    RUN_TAG,
    VERDICT_TAG,
    VERSION_TAG,
)
from skumatch.report.page import DATA_DOCS
from skumatch.retrieval.answers import Shares
from skumatch.retrieval.evaluate import Evaluation
from skumatch.stages import artefacts
from skumatch.stages.artefacts import CodeFacts, WeightsFacts

ORIGIN = "log/origin"
SHOWN = ("validate", "split", "frozen", "evaluate", "gate", "report")  # stages whose files go into MLflow
# Tags that a registered version takes from the newest run that judged it.
COMPARISON = (COMPARED_TAG, "skumatch.compared_bundle", "skumatch.decision")
FIGURES = ("top1", "top3", "top5", "macro_top1")


class Outcome(BaseModel):
    """The results of a run's stages, read from its workspace.

    Attributes:
        decision: the gate's verdict, with its checks and reasons.
        challenger: the evaluation of the newly trained model; None in a refresh.
        refreshed: the evaluation of the champion's encoder on today's gallery; None before the first release.
        answers: candidate -> part of the products -> shares of right, wrong and `unknown` answers, with the
            thresholds that it serves with (`answers.shares`).
        data: MD5 of the data version.
    """

    model_config = ConfigDict(frozen=True)

    decision: Decision
    challenger: Evaluation | None
    refreshed: Evaluation | None
    answers: Shares
    data: str

    @classmethod
    def read(cls, root: Path) -> Outcome:
        """Read the results below the workspace `root`."""
        return cls(
            decision=artefacts.DECISION.read(root),
            challenger=_evaluation(root, "challenger"),
            refreshed=_evaluation(root, "refreshed"),
            answers=artefacts.SHARES.read(root) if artefacts.SHARES.exists(root) else {},
            data=md5_of((root / "data.dvc").read_text("utf-8")),
        )

    @property
    def released(self) -> Evaluation:
        """The evaluation of the candidate that the decision is about.

        It is the refreshed gallery's where the verdict is `refresh`. Otherwise it is the challenger's, or the
        refreshed gallery's where there is no challenger.
        """
        evaluation = (
            self.refreshed if self.decision.verdict == "refresh" else self.challenger or self.refreshed
        )
        assert evaluation, "a run scores a challenger or a champion"
        return evaluation

    @property
    def gallery_release(self) -> bool:
        """True where the run releases a new gallery with the champion's encoder."""
        return self.decision.verdict == "refresh"


def _evaluation(root: Path, candidate: str) -> Evaluation | None:
    scored = artefacts.EVALUATION.exists(root, candidate=candidate)
    return artefacts.EVALUATION.read(root, candidate=candidate) if scored else None


def register(settings: Settings, message: Message) -> dict[str, Any]:
    """Record the run in MLflow, register and promote a bundle that passed the gate, and return the summary.

    A dry run writes nothing to MLflow. A model that the gate refused, or that is not better than the
    champion, stays an MLflow run and is never registered.

    Raises:
        StaleChampion: the champion is no longer the one that was evaluated.
    """
    claim = at_work(settings, run_name(message.run), "register", message.inputs, message.lock)
    with claim, workspace(settings, message, "register") as repository:
        repository.pull(
            *(stage for stage in stages(repository.folder) if stage != "embed"),
            artefacts.WEIGHTS.pointer,
            artefacts.RELEASED.pointer,
            artefacts.TRAINED.pointer,
        )
        outcome = Outcome.read(repository.folder)
        params = load_params(repository.folder / "params.yaml")
        summary = summarise(message, outcome) | {"report": keep_report(settings, message, repository.folder)}
        if message.dry_run:
            return summary
        return summary | _record(settings, message, params, outcome, repository)


def _record(
    settings: Settings, message: Message, params: Params, outcome: Outcome, repository: Repository
) -> dict[str, Any]:
    """Write the run and its version to MLflow, and promote it; return the summary's entries of MLflow."""
    root = repository.folder
    tracking = open_tracking(settings)
    registry = open_registry(settings, params)
    record = lineage_of(message, outcome, repository)
    write_json(root / "log/lineage.json", record)
    write_origin(root, record, settings, params)
    tags = tags_of(message, outcome, artefacts.CODE.read(root)) | {
        "skumatch.lineage": lineage.record_hash(record)
    }
    if outcome.gallery_release:
        champion = registry.resolve(str(message.champion))
        tags[RELEASE_TAG] = champion.tags.get(RELEASE_TAG, str(champion.version))
    elif message.encoder:
        trained = registry.resolve(str(message.encoder))
        tags[TRAINED_TAG] = trained.tags.get(TRAINED_TAG, str(trained.version))
    mlflow_run = tracking.log_run(
        message.run, flat(params), metrics(message, outcome, root), tags, artifacts(root), "RUNNING"
    )
    tracking.log_data(mlflow_run, outcome.data, settings.remote_url)
    page = tracking.run_page(mlflow_run, settings.mlflow_shown)
    version, release_entries = None, dict[str, Any]()
    if outcome.decision.promotable:
        report_link = f"Report and figures: [run {message.run}]({page}), artifact `report/report.html`."
        description = f"{outcome.decision.sentence}\n\n{report_link}"
        folder = artefacts.BUNDLE["refreshed" if outcome.gallery_release else "challenger"].at(root)
        version = registry.register(
            folder, mlflow_run, tags, description, root / "skumatch", artefacts.CARD.at(root)
        )
        registry.set_tags(version, {name: tags[name] for name in COMPARISON})
        registry.set_alias(REFRESHED if outcome.gallery_release else CHALLENGER, version)
        release_entries = _release(registry, message, params, outcome, version)
    # FINISHED is set only now. Later runs start from the last finished run, and scheduled runs skip where it
    # has seen the same data; neither may happen for a run that died before its release.
    tracking.log_run(message.run, {}, {}, {VERSION_TAG: str(version)} if version else {}, {}, "FINISHED")
    aliases = {alias: ref.version for ref in registry.versions() for alias in ref.aliases}
    _emit_lineage(settings, record, outcome, params, version)
    return {"version": version, "aliases": aliases, "waits": False, "mlflow_run": page} | release_entries


def _release(
    registry: Registry, message: Message, params: Params, outcome: Outcome, version: int
) -> dict[str, Any]:
    """Make the version the champion, unless a person has to approve it.

    Returns:
        Entries that replace those of the run's summary; empty where the version became champion. `waits`
        where a person has to approve. `judge_again` and `approved_by` where the champion's gallery changed
        since the comparison, so that the encoder has to be judged again on the newest data. Another
        `decision` where a newer gallery stays, or where a person rolled back from this one.

    Raises:
        StaleChampion: the champion has another encoder than the one that the version was compared with.
    """
    if outcome.gallery_release and _serves_already(registry, message, version):
        return _kept(f"today's is the one that serves, version {version}") | {"version": None}
    if outcome.gallery_release and message.by_itself and outcome.data in withdrawn(registry):
        return _kept(
            "a person rolled back from the gallery of this data, so `skumatch refresh` alone brings it back"
        )
    approved_by = _approval(registry, message, outcome)
    if not approved_by and approval_of(params, outcome) == "required":
        waiting.wait(registry, version, "approval")
        return {"waits": True}
    try:
        promote(
            registry, version, message.champion, approved_by or _by_run(message), outcome.decision.sentence
        )
    except StaleChampion:
        now = registry.champion()
        if outcome.gallery_release and now and _same_encoder(registry, now.version, message.champion):
            return _kept(f"a newer gallery, version {now.version}, was released meanwhile, and stays")
        if not gallery_moved(registry, version, message.champion):
            registry.log_run(message.run, {}, {}, {VERSION_TAG: str(version)}, {}, "FAILED")
            raise
        waiting.wait(registry, version, "judgement", approved_by)
        return {"judge_again": version, "approved_by": approved_by}
    return {}


def _same_encoder(registry: Registry, version: int, other: int | None) -> bool:
    return registry.encoder(version) == registry.encoder(other)


def _serves_already(registry: Registry, message: Message, version: int) -> bool:
    """Return whether the version is champion and another run promoted it.

    This run may have been killed after its promotion and be taken up again; its own promotion doesn't count.
    """
    champion = registry.champion()
    if champion is None or champion.version != version:
        return False
    promotions = ((entry.asked.version, entry.asked.who) for entry in history(registry))
    return all(promotion != (version, _by_run(message)) for promotion in promotions)


def _by_run(message: Message) -> str:
    """Return the name by which the journal of promotions records a run."""
    return f"run {message.run}"


def _kept(why: str) -> dict[str, Any]:
    """Return the summary's entries where the champion stays although the gate passed the gallery."""
    return {"decision": "keep", "sentence": f"Kept the champion's gallery: {why}.", "unfit": False}


def _approval(registry: Registry, message: Message, outcome: Outcome) -> str:
    """Return who approved the encoder that was judged again; empty where nobody did.

    A message alone could name anybody. So it counts only where the journal has a promotion of that version by
    that person, which came too late.
    """
    if outcome.gallery_release or not message.approved_by:
        return ""
    promotion = (message.encoder, message.approved_by)
    late = any((entry.asked.version, entry.asked.who) == promotion for entry in history(registry))
    return message.approved_by if late else ""


def approval_of(params: Params, outcome: Outcome) -> str:
    """Return the approval that releases of this kind need: `none`, or `required` from a person."""
    return params.release.approval_refresh if outcome.gallery_release else params.release.approval


def _emit_lineage(
    settings: Settings, record: dict[str, Any], outcome: Outcome, params: Params, version: int | None
) -> None:
    if settings.openlineage_target:
        from skumatch.lineage import documents  # its import takes a moment, and most runs send no event

        event = documents.event(
            lineage.Lineage.model_validate(record),
            lineage.record_hash(record),
            outcome.decision.sentence,
            params.release.model_name,
            version,
            datetime.now(UTC),
        )
        documents.emit(event, settings.openlineage_target)


def tags_of(message: Message, outcome: Outcome, code: CodeFacts) -> dict[str, str]:
    """Return the MLflow tags of the run and of its version.

    They name the encoder, data, code and inputs, its accuracy, the gate's decision, and the champion that it
    was compared with.

    Args:
        message: the run's last message.
        outcome: the results of its stages.
        code: facts of the run's code.
    """
    decision = outcome.decision
    machines = {
        f"{MACHINE_TAG}{stage}": message.machines[stage]
        for stage in ("train", "embed")
        if stage in message.machines
    }
    return machines | {
        RUN_TAG: message.run,
        KIND_TAG: message.kind,
        DATA_TAG: outcome.data,
        ENCODER_TAG: outcome.released.hashes["encoder"],
        TOP1_TAG: f"{outcome.released.top1:.6f}",
        COMPARED_TAG: "none" if message.champion is None else str(message.champion),
        "skumatch.compared_bundle": decision.hashes["champion_bundle"] or "none",
        VERDICT_TAG: decision.verdict,
        "skumatch.decision": decision.sentence,
        "skumatch.commit": str(code.commit),
        PLAIN_TAG: str(not message.overrides and code.commit is not None and not code.dirty).lower(),
        INPUTS_TAG: message.inputs,
    }


def lineage_of(message: Message, outcome: Outcome, repository: Repository) -> dict[str, Any]:
    """Return the run's lineage record: hashes of its inputs, lock and results.

    Args:
        message: the run's last message.
        outcome: the results of its stages.
        repository: the run's workspace, with its inputs, lock and results.
    """
    root = repository.folder
    code, weights = artefacts.CODE.read(root), WeightsFacts(name=lineage.NO_WEIGHTS)
    if artefacts.WEIGHTS_FACTS.exists(root):
        weights = artefacts.WEIGHTS_FACTS.read(root)
    released, trained = artefacts.RELEASED.at(root), artefacts.TRAINED.at(root)

    def evaluation_hash(candidate: str) -> str:
        return sha256(artefacts.EVALUATION.at(root, candidate=candidate))

    return lineage.lineage(
        run=message.run,
        code=lineage.CodeRecord(commit=code.commit, dirty=code.dirty, files=code.sha256),
        inputs=lineage.Inputs(
            kind=message.kind,
            archive=f"md5:{message.inputs}",
            data=f"md5:{outcome.data}",
            champion=outcome.decision.hashes["champion_bundle"],
            champion_version=message.champion,
            released=bundle_hash(released) if (released / MANIFEST).is_file() else None,
            trained=bundle_hash(trained) if (trained / MANIFEST).is_file() else None,
            weights=weights.name,
            weights_sha256=weights.sha256 or None,
            params=sha256(root / "params.yaml"),
            overrides=message.overrides,
            environment=sha256(root / "requirements/constraints.txt"),
        ),
        lock=repository.lock,
        results=lineage.Results(
            challenger=evaluation_hash("challenger") if outcome.challenger else None,
            champion=evaluation_hash("refreshed") if outcome.refreshed else None,
            answers=sha256(artefacts.ANSWERS.at(root)) if outcome.answers else None,
            decision=sha256(artefacts.DECISION.at(root)),
            verdict=outcome.decision.verdict,
            bundle=str(outcome.decision.bundle),
        ),
    )


def write_origin(root: Path, record: dict[str, Any], settings: Settings, params: Params) -> None:
    """Write the provenance (signed where there is a key) and the bill of materials of the run's bundle.

    Args:
        root: the run's workspace; the files go into its folder ORIGIN.
        record: the run's lineage record, as of `lineage_of`.
        settings: this machine's settings, with the path of the signing key, if any.
        params: the run's parameters.
    """
    ended = datetime.now(UTC)
    results = record["results"]
    refreshed = results["verdict"] == "refresh" or results["challenger"] is None
    bundle = artefacts.BUNDLE["refreshed" if refreshed else "challenger"]
    manifest = read_json(bundle.at(root) / MANIFEST)
    parts = {name: part["sha256"] for name, part in manifest["parts"].items()}
    parts |= {MANIFEST: results["bundle"]}
    statement = provenance.statement(record, parts, ended)
    envelope = provenance.envelope(statement, settings.signing_key_file)
    write_json(root / ORIGIN / "provenance.dsse.json", envelope)
    constraints = (root / "requirements/constraints.txt").read_text("utf-8")
    text = documents.bill(
        lineage.Lineage.model_validate(record), constraints, params.release.model_name, ended
    )
    write_text(root / ORIGIN / "bom.cdx.json", text)


def artifacts(root: Path) -> dict[str, Path]:
    """Return path in the MLflow run -> file: lock, parameters, lineage, figures, decision, report, origin."""
    names = ("params.yaml", "dvc.lock", "requirements/constraints.txt", "log/lineage.json")
    files = {Path(name).name: root / name for name in names}
    for stage in SHOWN:
        results = sorted((root / artefacts.out(stage)).iterdir())
        files |= {f"{stage}/{path.name}": path for path in results if path.is_file()}
    return files | {f"origin/{path.name}": path for path in sorted((root / ORIGIN).glob("*"))}


def metrics(message: Message, outcome: Outcome, root: Path) -> dict[str, float | list[float]]:
    """Return the metrics that MLflow plots: accuracy, training curves, pace, seconds and counts of vectors.

    `seconds.STAGE` is a stage's own time. `vectors.computed.NAME` and `vectors.known.NAME` count the vectors
    of the encoder NAME. `train.loss` and `train.top1` are lists with one value per epoch; `top1` is that of
    the validation pictures.

    Args:
        message: the run's last message, with seconds, pace and counts of vectors.
        outcome: the evaluations and answers.
        root: the run's workspace, with the training's history.
    """
    figures: dict[str, float | list[float]] = {
        f"seconds.{stage}": seconds for stage, seconds in message.seconds.items()
    }
    for candidate, evaluation in (("challenger", outcome.challenger), ("refreshed", outcome.refreshed)):
        if evaluation:
            figures |= {f"{candidate}.{name}": getattr(evaluation, name) for name in FIGURES}
    for candidate, parts in outcome.answers.items():
        for part, share in parts.items():
            prefix = f"answers.{candidate}.{part}"
            figures |= {f"{prefix}.{name}": getattr(share, name) for name in ("right", "wrong", "unknown")}
    curves = artefacts.HISTORY.at(root)
    lines = curves.read_text("utf-8").splitlines() if curves.is_file() else []
    epochs = [json.loads(line) for line in lines]
    figures |= {f"train.{name}": value for name, value in message.pace.items()}
    for encoder, counts in message.vectors.items():
        figures |= {f"vectors.{kind}.{encoder}": float(count) for kind, count in counts.items()}
    return figures | {
        f"train.{name}": [float(epoch.get(name, math.nan)) for epoch in epochs] for name in ("loss", "top1")
    }


def flat(params: Params) -> dict[str, Any]:
    """Return parameters as section.name -> value, without `runtime`, which changes no result."""
    return dict(leaves(params.model_dump(mode="json", by_alias=True, exclude={"runtime"})))


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield section.name and value of every leaf of a tree of mappings."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keep_report(settings: Settings, message: Message, root: Path) -> str:
    """Copy the run's report and data docs to this machine's reports, and return the report's path.

    The data docs lie in the run's own folder there, and the report's link to them is changed accordingly.

    Args:
        settings: this machine's settings.
        message: the run's message.
        root: the run's workspace.
    """
    folder = reports(settings, message.run)
    docs = folder / "validate" / "docs.html"
    page = artefacts.REPORT.read(root).replace(
        f'href="{DATA_DOCS}"', f'href="{docs.relative_to(folder.parent)}"'
    )
    write_text(docs, artefacts.DATA_DOCS.read(root))
    write_text(folder.with_name(f"{folder.name}.html"), page)
    return str(folder.with_name(f"{folder.name}.html"))


def summarise(message: Message, outcome: Outcome) -> dict[str, Any]:
    """Return the run's summary for a person: figures, decision with its reasons, and facts of the run.

    The entries `version`, `aliases`, `waits` and `mlflow_run` are those of a dry run.
    """
    decision = outcome.decision
    return {
        "challenger": _figures(outcome.challenger),
        "refreshed": _figures(outcome.refreshed),
        "kind": message.kind,
        "decision": decision.verdict,
        "sentence": decision.sentence,
        "reasons": [
            f"{check.name}: {check.word} ({check.detail})" for check in (*decision.checks, *decision.refresh)
        ],
        "answers": {
            candidate: {part: share.model_dump() for part, share in parts.items()}
            for candidate, parts in outcome.answers.items()
        },
        "products": decision.products.model_dump() if decision.products else None,
        "unfit": decision.unfit,
        "version": None,
        "aliases": {},
        "waits": False,
        "mlflow_run": None,
        "seconds": message.seconds,
        "cached": list(message.cached),
        "vectors": message.vectors,
        "dry_run": message.dry_run,
    }


def _figures(evaluation: Evaluation | None) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    return {
        "top1": evaluation.top1,
        "top3": evaluation.top3,
        "top5": evaluation.top5,
        "interval": list(evaluation.interval.top1),
        "n": evaluation.n,
    }
