"""An envelope's signature: it holds for its key and its bytes alone."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from skumatch.errors import ParameterError
from skumatch.lineage.provenance import envelope, opened, signed_by, signers

TOLD: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "bundle/labels.json"}],
}


def key_pair(folder: Path) -> tuple[Path, Path]:
    """A private and its public key, PEM."""
    folder.mkdir()
    key, private, public = Ed25519PrivateKey.generate(), folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_holds_for_its_key_and_payload_alone(tmp_path: Path) -> None:
    (private, public), (_, other) = key_pair(tmp_path / "ours"), key_pair(tmp_path / "others")
    made = envelope(TOLD, private)
    assert opened(made) == TOLD and len(signers(made)) == 1
    assert signed_by(made, public) and not signed_by(made, other)
    forged = base64.b64encode(json.dumps(TOLD | {"subject": []}).encode()).decode()
    assert not signed_by(made | {"payload": forged}, public)
    assert not signed_by(envelope(TOLD, None), public)


@pytest.mark.parametrize("told", [{}, {"_type": "something else"}])
def test_an_envelope_of_something_else_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="holds no in-toto statement"):
        opened(envelope(told, None))
    with pytest.raises(ValueError, match="no DSSE envelope"):
        opened({"payload": 3})


def test_a_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / "ours")
    with pytest.raises(ParameterError, match=r"key\.pub \(SKUMATCH_SIGNING_KEY\) holds no private key"):
        envelope(TOLD, public)
    with pytest.raises(ParameterError, match=r"key\.pem \(--key\) holds no public key"):
        signed_by(envelope(TOLD, private), private)
