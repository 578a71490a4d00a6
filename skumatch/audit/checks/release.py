"""The checks of what the registry serves: promotions, version, statement, bundle, decision and figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.checks.proof import copies, must, same, short
from skumatch.audit.dossier import BUNDLE, ORIGIN, RUN, WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import sha256
from skumatch.release import provenance
from skumatch.release.bundle import MANIFEST, bundle_hash, verify_bundle
from skumatch.release.bundle.manifest import GALLERY
from skumatch.release.journal import breaks, number_of, unheaded
from skumatch.release.lineage import record_hash
from skumatch.release.registry import CHALLENGER, REFRESHED, TOP1_TAG
from skumatch.release.tracking import RUN_TAG
from skumatch.retrieval.figures import Evaluation


def journal(dossier: Dossier) -> str:
    """Every promotion is chained to the one before, the last one to a version's tag, and the champion is the one that it made."""
    entries, registered, heads = dossier.facts.journal, dossier.facts.registered, dossier.facts.heads
    found = [*breaks(entries), *unheaded(entries, heads)]
    must(not found, " ".join(found))
    closed = [entry.after for entry in entries if entry.after]
    last = closed[-1].champion if closed else None
    must(
        last == registered.champion,
        f"the journal ends with champion {last}, the registry says {registered.champion}",
    )
    named = max(map(number_of, heads.values()), default=0)
    if named < len(closed):
        raise Unchecked(
            f"the chain of {len(entries)} entries holds, but no version's tag names the last: its head is not recorded"
        )
    return f"entries in the chain: {len(entries)}"


def version(dossier: Dossier) -> str:
    """The version names the hash of its run's lineage record, and the record this version's bundle."""
    registered, record = dossier.facts.registered, dossier.record
    told = registered.tags.get("skumatch.lineage")
    found = record_hash(dossier.json(RUN, "lineage.json"))
    must(told == found, f"the version names lineage record {short(told)}, the run's is {short(found)}")
    must(
        record.results.bundle == registered.bundle, f"the record is of bundle {short(record.results.bundle)}"
    )
    must(record.run == registered.tags.get(RUN_TAG), f"the record is of run {record.run}")
    must(
        record.results.verdict == registered.tags.get("skumatch.verdict"),
        f"the record says {record.results.verdict}",
    )
    return f"lineage record {short(found)} of run {record.run}"


def origin(dossier: Dossier) -> str:
    """The provenance statement says what the record says, of this bundle's parts.

    And it is signed, where a key is given.
    """
    if (
        dossier.key and not dossier.path(RUN, ORIGIN).is_file()
    ):  # even where a store was away: whoever gives a key wants a signature
        raise Broken(f"there is no statement that {dossier.key.name} could have signed")
    found, record = dossier.json(RUN, ORIGIN), dossier.json(RUN, "lineage.json")
    told = provenance.opened(found)
    parts = {name: part.sha256 for name, part in dossier.manifest.parts.items()}
    parts[MANIFEST] = dossier.facts.registered.bundle
    ended = _finished(told)
    must(
        told == provenance.statement(record, parts, ended),
        "the statement is of another bundle or other inputs than the record",
    )
    names = provenance.signers(found)
    if dossier.key:
        must(
            provenance.signed_by(found, dossier.key),
            f"it isn't signed with {dossier.key.name}" if names else "it is unsigned",
        )
        return f"signed with {dossier.key.name}"
    if names:
        raise Unchecked(f"it is signed ({names[0][:12]}); give the public key to check that (--key)")
    return "says what the record says; unsigned"


def _finished(told: dict[str, Any]) -> datetime:
    try:
        text = told["predicate"]["runDetails"]["metadata"]["finishedOn"]
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError) as error:
        raise Broken("the statement doesn't say when the run ended, as each of ours does") from error


def bundle(dossier: Dossier) -> str:
    """Every part of the bundle has its hash, and the bundle the hash it was registered with, which the run made and the gate let pass."""
    registered = dossier.facts.registered.bundle
    manifest = verify_bundle(dossier.there(BUNDLE), registered)
    decided = dossier.decision.bundle
    must(
        decided == registered,
        f"the gate decided on bundle {short(decided)}, registered is {short(registered)}",
    )
    made = bundle_hash(dossier.there(WORKSPACE, dossier.made_bundle))
    must(made == registered, f"the run made bundle {short(made)}, registered is {short(registered)}")
    return f"{len(manifest.parts)} parts"


def index(dossier: Dossier) -> str:
    """The gallery that is searched is the one the run's stages made."""
    own, registered = bundle_hash(dossier.there(BUNDLE)), dossier.facts.registered.bundle
    must(own == registered, f"the gallery's bundle is {short(own)}, registered is {short(registered)}")
    told = dossier.manifest.parts[GALLERY].sha256
    found = sha256(dossier.path(BUNDLE, GALLERY))
    must(found == told, f"the gallery is {short(found)}, the bundle names {short(told)}")
    made = sha256(dossier.path(WORKSPACE, dossier.made_bundle, GALLERY))
    must(made == found, f"the run made the gallery {short(made)}, this one is {short(found)}")
    return f"{pq.read_metadata(dossier.path(BUNDLE, GALLERY)).num_rows:,} vectors"


def decision(dossier: Dossier) -> str:
    """The decision is the recorded one, and the gate decides so again from both evaluations."""
    same(dossier, dossier.record.results.decision, "gate/decision.json", "out/gate/decision.json")
    copies(dossier, "gate")
    recompute.stage(dossier, "gate")
    return f"decided again: {dossier.record.results.verdict}"


def evaluation(dossier: Dossier) -> str:
    """The evaluations are the recorded ones, their figures follow from the ranked lists, and MLflow shows these figures."""
    results = dossier.record.results
    for candidate, told in ((CHALLENGER, results.challenger), (REFRESHED, results.champion)):
        if told:
            who = dossier.file_of(candidate)
            same(dossier, told, f"evaluate/{who}.json", f"out/evaluate/{who}.json")
            recompute.figures(dossier, candidate)
            _shown(dossier, candidate)
    if results.answers:
        same(dossier, results.answers, "evaluate/answers.parquet", "out/evaluate/answers.parquet")
        recompute.answers(dossier)
    copies(dossier, "evaluate")
    return "figures follow from the ranked lists"


def _shown(dossier: Dossier, candidate: str) -> None:
    told, shown, who = (
        dossier.evaluation(f"{WORKSPACE}/out", candidate),
        dossier.facts.run.metrics,
        dossier.file_of(candidate),
    )
    must(f"{who}.top1" in shown, f"MLflow shows no top-1 of the {who}")
    for name, value in shown.items():
        model, _, figure = name.partition(".")
        is_told = getattr(told, figure, None) if figure in Evaluation.model_fields else None
        must(model != who or is_told == value, f"MLflow shows {name} {value}, the evaluation says {is_told}")
    tag = dossier.facts.registered.tags.get(TOP1_TAG)
    named = candidate != dossier.released or tag == f"{told.top1:.6f}"
    must(named, f"the version names top-1 {tag}, the evaluation says {told.top1}")


def champion(dossier: Dossier) -> str:
    """The champion it was compared with is the one recorded."""
    told, folder = dossier.record.inputs.champion, dossier.there(WORKSPACE, "inputs/champion")
    if told is None:
        must((folder / "none.json").is_file(), "the run had a champion's bundle, the record knows none")
        return "there was none"
    found = bundle_hash(folder)
    must(found == told, f"the run compared with bundle {short(found)}, the record names {short(told)}")
    for name in ("released", "trained"):
        recorded = getattr(dossier.record.inputs, name)
        if recorded:
            present = bundle_hash(dossier.there(WORKSPACE, f"inputs/{name}"))
            must(
                present == recorded,
                f"inputs/{name} is bundle {short(present)}, the record names {short(recorded)}",
            )
    verify_bundle(folder, told)
    return f"version {dossier.record.inputs.champion_version}"
