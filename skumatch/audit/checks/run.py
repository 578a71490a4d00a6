"""The checks of the run that made a version: its stages, parameters, packages, input set and code."""

from __future__ import annotations

import yaml

from skumatch.audit import recompute
from skumatch.audit.checks.proof import absent, copies, must, same, short
from skumatch.audit.dossier import GIT, NO_COMMIT, RUN, WORKSPACE, Dossier
from skumatch.audit.git_proof import blob_id, committed_files
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import md5
from skumatch.pipeline import inputs
from skumatch.pipeline.register import flat, leaves
from skumatch.release.lineage import stages_of


def stages(dossier: Dossier) -> str:
    """The run's lock is the recorded one, and what a stage read is what the stage before it wrote."""
    path = dossier.path(RUN, "dvc.lock")
    found, told = stages_of(path.read_text("utf-8")), dossier.record.stages
    differing = sorted(name for name in found.keys() | told.keys() if found.get(name) != told.get(name))
    must(not differing, f"stage {', '.join(differing)} of dvc.lock isn't as recorded")
    made = {path: digest for stage in told.values() for path, digest in stage.outs.items()}
    for name, stage in told.items():
        for path_, digest in stage.deps.items():
            must(made.get(path_, digest) == digest, f"stage {name} read another {path_} than was made")
    changed = recompute.changed(dossier, made)
    must(not changed, f"{', '.join(changed)} isn't what the stage wrote")
    read = {
        path: digest for stage in told.values() for path, digest in stage.deps.items() if path not in made
    }
    here = {
        path: digest
        for path, digest in read.items()
        if path != "data" or dossier.path(WORKSPACE, "data/shards").is_dir()
    }
    changed = recompute.changed(dossier, here)
    must(not changed, f"{', '.join(changed)} isn't what the stages read")
    copies(dossier, *told)
    for name in (*made, *here):  # at the end: what isn't there hides nothing that was changed
        dossier.there(WORKSPACE, name)
    return f"{len(told)} stages, all they read and wrote has its hash"


def parameters(dossier: Dossier) -> str:
    """The parameters are those recorded, in the input set, in MLflow and in the lock."""
    same(dossier, dossier.record.inputs.params, "params.yaml", "params.yaml")
    path = dossier.path(WORKSPACE, "params.yaml")
    known, shown = flat(recompute.params(dossier)), dossier.facts.run.params
    tree = yaml.safe_load(path.read_text("utf-8"))
    must(isinstance(tree, dict), "params.yaml holds no parameters")
    asked = dict(leaves(tree)).keys() & known.keys()  # of defaults, later code may have more
    differing = [
        name
        for name in sorted(shown.keys() | asked)
        if name not in shown or shown[name] != str(known.get(name))
    ]
    must(not differing, f"MLflow shows {', '.join(differing[:3])} otherwise than the run's parameters")
    return f"{len(shown)} parameters, {len(dossier.record.inputs.overrides)} overrides"


def environment(dossier: Dossier) -> str:
    """The environment's lock is the recorded one."""
    same(dossier, dossier.record.inputs.environment, "constraints.txt", "requirements/constraints.txt")
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    return f"{sum('==' in line for line in lines)} packages pinned"


def input_set(dossier: Dossier) -> str:
    """The archive from which the run can be rebuilt is the recorded one, and the workspace is its content."""
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    found, told = f"md5:{md5(archive)}", dossier.record.inputs.archive
    must(found == told, f"the input set is {found}, the record names {told}")
    for name, data in inputs.members(archive).items():
        path = dossier.path(WORKSPACE, name)
        must(path.is_file() and path.read_bytes() == data, f"{name} isn't the input set's")
    return f"{len(inputs.members(archive))} files"


def code(dossier: Dossier) -> str:
    """The code files have the recorded hash."""
    told, files, facts = dossier.record.code, _code(dossier), dossier.code
    found = inputs.code_hash(files.items())
    same_hash = found == told.files == facts.sha256
    must(same_hash, f"the code is {short(found)}, the record names {short(told.files)}")
    return f"{len(files)} files"


def tree(dossier: Dossier) -> str:
    """Whether code was run that isn't the commit's (a dirty tree) is what the record says."""
    told, facts = dossier.record.code, dossier.code
    must(facts.dirty == told.dirty, f"the run's facts say dirty: {facts.dirty}, the record says {told.dirty}")
    if told.commit is None or not dossier.path(GIT).is_dir():
        raise absent(dossier, GIT, "there is no commit to hold the code against")
    differing = _uncommitted(dossier, _code(dossier), told.commit)
    must(
        told.dirty or not differing,
        f"the record calls it clean, but {', '.join(differing[:3])} isn't the commit's",
    )
    if told.dirty:
        return f"dirty: {', '.join(differing[:3]) or 'code was deleted'} isn't the commit's"
    return "clean: the code is the commit's"


def commit(dossier: Dossier) -> str:
    """The commit is the one that record, run and version name, and it is a commit whose trees lead to the code."""
    told, facts = dossier.record.code.commit, dossier.code
    tag = dossier.facts.registered.tags.get("skumatch.commit")
    must(facts.commit == told, f"the run's facts name {short(facts.commit)}, the record {short(told)}")
    must(tag == str(told), f"the version names {short(tag)}, the record {short(told)}")
    if told is None:
        raise Unchecked(NO_COMMIT)
    if not dossier.path(GIT).is_dir():
        raise absent(dossier, GIT, "the dossier has no commit")
    try:
        committed_files(dossier.path(GIT), told, _in_repository(dossier))
    except ValueError as error:
        raise Broken(str(error)) from error
    return "its trees lead to the code"


def _code(dossier: Dossier) -> dict[str, bytes]:
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    return {name: dossier.path(WORKSPACE, name).read_bytes() for name in inputs.code_of(archive)}


def _in_repository(dossier: Dossier) -> dict[str, str]:
    """Code files by their path from the root of the project's repository, which may lie above the project."""
    names = inputs.code_of(dossier.path(WORKSPACE, inputs.ARCHIVE))
    return {f"{dossier.code.folder}{name}": name for name in names}


def _uncommitted(dossier: Dossier, files: dict[str, bytes], commit: str) -> list[str]:
    names = _in_repository(dossier)
    try:
        known = committed_files(dossier.path(GIT), commit, names)
    except ValueError as error:
        raise Unchecked(str(error)) from error
    return sorted(name for path, name in names.items() if known.get(path) != blob_id(files[name], commit))
