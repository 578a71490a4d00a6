"""The task `register`: log a run to MLflow, and register and promote the bundle that passed the gate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from skumatch.bundle import MANIFEST, bundle_hash
from skumatch.config import Settings, load_params
from skumatch.errors import StaleChampion, StorageError
from skumatch.files import read_json, sha256, write_json, write_text
from skumatch.gate.gate import Decision
from skumatch.lineage import documents, lineage, provenance
from skumatch.params import Params
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.message import Message, run_name
from skumatch.pipeline.pull import open_registry, open_tracking
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.worker import reports, stages, workspace
from skumatch.promotion import waiting
from skumatch.promotion.promotion import gallery_moved, history, promote, withdrawn
from skumatch.registry.gate_figures import FIGURES_TAG, ChampionGain, GateFigures
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
    NOTE_TAG,
    PLAIN_TAG,
    RUN_TAG,
    VERDICT_TAG,
    VERSION_TAG,
)
from skumatch.report.page import DATA_DOCS, RUN_FACTS
from skumatch.retrieval.answers import Shares
from skumatch.retrieval.evaluate import Evaluation
from skumatch.stages import artefacts
from skumatch.stages.artefacts import CodeFacts, WeightsFacts

ORIGIN = "log/origin"
MINUTE = "%Y-%m-%d %H:%M"
SHOWN = ("validate", "split", "frozen", "evaluate", "gate", "report")  # stages whose files go into MLflow
# Tags that a registered version takes from the newest run that judged it.
COMPARISON = (COMPARED_TAG, "skumatch.compared_bundle", "skumatch.decision", FIGURES_TAG)
COMPARABLE = "Only figures of the same gallery, queries and protocol can be compared."
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
    if message.ended is None:  # it is of an older skumatch
        message = message.model_copy(update={"ended": datetime.now(UTC)})
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
    about = about_run(message, outcome)
    note = {NOTE_TAG: f"{about}\n\n{outcome.decision.sentence}\n\nReport: artifact `report/report.html`."}
    mlflow_run = tracking.log_run(
        message.run,
        flat(params),
        metrics(message, outcome, root),
        tags | note,
        artifacts(root),
        "RUNNING",
        started=message.started,
    )
    tracking.log_data(mlflow_run, outcome.data, settings.remote_url)
    page = tracking.run_page(mlflow_run, settings.mlflow_shown)
    version, release_entries = None, dict[str, Any]()
    if outcome.decision.promotable:
        report_link = f"Report and figures: [run {message.run}]({page}), artifact `report/report.html`."
        basis = f"Its figures are of {figures_of(message, outcome).words}. {COMPARABLE}"
        description = f"{outcome.decision.sentence}\n\n{about}\n\n{report_link}\n\n{basis}"
        folder = artefacts.BUNDLE["refreshed" if outcome.gallery_release else "challenger"].at(root)
        version = registry.register(
            folder, mlflow_run, tags, description, root / "skumatch", artefacts.CARD.at(root)
        )
        registry.set_tags(version, {name: tags[name] for name in COMPARISON})
        registry.set_alias(REFRESHED if outcome.gallery_release else CHALLENGER, version)
        release_entries = _release(registry, message, params, outcome, version)
    # FINISHED is set only now. Later runs start from the last finished run, and scheduled runs skip where it
    # has seen the same data; neither may happen for a run that died before its release.
    made = {VERSION_TAG: str(version)} if version else {}
    tracking.log_run(message.run, {}, {}, made, {}, "FINISHED", ended=message.ended)
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
            made = {VERSION_TAG: str(version)}
            registry.log_run(message.run, {}, {}, made, {}, "FAILED", ended=message.ended)
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
    promotions = ((entry.move.version, entry.move.who) for entry in history(registry) if entry.move)
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
    moves = (entry.move for entry in history(registry))
    late = any((move.version, move.who) == promotion for move in moves if move)
    return message.approved_by if late else ""


def approval_of(params: Params, outcome: Outcome) -> str:
    """Return the approval that releases of this kind need: `none`, or `required` from a person."""
    return params.release.approval_refresh if outcome.gallery_release else params.release.approval


def _emit_lineage(
    settings: Settings, record: dict[str, Any], outcome: Outcome, params: Params, version: int | None
) -> None:
    if settings.openlineage_target:
        from skumatch.lineage import documents  # its import takes a moment, and most runs send no event

        events = documents.events(
            lineage.Lineage.model_validate(record),
            lineage.record_hash(record),
            outcome.decision.sentence,
            params.release.model_name,
            version,
        )
        for event in events:
            documents.emit(event, settings.openlineage_target)


def about_run(message: Message, outcome: Outcome) -> str:
    """Return a sentence on what the run did, for readers of MLflow's pages."""
    data, champion = f"data version {outcome.data[:12]}", f"version {message.champion}, the champion"
    if message.kind == "refresh":
        again = f"; the encoder of version {message.encoder} was judged again" if message.encoder else ""
        return f"A refresh: the encoder of {champion}, got a new gallery of {data}{again}."
    rival = f"It was compared with {champion}." if message.champion else "There was no champion before."
    return f"A retrain: a new encoder was trained on {data}. {rival}"


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
        FIGURES_TAG: figures_of(message, outcome).model_dump_json(),
        COMPARED_TAG: "none" if message.champion is None else str(message.champion),
        "skumatch.compared_bundle": decision.hashes["champion_bundle"] or "none",
        VERDICT_TAG: decision.verdict,
        "skumatch.decision": decision.sentence,
        "skumatch.commit": str(code.commit),
        PLAIN_TAG: str(not message.overrides and code.commit is not None and not code.dirty).lower(),
        INPUTS_TAG: message.inputs,
    }


def figures_of(message: Message, outcome: Outcome) -> GateFigures:
    """Return what the gate measured of the candidate that is released, and its gain over the champion."""
    evaluation, decision, answers = outcome.released, outcome.decision, outcome.answers
    gain = None
    if outcome.gallery_release and message.champion and {"served", "refreshed"} <= answers.keys():
        served, refreshed = answers["served"]["all"], answers["refreshed"]["all"]
        gain = ChampionGain(
            champion=message.champion, figure="right answers", before=served.right, after=refreshed.right
        )
    elif decision.gain and outcome.refreshed and message.champion:
        gain = ChampionGain(
            champion=message.champion,
            figure="top-1",
            before=outcome.refreshed.top1,
            after=evaluation.top1,
            lower=decision.gain.lower,
            confidence=decision.gain.confidence,
        )
    return GateFigures(
        protocol=evaluation.protocol,
        data=outcome.data,
        gallery=evaluation.hashes.get("gallery", ""),
        queries=evaluation.hashes.get("queries", ""),
        n=evaluation.n,
        skus=evaluation.skus,
        top1=evaluation.top1,
        low=evaluation.interval.top1[0],
        high=evaluation.interval.top1[1],
        gain=gain,
    )


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
        started=message.started,
        ended=message.ended,
        code=lineage.CodeRecord(
            commit=code.commit,
            dirty=code.dirty,
            files=code.sha256,
            package=lineage.PackageRecord(**code.package.model_dump()) if code.package else None,
        ),
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
    run, results = lineage.Lineage.model_validate(record), record["results"]
    refreshed = results["verdict"] == "refresh" or results["challenger"] is None
    bundle = artefacts.BUNDLE["refreshed" if refreshed else "challenger"]
    manifest = read_json(bundle.at(root) / MANIFEST)
    parts = {name: part["sha256"] for name, part in manifest["parts"].items()}
    parts |= {MANIFEST: results["bundle"]}
    statement = provenance.statement(record, parts)
    envelope = provenance.envelope(statement, settings.signing_key_file)
    write_json(root / ORIGIN / "provenance.dsse.json", envelope)
    constraints = (root / "requirements/constraints.txt").read_text("utf-8")
    text = documents.bill(run, constraints, params.release.model_name)
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

    The data docs lie in the run's own folder there, and the report's link to them is changed accordingly. The
    copy says when the run was and where its data comes from, which a stage's result must not hold.

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
    page = page.replace(RUN_FACTS, escape(f" {facts}" if (facts := run_facts(settings, message)) else ""), 1)
    write_text(docs, artefacts.DATA_DOCS.read(root))
    write_text(folder.with_name(f"{folder.name}.html"), page)
    return str(folder.with_name(f"{folder.name}.html"))


def run_facts(settings: Settings, message: Message) -> str:
    """Return sentences on the origin of a run's data version and on the run's times."""
    sentences = []
    try:
        chain = DataRecord(settings).chain(message.data) if message.data else []
    except StorageError as error:
        print(f"The report doesn't say where its data comes from: {error}")
        chain = []
    if changes := [change for change in chain if change.before != change.after]:
        newest = changes[0]
        source = f" from {newest.source}" if newest.source else ""
        sentences.append(
            f"It is number {len(changes):,} on record: {newest.action} of {newest.when:%Y-%m-%d}{source} "
            f"by {newest.who} ({newest.summary})."
        )
    if message.started and message.ended:
        began, ended = (f"{moment:{MINUTE}}" for moment in (message.started, message.ended))
        sentences.append(f"The run began at {began} and ended at {ended} UTC.")
    return " ".join(sentences)


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
