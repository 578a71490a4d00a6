"""What an audit looks at, link by link, from the promotion back to the pictures; each check is a function of the dossier alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.dossier import BUNDLE, GIT, LISTING, ORIGIN, RUN, WORKSPACE, Dossier
from skumatch.audit.git_proof import blob_id, committed_files
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import md5, sha256
from skumatch.pipeline import inputs
from skumatch.release import provenance
from skumatch.release.bundle import MANIFEST, bundle_hash, verify_bundle
from skumatch.release.bundle.manifest import GALLERY
from skumatch.release.journal import breaks, number_of, unheaded
from skumatch.release.lineage import record_hash, stages_of
from skumatch.release.tracking import DATA_TAG, RUN_TAG

Check = Callable[[Dossier], str]


def journal(dossier: Dossier) -> str:
    """Every promotion is chained to the one before, the last one to a version's tag, and the champion is the one that it made."""
    entries, registered, heads = dossier.facts.journal, dossier.facts.registered, dossier.facts.heads
    found = [*breaks(entries), *unheaded(entries, heads)]
    _must(not found, " ".join(found))
    closed = [entry.after for entry in entries if entry.after]
    last = closed[-1].champion if closed else None
    _must(last == registered.champion, f"the journal ends with champion {last}, the registry says {registered.champion}")
    named = max(map(number_of, heads.values()), default=0)
    if named < len(closed):
        raise Unchecked(f"the chain of {len(entries)} entries holds, but no version's tag names the last: its head is not recorded")
    return f"entries in the chain: {len(entries)}"


def version(dossier: Dossier) -> str:
    """The version names the hash of its run's lineage record, and the record this version's bundle."""
    registered, record = dossier.facts.registered, dossier.record
    told = registered.tags.get("skumatch.lineage")
    found = record_hash(dossier.json(RUN, "lineage.json"))
    _must(told == found, f"the version names lineage record {_short(told)}, the run's is {_short(found)}")
    _must(record.results.bundle == registered.bundle, f"the record is of bundle {_short(record.results.bundle)}")
    _must(record.run == registered.tags.get(RUN_TAG), f"the record is of run {record.run}")
    _must(record.results.verdict == registered.tags.get("skumatch.verdict"), f"the record says {record.results.verdict}")
    return f"lineage record {_short(found)} of run {record.run}"


def origin(dossier: Dossier) -> str:
    """The provenance statement says what the record says, of this bundle's parts; and it is signed, where a key is given."""
    if dossier.key and not dossier.path(RUN, ORIGIN).is_file():  # even where a store was away: whoever gives a key wants a signature
        raise Broken(f"there is no statement that {dossier.key.name} could have signed")
    found, record = dossier.json(RUN, ORIGIN), dossier.json(RUN, "lineage.json")
    told = provenance.opened(found)
    manifest = dossier.json(BUNDLE, MANIFEST)
    parts = {name: part["sha256"] for name, part in manifest["parts"].items()} | {MANIFEST: dossier.facts.registered.bundle}
    ended = _finished(told)
    _must(told == provenance.statement(record, parts, ended), "the statement is of another bundle or other inputs than the record")
    names = provenance.signers(found)
    if dossier.key:
        _must(provenance.signed_by(found, dossier.key), f"it isn't signed with {dossier.key.name}" if names else "it is unsigned")
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
    decided = dossier.json(RUN, "gate/decision.json")["hashes"]["challenger_bundle"]
    _must(decided == registered, f"the gate decided on bundle {_short(decided)}, registered is {_short(registered)}")
    made = bundle_hash(dossier.there(WORKSPACE, "out/bundle/model"))
    _must(made == registered, f"the run made bundle {_short(made)}, registered is {_short(registered)}")
    return f"{len(manifest.parts)} parts"


def index(dossier: Dossier) -> str:
    """The gallery that is searched is the one the run's stages made."""
    told = dossier.json(BUNDLE, MANIFEST)["parts"][GALLERY]["sha256"]
    found = sha256(dossier.path(BUNDLE, GALLERY))
    _must(found == told, f"the gallery is {_short(found)}, the bundle names {_short(told)}")
    made = sha256(dossier.path(WORKSPACE, "out/bundle/model", GALLERY))
    _must(made == found, f"the run made the gallery {_short(made)}, this one is {_short(found)}")
    return f"{pq.read_metadata(dossier.path(BUNDLE, GALLERY)).num_rows:,} vectors"


def decision(dossier: Dossier) -> str:
    """The decision is the recorded one, and the gate decides so again from both evaluations."""
    _same_file(dossier, "gate/decision.json", dossier.record.results.decision)
    _copies(dossier, "gate")
    recompute.stage(dossier, "gate")
    return f"decided again: {dossier.record.results.verdict}"


def evaluation(dossier: Dossier) -> str:
    """Both evaluations are the recorded ones, and their figures follow from the ranked lists."""
    results = dossier.record.results
    for who, told in (("challenger", results.challenger), ("champion", results.champion)):
        if told:
            _same_file(dossier, f"evaluate/{who}.json", told)
            recompute.figures(dossier, who)
    _copies(dossier, "evaluate")
    return "figures follow from the ranked lists"


def champion(dossier: Dossier) -> str:
    """The champion it was compared with is the one recorded."""
    told, folder = dossier.record.inputs.champion, dossier.there(WORKSPACE, "inputs/champion")
    if told is None:
        _must((folder / "none.json").is_file(), "the run had a champion's bundle, the record knows none")
        return "there was none"
    found = bundle_hash(folder)
    _must(found == told, f"the run compared with bundle {_short(found)}, the record names {_short(told)}")
    return f"version {dossier.record.inputs.champion_version}"


def stages(dossier: Dossier) -> str:
    """The run's lock is the recorded one, and what a stage read is what the stage before it wrote."""
    path = dossier.path(RUN, "dvc.lock")
    found, told = stages_of(path.read_text("utf-8")), dossier.record.stages
    differing = sorted(name for name in found.keys() | told.keys() if found.get(name) != told.get(name))
    _must(not differing, f"stage {', '.join(differing)} of dvc.lock isn't as recorded")
    made = {path: digest for stage in told.values() for path, digest in stage.outs.items()}
    for name, stage in told.items():
        for path_, digest in stage.deps.items():
            _must(made.get(path_, digest) == digest, f"stage {name} read another {path_} than was made")
    changed = recompute.changed(dossier, made)
    _must(not changed, f"{', '.join(changed)} isn't what the stage wrote")
    _copies(dossier, *told)
    read = {path: digest for stage in told.values() for path, digest in stage.deps.items() if path not in made}
    here = {path: digest for path, digest in read.items() if path != "data" or dossier.path(WORKSPACE, "data/shards").is_dir()}
    changed = recompute.changed(dossier, here)
    _must(not changed, f"{', '.join(changed)} isn't what the stages read")
    for name in (*made, *here):  # at the end: what isn't there hides nothing that was changed
        dossier.there(WORKSPACE, name)
    return f"{len(told)} stages, all they read and wrote has its hash"


def parameters(dossier: Dossier) -> str:
    """The parameters are those recorded, in the input set, in MLflow and in the lock."""
    told = dossier.record.inputs.params
    for path in (dossier.path(RUN, "params.yaml"), dossier.path(WORKSPACE, "params.yaml")):
        found = sha256(path)
        _must(found == told, f"{path.relative_to(dossier.folder)} is {_short(found)}, the record names {_short(told)}")
    return f"{len(dossier.record.inputs.overrides)} overrides"


def environment(dossier: Dossier) -> str:
    """The environment's lock is the recorded one."""
    told = dossier.record.inputs.environment
    for path in (dossier.path(RUN, "constraints.txt"), dossier.path(WORKSPACE, "requirements/constraints.txt")):
        found = sha256(path)
        _must(found == told, f"{path.relative_to(dossier.folder)} is {_short(found)}, the record names {_short(told)}")
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    return f"{sum('==' in line for line in lines)} packages pinned"


def input_set(dossier: Dossier) -> str:
    """The archive from which the run can be rebuilt is the recorded one, and the workspace is its content."""
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    found, told = f"md5:{md5(archive)}", dossier.record.inputs.archive
    _must(found == told, f"the input set is {found}, the record names {told}")
    for name, data in inputs.members(archive).items():
        path = dossier.path(WORKSPACE, name)
        _must(path.is_file() and path.read_bytes() == data, f"{name} isn't the input set's")
    return f"{len(inputs.members(archive))} files"


def code(dossier: Dossier) -> str:
    """The code files have the recorded hash."""
    told, facts = dossier.record.code, dossier.json(WORKSPACE, "inputs/code.json")
    files = _code(dossier)
    found = inputs.code_hash(files.items())
    _must(found == told.files == facts["sha256"], f"the code is {_short(found)}, the record names {_short(told.files)}")
    return f"{len(files)} files"


def tree(dossier: Dossier) -> str:
    """Whether code was run that isn't the commit's (a dirty tree) is what the record says."""
    told, facts = dossier.record.code, dossier.json(WORKSPACE, "inputs/code.json")
    _must(facts["dirty"] == told.dirty, f"the run's facts say dirty: {facts['dirty']}, the record says {told.dirty}")
    if told.commit is None or not dossier.path(GIT).is_dir():
        raise _absent(dossier, GIT, "there is no commit to hold the code against")
    differing = _uncommitted(dossier, _code(dossier), told.commit)
    _must(told.dirty or not differing, f"the record calls it clean, but {', '.join(differing[:3])} isn't the commit's")
    if told.dirty:
        return f"dirty: {', '.join(differing[:3]) or 'code was deleted'} isn't the commit's"
    return "clean: the code is the commit's"


def commit(dossier: Dossier) -> str:
    """The commit is the one that record, run and version name, and it is a commit whose trees lead to the code."""
    told, facts = dossier.record.code.commit, dossier.json(WORKSPACE, "inputs/code.json")
    tag = dossier.facts.registered.tags.get("skumatch.commit")
    _must(facts["commit"] == told, f"the run's facts name {_short(facts['commit'])}, the record {_short(told)}")
    _must(tag == str(told), f"the version names {_short(tag)}, the record {_short(told)}")
    if told is None:
        raise Unchecked("the run was made outside a git repository")
    if not dossier.path(GIT).is_dir():
        raise _absent(dossier, GIT, "the dossier has no commit")
    try:
        committed_files(dossier.path(GIT), told)
    except ValueError as error:
        raise Broken(str(error)) from error
    return "its trees lead to the code"


def weights(dossier: Dossier) -> str:
    """The encoder started from the recorded weights."""
    told, facts = dossier.record.inputs, dossier.json(WORKSPACE, "inputs/weights/weights.json")
    _must(facts["name"] == told.weights, f"the run started from {facts['name']}, the record names {told.weights}")
    if told.weights_sha256:
        found = sha256(dossier.path(WORKSPACE, "inputs/weights/weights.safetensors"))
        _must(found == told.weights_sha256, f"the weights are {_short(found)}, the record names {_short(told.weights_sha256)}")
    return str(facts.get("licence", "no licence told"))


def split(dossier: Dossier) -> str:
    """The split follows again from the pictures' content and the seed."""
    _copies(dossier, "split")
    _pictures(dossier)
    return recompute.stage(dossier, "split")


def validation(dossier: Dossier) -> str:
    """The data passes every expectation again, and its profile is the recorded one."""
    _copies(dossier, "validate")
    _pictures(dossier)
    return recompute.stage(dossier, "validate")


def manifest(dossier: Dossier) -> str:
    """The manifest is the data version's: every picture's SKU, side and hashes."""
    entry = _listed(dossier)["manifest.parquet"]
    found = md5(dossier.path(WORKSPACE, "data/manifest.parquet"))
    _must(found == entry, f"the manifest is {_short(found)}, the data version names {_short(entry)}")
    return f"{pq.read_metadata(dossier.path(WORKSPACE, 'data/manifest.parquet')).num_rows:,} pictures"


def data(dossier: Dossier) -> str:
    """The data version is the recorded one, and every file of it has its hash."""
    listed = _listed(dossier)
    _pictures(dossier)
    root = dossier.path(WORKSPACE, "data")
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    _must(there == set(listed), f"{', '.join(sorted(there ^ set(listed))[:3])} is missing or too many")
    changed = [name for name, digest in sorted(listed.items()) if name != "manifest.parquet" and md5(root / name) != digest]
    _must(not changed, f"{', '.join(changed[:3])} was changed")
    return f"{len(listed)} files"


def _listed(dossier: Dossier) -> dict[str, str]:
    """Path -> MD5 of the data version's files, once the listing was found to be the recorded version."""
    path = dossier.there(LISTING)
    told, pointed = dossier.record.inputs.data, dossier.path(WORKSPACE, "data.dvc").read_text("utf-8")
    found = f"md5:{md5(path)}.dir"
    _must(found == told, f"the data version is {found}, the record names {told}")
    _must(told.removeprefix("md5:") in pointed, f"data.dvc names another version than the record ({told})")
    tag = dossier.facts.registered.tags.get(DATA_TAG)
    _must(f"md5:{tag}" == told, f"the version names data {tag}, the record {told}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text("utf-8"))}


def _pictures(dossier: Dossier) -> None:
    if not dossier.path(WORKSPACE, "data/shards").is_dir():
        raise _absent(dossier, f"{WORKSPACE}/data", "the dossier was made without the pictures")


def _code(dossier: Dossier) -> dict[str, bytes]:
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    return {name: dossier.path(WORKSPACE, name).read_bytes() for name in inputs.code_of(archive)}


def _uncommitted(dossier: Dossier, files: dict[str, bytes], commit: str) -> list[str]:
    try:
        known = committed_files(dossier.path(GIT), commit)
    except ValueError as error:
        raise Unchecked(str(error)) from error
    return sorted(name for name, data in files.items() if known.get(name) != blob_id(data))


def _same_file(dossier: Dossier, name: str, told: str) -> None:
    for path in (dossier.path(RUN, name), dossier.path(WORKSPACE, "out", name)):
        found = sha256(path)
        _must(found == told, f"{path.relative_to(dossier.folder)} is {_short(found)}, the record names {_short(told)}")


def _copies(dossier: Dossier, *stages: str) -> None:
    """What MLflow shows of a stage is what the stage wrote: the chain is told from MLflow's copies."""
    for name in stages:
        for path in sorted(dossier.path(RUN, name).glob("*")):
            wrote = dossier.path(WORKSPACE, "out", name, path.name)
            same = not wrote.is_file() or sha256(path) == sha256(wrote)
            _must(same, f"{RUN}/{name}/{path.name} isn't what the stage wrote")


def _absent(dossier: Dossier, part: str, otherwise: str) -> Broken | Unchecked:
    """What an audit may lack: in the store's own words, where it should have given that."""
    missing = dossier.why(dossier.path(part))
    return Unchecked(otherwise) if missing is None else (Broken if missing.broken else Unchecked)(missing.reason)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
