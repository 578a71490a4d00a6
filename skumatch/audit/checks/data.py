"""The checks of what the run was given: base weights, split, validation, manifest and pictures."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.checks.proof import absent, copies, must, short
from skumatch.audit.dossier import LISTING, WORKSPACE, Dossier
from skumatch.files import md5, sha256
from skumatch.release.lineage import NO_WEIGHTS
from skumatch.release.tracking import DATA_TAG

WEIGHTS = "inputs/weights"


def weights(dossier: Dossier) -> str:
    """The encoder started from the recorded weights."""
    told, facts = dossier.record.inputs, dossier.weights
    must(facts.name == told.weights, f"the run started from {facts.name}, the record names {told.weights}")
    read = {stage.deps[WEIGHTS] for stage in dossier.record.stages.values() if WEIGHTS in stage.deps}
    must(read <= {recompute.hash_of(dossier.workspace / WEIGHTS)}, f"{WEIGHTS} isn't what the stages read")
    refresh = told.kind == "refresh"
    without = told.weights == NO_WEIGHTS
    must(refresh == without, f"a {told.kind} doesn't start from the weights {told.weights}")
    if refresh:
        empty = dossier.path(WORKSPACE, WEIGHTS, "none.json").is_file()
        must(empty, f"a refresh reads no weights, but {WEIGHTS} holds some")
    random = without or told.weights == "none"
    must(random == (told.weights_sha256 is None), f"the record has no hash of the weights {told.weights}")
    if told.weights_sha256:
        found = sha256(dossier.path(WORKSPACE, "inputs/weights/weights.safetensors"))
        must(
            found == told.weights_sha256,
            f"the weights are {short(found)}, the record names {short(told.weights_sha256)}",
        )
    return "none were needed" if refresh else facts.licence or "no licence told"


def split(dossier: Dossier) -> str:
    """The split follows again from the pictures' content and the seed."""
    copies(dossier, "split")
    _pictures(dossier)
    return recompute.stage(dossier, "split")


def validation(dossier: Dossier) -> str:
    """The data passes every expectation again, and its profile is the recorded one."""
    copies(dossier, "validate")
    _pictures(dossier)
    return recompute.stage(dossier, "validate")


def manifest(dossier: Dossier) -> str:
    """The manifest is the data version's: every picture's SKU, side and hashes."""
    entry = _listed(dossier)["manifest.parquet"]
    found = md5(dossier.path(WORKSPACE, "data/manifest.parquet"))
    must(found == entry, f"the manifest is {short(found)}, the data version names {short(entry)}")
    return f"{pq.read_metadata(dossier.path(WORKSPACE, 'data/manifest.parquet')).num_rows:,} pictures"


def data(dossier: Dossier) -> str:
    """The data version is the recorded one, and every file of it has its hash."""
    listed = _listed(dossier)
    _pictures(dossier)
    root = dossier.path(WORKSPACE, "data")
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    must(there == set(listed), f"{', '.join(sorted(there ^ set(listed))[:3])} is missing or too many")
    changed = [
        name
        for name, digest in sorted(listed.items())
        if name != "manifest.parquet" and md5(root / name) != digest
    ]
    must(not changed, f"{', '.join(changed[:3])} was changed")
    return f"{len(listed)} files"


def _listed(dossier: Dossier) -> dict[str, str]:
    """Path -> MD5 of the data version's files, once the listing was found to be the recorded version."""
    path = dossier.there(LISTING)
    told, pointed = dossier.record.inputs.data, dossier.path(WORKSPACE, "data.dvc").read_text("utf-8")
    found = f"md5:{md5(path)}.dir"
    must(found == told, f"the data version is {found}, the record names {told}")
    must(told.removeprefix("md5:") in pointed, f"data.dvc names another version than the record ({told})")
    tag = dossier.facts.registered.tags.get(DATA_TAG)
    must(f"md5:{tag}" == told, f"the version names data {tag}, the record {told}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text("utf-8"))}


def _pictures(dossier: Dossier) -> None:
    if not dossier.path(WORKSPACE, "data/shards").is_dir():
        raise absent(dossier, f"{WORKSPACE}/data", "the dossier was made without the pictures")
