"""Packages, parameters, pipeline, code and secrets, each well and with one thing wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.doctor import machine
from tests.conftest import commit
from tests.doctor.asking import ask


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text("utf-8"), flags=re.MULTILINE)
    assert count, pattern
    path.write_text(text, "utf-8")


def test_packages_are_compared_with_the_lock(here: Settings) -> None:
    well = ask(machine.packages, here)
    assert well.verdict == "ok" and "Python 3." in well.found
    for name in ("typer", "rich", "pydantic", "httpx"):
        edit(here.project / machine.LOCK, rf"^{name}==.*$", f"{name}==0.0.1")
    finding = ask(machine.packages, here)
    assert finding.verdict == "warning" and "0.0.1" in finding.found and finding.found.endswith("and 1 more")
    assert ask(machine.packages, here.model_copy(update={"project": here.home_dir})).verdict == "failed"


@pytest.mark.parametrize(("pattern", "new", "verdict", "said"), [
    (r'^requires-python = .*$', 'requires-python = ">=3.99"', "failed", "wants >=3.99"),
    (r'^version = .*$', 'version = "9.9.9"', "warning", "the project's is 9.9.9"),
    (r'^ +"typer>=.*$', '"not-there-at-all>=1", "not-on-this; sys_platform == \'none\'",', "failed",
     "not installed: not-there-at-all"),
])  # fmt: skip
def test_python_skumatch_and_what_it_needs_are_compared_with_the_project(
    here: Settings, pattern: str, new: str, verdict: str, said: str
) -> None:
    edit(here.project / "pyproject.toml", pattern, new)
    finding = ask(machine.packages, here)
    assert finding.verdict == verdict and said in finding.found


def test_parameters_that_cannot_be_used_are_told_as_every_command_does(here: Settings) -> None:
    assert ask(machine.parameters, here).verdict == "ok"
    edit(here.project / "params.yaml", r"^  epochs: 24", "  epochs: -1")
    finding = ask(machine.parameters, here)
    assert finding.verdict == "failed" and "train.epochs is -1" in finding.found


def test_the_pipeline_has_the_stages_that_this_skumatch_knows(here: Settings) -> None:
    assert ask(machine.pipeline, here).found == "9 stages"
    dvc = here.project / "dvc.yaml"
    whole = dvc.read_text("utf-8")
    for text, phrase in (
        (whole.replace("  gate:\n", "  guess:\n"), "doesn't know: guess"),
        (re.sub(r"  report:\n(    .*\n)+", "", whole), "no stage report"),
        ("<<<<<<< HEAD\n" + whole, "can't be read"),
    ):
        dvc.write_text(text, "utf-8")
        finding = ask(machine.pipeline, here)
        assert finding.verdict == "failed" and phrase in finding.found
    dvc.unlink()
    assert "No such file" in ask(machine.pipeline, here).found


def test_code_is_committed(here: Settings) -> None:
    assert ask(machine.code, here).verdict == "ok"
    (here.project / "skumatch/errors.py").write_text("changed")
    assert "uncommitted changes (skumatch/errors.py)" in ask(machine.code, here).found
    commit(here.project, "Changed")
    assert ask(machine.code, here).verdict == "ok"
    assert (
        "no git commit" in ask(machine.code, here.model_copy(update={"project": here.project / ".."})).found
    )


def test_code_that_git_does_not_answer_for_is_told_in_its_words(
    here: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each case has its own remedy: a commit would help none of them."""
    with monkeypatch.context() as other:
        other.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        finding = ask(machine.code, here)
        assert finding.verdict == "failed"
        assert "dubious ownership" in finding.found and "safe.directory" in finding.found
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nowhere")
        finding = ask(machine.code, here)
        assert finding.verdict == "failed" and finding.fix == "Install git."
        assert "there is no git here" in finding.found
    shutil.rmtree(here.project / ".git")
    finding = ask(machine.code, here)
    assert finding.verdict == "warning" and "in no git repository (not a git repository" in finding.found
    assert finding.fix.startswith("Clone the project with git")


@pytest.mark.parametrize(
    "name", ["home/airflow.secret", "home/airflow-passwords.json", "project/.dvc/config.local", "key.pem"]
)
def test_secrets_are_for_their_owner(here: Settings, tmp_path: Path, name: str) -> None:
    own = here.model_copy(update={"signing_key": tmp_path / "key.pem"})
    assert ask(machine.secrets, own).found == "none here"
    secret = tmp_path / name
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("s3cr3t")
    secret.chmod(0o600)
    assert ask(machine.secrets, own).found == "1 for their owner only"
    secret.chmod(0o640)
    finding = ask(machine.secrets, own)
    assert (
        finding.verdict == "warning"
        and finding.fix == f"Close it: chmod go= {secret}"
        and "s3cr3t" not in finding.found
    )


def test_a_signing_key_is_tried(here: Settings, tmp_path: Path) -> None:
    assert ask(machine.signing_key, here).found == "none is set: provenance is unsigned"
    own = here.model_copy(update={"signing_key": tmp_path / "key.pem"})
    missing = ask(machine.signing_key, own)
    assert missing.verdict == "failed" and "there is no such file" in missing.found
    assert missing.fix == "Correct the path or its rights."
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key.pem"]
    subprocess.run(make, check=True, capture_output=True)
    well = ask(machine.signing_key, own)
    assert well.verdict == "ok" and re.search(r"key.pem, id [0-9a-f]{12}$", well.found)
