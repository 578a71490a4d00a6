"""Checks of the run that made a version: its stages, parameters, packages, input set and code.

Every public function checks one link against the dossier. It returns a sentence about a link that holds, and
raises Broken, Unchecked or a reader's error otherwise.
"""

from __future__ import annotations

import yaml

from skumatch.audit import recompute
from skumatch.audit.checks.proof import absent, copies, must, same, short
from skumatch.audit.dossier import GIT, NO_COMMIT, RUN, WORKSPACE, Dossier
from skumatch.audit.git_proof import blob_id, committed_files
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import md5
from skumatch.lineage.lineage import stages_of
from skumatch.pipeline import inputs
from skumatch.pipeline.register import flat, leaves
from skumatch.texts import counted


def stages(dossier: Dossier) -> str:
    """Check dvc.lock against the record, and every dependency and out of the stages against its hash.

    A stage must have read the same outs that an earlier stage wrote.
    """
    path = dossier.path(RUN, "dvc.lock")
    locked, recorded = stages_of(path.read_text("utf-8")), dossier.record.stages
    differing = sorted(
        name for name in locked.keys() | recorded.keys() if locked.get(name) != recorded.get(name)
    )
    must(not differing, f"stage {', '.join(differing)} of dvc.lock isn't as recorded")
    made = {path: digest for stage in recorded.values() for path, digest in stage.outs.items()}
    for name, stage in recorded.items():
        for dependency, digest in stage.deps.items():
            must(
                made.get(dependency, digest) == digest,
                f"stage {name} read another {dependency} than was made",
            )
    changed = recompute.changed(dossier, made)
    must(not changed, f"{', '.join(changed)} isn't what the stage wrote")
    sources = {
        path: digest for stage in recorded.values() for path, digest in stage.deps.items() if path not in made
    }
    present = {
        path: digest
        for path, digest in sources.items()
        if path != "data" or dossier.path(WORKSPACE, "data/shards").is_dir()
    }
    changed = recompute.changed(dossier, present)
    must(not changed, f"{', '.join(changed)} isn't what the stages read")
    copies(dossier, *recorded)
    for name in (*made, *present):  # last, so that a missing part doesn't hide a changed one
        dossier.there(WORKSPACE, name)
    return f"{counted(len(recorded), 'stage')}; all that was read and written has its hash"


def parameters(dossier: Dossier) -> str:
    """Check the parameters' hash, and that MLflow shows the same values."""
    same(dossier, dossier.record.inputs.params, "params.yaml", "params.yaml")
    path = dossier.path(WORKSPACE, "params.yaml")
    known, shown = flat(recompute.params(dossier)), dossier.facts.run.params
    tree = yaml.safe_load(path.read_text("utf-8"))
    must(isinstance(tree, dict), "params.yaml holds no parameters")
    written = dict(leaves(tree)).keys() & known.keys()  # later code may have more defaults
    differing = [
        name
        for name in sorted(shown.keys() | written)
        if name not in shown or shown[name] != str(known.get(name))
    ]
    must(not differing, f"MLflow shows {', '.join(differing[:3])} otherwise than the run's parameters")
    return f"{counted(len(shown), 'parameter')}, {counted(len(dossier.record.inputs.overrides), 'override')}"


def environment(dossier: Dossier) -> str:
    """Check the hash of the environment's lock, constraints.txt."""
    same(dossier, dossier.record.inputs.environment, "constraints.txt", "requirements/constraints.txt")
    lines = dossier.path(RUN, "constraints.txt").read_text("utf-8").splitlines()
    return f"{counted(sum('==' in line for line in lines), 'package')} pinned"


def input_set(dossier: Dossier) -> str:
    """Check the hash of the input set's archive, and that the workspace has its content."""
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    actual, recorded = f"md5:{md5(archive)}", dossier.record.inputs.archive
    must(actual == recorded, f"the input set is {actual}, the record names {recorded}")
    for name, data in inputs.members(archive).items():
        path = dossier.path(WORKSPACE, name)
        must(path.is_file() and path.read_bytes() == data, f"{name} isn't the input set's")
    return counted(len(inputs.members(archive)), "file")


def code(dossier: Dossier) -> str:
    """Check the hash over all code files, and that of an installed package against its wheel's."""
    recorded, files, facts = dossier.record.code, _code(dossier), dossier.code
    actual = inputs.code_hash(files.items())
    same_hash = actual == recorded.files == facts.sha256
    must(same_hash, f"the code is {short(actual)}, the record names {short(recorded.files)}")
    package, known = recorded.package, facts.package
    must(
        (package and package.model_dump()) == (known and known.model_dump()),
        "the run's facts and the record name different installations of skumatch",
    )
    if package is None or recorded.dirty:
        return counted(len(files), "file")
    own = _in_repository(dossier).values()
    installed = inputs.code_hash((name, data) for name, data in files.items() if name not in own)
    must(
        installed == package.sha256,
        f"the package is {short(installed)}, skumatch {package.version}'s wheel has {short(package.sha256)}",
    )
    return f"{counted(len(files), 'file')}, with skumatch {package.version} as its wheel has it"


def tree(dossier: Dossier) -> str:
    """Check the record's `dirty` flag: True if the run's code differed from the commit."""
    recorded, facts = dossier.record.code, dossier.code
    must(
        facts.dirty == recorded.dirty,
        f"the run's facts say dirty: {facts.dirty}, the record says {recorded.dirty}",
    )
    if recorded.commit is None or not dossier.path(GIT).is_dir():
        raise absent(dossier, GIT, "there is no commit to hold the code against")
    differing = _uncommitted(dossier, _code(dossier), recorded.commit)
    must(
        recorded.dirty or not differing,
        f"the record calls it clean, but {', '.join(differing[:3])} isn't the commit's",
    )
    if recorded.dirty:
        return f"dirty: {', '.join(differing[:3]) or 'code was deleted'} isn't the commit's"
    return "clean: the code is the commit's"


def commit(dossier: Dossier) -> str:
    """Check that record, run and version name the same commit, and that its kept trees lead to the code."""
    recorded, facts = dossier.record.code.commit, dossier.code
    tag = dossier.facts.registered.tags.get("skumatch.commit")
    must(
        facts.commit == recorded, f"the run's facts name {short(facts.commit)}, the record {short(recorded)}"
    )
    must(tag == str(recorded), f"the version names {short(tag)}, the record {short(recorded)}")
    if recorded is None:
        raise Unchecked(NO_COMMIT)
    if not dossier.path(GIT).is_dir():
        raise absent(dossier, GIT, "the dossier has no commit")
    try:
        committed_files(dossier.path(GIT), recorded, _in_repository(dossier))
    except ValueError as error:
        raise Broken(str(error)) from error
    return "its trees lead to the code"


def _code(dossier: Dossier) -> dict[str, bytes]:
    archive = dossier.path(WORKSPACE, inputs.ARCHIVE)
    return {name: dossier.path(WORKSPACE, name).read_bytes() for name in inputs.code_of(archive)}


def _in_repository(dossier: Dossier) -> dict[str, str]:
    """Return path from the repository's root -> path from the project, for the code that a commit has."""
    return inputs.in_repository(inputs.code_of(dossier.path(WORKSPACE, inputs.ARCHIVE)), dossier.code)


def _uncommitted(dossier: Dossier, files: dict[str, bytes], commit: str) -> list[str]:
    names = _in_repository(dossier)
    try:
        blobs = committed_files(dossier.path(GIT), commit, names)
    except ValueError as error:
        raise Unchecked(str(error)) from error
    return sorted(name for path, name in names.items() if blobs.get(path) != blob_id(files[name], commit))
