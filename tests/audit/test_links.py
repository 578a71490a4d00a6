"""Reports of an audit about faults, and its exit codes: each guard, without a server or a run."""

from __future__ import annotations

import tarfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skumatch.audit import facts, recompute
from skumatch.audit.chain import ChainStep, linked
from skumatch.audit.checks import data, release, run
from skumatch.audit.dossier import ORIGIN, Dossier
from skumatch.audit.git_proof import blob_id, committed_files, keep_proof
from skumatch.audit.link import Broken, Link, Unchecked
from skumatch.audit.reproduce import Out, Reproduction
from skumatch.commands import audit as command
from skumatch.errors import AuditFailed
from skumatch.files import read_json, write_json
from skumatch.lineage import provenance
from skumatch.lineage.lineage import (
    NO_WEIGHTS,
    CodeRecord,
    Inputs,
    PackageRecord,
    Results,
    lineage,
    record_hash,
)
from skumatch.pipeline import inputs as inputs_of_run
from tests.conftest import commit, git

LOCK = "stages: {gate: {cmd: python, deps: [], outs: [{path: out/gate, md5: 1}]}}"
SHA = 64 * "a"
STARTED, ENDED = datetime(2026, 1, 1, 15, 31, tzinfo=UTC), datetime(2026, 1, 1, 16, 9, tzinfo=UTC)
FILES = ("dvc.yaml", "skumatch/cli.py")


def record(commit_id: str = 40 * "c") -> dict[str, Any]:
    """A run's lineage record."""
    inputs = Inputs(archive="md5:1", data="md5:2", weights="none", params=SHA, environment=SHA)
    results = Results(challenger=SHA, decision=SHA, verdict="first", bundle=SHA)
    code = CodeRecord(commit=commit_id, dirty=False, files=SHA)
    return lineage("r1", STARTED, ENDED, code, inputs, LOCK, results)


@pytest.fixture
def dossier(tmp_path: Path) -> Dossier:
    """As much of a dossier as the version's and its statement's checks read."""
    run_record, parts = record(), {"labels.json": {"sha256": 64 * "b", "size": 1}}
    write_json(tmp_path / "run/lineage.json", run_record)
    counts = {"gallery": 1, "skus": 1, "training": 1}
    manifest = {"format": "skumatch-bundle-2", "dim": 8, "counts": counts, "parts": parts}
    write_json(tmp_path / "bundle/bundle.json", manifest)
    hashes = {"labels.json": 64 * "b", "bundle.json": SHA}
    made = provenance.statement(run_record, hashes)
    write_json(tmp_path / "run" / ORIGIN, provenance.envelope(made, None))
    tags = {"skumatch.lineage": record_hash(run_record), "skumatch.run": "r1", "skumatch.verdict": "first"}
    run = {"id": "1", "status": "FINISHED", "started": None, "ended": None, "params": {}, "metrics": {}}
    now = "2026-01-01T00:00:00Z"
    registered = {
        "model": "shelf",
        "version": 1,
        "bundle": SHA,
        "created": now,
        "aliases": (),
        "tags": tags,
        "champion": 1,
    }
    tree = {
        "schema": "skumatch-dossier-1",
        "collected": now,
        "registry": "here",
        "registered": registered,
        "run": run,
        "journal": (),
    }
    write_json(tmp_path / "dossier.json", tree)
    return Dossier(tmp_path)


def test_a_version_and_its_statement_are_of_the_record(dossier: Dossier) -> None:
    assert release.version(dossier).startswith("lineage record")
    assert release.origin(dossier).endswith("unsigned")


def test_the_runs_times_are_those_of_its_record(dossier: Dossier) -> None:
    """MLflow's run may have been made when the run was registered; a statement can't say another end."""
    shown = facts.stages(dossier)[1]
    assert (shown["from"], shown["to"]) == ("2026-01-01 15:31 UTC", "2026-01-01 16:09 UTC")
    statement = provenance.opened(read_json(dossier.path("run", ORIGIN)))
    metadata = statement["predicate"]["runDetails"]["metadata"]
    assert (metadata["startedOn"], metadata["finishedOn"]) == ("2026-01-01T15:31:00Z", "2026-01-01T16:09:00Z")
    metadata["finishedOn"] = "2026-01-01T16:10:00Z"
    write_json(dossier.path("run", ORIGIN), provenance.envelope(statement, None))
    with pytest.raises(Broken, match="other inputs than the record"):
        release.origin(dossier)


def test_a_record_without_times_is_still_read_and_says_only_when_it_was_registered(dossier: Dossier) -> None:
    older = {name: value for name, value in record().items() if name not in ("started", "ended")}
    older |= {"schema": "skumatch-lineage-2"}
    write_json(dossier.path("run/lineage.json"), older)
    hashes = {"labels.json": 64 * "b", "bundle.json": SHA}
    made = provenance.statement(older, hashes, datetime(2026, 1, 1, 16, 9, tzinfo=UTC))
    assert "startedOn" not in made["predicate"]["runDetails"]["metadata"]
    write_json(dossier.path("run", ORIGIN), provenance.envelope(made, None))
    assert release.origin(dossier).endswith("unsigned")
    tree = read_json(dossier.path("dossier.json"))
    tree["run"] |= {"started": "2026-01-01T16:09:03Z", "ended": "2026-01-01T16:09:07Z"}
    write_json(dossier.path("dossier.json"), tree)
    shown = facts.stages(Dossier(dossier.folder))[1]
    assert shown["registered"] == "2026-01-01 16:09 UTC; its own times are not recorded"
    assert "from" not in shown and "to" not in shown


def test_a_record_from_before_gallery_releases_is_still_read(tmp_path: Path) -> None:
    """Its figures of the champion's encoder on the run's gallery lie in champion.json."""
    newer = record()
    older = newer | {"schema": "skumatch-lineage-1"}
    for part, later in (("inputs", ("kind", "released")), ("results", ("answers",))):
        older[part] = {name: value for name, value in newer[part].items() if name not in later}
    for made, file in ((older, "champion"), (newer, "refreshed")):
        write_json(tmp_path / "run/lineage.json", made)
        collected = Dossier(tmp_path)
        assert (collected.record.inputs.kind, collected.file_of("refreshed")) == ("retrain", file)
        assert collected.released == collected.file_of("challenger") == "challenger"
        assert collected.made_bundle == "out/bundle/model"


def test_another_record_than_the_version_names_is_broken(dossier: Dossier) -> None:
    write_json(dossier.path("run/lineage.json"), record(40 * "d"))
    with pytest.raises(Broken, match="the version names lineage record"):
        release.version(dossier)
    with pytest.raises(Broken, match="the statement is of another bundle or other inputs"):
        release.origin(dossier)


def with_package(folder: Path, archived: dict[str, bytes], wheel: dict[str, bytes]) -> Dossier:
    """As much of a dossier as the code's check reads: a run of a package whose wheel has other files."""
    workspace, files = folder / "workspace", archived | {"dvc.yaml": b"stages: {}"}
    for name, content in files.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(content)
    with tarfile.open(workspace / "inputs.tar", "w") as tar:
        for name in files:
            tar.add(workspace / name, name)
    package = {"version": "0.1.0", "sha256": inputs_of_run.code_hash(wheel.items())}
    code = {"commit": 40 * "c", "dirty": False, "sha256": inputs_of_run.code_hash(files.items())}
    write_json(workspace / "inputs/code.json", code | {"package": package})
    made = CodeRecord(
        commit=40 * "c", dirty=False, files=code["sha256"], package=PackageRecord.model_validate(package)
    )
    inputs = Inputs(archive="md5:1", data="md5:2", weights="none", params=SHA, environment=SHA)
    results = Results(challenger=SHA, decision=SHA, verdict="first", bundle=SHA)
    write_json(folder / "run/lineage.json", lineage("r1", STARTED, ENDED, made, inputs, LOCK, results))
    return Dossier(folder)


def test_the_package_of_a_run_is_what_its_wheel_has(tmp_path: Path) -> None:
    files = {"skumatch/cli.py": b"pass", "skumatch/py.typed": b""}
    whole = with_package(tmp_path / "whole", files, files)
    assert run.code(whole) == "3 files, with skumatch 0.1.0 as its wheel has it"


@pytest.mark.parametrize(
    "archived",
    [
        {"skumatch/cli.py": b"evil", "skumatch/py.typed": b""},
        {"skumatch/cli.py": b"pass"},
        {"skumatch/cli.py": b"pass", "skumatch/py.typed": b"", "skumatch/new.py": b""},
    ],
)
def test_a_package_with_other_files_than_its_wheel_is_broken(
    tmp_path: Path, archived: dict[str, bytes]
) -> None:
    wheel = {"skumatch/cli.py": b"pass", "skumatch/py.typed": b""}
    with pytest.raises(Broken, match="skumatch 0.1.0's wheel has"):
        run.code(with_package(tmp_path, archived, wheel))


def test_the_record_and_the_run_name_the_same_package(tmp_path: Path) -> None:
    files = {"skumatch/cli.py": b"pass"}
    dossier = with_package(tmp_path, files, files)
    facts = read_json(tmp_path / "workspace/inputs/code.json")
    write_json(tmp_path / "workspace/inputs/code.json", facts | {"package": None})
    with pytest.raises(Broken, match="different installations of skumatch"):
        run.code(dossier)


@pytest.mark.parametrize(
    ("kind", "weights", "file", "reason"),
    [
        ("refresh", NO_WEIGHTS, "none.json", ""),
        ("refresh", NO_WEIGHTS, "weights.json", "a refresh reads no weights, but inputs/weights holds some"),
        ("refresh", "none", "weights.json", "a refresh doesn't start from the weights none"),
        ("retrain", NO_WEIGHTS, "none.json", "a retrain doesn't start from the weights none: the champion's"),
        ("retrain", "none", "weights.json", ""),
    ],
)
def test_only_a_refresh_starts_from_no_weights(
    tmp_path: Path,
    kind: Any,
    weights: str,
    file: str,
    reason: str,
) -> None:
    folder = tmp_path / "workspace/inputs/weights"
    write_json(folder / file, {"name": weights})
    digest = str(recompute.hash_of(folder)).removeprefix("md5:")
    lock = f"stages: {{frozen: {{cmd: python, deps: [{{path: inputs/weights, md5: {digest}}}]}}}}"
    inputs = Inputs(kind=kind, archive="md5:1", data="md5:2", weights=weights, params=SHA, environment=SHA)
    results = Results(decision=SHA, verdict="keep", bundle=SHA)
    code = CodeRecord(commit=None, dirty=False, files=SHA)
    made = lineage("r1", STARTED, ENDED, code, inputs, lock, results)
    write_json(tmp_path / "run/lineage.json", made)
    if reason:
        with pytest.raises(Broken, match=reason):
            data.weights(Dossier(tmp_path))
        return
    assert data.weights(Dossier(tmp_path)) == ("none were needed" if kind == "refresh" else "no licence told")


def step(check: Any) -> ChainStep:
    return ChainStep("name", "title", lambda _: (None, {}), check)


def raising(error: Exception) -> Any:
    def check(_: Dossier) -> str:
        raise error

    return check


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Broken("it differs"), "broken"),
        (Unchecked("no key"), "unchecked"),
        (TypeError("a list has no names"), "broken"),
        (FileNotFoundError(2, "No such file", "/dossier/run/x"), "broken"),
    ],
)
def test_what_can_not_be_read_never_holds(dossier: Dossier, error: Exception, verdict: str) -> None:
    assert linked(dossier, step(raising(error)), verify=True).verdict == verdict
    assert linked(dossier, step(lambda _: "fine"), verify=True).verdict == "holds"


@pytest.mark.parametrize("verdict", ["holds", "unchecked", "broken"])
def test_a_broken_chain_ends_in_an_error(
    dossier: Dossier,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
) -> None:
    chain = [
        Link.model_validate(
            {
                "name": "bundle",
                "title": "Bundle",
                "hash": None,
                "said": {},
                "verdict": verdict,
                "reason": "changed",
            }
        )
    ]
    monkeypatch.setattr("skumatch.audit.chain.links", lambda *_: chain)
    words: dict[str, Any] = {
        "verify": True,
        "dossier": dossier.folder,
        "export": None,
        "key": None,
        "pictures": False,
        "page": None,
    }
    words |= {"image": None, "sku": None, "at": None, "output": None}
    if verdict != "broken":
        command.show(**words)
        return
    with pytest.raises(AuditFailed, match="The chain is broken at bundle: changed"):
        command.show(**words)


@pytest.mark.parametrize(
    ("found", "same", "words"),
    [
        (0.9, False, ""),
        (0.88, False, "top-1 differs by more than"),
        (0.9, True, "comes out otherwise on the same processor"),
    ],
)
def test_a_version_that_comes_out_otherwise_ends_in_an_error(
    monkeypatch: pytest.MonkeyPatch,
    found: float,
    same: bool,
    words: str,
) -> None:
    outs = (Out(stage="train", path="out/train", recorded="md5:1", found="md5:2"),)
    made = Reproduction(outs=outs, recorded=0.9, found=found, environment=True, machine=same)
    registry = SimpleNamespace(resolve=lambda _: SimpleNamespace(version=2))
    monkeypatch.setattr("skumatch.audit.reproduce.reproduce", lambda *_: made)
    monkeypatch.setattr(command, "_registry", lambda: (None, registry))
    if not words:
        command.reproduce("2", force=False, output=None)
        return
    with pytest.raises(AuditFailed, match=words):
        command.reproduce("2", force=False, output=None)


@pytest.fixture
def proof(tmp_path: Path) -> tuple[Path, str]:
    """An audit's record of a commit of two files, and the commit."""
    project = tmp_path / "project"
    (project / "skumatch").mkdir(parents=True)
    for name in FILES:
        (project / name).write_text(name)
    git(project, "init", "-q", "-b", "main")
    commit(project, "all")
    made = git(project, "rev-parse", "HEAD").strip()
    assert keep_proof(project, made, FILES, tmp_path / "git") == ""
    return tmp_path / "git", made


def test_a_kept_commit_names_its_files(proof: tuple[Path, str]) -> None:
    blobs = {name: blob_id(name.encode(), proof[1]) for name in FILES}
    assert committed_files(*proof, FILES) == blobs


def test_a_kept_commit_that_was_changed_is_refused(proof: tuple[Path, str]) -> None:
    path = proof[0] / "commit"
    path.write_bytes(path.read_bytes().replace(b"all", b"any"))
    with pytest.raises(ValueError, match="the kept commit isn't"):
        committed_files(*proof, FILES)


def test_a_kept_tree_that_was_changed_is_refused(proof: tuple[Path, str]) -> None:
    for path in (proof[0] / "trees").iterdir():
        path.write_bytes(path.read_bytes().replace(b"cli.py", b"cly.py"))
    with pytest.raises(ValueError, match="the kept tree of skumatch was changed"):
        committed_files(*proof, FILES)
