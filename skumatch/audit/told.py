"""What an auditor reads of each link: its hash, and its facts in words, as the dossier has them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow.parquet as pq

from skumatch.audit.dossier import BUNDLE, ORIGIN, RUN, WORKSPACE, Dossier
from skumatch.audit.served import aliases
from skumatch.files import sha256
from skumatch.release import provenance
from skumatch.release.bundle import MANIFEST
from skumatch.release.lineage import record_hash
from skumatch.release.tracking import MACHINE_TAG
from skumatch.stages.runner import STAGES

Told = tuple[str | None, dict[str, str]]


def journal(dossier: Dossier) -> Told:
    entries, ours = dossier.facts.journal, dossier.facts.registered.version
    said: dict[str, str] = {}
    for at, what in aliases(entries, ours, dossier.facts.registered.created):
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
    names = provenance.signers(found)
    said = {"statement": "in-toto v1, SLSA provenance v1", "signed": ", ".join(name[:12] for name in names) or "no"}
    return sha256(dossier.path(RUN, ORIGIN)), said


def bundle(dossier: Dossier) -> Told:
    manifest = dossier.json(BUNDLE, MANIFEST)
    parts = {name: f"{part['sha256'][:12]}, {part['size'] / 1e6:,.1f} MB" for name, part in manifest["parts"].items()}
    return dossier.facts.registered.bundle, {"format": manifest["format"]} | parts


def index(dossier: Dossier) -> Told:
    manifest = dossier.json(BUNDLE, MANIFEST)
    counts = manifest["counts"]
    said = {"pictures": f"{counts['gallery']:,} of {counts['skus']:,} SKUs", "embedding": f"{manifest['dim']} numbers"}
    return manifest["parts"]["gallery.parquet"]["sha256"], said


def decision(dossier: Dossier) -> Told:
    found = dossier.json(RUN, "gate/decision.json")
    said = {"verdict": found["verdict"], "in words": found["sentence"]}
    if found["gain"]:
        gain = found["gain"]
        said["gain"] = f"{100 * gain['estimate']:+.1f} points, at least {100 * gain['lower']:+.1f} at {100 * gain['confidence']:.1f} %"
    asked = [check for check in found["checks"] if check["status"] != "not applicable"]
    said |= {
        "checks": ", ".join(check["name"] if check["status"] == "passed" else f"{check['name']} ({check['status']})" for check in asked)
    }
    return dossier.record.results.decision, said


def evaluation(dossier: Dossier) -> Told:
    results = dossier.record.results
    said = {"challenger": _figures(dossier.json(RUN, "evaluate/challenger.json"))}
    if results.champion:
        said["champion"] = _figures(dossier.json(RUN, "evaluate/champion.json"))
    return results.challenger, said


def _figures(found: dict[str, Any]) -> str:
    low, high = found["interval"]["top1"]
    shares = f"top-1 {100 * found['top1']:.1f} % ({100 * low:.1f} to {100 * high:.1f}), top-5 {100 * found['top5']:.1f} %"
    return f"{shares}; {found['n']:,} queries of {found['skus']:,} SKUs, protocol {found['protocol']}"


def champion(dossier: Dossier) -> Told:
    inputs = dossier.record.inputs
    return inputs.champion, {"version": str(inputs.champion_version) if inputs.champion_version else "none: the first model"}


def stages(dossier: Dossier) -> Told:
    run, record = dossier.facts.run, dossier.record
    took = {name.removeprefix("seconds."): value for name, value in run.metrics.items() if name.startswith("seconds.")}
    ran = ", ".join(f"{name} {took[name]:.0f} s" if name in took else f"{name} cached" for name in STAGES)
    said = {"DAG run": record.run, "MLflow run": run.id, "from": _when(run.started), "to": _when(run.ended), "stages": ran}
    more = {"training": _learning(run.metrics), "machines": _machines(dossier)}
    return None, said | {name: words for name, words in more.items() if words}


def _learning(metrics: dict[str, float]) -> str:
    found = [f"loss {metrics['train.loss']:.2f}"] if "train.loss" in metrics else []
    found += [f"top-1 in validation {100 * metrics['train.top1']:.1f} %"] if "train.top1" in metrics else []
    return f"last epoch: {', '.join(found)}" if found else ""


def _machines(dossier: Dossier) -> str:
    tags = dossier.facts.registered.tags
    return "; ".join(f"{name.removeprefix(MACHINE_TAG)}: {tags[name]}" for name in sorted(tags) if name.startswith(MACHINE_TAG))


def input_set(dossier: Dossier) -> Told:
    return dossier.record.inputs.archive.removeprefix("md5:"), {"rebuild": f"skumatch reproduce {dossier.facts.registered.version}"}


def parameters(dossier: Dossier) -> Told:
    params, inputs = dossier.params, dossier.record.inputs
    learnt = f"{params.train.epochs} epochs of {params.train.batch}, {params.train.loss.kind}"
    said = {"seed": str(params.seed), "encoder": params.encoder.model, "training": learnt}
    return inputs.params, said | {"overrides": ", ".join(inputs.overrides) or "none"}


def environment(dossier: Dossier) -> Told:
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    named = [line for line in lines if line.split("==")[0] in ("torch", "open-clip-torch", "timm", "numpy", "faiss-cpu")]
    return dossier.record.inputs.environment, {"among them": ", ".join(named)}


def commit(dossier: Dossier) -> Told:
    return dossier.record.code.commit, {}


def tree(dossier: Dossier) -> Told:
    return None, {"dirty": "yes" if dossier.record.code.dirty else "no"}


def code(dossier: Dossier) -> Told:
    return dossier.record.code.files, {}


def weights(dossier: Dossier) -> Told:
    facts = dossier.json(WORKSPACE, "inputs/weights/weights.json")
    return dossier.record.inputs.weights_sha256, {name: str(facts[name]) for name in ("name", "source", "licence") if name in facts}


def split(dossier: Dossier) -> Told:
    found = dossier.json(RUN, "split/split.json")
    roles = ", ".join(f"{count:,} {role}" for role, count in found["images"].items())
    same, near = found["duplicates"]["exact_images"], found["duplicates"]["near_images"]
    return _out(dossier, "split"), {"pictures": roles, "duplicates": f"{same:,} of equal pixels, {near:,} nearly so"}


def validation(dossier: Dossier) -> Told:
    found = dossier.json(RUN, "validate/validation.json")
    said = {"expectations": f"{len(found['expectations'])}, all met", "warnings": str(len(found["warnings"]))}
    set_aside = ", ".join(f"{count} {reason}" for reason, count in found["quarantined"].items()) if found["quarantined"] else "none"
    return _out(dossier, "validate"), said | {"set aside": set_aside}


def manifest(dossier: Dossier) -> Told:
    table = pq.read_table(dossier.path(WORKSPACE, "data/manifest.parquet"), columns=["sku", "side"]).to_pandas()
    sides = ", ".join(f"{count:,} {side}" for side, count in table["side"].value_counts().items())
    return None, {"pictures": sides, "SKUs": f"{table['sku'].nunique():,}"}


def data(dossier: Dossier) -> Told:
    root = dossier.path(WORKSPACE, "data")
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return dossier.record.inputs.data.removeprefix("md5:"), {"files": f"{len(sizes)}, {sum(sizes) / 1e6:,.1f} MB"}


def _out(dossier: Dossier, stage: str) -> str:
    return dossier.record.stages[stage].outs[f"out/{stage}"].removeprefix("md5:")


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "not told"
