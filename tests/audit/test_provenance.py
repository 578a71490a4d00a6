"""A run's origin in standard forms (in-toto, SLSA, DSSE, CycloneDX), and the proof by a signature."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from skumatch.audit.chain import STEPS, linked
from skumatch.audit.dossier import ORIGIN, Dossier
from skumatch.audit.link import Link
from skumatch.errors import ParameterError
from skumatch.files import canonical_json, read_json, write_json
from skumatch.lineage import provenance
from skumatch.lineage.documents import emit, events, packages


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and its public key, made as in docs/audit.md."""
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "key.pem", folder / "key.pub"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True
    )
    subprocess.run(
        ["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, capture_output=True
    )
    return private, public


def judged(dossier: Dossier) -> Link:
    (step,) = (step for step in STEPS if step.name == "provenance")
    return linked(dossier, step, verify=True)


def signed(dossier: Dossier, key: Path) -> dict[str, Any]:
    """The dossier's statement, signed."""
    path = dossier.path("run", ORIGIN)
    statement = provenance.opened(read_json(path))
    write_json(path, provenance.envelope(statement, key))
    return statement


def test_a_statement_names_every_part_and_every_input(collected: Dossier) -> None:
    statement = provenance.opened(collected.json("run", ORIGIN))
    parts = {entry["name"]: entry["digest"]["sha256"] for entry in statement["subject"]}
    assert parts["bundle/bundle.json"] == collected.facts.registered.bundle and len(parts) == 7
    digests = {
        entry["name"].split(":")[0]: entry["digest"]
        for entry in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert digests.keys() == {
        "code",
        "data",
        "inputs.tar",
        "params.yaml",
        "constraints.txt",
        "weights",
        "champion",
    }
    assert digests["code"]["gitCommit"] == collected.record.code.commit
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )


def test_unsigned_is_allowed_and_said_but_not_where_a_key_is_asked_for(
    dossier: Dossier, keys: tuple[Path, Path]
) -> None:
    link = judged(dossier)
    assert (link.verdict, link.said["signed"]) == ("holds", "no") and "unsigned" in link.reason
    link = judged(Dossier(dossier.folder, keys[1]))
    assert (link.verdict, link.reason) == ("broken", "it is unsigned")


def test_a_signature_holds_for_its_key_alone(
    dossier: Dossier, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    signed(dossier, keys[0])
    assert judged(Dossier(dossier.folder, keys[1])).verdict == "holds"
    link = judged(dossier)
    assert link.verdict == "unchecked" and "--key" in link.reason
    other = tmp_path / "other.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True, capture_output=True
    )
    signed(dossier, other)
    link = judged(Dossier(dossier.folder, keys[1]))
    assert (link.verdict, link.reason) == ("broken", "it isn't signed with key.pub")


@pytest.mark.parametrize("change", ["payload", "signature", "keyid"])
def test_a_changed_envelope_is_seen(dossier: Dossier, keys: tuple[Path, Path], change: str) -> None:
    statement = signed(dossier, keys[0])
    path = dossier.path("run", ORIGIN)
    tree = read_json(path)
    if change == "payload":
        statement["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2020-01-01T00:00:00Z"
        tree["payload"] = provenance.envelope(statement, None)["payload"]
    elif change == "signature":
        tree["signatures"][0]["sig"] = "AAAA" + tree["signatures"][0]["sig"][4:]
    else:
        tree["signatures"][0]["keyid"] = "0" * 64
    write_json(path, tree)
    assert judged(Dossier(dossier.folder, keys[1])).verdict == ("holds" if change == "keyid" else "broken")


def test_a_statement_of_something_else_is_named(dossier: Dossier) -> None:
    path = dossier.path("run", ORIGIN)
    statement = provenance.opened(read_json(path))
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    write_json(path, provenance.envelope(statement, None))
    assert "of another bundle" in judged(dossier).reason
    path.write_text(canonical_json({"payload": "", "payloadType": "text", "signatures": []}))
    assert judged(dossier).verdict == "broken"


GENERATE = "openssl genpkey -algorithm"
KEYS = {  # how a key is made that can't sign, and why
    "encrypted": (f"{GENERATE} ed25519 -aes256 -pass pass:x -out K", "it is encrypted"),
    "traditional": (
        f"{GENERATE} rsa -out K && openssl rsa -in K -traditional -aes128 -passout pass:x -out K",
        "it is encrypted",
    ),
    "public": (f"{GENERATE} ed25519 | openssl pkey -pubout -out K", "it is a public key"),
    "exchange": (f"{GENERATE} x25519 -out K", "of a kind that can't sign"),
    "curve": ("openssl ecparam -name secp256k1 -genkey -noout -out K", "of a kind that can't sign"),
    "certificate": (
        "openssl req -x509 -newkey ed25519 -nodes -keyout /dev/null -subj /CN=x -out K",
        "it is a certificate",
    ),
    "der": (f"{GENERATE} ed25519 -outform DER -out K", "without a password; make one"),
    "empty": (": > K", "without a password; make one"),
    "folder": ("mkdir K", "can't be read: it is a folder"),
    "pipe": ("mkfifo K", "can't be read: it is no file"),
    "missing": (":", "can't be read: there is no such file"),
    "loop": ("ln -s K K", "can't be read: "),
}


@pytest.mark.parametrize(("make", "why"), KEYS.values(), ids=KEYS)
def test_a_key_that_cannot_sign_is_refused_with_the_reason(tmp_path: Path, make: str, why: str) -> None:
    subprocess.run(make, shell=True, check=True, capture_output=True, cwd=tmp_path)  # noqa: S602
    with pytest.raises(ParameterError, match=r"K .SKUMATCH_SIGNING_KEY. ") as refused:
        provenance.check_signing_key(tmp_path / "K")
    assert why in str(refused.value)


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ec -pkeyopt ec_paramgen_curve:P-256"])
def test_a_key_that_can_sign_is_named_by_its_id(tmp_path: Path, kind: str) -> None:
    make = [*GENERATE.split(), *kind.split(), "-out", "K"]
    subprocess.run(make, check=True, capture_output=True, cwd=tmp_path)
    keyid = provenance.check_signing_key(tmp_path / "K")
    assert keyid == provenance.envelope({}, tmp_path / "K")["signatures"][0]["keyid"]
    assert provenance.check_signing_key(None) == ""


@pytest.mark.parametrize(
    "text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_told_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.pem"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"key.pem .SKUMATCH_SIGNING_KEY. holds no private key"):
        provenance.envelope({}, path)
    with pytest.raises(ParameterError, match=r"--key. holds no public key"):
        provenance.signed_by(provenance.envelope({}, None), path)


def test_the_bill_of_materials_is_cyclonedx_and_names_model_data_weights_and_packages(
    collected: Dossier,
) -> None:
    text = collected.path("run/origin/bom.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    tree = json.loads(text)
    kinds = {component["name"]: component["type"] for component in tree["components"]}
    assert kinds["data"] == "data" and kinds["torch"] == "library"
    assert tree["metadata"]["component"]["hashes"][0]["content"] == collected.facts.registered.bundle
    assert len(kinds) > 100


def test_of_a_lock_only_what_is_for_this_python_is_a_part() -> None:
    text = (
        "# a comment\n\none==1.0\n"
        "two==2.0 ; python_full_version < '3'\n"
        "two==2.1 ; python_full_version >= '3'\n"
        "three>=3\n"
    )
    assert list(packages(text)) == [("one", "1.0"), ("two", "2.1")]


def test_an_event_tells_data_model_and_decision_and_a_listener_that_is_away_stops_nothing(
    collected: Dossier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = events(collected.record, "d" * 64, "Promoted.", "shelf", 3)[-1]
    where = tmp_path / "events" / "lineage.jsonl"
    for _ in range(2):
        emit(made, str(where))
    first, second = (json.loads(line) for line in where.read_text("utf-8").splitlines())
    assert (
        first == second
        and first["eventType"] == "COMPLETE"
        and first["job"] == {"namespace": "skumatch", "name": "skumatch_retrain", "facets": {}}
    )
    assert first["run"]["facets"]["skumatch_decision"]["verdict"] == collected.record.results.verdict
    assert first["inputs"][0]["facets"]["skumatch_data"]["version"] == collected.record.inputs.data
    assert first["outputs"][0]["facets"]["skumatch_model"]["version"] == 3
    emit(made, "http://user:secret@127.0.0.1:9/")
    output = capsys.readouterr().err
    assert "could not be sent" in output and "secret" not in output
