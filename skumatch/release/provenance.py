"""Where a bundle came from, as an in-toto statement with SLSA's predicate, in a DSSE envelope that may be signed.

in-toto Attestation Framework, Statement v1; SLSA Provenance v1; Dead Simple Signing Envelope v1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from skumatch.errors import ParameterError
from skumatch.release.lineage import Lineage, record_hash

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"
OTHER_KEYS = {
    b"ENCRYPTED": "it is encrypted",
    b"PUBLIC KEY-": "it is a public key",
    b"OPENSSH PRIVATE KEY-": "it is in OpenSSH's form",
    b"CERTIFICATE-": "it is a certificate",
    b" PRIVATE KEY-": "it is damaged, or of a kind that can't sign: take Ed25519, RSA or ECDSA on P-256",
}
BUILD, BUILDER = "urn:skumatch:retrain:1", "urn:skumatch:register:1"


def statement(record: Mapping[str, Any], parts: Mapping[str, str], ended: datetime) -> dict[str, Any]:
    """What a run made of what. record: its lineage record.

    Parts: the bundle's files and their SHA-256; ended: when it was registered.
    """
    run = Lineage.model_validate(record)
    results = {
        "decision.json": run.results.decision,
        "challenger.json": run.results.challenger,
        "lineage.json": record_hash(dict(record)),
    }
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": f"bundle/{name}", "digest": {"sha256": digest}} for name, digest in sorted(parts.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {"overrides": list(run.inputs.overrides)},
                "internalParameters": {"dirty": run.code.dirty},
                "resolvedDependencies": _dependencies(run),
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {"invocationId": run.run, "finishedOn": f"{ended:%Y-%m-%dT%H:%M:%SZ}"},
                "byproducts": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in results.items()
                ],
            },
        },
    }


def _dependencies(run: Lineage) -> list[dict[str, Any]]:
    inputs = run.inputs
    found: list[tuple[str, dict[str, str | None]]] = [
        ("code", {"sha256": run.code.files, "gitCommit": run.code.commit}),
        ("data", {"md5": inputs.data.removeprefix("md5:")}),
        ("inputs.tar", {"md5": inputs.archive.removeprefix("md5:")}),
        ("params.yaml", {"sha256": inputs.params}),
        ("constraints.txt", {"sha256": inputs.environment}),
        (f"weights: {inputs.weights}", {"sha256": inputs.weights_sha256}),
        ("champion", {"sha256": inputs.champion}),
    ]
    named = ((name, {kind: digest for kind, digest in digests.items() if digest}) for name, digests in found)
    return [{"name": name, "digest": digest} for name, digest in named if digest]


def envelope(told: Mapping[str, Any], key: Path | None) -> dict[str, Any]:
    """The statement in its envelope, signed with the private key (PEM, without a password) where there is one.

    Raises ParameterError for a file that holds no such key.
    """
    from securesystemslib.dsse import Envelope

    made = Envelope(json.dumps(told, sort_keys=True).encode(), PAYLOAD, {})
    if key is not None:
        made.sign(_signer(key))
    return dict(made.to_dict())


def opened(found: Mapping[str, Any]) -> dict[str, Any]:
    """The statement in an envelope. Raises ValueError for one that holds none."""
    from securesystemslib.dsse import Envelope

    try:
        inside = Envelope.from_dict(json.loads(json.dumps(found)))
        told = json.loads(inside.payload)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is no DSSE envelope") from error
    if not isinstance(found.get("signatures"), list):
        raise ValueError("it has no list of signatures")
    if inside.payload_type != PAYLOAD or not isinstance(told, dict) or told.get("_type") != STATEMENT:
        raise ValueError("it holds no in-toto statement")
    return dict(told)


def signers(found: Mapping[str, Any]) -> list[str]:
    """Ids of the keys that an envelope says it is signed with; empty where it is unsigned."""
    return [str(signature["keyid"]) for signature in found.get("signatures", [])]


def signed_by(found: Mapping[str, Any], key: Path) -> bool:
    """Whether the envelope carries a signature of this public key (PEM).

    Raises ParameterError for a file that holds none.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]

    inside, public = Envelope.from_dict(json.loads(json.dumps(found))), _public(key)
    for one in inside.signatures.values():  # whatever id they claim: it is the signature that counts
        named = Envelope(
            inside.payload, inside.payload_type, {public.keyid: Signature(public.keyid, one.signature)}
        )
        try:
            named.verify([public], 1)
        except VerificationError:
            continue
        return True
    return False


def check_signing_key(key: Path | None) -> str:
    """Try to sign with the key, so that no run is stopped for it after its training; return the key's id.

    Raises:
        ParameterError: The file can't be read, or holds no private key that can sign without a password.
    """
    return str(_signer(key).public_key.keyid) if key else ""


def _signer(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    pem = _key_file(path)
    try:
        signer = CryptoSigner(load_pem_private_key(pem, None))
        signer.sign(b"trial")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = next((f" ({reason})" for mark, reason in OTHER_KEYS.items() if mark in pem), "")
        advice = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
        sentence = f"{path} (SKUMATCH_SIGNING_KEY) holds no private key in PEM without a password{why}"
        raise ParameterError(f"{sentence}; {advice}.") from error
    return signer


def _key_file(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        kind = "it is a folder" if path.is_dir() else "it is no file"
        why = kind if path.exists() else "there is no such file"
    except OSError as error:
        why = str(error.strerror).lower()
    sentence = f"{path} (SKUMATCH_SIGNING_KEY) can't be read: {why}"
    raise ParameterError(f"{sentence}; correct the path or its rights.")


def _public(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ParameterError(
            f"{path} (--key) holds no public key in PEM; write it with `openssl pkey -in key.pem -pubout`."
        ) from error
