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
from skumatch.release import bom, lineage, provenance
from skumatch.release.bundle import MANIFEST
from skumatch.release.gate import Decision
from skumatch.release.promotion import promote
from skumatch.release.registry import CHALLENGER, COMPARED_TAG, TOP1_TAG
from skumatch.release.tracking import DATA_TAG, MACHINE_TAG, PLAIN_TAG, RUN_TAG, Tracking
from skumatch.report.page import DATA_DOCS
from skumatch.retrieval.evaluate import Evaluation

ORIGIN = "log/origin"
FIGURES = ("top1", "top3", "top5", "macro_top1")


class Outcome(BaseModel):
    """What the stages found: the decision, both evaluations, and the data version they rest on."""

    model_config = ConfigDict(frozen=True)

    decision: Decision
    challenger: Evaluation
    champion: Evaluation | None
    data: str

    @classmethod
    def read(cls, root: Path) -> Outcome:
        champion = root / "out/evaluate/champion.json"
        return cls(
            decision=Decision.model_validate(read_json(root / "out/gate/decision.json")),
            challenger=Evaluation.model_validate(read_json(root / "out/evaluate/challenger.json")),
            champion=Evaluation.model_validate(read_json(champion)) if champion.is_file() else None,
            data=md5_of((root / "data.dvc").read_text("utf-8")),
        )


def register(settings: Settings, message: Message) -> dict[str, Any]:
    """Record the run in MLflow; register and promote its bundle if the gate let it pass; return the summary.

    A dry run writes nothing to MLflow. A model that was refused or not better stays a run and is never registered.
    Raises StaleChampion if the champion is no longer the one that was evaluated.
    """
    claim = at_work(settings, run_name(message.run), "register", message.inputs, message.lock)
    with claim, workspace(settings, message, "register") as repository:
        repository.pull(*(stage for stage in stages(repository.folder) if stage != "embed"), "inputs/weights.dvc")
        outcome = Outcome.read(repository.folder)
        params = load_params(repository.folder / "params.yaml")
        summary = summarise(message, outcome) | {"report": keep_report(settings, message, repository.folder)}
        return summary if message.dry_run else summary | _record(settings, message, params, outcome, repository)


def _record(settings: Settings, message: Message, params: Params, outcome: Outcome, repository: Repository) -> dict[str, Any]:
    root, tracking, registry = repository.folder, Tracking(settings.mlflow_url), open_registry(settings, params)
    record = lineage_of(message, outcome, repository)
    write_json(root / "log/lineage.json", record)
    write_origin(root, record, settings, params)
    tags = tags_of(message, outcome, read_json(root / "inputs/code.json")) | {"skumatch.lineage": lineage.record_hash(record)}
    mlflow_run = tracking.log_run(message.run, flat(params), metrics(message, outcome, root), tags, artifacts(root), "RUNNING")
    tracking.log_data(mlflow_run, outcome.data, settings.remote_url)
    page, version = tracking.run_page(mlflow_run, settings.mlflow_shown), None
    if outcome.decision.promotable:
        said = f"{outcome.decision.sentence}\n\nReport and figures: [run {message.run}]({page}), artifact `report/report.html`."
        version = registry.register(root / "out/bundle/model", mlflow_run, tags, said, root / "skumatch", root / "out/report/card.md")
        registry.set_alias(CHALLENGER, version)
        if params.release.approval == "none":
            try:
                promote(registry, version, message.champion, f"run {message.run}", outcome.decision.sentence)
            except StaleChampion:
                tracking.log_run(message.run, {}, {}, {"skumatch.version": str(version)}, {}, "FAILED")
                raise
    # Only now: a run that ended earlier must neither be started from nor make a scheduled one skip.
    tracking.log_run(message.run, {}, {}, {"skumatch.version": str(version)} if version else {}, {}, "FINISHED")
    aliases = {alias: ref.version for ref in registry.versions() for alias in ref.aliases}
    _tell_lineage(settings, record, outcome, params, version)
    waits = outcome.decision.promotable and params.release.approval == "required"
    return {"version": version, "aliases": aliases, "waits": waits, "mlflow_run": page}


def _tell_lineage(settings: Settings, record: dict[str, Any], outcome: Outcome, params: Params, version: int | None) -> None:
    if settings.openlineage_target:
        from skumatch.release import openlineage  # its import takes a moment, and most runs tell nobody

        digest, model = lineage.record_hash(record), params.release.model_name
        told = lineage.Lineage.model_validate(record), digest, outcome.decision.sentence, model, version, datetime.now(UTC)
        openlineage.emit(openlineage.event(*told), settings.openlineage_target)


def tags_of(message: Message, outcome: Outcome, code: dict[str, Any]) -> dict[str, str]:
    """What MLflow's lists show of the run and of its version: what was found, from what, and which run compared it with which champion."""
    decision = outcome.decision
    return {
        RUN_TAG: message.run,
        DATA_TAG: outcome.data,
        TOP1_TAG: f"{outcome.challenger.top1:.6f}",
        COMPARED_TAG: "none" if message.champion is None else str(message.champion),
        "skumatch.compared_bundle": decision.hashes["champion_bundle"] or "none",
        "skumatch.verdict": decision.verdict,
        "skumatch.decision": decision.sentence,
        "skumatch.commit": str(code["commit"]),
        PLAIN_TAG: str(not message.overrides and code["commit"] is not None and not code["dirty"]).lower(),
        "skumatch.inputs": message.inputs,
    } | {f"{MACHINE_TAG}{stage}": message.machines[stage] for stage in ("train", "embed") if stage in message.machines}


def lineage_of(message: Message, outcome: Outcome, repository: Repository) -> dict[str, Any]:
    """The run's lineage record, from what its workspace holds."""
    root = repository.folder
    code, weights = read_json(root / "inputs/code.json"), read_json(root / "inputs/weights/weights.json")
    evaluations = {who: root / f"out/evaluate/{who}.json" for who in ("challenger", "champion")}
    return lineage.lineage(
        run=message.run,
        code=lineage.Code(commit=code["commit"], dirty=code["dirty"], files=code["sha256"]),
        inputs=lineage.Inputs(
            archive=f"md5:{message.inputs}",
            data=f"md5:{outcome.data}",
            champion=outcome.decision.hashes["champion_bundle"],
            champion_version=message.champion,
            weights=str(weights["name"]),
            weights_sha256=weights.get("sha256"),
            params=sha256(root / "params.yaml"),
            overrides=message.overrides,
            environment=sha256(root / "requirements/constraints.txt"),
        ),
        lock=repository.lock,
        results=lineage.Results(
            challenger=sha256(evaluations["challenger"]),
            champion=sha256(evaluations["champion"]) if outcome.champion else None,
            decision=sha256(root / "out/gate/decision.json"),
            verdict=outcome.decision.verdict,
            bundle=str(outcome.decision.hashes["challenger_bundle"]),
        ),
    )


def write_origin(root: Path, record: dict[str, Any], settings: Settings, params: Params) -> None:
    """Lay beside the run's results what others read of its origin: provenance (signed where there is a key), bill of materials."""
    ended = datetime.now(UTC)
    manifest = read_json(root / "out/bundle/model" / MANIFEST)
    parts = {name: part["sha256"] for name, part in manifest["parts"].items()} | {MANIFEST: record["results"]["bundle"]}
    told = provenance.statement(record, parts, ended)
    write_json(root / ORIGIN / "provenance.dsse.json", provenance.envelope(told, settings.signing_key))
    constraints = (root / "requirements/constraints.txt").read_text("utf-8")
    text = bom.bill(lineage.Lineage.model_validate(record), constraints, params.release.model_name, ended)
    write_text(root / ORIGIN / "bom.cdx.json", text)


def artifacts(root: Path) -> dict[str, Path]:
    """Path in the MLflow run -> file: lock, parameters, lineage, figures, decision, report, origin."""
    found = {Path(name).name: root / name for name in ("params.yaml", "dvc.lock", "requirements/constraints.txt", "log/lineage.json")}
    for stage in ("validate", "split", "frozen", "evaluate", "gate", "report"):
        found |= {f"{stage}/{path.name}": path for path in sorted((root / "out" / stage).iterdir()) if path.is_file()}
    return found | {f"origin/{path.name}": path for path in sorted((root / ORIGIN).glob("*"))}


def metrics(message: Message, outcome: Outcome, root: Path) -> dict[str, float | list[float]]:
    """The figures MLflow plots: both models' accuracy; each epoch's loss and validation top-1; the training's pace; stages' seconds."""
    found: dict[str, float | list[float]] = {f"seconds.{stage}": seconds for stage, seconds in message.seconds.items()}
    for who, evaluation in (("challenger", outcome.challenger), ("champion", outcome.champion)):
        if evaluation:
            found |= {f"{who}.{name}": getattr(evaluation, name) for name in FIGURES}
    history = root / "out/train/history.jsonl"
    epochs = [json.loads(line) for line in history.read_text("utf-8").splitlines()] if history.is_file() else []
    found |= {f"train.{name}": value for name, value in message.pace.items()}
    return found | {f"train.{name}": [float(epoch.get(name, math.nan)) for epoch in epochs] for name in ("loss", "top1")}


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
    """Copy the run's report and, below a folder of the run's, its data docs to this machine's reports; return the report's path."""
    folder = reports(settings, message.run)
    docs = folder / "validate" / "docs.html"
    page = (root / "out/report/report.html").read_text("utf-8").replace(f'href="{DATA_DOCS}"', f'href="{docs.relative_to(folder.parent)}"')
    write_text(docs, (root / "out/validate/docs.html").read_text("utf-8"))
    write_text(folder.with_name(f"{folder.name}.html"), page)
    return str(folder.with_name(f"{folder.name}.html"))


def summarise(message: Message, outcome: Outcome) -> dict[str, Any]:
    """What a person wants to know at the end of a run."""
    figures = {
        who: {"top1": e.top1, "top3": e.top3, "top5": e.top5, "interval": list(e.interval.top1), "n": e.n} if e else None
        for who, e in (("challenger", outcome.challenger), ("champion", outcome.champion))
    }
    decision = outcome.decision
    return figures | {
        "decision": decision.verdict,
        "sentence": decision.sentence,
        "reasons": [f"{check.name}: {check.word} ({check.detail})" for check in decision.checks],
        "version": None,
        "aliases": {},
        "waits": False,
        "mlflow_run": None,
        "seconds": message.seconds,
        "cached": list(message.cached),
        "dry_run": message.dry_run,
    }
