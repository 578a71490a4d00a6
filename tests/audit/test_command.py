"""`skumatch audit` from the command line: export from the stores, then verify without any server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from skumatch.audit.dossier import Dossier
from skumatch.commands.audit import app
from skumatch.errors import AuditFailed, DataError, ParameterError
from tests.cli import NOWHERE
from tests.pipeline.home import Home


def audit(monkeypatch: pytest.MonkeyPatch, machine: Home, /, *words: str | Path, **places: str) -> Result:
    for name, value in machine.environment.items():
        if name.startswith("SKUMATCH_"):
            monkeypatch.setenv(name, places.get(name.removeprefix("SKUMATCH_").lower(), value))
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def offline(home: Home, tmp_path: Path) -> dict[str, str]:
    """Places of a machine that reaches nothing."""
    return {
        "mlflow": NOWHERE,
        "remote": str(tmp_path / "nothing"),
        "home": str(tmp_path / "home"),
        "project": str(home.project),
    }


def test_what_is_exported_is_audited_without_any_server(
    home: Home, offline: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = audit(monkeypatch, home, "champion", "--export", tmp_path / "dossier")
    assert exported.exit_code == 0 and "--verify" in exported.stdout, exported.output
    outputs = ("--json", tmp_path / "chain.json", "--page", tmp_path / "chain.html")
    done = audit(monkeypatch, home, "--from", tmp_path / "dossier", "--verify", *outputs, **offline)
    assert done.exit_code == 0, done.output
    chain = json.loads((tmp_path / "chain.json").read_text())
    assert {link["verdict"] for link in chain["links"]} == {"holds"} and len(chain["links"]) == 20
    assert chain["facts"]["registered"]["version"] == 2
    assert "The chain holds" in (tmp_path / "chain.html").read_text()


def test_an_audit_that_only_tells_ends_in_an_error_where_it_cannot_read(
    collected: Dossier, home: Home, offline: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(collected.folder, tmp_path / "dossier")
    (folder / "run/validate/validation.json").write_text('{"quarantined": 3}')
    files = ("--page", tmp_path / "chain.html", "--json", tmp_path / "chain.json")
    done = audit(monkeypatch, home, "--from", folder, *files, **offline)
    assert isinstance(done.exception, AuditFailed) and "broken at validation" in str(done.exception)
    assert (
        "20 links: 1 broken, 19 not looked at" in done.stdout
        and " hold" not in done.stdout.rpartition("links: ")[2]
    )
    assert "The chain is broken" in (tmp_path / "chain.html").read_text()
    chain = json.loads((tmp_path / "chain.json").read_text())["links"]
    assert {link["name"]: link["verdict"] for link in chain if link["verdict"]} == {"validation": "broken"}


def test_a_dossier_without_pictures_is_small_and_says_what_it_leaves_unchecked(
    home: Home, offline: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit(monkeypatch, home, "2", "--no-pictures", "--export", tmp_path / "dossier").exit_code == 0
    assert not (tmp_path / "dossier/workspace/data/shards").exists()
    done = audit(
        monkeypatch,
        home,
        "--from",
        tmp_path / "dossier",
        "--verify",
        "--json",
        tmp_path / "chain.json",
        **offline,
    )
    assert done.exit_code == 0, done.output
    chain = {link["name"]: link for link in json.loads((tmp_path / "chain.json").read_text())["links"]}
    assert {name for name, link in chain.items() if link["verdict"] == "unchecked"} == {
        "split",
        "validation",
        "data",
    }
    assert "pictures" in chain["data"]["reason"]


def test_a_key_that_signed_nothing_ends_the_audit_in_an_error(
    collected: Dossier, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = tmp_path / "key.pub"
    key.write_bytes(
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    done = audit(monkeypatch, home, "--from", collected.folder, "--verify", "--key", key)
    assert isinstance(done.exception, AuditFailed) and "provenance: it is unsigned" in str(done.exception)
    (tmp_path / "none.pub").write_text("no key")
    done = audit(monkeypatch, home, "--from", collected.folder, "--verify", "--key", tmp_path / "none.pub")
    assert isinstance(done.exception, ParameterError | AuditFailed) and "none.pub" in str(done.exception)


def test_words_that_contradict_and_folders_that_are_none_are_refused(
    collected: Dossier, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = audit(monkeypatch, home, "--from", collected.folder, "--export", tmp_path / "other")
    assert isinstance(both.exception, ParameterError) and not (tmp_path / "other").exists()
    none = audit(monkeypatch, home, "--from", tmp_path)
    assert isinstance(none.exception, DataError) and str(tmp_path) in str(none.exception)


def test_what_changed_between_two_versions_is_a_table_and_a_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = audit(monkeypatch, home, "diff", "1", "2", "--json", tmp_path / "diff.json")
    assert done.exit_code == 0, done.output
    assert "encoder.resize" in done.stdout and "pad" in done.stdout
    assert any(
        "encoder.resize" in str(value) for value in json.loads((tmp_path / "diff.json").read_text()).values()
    )
