"""A version made again from a second clone that has nothing but the remote and the registry.

And the audit that the schedule asks for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from skumatch.audit.reproduce import Out, Reproduction, _same_machine
from skumatch.commands import audit as command
from skumatch.errors import AuditFailed
from skumatch.files import write_json
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import MACHINE_TAG
from tests.audit.conftest import MODEL, project_of, settings_of
from tests.pipeline.home import Home, TaskFailed
from tests.proving import IN_PROOF


@pytest.fixture(scope="module")
def elsewhere(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Another machine: its own clone and home; only the remote and MLflow are shared."""
    root = tmp_path_factory.mktemp("elsewhere")
    return Home(project_of(root, MODEL), root / "home", home.remote, home.mlflow)


@pytest.mark.parametrize("force", [[], pytest.param(["--force"], marks=IN_PROOF)])
def test_every_bit_comes_out_again(elsewhere: Home, tmp_path: Path, force: list[str]) -> None:
    before = sorted(
        path.relative_to(elsewhere.remote) for path in elsewhere.remote.rglob("*") if path.is_file()
    )
    # A Python of its own draws other hashes, so sets have another order than in the run.
    words = ("reproduce", "2", *force, "--json", str(tmp_path / "again.json"))
    made = elsewhere.command(*words, program=sys.executable)
    assert made.returncode == 0, made.stderr
    tree = json.loads((tmp_path / "again.json").read_text())
    assert (
        tree["equal"] and tree["environment"] and len(tree["outs"]) == 9 and tree["recorded"] == tree["found"]
    )
    after = sorted(
        path.relative_to(elsewhere.remote) for path in elsewhere.remote.rglob("*") if path.is_file()
    )
    assert before == after, "nothing is written to the remote"
    assert not list((elsewhere.home / "workspaces").rglob("again-*"))


def test_other_bits_are_told_and_within_half_a_point_they_are_no_failure() -> None:
    outs = (Out(stage="train", path="out/train", recorded="md5:1", found="md5:2"),)
    near, far = (
        Reproduction(outs=outs, recorded=0.9, found=top1, environment=True) for top1 in (0.897, 0.89)
    )
    assert not near.equal and near.within and not far.within


def test_other_bits_on_the_same_machine_are_a_failure() -> None:
    outs = (Out(stage="train", path="out/train", recorded="md5:1", found="md5:2"),)
    for environment, machine, holds in ((True, True, False), (True, False, True), (False, True, True)):
        assert (
            Reproduction(outs=outs, recorded=0.9, found=0.9, environment=environment, machine=machine).holds
            is holds
        )
    same = (outs[0].model_copy(update={"found": "md5:1"}),)
    assert Reproduction(outs=same, recorded=0.9, found=0.9, environment=True, machine=True).holds


def test_a_machine_is_the_same_by_processor_and_cores_and_only_without_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {}, embed: {}, gate: {}}")
    here, tags = (
        "Linux x86_64, Some CPU, 2 cores",
        {f"{MACHINE_TAG}{stage}": "Linux x86_64, Some CPU, 2 cores" for stage in ("train", "embed")},
    )
    assert _same_machine(tags, tmp_path), "what was fetched ran nowhere else"
    for ran, same in ((here, True), (f"{here}, Some GPU", False), (here.replace("2", "4"), False)):
        write_json(tmp_path / "log/gate.json", {"seconds": 1, "machine": ran})
        assert _same_machine(tags, tmp_path) is same
    gpu = f"{here}, Some GPU"
    write_json(tmp_path / "log/gate.json", {"seconds": 1, "machine": gpu})
    assert not _same_machine(dict.fromkeys(tags, gpu), tmp_path) and not _same_machine({}, tmp_path)


def test_a_version_that_comes_out_otherwise_on_the_same_machine_ends_in_an_error(
    elsewhere: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = (Out(stage="train", path="out/train", recorded="md5:1", found="md5:2"),)
    other = Reproduction(outs=outs, recorded=0.9, found=0.9, environment=True, machine=True)
    monkeypatch.setattr("skumatch.audit.reproduce.reproduce", lambda *_: other)
    monkeypatch.setattr(
        command, "_registry", lambda: (settings_of(elsewhere), Registry(elsewhere.mlflow, MODEL))
    )
    with pytest.raises(
        AuditFailed, match=r"comes out otherwise on the same processor, .* same packages: out/train\."
    ):
        command.reproduce("2", output=tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["holds"] is False


@IN_PROOF
def test_the_daily_audit_says_what_it_could_not_check(elsewhere: Home) -> None:
    message = elsewhere.task({"run": "no pictures", "pictures": False}, "audit")
    for version in ("2", "1"):
        holds, left = message["holds"][version], message["unchecked"][version]
        assert holds + left == 20 and left >= 3
        assert (
            f"Version {version}: {holds} of 20 links hold, {left} can't be checked (" in message["sentence"]
        )
    assert message["sentence"].count("split, validation, data).") == 2


def test_the_daily_audit_verifies_the_champion_and_an_older_version(elsewhere: Home) -> None:
    message = elsewhere.task({"run": "today"}, "audit")
    assert (
        message["version"] == 2
        and set(message["holds"]) == {"1", "2"}
        and min(message["holds"].values()) >= 18
    )
    pages = sorted(path.name for path in (elsewhere.home / "reports").glob("lineage-*.html"))
    assert pages == [f"lineage-{MODEL}-1.html", f"lineage-{MODEL}-2.html"]
    assert not list(elsewhere.home.glob("audit-*"))


@IN_PROOF
def test_a_broken_link_turns_the_daily_audit_red_with_its_name(elsewhere: Home) -> None:
    with Registry(elsewhere.mlflow, MODEL).client() as client:
        commit = client.get_model_version(MODEL, "1").tags["skumatch.commit"]
        client.set_model_version_tag(MODEL, "1", "skumatch.commit", "0" * 40)
        try:
            with pytest.raises(TaskFailed) as failed:
                elsewhere.task({"run": "tomorrow", "pictures": False}, "audit")
        finally:
            client.set_model_version_tag(MODEL, "1", "skumatch.commit", commit)
    error: dict[str, Any] = failed.value.error
    assert error["exit_code"] == AuditFailed.exit_code and not error["retry"]
    assert "version 1: commit (the version names 000000000000" in error["sentence"]


def test_without_a_champion_there_is_nothing_to_audit(elsewhere: Home, tmp_path: Path) -> None:
    nobody = Home(project_of(tmp_path, "nobody"), tmp_path / "home", tmp_path / "remote", elsewhere.mlflow)
    with pytest.raises(TaskFailed) as skipped:
        nobody.task({"run": "today"}, "audit")
    assert skipped.value.code == 99 and "There is no champion yet" in skipped.value.error["reason"]
