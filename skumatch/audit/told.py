"""What an auditor reads of each link: its hash, and its facts in words, as the dossier has them."""

from __future__ import annotations

from datetime import datetime

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.dossier import CHANGES, ORIGIN, RUN, WORKSPACE, Dossier, SplitFacts, ValidationFacts
from skumatch.audit.served import aliases
from skumatch.data.quarantine import set_aside
from skumatch.files import read_json, sha256
from skumatch.pipeline.data_record import DataChange
from skumatch.release import provenance
from skumatch.release.bundle.manifest import GALLERY
from skumatch.release.lineage import record_hash
from skumatch.release.registry import CHALLENGER, REFRESHED
from skumatch.release.tracking import MACHINE_TAG
from skumatch.retrieval.figures import Evaluation
from skumatch.stages.runner import STAGES

SHOWN = 5  # changes of the data
Told = tuple[str | None, dict[str, str]]


def journal(dossier: Dossier) -> Told:
    entries, ours = dossier.facts.journal, dossier.facts.registered.version
    said: dict[str, str] = {}
    for at, what in aliases(entries, ours, dossier.facts.registered.created, dossier.released):
        when = _when(at)
        said[when] = f"{said[when]}; {what}" if when in said else what
    return (entries[-1].hash if entries and entries[-1].after else None), said


def version(dossier: Dossier) -> Told:
    registered = dossier.facts.registered
    said = {
        "model": f"{registered.model}, version {registered.version}",
        "aliases": ", ".join(registered.aliases) or "none",
        "registered": _when(registered.created),
        "registry": dossier.facts.registry,
    }
    return record_hash(dossier.json(RUN, "lineage.json")), said


def origin(dossier: Dossier) -> Told:
    found = dossier.json(RUN, ORIGIN)
    provenance.opened(found)
    names = provenance.signers(found)
    said = {
        "statement": "in-toto v1, SLSA provenance v1",
        "signed": ", ".join(name[:12] for name in names) or "no",
    }
    return sha256(dossier.path(RUN, ORIGIN)), said


def bundle(dossier: Dossier) -> Told:
    manifest = dossier.manifest
    parts = {name: f"{part.sha256[:12]}, {part.size / 1e6:,.1f} MB" for name, part in manifest.parts.items()}
    return dossier.facts.registered.bundle, {"format": manifest.format} | parts


def index(dossier: Dossier) -> Told:
    manifest = dossier.manifest
    counts = manifest.counts
    said = {"pictures": f"{counts.gallery:,} of {counts.skus:,} SKUs", "embedding": f"{manifest.dim} numbers"}
    return manifest.parts[GALLERY].sha256, said


def decision(dossier: Dossier) -> Told:
    decided = dossier.decision
    said = {"verdict": decided.verdict, "in words": decided.sentence}
    if products := decided.products:
        said["products"] = (
            f"{products.new:,} new, {products.retired:,} retired, {len(products.held):,} held back"
        )
    if gain := decided.gain:
        least = f"at least {100 * gain.lower:+.1f} at {100 * gain.confidence:.1f} %"
        said["gain"] = f"{100 * gain.estimate:+.1f} points, {least}"
    checks = [check for check in (*decided.checks, *decided.refresh) if check.status != "not applicable"]
    words = (check.name if check.status == "passed" else f"{check.name} ({check.status})" for check in checks)
    said["checks"] = ", ".join(words)
    return dossier.record.results.decision, said


def evaluation(dossier: Dossier) -> Told:
    results = dossier.record.results
    hashes = {CHALLENGER: results.challenger, REFRESHED: results.champion}
    said = {
        dossier.file_of(who): _figures(dossier.evaluation(RUN, who))
        for who, digest in hashes.items()
        if digest
    }
    return hashes[dossier.released], said


def _figures(evaluation: Evaluation) -> str:
    low, high = evaluation.interval.top1
    top1 = f"top-1 {100 * evaluation.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    shares = f"{top1}, top-5 {100 * evaluation.top5:.1f} %"
    return f"{shares}; {evaluation.n:,} queries of {evaluation.skus:,} SKUs, protocol {evaluation.protocol}"


def champion(dossier: Dossier) -> Told:
    inputs = dossier.record.inputs
    said = {"version": str(inputs.champion_version) if inputs.champion_version else "none: the first model"}
    return inputs.champion, said | (
        {"its encoder's first release": f"bundle {inputs.released[:12]}"} if inputs.released else {}
    )


def stages(dossier: Dossier) -> Told:
    run, record = dossier.facts.run, dossier.record
    took = {
        name.removeprefix("seconds."): value
        for name, value in run.metrics.items()
        if name.startswith("seconds.")
    }
    ran = ", ".join(f"{name} {took[name]:.0f} s" if name in took else f"{name} cached" for name in STAGES)
    said = {
        "DAG run": record.run,
        "MLflow run": run.id,
        "from": _when(run.started),
        "to": _when(run.ended),
        "stages": ran,
    }
    more = {"training": _learning(run.metrics), "machines": _machines(dossier)}
    return None, said | {name: words for name, words in more.items() if words}


def _learning(metrics: dict[str, float]) -> str:
    found = [f"loss {metrics['train.loss']:.2f}"] if "train.loss" in metrics else []
    found += [f"top-1 in validation {100 * metrics['train.top1']:.1f} %"] if "train.top1" in metrics else []
    return f"last epoch: {', '.join(found)}" if found else ""


def _machines(dossier: Dossier) -> str:
    tags = dossier.facts.registered.tags
    return "; ".join(
        f"{name.removeprefix(MACHINE_TAG)}: {tags[name]}"
        for name in sorted(tags)
        if name.startswith(MACHINE_TAG)
    )


def input_set(dossier: Dossier) -> Told:
    return dossier.record.inputs.archive.removeprefix("md5:"), {
        "rebuild": f"skumatch reproduce {dossier.facts.registered.version}"
    }


def parameters(dossier: Dossier) -> Told:
    params, inputs = recompute.params(dossier), dossier.record.inputs
    learnt = f"{params.train.epochs} epochs of {params.train.batch}, {params.train.loss.kind}"
    said = {"seed": str(params.seed), "encoder": params.encoder.model, "training": learnt}
    return inputs.params, said | {"overrides": ", ".join(inputs.overrides) or "none"}


def environment(dossier: Dossier) -> Told:
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    named = [
        line
        for line in lines
        if line.split("==")[0] in ("torch", "open-clip-torch", "timm", "numpy", "faiss-cpu")
    ]
    return dossier.record.inputs.environment, {"among them": ", ".join(named)}


def commit(dossier: Dossier) -> Told:
    return dossier.record.code.commit, {}


def tree(dossier: Dossier) -> Told:
    return None, {"dirty": "yes" if dossier.record.code.dirty else "no"}


def code(dossier: Dossier) -> Told:
    return dossier.record.code.files, {}


def weights(dossier: Dossier) -> Told:
    said = {name: words for name, words in dossier.weights.model_dump().items() if words}
    return dossier.record.inputs.weights_sha256, said


def split(dossier: Dossier) -> Told:
    facts = dossier.read(SplitFacts, "facts of a split", RUN, "split/split.json")
    roles, copies = ", ".join(f"{count:,} {role}" for role, count in facts.images.items()), facts.duplicates
    words = f"{copies.exact_images:,} of equal pixels, {copies.near_images:,} nearly so"
    return _out(dossier, "split"), {"pictures": roles, "duplicates": words}


def validation(dossier: Dossier) -> Told:
    facts = dossier.read(ValidationFacts, "validation", RUN, "validate/validation.json")
    reasons = set_aside([picture.model_dump() for picture in facts.quarantined])
    aside = ", ".join(f"{len(ids):,} {reason}" for reason, ids in reasons.items())
    missed = sum(not expectation.passed for expectation in facts.expectations)
    met = f"{len(facts.expectations)}, {f'{missed} not met' if missed else 'all met'}"
    said = {"expectations": met, "warnings": str(len(facts.warnings))}
    return _out(dossier, "validate"), said | {"set aside": aside or "none"}


def manifest(dossier: Dossier) -> Told:
    table = pq.read_table(
        dossier.path(WORKSPACE, "data/manifest.parquet"), columns=["sku", "side"]
    ).to_pandas()
    sides = ", ".join(f"{count:,} {side}" for side, count in table["side"].value_counts().items())
    return None, {"pictures": sides, "SKUs": f"{table['sku'].nunique():,}"}


def data(dossier: Dossier) -> Told:
    root = dossier.there(WORKSPACE, "data")
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    said = {"files": f"{len(sizes)}, {sum(sizes) / 1e6:,.1f} MB"} | _changes(dossier)
    return dossier.record.inputs.data.removeprefix("md5:"), said


def _changes(dossier: Dossier) -> dict[str, str]:
    """The newest changes that led to the data version, by their time.

    None for a version of before there was a record.
    """
    path = dossier.path(CHANGES)
    changes = [DataChange.model_validate(entry) for entry in read_json(path)] if path.is_file() else []
    lines: dict[str, str] = {}
    for change in changes[:SHOWN]:
        why = f": {change.why}" if change.why else ""
        line, when = f"{change.action} by {change.who}, {change.summary}{why}", _when(change.when)
        lines[when] = f"{lines[when]}; {line}" if when in lines else line
    return lines | ({"earlier": f"{len(changes) - SHOWN:,} more changes"} if len(changes) > SHOWN else {})


def _out(dossier: Dossier, stage: str) -> str:
    return dossier.record.stages[stage].outs[f"out/{stage}"].removeprefix("md5:")


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "not told"
