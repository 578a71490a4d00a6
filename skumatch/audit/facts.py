"""The facts of each link of the chain: its hash, and a table of facts in words, read from the dossier.

Every public function returns both for one link; the hash is None for a link that has no hash of its own.
A missing or damaged part raises as the dossier's readers do.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.dossier import CHANGES, ORIGIN, RUN, WORKSPACE, Dossier
from skumatch.audit.served import aliases, by_hand
from skumatch.bundle.manifest import GALLERY
from skumatch.data.quarantine import set_aside
from skumatch.files import read_json, sha256
from skumatch.lineage import provenance
from skumatch.lineage.lineage import record_hash
from skumatch.pipeline.data_record import DataChange
from skumatch.registry.registry import CHALLENGER, REFRESHED
from skumatch.registry.tracking import MACHINE_TAG
from skumatch.retrieval.figures import Evaluation
from skumatch.stages import artefacts
from skumatch.stages.artefacts import SplitFacts, ValidationFacts
from skumatch.stages.runner import STAGES
from skumatch.texts import counted, queries_of

SHOWN = 5  # newest changes of the data that are listed
HashAndFacts = tuple[str | None, dict[str, str]]


def journal(dossier: Dossier) -> HashAndFacts:
    """Return the last journal entry's hash, and the times at which the version's aliases changed."""
    entries, registered = dossier.facts.journal, dossier.facts.registered
    facts: dict[str, str] = {}
    for at, event in aliases(entries, registered.version, registered.created, dossier.released):
        when = _when(at)
        facts[when] = f"{facts[when]}; {event}" if when in facts else event
    if moves := by_hand(entries, registered.champion):
        facts["moved by hand"] = "; ".join(moves)
    return (entries[-1].hash if entries and entries[-1].after else None), facts


def version(dossier: Dossier) -> HashAndFacts:
    """Return the lineage record's hash, and the version's name, aliases and registration time."""
    registered = dossier.facts.registered
    facts = {
        "model": f"{registered.model}, version {registered.version}",
        "aliases": ", ".join(registered.aliases) or "none",
        "registered": _when(registered.created),
        "registry": dossier.facts.registry,
    }
    return record_hash(dossier.json(RUN, "lineage.json")), facts


def origin(dossier: Dossier) -> HashAndFacts:
    """Return the hash of the provenance statement's file, and the keys that signed the statement."""
    envelope = dossier.json(RUN, ORIGIN)
    provenance.opened(envelope)
    signers = provenance.signers(envelope)
    facts = {
        "statement": "in-toto v1, SLSA provenance v1",
        "signed": ", ".join(name[:12] for name in signers) or "no",
    }
    return sha256(dossier.path(RUN, ORIGIN)), facts


def bundle(dossier: Dossier) -> HashAndFacts:
    """Return the registered bundle's hash, and each part's hash and size."""
    manifest = dossier.manifest
    parts = {name: f"{part.sha256[:12]}, {part.size / 1e6:,.1f} MB" for name, part in manifest.parts.items()}
    return dossier.facts.registered.bundle, {"format": manifest.format} | parts


def index(dossier: Dossier) -> HashAndFacts:
    """Return the gallery's hash, and its numbers of pictures, SKUs and dimensions."""
    manifest = dossier.manifest
    counts = manifest.counts
    facts = {
        "pictures": f"{counts.gallery:,} of {counted(counts.skus, 'SKU')}",
        "embedding": f"{manifest.dim} numbers",
    }
    return manifest.parts[GALLERY].sha256, facts


def decision(dossier: Dossier) -> HashAndFacts:
    """Return the decision's hash, and the gate's verdict, gain and checks."""
    decided = dossier.decision
    facts = {"verdict": decided.verdict, "in words": decided.sentence}
    if products := decided.products:
        facts["products"] = (
            f"{products.new:,} new, {products.retired:,} retired, {len(products.held):,} held back"
        )
    if gain := decided.gain:
        least = f"at least {100 * gain.lower:+.1f} at {100 * gain.confidence:.1f} %"
        champion = f"over version {dossier.record.inputs.champion_version}, on the same gallery and queries"
        facts["gain"] = f"{100 * gain.estimate:+.1f} points {champion}, {least}"
    checks = [check for check in (*decided.checks, *decided.refresh) if check.status != "not applicable"]
    words = (check.name if check.status == "passed" else f"{check.name} ({check.status})" for check in checks)
    facts["checks"] = ", ".join(words)
    return dossier.record.results.decision, facts


def evaluation(dossier: Dossier) -> HashAndFacts:
    """Return the hash of the version's evaluation, and the figures of each evaluated candidate."""
    results = dossier.record.results
    hashes = {CHALLENGER: results.challenger, REFRESHED: results.champion}
    facts = {
        dossier.file_of(candidate): _figures(dossier.evaluation(RUN, candidate))
        for candidate, digest in hashes.items()
        if digest
    }
    return hashes[dossier.released], facts


def _figures(evaluation: Evaluation) -> str:
    low, high = evaluation.interval.top1
    top1 = f"top-1 {100 * evaluation.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    shares = f"{top1}, top-5 {100 * evaluation.top5:.1f} %"
    scored = f"{queries_of(evaluation.n, evaluation.skus)}, protocol {evaluation.protocol}"
    hashes = (
        f"{name} {evaluation.hashes[name][:6]}"
        for name in ("gallery", "queries")
        if name in evaluation.hashes
    )
    return "; ".join([shares, ", ".join([scored, *hashes])])


def champion(dossier: Dossier) -> HashAndFacts:
    """Return the compared champion's bundle hash, and its version; None if this was the first model."""
    inputs = dossier.record.inputs
    facts = {"version": str(inputs.champion_version) if inputs.champion_version else "none: the first model"}
    return inputs.champion, facts | (
        {"its encoder's first release": f"bundle {inputs.released[:12]}"} if inputs.released else {}
    )


def stages(dossier: Dossier) -> HashAndFacts:
    """Return no hash, and the run's ids, times, stages, training figures and machines."""
    run, record = dossier.facts.run, dossier.record
    seconds = {
        name.removeprefix("seconds."): value
        for name, value in run.metrics.items()
        if name.startswith("seconds.")
    }
    ran = ", ".join(
        f"{name} {seconds[name]:.0f} s" if name in seconds else f"{name} cached" for name in STAGES
    )
    facts = {"DAG run": record.run, "MLflow run": run.id} | _times(dossier) | {"stages": ran}
    more = {"training": _learning(run.metrics), "machines": _machines(dossier)}
    return None, facts | {name: words for name, words in more.items() if words}


def _times(dossier: Dossier) -> dict[str, str]:
    """Return when the run began and ended; where its record doesn't say that, when it was registered."""
    record, run = dossier.record, dossier.facts.run
    if record.started is None:
        return {"registered": f"{_when(run.started)}; its own times are not recorded"}
    return {"from": _when(record.started), "to": _when(record.ended)}


def _learning(metrics: dict[str, float]) -> str:
    figures = [f"loss {metrics['train.loss']:.2f}"] if "train.loss" in metrics else []
    figures += [f"top-1 in validation {100 * metrics['train.top1']:.1f} %"] if "train.top1" in metrics else []
    return f"last epoch: {', '.join(figures)}" if figures else ""


def _machines(dossier: Dossier) -> str:
    tags = dossier.facts.registered.tags
    return "; ".join(
        f"{name.removeprefix(MACHINE_TAG)}: {tags[name]}"
        for name in sorted(tags)
        if name.startswith(MACHINE_TAG)
    )


def input_set(dossier: Dossier) -> HashAndFacts:
    """Return the input set's MD5, and the command that rebuilds the version from it."""
    return dossier.record.inputs.archive.removeprefix("md5:"), {
        "rebuild": f"skumatch reproduce {dossier.facts.registered.version}"
    }


def parameters(dossier: Dossier) -> HashAndFacts:
    """Return the hash of params.yaml, and the main parameters and the overrides."""
    params, inputs = recompute.params(dossier), dossier.record.inputs
    training = f"{counted(params.train.epochs, 'epoch')} of {params.train.batch}, {params.train.loss.kind}"
    facts = {"seed": str(params.seed), "encoder": params.encoder.model, "training": training}
    return inputs.params, facts | {"overrides": ", ".join(inputs.overrides) or "none"}


def environment(dossier: Dossier) -> HashAndFacts:
    """Return the hash of constraints.txt, and the pins of the main packages."""
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    pins = [
        line
        for line in lines
        if line.split("==")[0] in ("torch", "open-clip-torch", "timm", "numpy", "faiss-cpu")
    ]
    return dossier.record.inputs.environment, {"among them": ", ".join(pins)}


def commit(dossier: Dossier) -> HashAndFacts:
    """Return the commit's id, and no facts."""
    return dossier.record.code.commit, {}


def tree(dossier: Dossier) -> HashAndFacts:
    """Return no hash, and `dirty`: yes if the code differed from the commit."""
    return None, {"dirty": "yes" if dossier.record.code.dirty else "no"}


def code(dossier: Dossier) -> HashAndFacts:
    """Return the hash over all code files, and no facts."""
    return dossier.record.code.files, {}


def weights(dossier: Dossier) -> HashAndFacts:
    """Return the base weights' hash, and their name, source and licence."""
    facts = {name: words for name, words in dossier.weights.model_dump(exclude={"sha256"}).items() if words}
    return dossier.record.inputs.weights_sha256, facts


def split(dossier: Dossier) -> HashAndFacts:
    """Return the hash of the split's outs, and the numbers of pictures by role and of duplicates."""
    counts = dossier.read(SplitFacts, "facts of a split", RUN, artefacts.SPLIT.logged())
    roles, copies = ", ".join(f"{count:,} {role}" for role, count in counts.images.items()), counts.duplicates
    words = f"{copies.exact_images:,} of equal pixels, {copies.near_images:,} nearly so"
    return _out(dossier, "split"), {"pictures": roles, "duplicates": words}


def validation(dossier: Dossier) -> HashAndFacts:
    """Return the hash of the validation's outs, and counts of expectations, warnings and pictures."""
    validated = dossier.read(ValidationFacts, "validation", RUN, artefacts.VALIDATION.logged())
    reasons = set_aside([picture.model_dump() for picture in validated.quarantined])
    aside = ", ".join(f"{len(ids):,} {reason}" for reason, ids in reasons.items())
    unmet = sum(not expectation.passed for expectation in validated.expectations)
    met = f"{len(validated.expectations)}, {f'{unmet} not met' if unmet else 'all met'}"
    facts = {"expectations": met, "warnings": str(len(validated.warnings))}
    return _out(dossier, "validate"), facts | {"set aside": aside or "none"}


def manifest(dossier: Dossier) -> HashAndFacts:
    """Return no hash, and the numbers of pictures by side and of SKUs."""
    rows = pq.read_table(
        dossier.path(WORKSPACE, "data/manifest.parquet"), columns=["sku", "side"]
    ).to_pandas()
    sides = ", ".join(f"{count:,} {side}" for side, count in rows["side"].value_counts().items())
    return None, {"pictures": sides, "SKUs": f"{rows['sku'].nunique():,}"}


def data(dossier: Dossier) -> HashAndFacts:
    """Return the data version's hash, and the number and size of its files and its newest changes."""
    root = dossier.there(WORKSPACE, "data")
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    facts = {"files": f"{len(sizes)}, {sum(sizes) / 1e6:,.1f} MB"} | _changes(dossier)
    return dossier.record.inputs.data.removeprefix("md5:"), facts


def _changes(dossier: Dossier) -> dict[str, str]:
    """Return the newest changes that led to the data version, keyed by their time.

    The result is empty for a version from before changes were recorded.
    """
    path = dossier.path(CHANGES)
    changes = [DataChange.model_validate(entry) for entry in read_json(path)] if path.is_file() else []
    lines: dict[str, str] = {}
    for change in changes[:SHOWN]:
        why = f": {change.why}" if change.why else ""
        line, when = f"{change.action} by {change.who}, {change.summary}{why}", _when(change.when)
        lines[when] = f"{lines[when]}; {line}" if when in lines else line
    return lines | ({"earlier": counted(len(changes) - SHOWN, "more change")} if len(changes) > SHOWN else {})


def _out(dossier: Dossier, stage: str) -> str:
    return dossier.record.stages[stage].outs[artefacts.out(stage)].removeprefix("md5:")


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "not told"
