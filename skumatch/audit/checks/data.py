"""Checks of the run's data: base weights, split, validation, manifest and pictures.

Every public function checks one link against the dossier. It returns a sentence about a link that holds, and
raises Broken, Unchecked or a reader's error otherwise.
"""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from skumatch.audit import recompute
from skumatch.audit.checks.proof import absent, copies, must, short
from skumatch.audit.dossier import LISTING, WORKSPACE, Dossier
from skumatch.files import md5, sha256
from skumatch.lineage.lineage import NO_WEIGHTS
from skumatch.registry.tracking import DATA_TAG
from skumatch.stages import artefacts
from skumatch.texts import counted

WEIGHTS = artefacts.WEIGHTS.path


def weights(dossier: Dossier) -> str:
    """Check that the encoder started from the recorded base weights; for a refresh, from none."""
    recorded, facts = dossier.record.inputs, dossier.weights
    must(
        facts.name == recorded.weights,
        f"the run started from {facts.name}, the record names {recorded.weights}",
    )
    digests = {stage.deps[WEIGHTS] for stage in dossier.record.stages.values() if WEIGHTS in stage.deps}
    must(digests <= {recompute.hash_of(dossier.workspace / WEIGHTS)}, f"{WEIGHTS} isn't what the stages read")
    refresh = recorded.kind == "refresh"
    without = recorded.weights == NO_WEIGHTS
    must(refresh == without, f"a {recorded.kind} doesn't start from the weights {recorded.weights}")
    if refresh:
        empty = dossier.path(WORKSPACE, WEIGHTS, artefacts.ABSENT).is_file()
        must(empty, f"a refresh reads no weights, but {WEIGHTS} holds some")
    random = without or recorded.weights == "none"
    must(
        random == (recorded.weights_sha256 is None),
        f"the record has no hash of the weights {recorded.weights}",
    )
    if recorded.weights_sha256:
        actual = sha256(dossier.path(WORKSPACE, artefacts.WEIGHTS_FILE.path))
        must(
            actual == recorded.weights_sha256,
            f"the weights are {short(actual)}, the record names {short(recorded.weights_sha256)}",
        )
    return "none were needed" if refresh else facts.licence or "no licence told"


def split(dossier: Dossier) -> str:
    """Check that the split stage gives the same split again, from the pictures and the seed."""
    copies(dossier, "split")
    _pictures(dossier)
    return recompute.stage(dossier, "split")


def validation(dossier: Dossier) -> str:
    """Check that the validation stage gives the same results and profile again."""
    copies(dossier, "validate")
    _pictures(dossier)
    return recompute.stage(dossier, "validate")


def manifest(dossier: Dossier) -> str:
    """Check the manifest, with each picture's SKU, side and hashes, against the data version's listing."""
    entry = _listed(dossier)["manifest.parquet"]
    actual = md5(dossier.path(WORKSPACE, "data/manifest.parquet"))
    must(actual == entry, f"the manifest is {short(actual)}, the data version names {short(entry)}")
    return counted(pq.read_metadata(dossier.path(WORKSPACE, "data/manifest.parquet")).num_rows, "picture")


def data(dossier: Dossier) -> str:
    """Check that the data version is the recorded one, and has exactly its files with their hashes."""
    listed = _listed(dossier)
    _pictures(dossier)
    root = dossier.path(WORKSPACE, "data")
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    must(present == set(listed), f"{', '.join(sorted(present ^ set(listed))[:3])} is missing or too many")
    changed = [
        name
        for name, digest in sorted(listed.items())
        if name != "manifest.parquet" and md5(root / name) != digest
    ]
    must(not changed, f"{', '.join(changed[:3])} was changed")
    return counted(len(listed), "file")


def _listed(dossier: Dossier) -> dict[str, str]:
    """Check that the listing is the recorded data version; return path -> MD5 of its files."""
    path = dossier.there(LISTING)
    recorded, pointer = dossier.record.inputs.data, dossier.path(WORKSPACE, "data.dvc").read_text("utf-8")
    actual = f"md5:{md5(path)}.dir"
    must(actual == recorded, f"the data version is {actual}, the record names {recorded}")
    must(
        recorded.removeprefix("md5:") in pointer,
        f"data.dvc names another version than the record ({recorded})",
    )
    tag = dossier.facts.registered.tags.get(DATA_TAG)
    must(f"md5:{tag}" == recorded, f"the version names data {tag}, the record {recorded}")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text("utf-8"))}


def _pictures(dossier: Dossier) -> None:
    if not dossier.path(WORKSPACE, "data/shards").is_dir():
        raise absent(dossier, f"{WORKSPACE}/data", "the dossier was made without the pictures")
