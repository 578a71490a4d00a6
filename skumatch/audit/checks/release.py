"""Checks of the release's links: promotions, version, statement, bundle, decision and figures.

Every public function checks one link against the dossier. It returns a sentence about a link that holds, and
raises Broken, Unchecked or a reader's error otherwise.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.checks.proof import copies, must, same, short
from skumatch.audit.dossier import BUNDLE, ORIGIN, RUN, WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.bundle import MANIFEST, bundle_hash, verify_bundle
from skumatch.bundle.manifest import GALLERY
from skumatch.files import sha256
from skumatch.lineage import provenance
from skumatch.lineage.lineage import record_hash
from skumatch.registry.gate_figures import FIGURES_TAG, read_figures
from skumatch.registry.journal import faults, hand_moves, number_of
from skumatch.registry.registry import CHALLENGER, REFRESHED, TOP1_TAG
from skumatch.registry.tracking import RUN_TAG
from skumatch.retrieval.figures import Evaluation
from skumatch.stages import artefacts
from skumatch.texts import counted


def journal(dossier: Dossier) -> str:
    """Check the hash chain of promotions, its head in a version's tag, and the champion at its end."""
    entries, registered, heads = dossier.facts.journal, dossier.facts.registered, dossier.facts.heads
    problems = faults(entries, heads, registered.champion)
    must(not problems, " ".join(problems))
    closed = [entry for entry in entries if entry.after]
    named = max(map(number_of, heads.values()), default=0)
    if named < len(closed):
        chain = f"the chain of {counted(len(entries), 'entry', 'entries')} holds"
        raise Unchecked(f"{chain}, but no version's tag names the last: its head is not recorded")
    explained = [move.sentence for move in hand_moves(entries) if move.acknowledged]
    return "; ".join([f"entries in the chain: {len(entries)}", *explained])


def version(dossier: Dossier) -> str:
    """Check that the version names its run's lineage record, and the record names the version's bundle."""
    registered, record = dossier.facts.registered, dossier.record
    recorded = registered.tags.get("skumatch.lineage")
    computed = record_hash(dossier.json(RUN, "lineage.json"))
    must(
        recorded == computed,
        f"the version names lineage record {short(recorded)}, the run's is {short(computed)}",
    )
    must(
        record.results.bundle == registered.bundle, f"the record is of bundle {short(record.results.bundle)}"
    )
    must(record.run == registered.tags.get(RUN_TAG), f"the record is of run {record.run}")
    must(
        record.results.verdict == registered.tags.get("skumatch.verdict"),
        f"the record says {record.results.verdict}",
    )
    return f"lineage record {short(computed)} of run {record.run}"


def origin(dossier: Dossier) -> str:
    """Check that the provenance statement agrees with the record, about the bundle's parts.

    With a key in the dossier, check the statement's signature as well.
    """
    # A missing statement is broken even if its store was away: a given key asks for a signature.
    if dossier.key and not dossier.path(RUN, ORIGIN).is_file():
        raise Broken(f"there is no statement that {dossier.key.name} could have signed")
    envelope, record = dossier.json(RUN, ORIGIN), dossier.json(RUN, "lineage.json")
    statement = provenance.opened(envelope)
    parts = {name: part.sha256 for name, part in dossier.manifest.parts.items()}
    parts[MANIFEST] = dossier.facts.registered.bundle
    ended = _finished(statement)
    difference = "the statement is of another bundle or other inputs than the record"
    must(statement == provenance.statement(record, parts, ended), difference)
    signers = provenance.signers(envelope)
    if dossier.key:
        must(
            provenance.signed_by(envelope, dossier.key),
            f"it isn't signed with {dossier.key.name}" if signers else "it is unsigned",
        )
        return f"signed with {dossier.key.name}"
    if signers:
        raise Unchecked(f"it is signed ({signers[0][:12]}); give the public key to check that (--key)")
    return "says what the record says; unsigned"


def _finished(statement: dict[str, Any]) -> datetime:
    try:
        text = statement["predicate"]["runDetails"]["metadata"]["finishedOn"]
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError) as error:
        raise Broken("the statement doesn't say when the run ended, as each of ours does") from error


def bundle(dossier: Dossier) -> str:
    """Check the hashes of the bundle and its parts.

    The registered bundle must be the one that the run made and that the gate decided on.
    """
    registered = dossier.facts.registered.bundle
    manifest = verify_bundle(dossier.there(BUNDLE), registered)
    decided = dossier.decision.bundle
    must(
        decided == registered,
        f"the gate decided on bundle {short(decided)}, registered is {short(registered)}",
    )
    made = bundle_hash(dossier.there(WORKSPACE, dossier.made_bundle))
    must(made == registered, f"the run made bundle {short(made)}, registered is {short(registered)}")
    return counted(len(manifest.parts), "part")


def index(dossier: Dossier) -> str:
    """Check that the bundle's gallery is the one that the run's stages made."""
    bundle_now, registered = bundle_hash(dossier.there(BUNDLE)), dossier.facts.registered.bundle
    must(
        bundle_now == registered,
        f"the gallery's bundle is {short(bundle_now)}, registered is {short(registered)}",
    )
    named = dossier.manifest.parts[GALLERY].sha256
    actual = sha256(dossier.path(BUNDLE, GALLERY))
    must(actual == named, f"the gallery is {short(actual)}, the bundle names {short(named)}")
    made = sha256(dossier.path(WORKSPACE, dossier.made_bundle, GALLERY))
    must(made == actual, f"the run made the gallery {short(made)}, this one is {short(actual)}")
    return counted(pq.read_metadata(dossier.path(BUNDLE, GALLERY)).num_rows, "vector")


def decision(dossier: Dossier) -> str:
    """Check the decision's hash, and that the gate decides the same again from the evaluations."""
    same(dossier, dossier.record.results.decision, artefacts.DECISION.logged())
    copies(dossier, "gate")
    recompute.stage(dossier, "gate")
    return f"decided again: {dossier.record.results.verdict}"


def evaluation(dossier: Dossier) -> str:
    """Check the evaluations' hashes, and recompute their figures, which MLflow must show."""
    results = dossier.record.results
    for candidate, digest in ((CHALLENGER, results.challenger), (REFRESHED, results.champion)):
        if digest:
            stem = dossier.file_of(candidate)
            same(dossier, digest, artefacts.EVALUATION.logged(candidate=stem))
            recompute.figures(dossier, candidate)
            _shown(dossier, candidate)
    if results.answers:
        same(dossier, results.answers, artefacts.ANSWERS.logged())
        recompute.answers(dossier)
    copies(dossier, "evaluate")
    return "figures follow from the ranked lists"


def _shown(dossier: Dossier, candidate: str) -> None:
    """Check that MLflow's metrics and the version's tag show the figures of a candidate's evaluation."""
    evaluated = dossier.evaluation(f"{WORKSPACE}/out", candidate)
    metrics, prefix = dossier.facts.run.metrics, dossier.file_of(candidate)
    must(f"{prefix}.top1" in metrics, f"MLflow shows no top-1 of the {prefix}")
    for name, value in metrics.items():
        model, _, figure = name.partition(".")
        expected = getattr(evaluated, figure, None) if figure in Evaluation.model_fields else None
        same_value = model != prefix or expected == value
        must(same_value, f"MLflow shows {name} {value}, the evaluation says {expected}")
    tag = dossier.facts.registered.tags.get(TOP1_TAG)
    named = candidate != dossier.released or tag == f"{evaluated.top1:.6f}"
    must(named, f"the version names top-1 {tag}, the evaluation says {evaluated.top1}")
    if candidate == dossier.released:
        _figures_named(dossier, evaluated)


def _figures_named(dossier: Dossier, evaluated: Evaluation) -> None:
    """Check the version's tag of figures against its evaluation and the gate's gain.

    Versions from before the tag have none, and a later run that judged the bundle again replaces it.
    """
    tags, decided = dossier.facts.registered.tags, dossier.decision
    if FIGURES_TAG not in tags or tags.get("skumatch.decision") != decided.sentence:
        return
    figures, lower = read_figures(tags[FIGURES_TAG]), decided.gain.lower if decided.gain else None
    hashes = evaluated.hashes.get("gallery", ""), evaluated.hashes.get("queries", "")
    must(
        figures is not None
        and (figures.top1, (figures.low, figures.high)) == (evaluated.top1, evaluated.interval.top1)
        and (figures.gallery, figures.queries) == hashes
        and (decided.verdict != "promote" or (figures.gain and figures.gain.lower) == lower),
        f"the version's tag {FIGURES_TAG} isn't what the gate measured",
    )


def champion(dossier: Dossier) -> str:
    """Check that the run compared with the recorded champion."""
    recorded_champion = dossier.record.inputs.champion
    folder = dossier.there(WORKSPACE, artefacts.CHAMPION.path)
    if recorded_champion is None:
        must((folder / artefacts.ABSENT).is_file(), "the run had a champion's bundle, the record knows none")
        return "there was none"
    actual = bundle_hash(folder)
    must(
        actual == recorded_champion,
        f"the run compared with bundle {short(actual)}, the record names {short(recorded_champion)}",
    )
    for name, artefact in (("released", artefacts.RELEASED), ("trained", artefacts.TRAINED)):
        recorded = getattr(dossier.record.inputs, name)
        if recorded:
            present = bundle_hash(dossier.there(WORKSPACE, artefact.path))
            must(
                present == recorded,
                f"{artefact.path} is bundle {short(present)}, the record names {short(recorded)}",
            )
    verify_bundle(folder, recorded_champion)
    return f"version {dossier.record.inputs.champion_version}"
