"""register: tell MLflow what the run found, and register and promote what the gate let pass."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from skumatch.config import Settings, load_params
from skumatch.errors import StaleChampion
from skumatch.files import read_json, sha256, write_json, write_text
from skumatch.params import Params
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.pull import open_registry
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.worker import Message, reports, run_name, stages, workspace
from skumatch.release import bom, lineage, provenance, waiting
from skumatch.release.bundle import MANIFEST, bundle_hash
from skumatch.release.gate import Decision
from skumatch.release.promotion import gallery_moved, history, promote, withdrawn
from skumatch.release.registry import (
    CHALLENGER,
    COMPARED_TAG,
    ENCODER_TAG,
    REFRESHED,
    RELEASE_TAG,
    TOP1_TAG,
    TRAINED_TAG,
    Registry,
)
from skumatch.release.tracking import (
    DATA_TAG,
    INPUTS_TAG,
    KIND_TAG,
    MACHINE_TAG,
    PLAIN_TAG,
    RUN_TAG,
    VERDICT_TAG,
    VERSION_TAG,
    Tracking,
)
from skumatch.report.page import DATA_DOCS
from skumatch.retrieval.answers import Share
from skumatch.retrieval.evaluate import Evaluation

ORIGIN = "log/origin"
SHOWN = ("validate", "split", "frozen", "evaluate", "gate", "report")  # whose files MLflow shows
COMPARISON = (
    COMPARED_TAG,
    "skumatch.compared_bundle",
    "skumatch.decision",
)  # of the newest run that judged a version
FIGURES = ("top1", "top3", "top5", "macro_top1")


class Outcome(BaseModel):
    """What the stages made of the data version `data` (its MD5).

    challenger: None in a refresh. refreshed: the champion's encoder on today's gallery; None before the first
    release. answers: candidate -> part of the products -> what it answers as it serves (`answers.shares`).
    """

    model_config = ConfigDict(frozen=True)

    decision: Decision
    challenger: Evaluation | None
    refreshed: Evaluation | None
    answers: dict[str, dict[str, Share]]
    data: str

    @classmethod
    def read(cls, root: Path) -> Outcome:
        answers = root / "out/evaluate/answers.json"
        return cls(
            decision=Decision.model_validate(read_json(root / "out/gate/decision.json")),
            challenger=_evaluation(root, "challenger"),
            refreshed=_evaluation(root, "refreshed"),
            answers=read_json(answers) if answers.is_file() else {},
            data=md5_of((root / "data.dvc").read_text("utf-8")),
        )

    @property
    def released(self) -> Evaluation:
        """The figures of what the decision is about: the refreshed gallery's after `refresh`, else the challenger's."""
        evaluation = (
            self.refreshed if self.decision.verdict == "refresh" else self.challenger or self.refreshed
        )
        assert evaluation, "a run scores a challenger or a champion"
        return evaluation

    @property
    def gallery_release(self) -> bool:
        return self.decision.verdict == "refresh"


def _evaluation(root: Path, candidate: str) -> Evaluation | None:
    path = root / f"out/evaluate/{candidate}.json"
    return Evaluation.model_validate(read_json(path)) if path.is_file() else None


def register(settings: Settings, message: Message) -> dict[str, Any]:
    """Record the run in MLflow; register and promote its bundle if the gate let it pass; return the summary.

    A dry run writes nothing to MLflow. A model that was refused or not better stays a run and is never
    registered. Raises StaleChampion if the champion is no longer the one that was evaluated.
    """
    claim = at_work(settings, run_name(message.run), "register", message.inputs, message.lock)
    with claim, workspace(settings, message, "register") as repository:
        repository.pull(
            *(stage for stage in stages(repository.folder) if stage != "embed"),
            "inputs/weights.dvc",
            "inputs/released.dvc",
            "inputs/trained.dvc",
        )
        outcome = Outcome.read(repository.folder)
        params = load_params(repository.folder / "params.yaml")
        summary = summarise(message, outcome) | {"report": keep_report(settings, message, repository.folder)}
        return (
            summary if message.dry_run else summary | _record(settings, message, params, outcome, repository)
        )


def _record(
    settings: Settings, message: Message, params: Params, outcome: Outcome, repository: Repository
) -> dict[str, Any]:
    root, tracking, registry = (
        repository.folder,
        Tracking(settings.mlflow_url),
        open_registry(settings, params),
    )
    record = lineage_of(message, outcome, repository)
    write_json(root / "log/lineage.json", record)
    write_origin(root, record, settings, params)
    tags = tags_of(message, outcome, read_json(root / "inputs/code.json")) | {
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
    page, version, answer = tracking.run_page(mlflow_run, settings.mlflow_shown), None, dict[str, Any]()
    if outcome.decision.promotable:
        said = f"{outcome.decision.sentence}\n\nReport and figures: [run {message.run}]({page}), artifact `report/report.html`."
        folder = root / ("out/bundle/refreshed" if outcome.gallery_release else "out/bundle/model")
        version = registry.register(
            folder, mlflow_run, tags, said, root / "skumatch", root / "out/report/card.md"
        )
        registry.set_tags(version, {name: tags[name] for name in COMPARISON})
        registry.set_alias(REFRESHED if outcome.gallery_release else CHALLENGER, version)
        answer = _release(registry, message, params, outcome, version)
    # Only now: a run that ended earlier must neither be started from nor make a scheduled one skip.
    tracking.log_run(message.run, {}, {}, {VERSION_TAG: str(version)} if version else {}, {}, "FINISHED")
    aliases = {alias: ref.version for ref in registry.versions() for alias in ref.aliases}
    _tell_lineage(settings, record, outcome, params, version)
    return {"version": version, "aliases": aliases, "waits": False, "mlflow_run": page} | answer


def _release(
    registry: Registry, message: Message, params: Params, outcome: Outcome, version: int
) -> dict[str, Any]:
    """Make the version the champion, unless a person has to approve it.

    Returns: `waits` where a person has to; `judge_again` and `approved_by` where the champion's gallery
        changed meanwhile, so that the encoder has to be judged again on the newest data; another decision
        where a newer gallery stays, or a person rolled back from this one.

    Raises:
        StaleChampion: if the champion has another encoder than the one that was compared with.
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
        if (
            outcome.gallery_release
            and now
            and registry.encoder(now.version) == registry.encoder(message.champion)
        ):
            return _kept(f"a newer gallery, version {now.version}, was released meanwhile, and stays")
        if not gallery_moved(registry, version, message.champion):
            registry.log_run(message.run, {}, {}, {VERSION_TAG: str(version)}, {}, "FAILED")
            raise
        waiting.wait(registry, version, "judgement", approved_by)
        return {"judge_again": version, "approved_by": approved_by}
    return {}


def _serves_already(registry: Registry, message: Message, version: int) -> bool:
    """Whether the version is champion, and another run than this one, which may be taken up again, made it that."""
    champion = registry.champion()
    if champion is None or champion.version != version:
        return False
    return all(
        (entry.asked.version, entry.asked.who) != (version, _by_run(message)) for entry in history(registry)
    )


def _by_run(message: Message) -> str:
    """How the journal names a run that promotes."""
    return f"run {message.run}"


def _kept(why: str) -> dict[str, Any]:
    """What a summary says instead of a release that didn't take place."""
    return {"decision": "keep", "sentence": f"Kept the champion's gallery: {why}.", "unfit": False}


def _approval(registry: Registry, message: Message, outcome: Outcome) -> str:
    """Who approved the encoder that was judged again; empty where nobody did.

    The message is believed only where the journal has that person's promotion, which came too late.
    """
    if outcome.gallery_release or not message.approved_by:
        return ""
    wanted = (message.encoder, message.approved_by)
    late = any((entry.asked.version, entry.asked.who) == wanted for entry in history(registry))
    return message.approved_by if late else ""


def approval_of(params: Params, outcome: Outcome) -> str:
    """Whether a person approves releases of this kind: `none` or `required`."""
    return params.release.approval_refresh if outcome.gallery_release else params.release.approval


def _tell_lineage(
    settings: Settings, record: dict[str, Any], outcome: Outcome, params: Params, version: int | None
) -> None:
    if settings.openlineage_target:
        from skumatch.release import openlineage  # its import takes a moment, and most runs tell nobody

        digest, model = lineage.record_hash(record), params.release.model_name
        told = (
            lineage.Lineage.model_validate(record),
            digest,
            outcome.decision.sentence,
            model,
            version,
            datetime.now(UTC),
        )
        openlineage.emit(openlineage.event(*told), settings.openlineage_target)


def tags_of(message: Message, outcome: Outcome, code: dict[str, Any]) -> dict[str, str]:
    """What MLflow's lists show of the run and of its version: what was found, from what, and which run compared it with which champion."""
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
        "skumatch.commit": str(code["commit"]),
        PLAIN_TAG: str(not message.overrides and code["commit"] is not None and not code["dirty"]).lower(),
        INPUTS_TAG: message.inputs,
    }


def lineage_of(message: Message, outcome: Outcome, repository: Repository) -> dict[str, Any]:
    """The run's lineage record, from what its workspace holds."""
    root = repository.folder
    code, weights_facts = read_json(root / "inputs/code.json"), root / "inputs/weights/weights.json"
    weights = read_json(weights_facts) if weights_facts.is_file() else {"name": lineage.NO_WEIGHTS}
    results, released, trained = root / "out/evaluate", root / "inputs/released", root / "inputs/trained"
    return lineage.lineage(
        run=message.run,
        code=lineage.Code(commit=code["commit"], dirty=code["dirty"], files=code["sha256"]),
        inputs=lineage.Inputs(
            kind=message.kind,
            archive=f"md5:{message.inputs}",
            data=f"md5:{outcome.data}",
            champion=outcome.decision.hashes["champion_bundle"],
            champion_version=message.champion,
            released=bundle_hash(released) if (released / MANIFEST).is_file() else None,
            trained=bundle_hash(trained) if (trained / MANIFEST).is_file() else None,
            weights=str(weights["name"]),
            weights_sha256=weights.get("sha256"),
            params=sha256(root / "params.yaml"),
            overrides=message.overrides,
            environment=sha256(root / "requirements/constraints.txt"),
        ),
        lock=repository.lock,
        results=lineage.Results(
            challenger=sha256(results / "challenger.json") if outcome.challenger else None,
            champion=sha256(results / "refreshed.json") if outcome.refreshed else None,
            answers=sha256(results / "answers.parquet") if outcome.answers else None,
            decision=sha256(root / "out/gate/decision.json"),
            verdict=outcome.decision.verdict,
            bundle=str(outcome.decision.bundle),
        ),
    )


def write_origin(root: Path, record: dict[str, Any], settings: Settings, params: Params) -> None:
    """Lay beside the run's results what others read of its origin: provenance (signed where there is a key), bill of materials."""
    ended = datetime.now(UTC)
    folder = (
        "refreshed"
        if record["results"]["verdict"] == "refresh" or record["results"]["challenger"] is None
        else "model"
    )
    manifest = read_json(root / "out/bundle" / folder / MANIFEST)
    parts = {name: part["sha256"] for name, part in manifest["parts"].items()} | {
        MANIFEST: record["results"]["bundle"]
    }
    told = provenance.statement(record, parts, ended)
    write_json(root / ORIGIN / "provenance.dsse.json", provenance.envelope(told, settings.signing_key_file))
    constraints = (root / "requirements/constraints.txt").read_text("utf-8")
    text = bom.bill(lineage.Lineage.model_validate(record), constraints, params.release.model_name, ended)
    write_text(root / ORIGIN / "bom.cdx.json", text)


def artifacts(root: Path) -> dict[str, Path]:
    """Path in the MLflow run -> file: lock, parameters, lineage, figures, decision, report, origin."""
    found = {
        Path(name).name: root / name
        for name in ("params.yaml", "dvc.lock", "requirements/constraints.txt", "log/lineage.json")
    }
    for stage in SHOWN:
        found |= {
            f"{stage}/{path.name}": path
            for path in sorted((root / "out" / stage).iterdir())
            if path.is_file()
        }
    return found | {f"origin/{path.name}": path for path in sorted((root / ORIGIN).glob("*"))}


def metrics(message: Message, outcome: Outcome, root: Path) -> dict[str, float | list[float]]:
    """The figures MLflow plots: accuracy, each epoch's loss and validation top-1, pace, seconds, vectors.

    `seconds.STAGE` is a stage's own time; `vectors.computed.NAME` and `vectors.known.NAME` count vectors.
    """
    found: dict[str, float | list[float]] = {
        f"seconds.{stage}": seconds for stage, seconds in message.seconds.items()
    }
    for who, evaluation in (("challenger", outcome.challenger), ("refreshed", outcome.refreshed)):
        if evaluation:
            found |= {f"{who}.{name}": getattr(evaluation, name) for name in FIGURES}
    for who, parts in outcome.answers.items():
        for part, share in parts.items():
            found |= {
                f"answers.{who}.{part}.{name}": getattr(share, name) for name in ("right", "wrong", "unknown")
            }
    history = root / "out/train/history.jsonl"
    epochs = (
        [json.loads(line) for line in history.read_text("utf-8").splitlines()] if history.is_file() else []
    )
    found |= {f"train.{name}": value for name, value in message.pace.items()}
    for encoder, counts in message.vectors.items():
        found |= {f"vectors.{kind}.{encoder}": float(count) for kind, count in counts.items()}
    return found | {
        f"train.{name}": [float(epoch.get(name, math.nan)) for epoch in epochs] for name in ("loss", "top1")
    }


def flat(params: Params) -> dict[str, Any]:
    """Parameters as section.name -> value; `runtime` changes no result and stays out."""
    return dict(leaves(params.model_dump(mode="json", by_alias=True, exclude={"runtime"})))


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree of mappings, as section.name and value."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def keep_report(settings: Settings, message: Message, root: Path) -> str:
    """Copy the run's report and, below a folder of the run's, its data docs to this machine's reports.

    Return the report's path.
    """
    folder = reports(settings, message.run)
    docs = folder / "validate" / "docs.html"
    page = (
        (root / "out/report/report.html")
        .read_text("utf-8")
        .replace(f'href="{DATA_DOCS}"', f'href="{docs.relative_to(folder.parent)}"')
    )
    write_text(docs, (root / "out/validate/docs.html").read_text("utf-8"))
    write_text(folder.with_name(f"{folder.name}.html"), page)
    return str(folder.with_name(f"{folder.name}.html"))


def summarise(message: Message, outcome: Outcome) -> dict[str, Any]:
    """What a person wants to know at the end of a run."""
    figures = {
        who: {"top1": e.top1, "top3": e.top3, "top5": e.top5, "interval": list(e.interval.top1), "n": e.n}
        if e
        else None
        for who, e in (("challenger", outcome.challenger), ("refreshed", outcome.refreshed))
    }
    decision = outcome.decision
    return figures | {
        "kind": message.kind,
        "decision": decision.verdict,
        "sentence": decision.sentence,
        "reasons": [
            f"{check.name}: {check.word} ({check.detail})" for check in (*decision.checks, *decision.refresh)
        ],
        "answers": {
            who: {part: share.model_dump() for part, share in parts.items()}
            for who, parts in outcome.answers.items()
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
