"""The provenance of a bundle: an in-toto statement with SLSA's predicate, in a DSSE envelope.

The envelope may be signed. Formats: in-toto Attestation Framework, Statement v1; SLSA Provenance v1; Dead
Simple Signing Envelope v1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from skumatch.errors import ParameterError
from skumatch.lineage.lineage import Lineage, record_hash
from skumatch.texts import read_bytes

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


def statement(
    record: Mapping[str, Any], parts: Mapping[str, str], registered: datetime | None = None
) -> dict[str, Any]:
    """Return the in-toto statement of a run: its inputs and the bundle that it made.

    Args:
        record: the run's lineage record.
        parts: SHA-256 of each file of the bundle, by name.
        registered: when the run was registered, in UTC; told as its end if the record names no end.
    """
    run = Lineage.model_validate(record)
    times = {"startedOn": run.started, "finishedOn": run.ended or registered}
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
                "metadata": {"invocationId": run.run}
                | {name: f"{moment:%Y-%m-%dT%H:%M:%SZ}" for name, moment in times.items() if moment},
                "byproducts": [
                    {"name": name, "digest": {"sha256": digest}} for name, digest in results.items()
                ],
            },
        },
    }


def _dependencies(run: Lineage) -> list[dict[str, Any]]:
    inputs = run.inputs
    digests_of: list[tuple[str, dict[str, str | None]]] = [
        ("code", {"sha256": run.code.files, "gitCommit": run.code.commit}),
        ("data", {"md5": inputs.data.removeprefix("md5:")}),
        ("inputs.tar", {"md5": inputs.archive.removeprefix("md5:")}),
        ("params.yaml", {"sha256": inputs.params}),
        ("constraints.txt", {"sha256": inputs.environment}),
        (f"weights: {inputs.weights}", {"sha256": inputs.weights_sha256}),
        ("champion", {"sha256": inputs.champion}),
    ]
    if package := run.code.package:
        digests_of.append((f"skumatch {package.version}", {"sha256": package.sha256}))
    named = (
        (name, {kind: digest for kind, digest in digests.items() if digest}) for name, digests in digests_of
    )
    return [{"name": name, "digest": digest} for name, digest in named if digest]


def envelope(contents: Mapping[str, Any], key: Path | None) -> dict[str, Any]:
    """Put a statement into an envelope, and sign it where there is a key.

    Args:
        contents: the statement.
        key: file of the private key (PEM, without a password); None for an unsigned envelope.

    Raises:
        ParameterError: the file holds no such key.
    """
    from securesystemslib.dsse import Envelope

    sealed = Envelope(json.dumps(contents, sort_keys=True).encode(), PAYLOAD, {})
    if key is not None:
        sealed.sign(_signer(key))
    return dict(sealed.to_dict())


def opened(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statement in an envelope.

    Raises:
        ValueError: the document is no envelope, or holds no statement.
    """
    from securesystemslib.dsse import Envelope

    try:
        parsed = Envelope.from_dict(json.loads(json.dumps(document)))
        contents = json.loads(parsed.payload)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is no DSSE envelope") from error
    if not isinstance(document.get("signatures"), list):
        raise ValueError("it has no list of signatures")
    typed = isinstance(contents, dict) and contents.get("_type") == STATEMENT
    if parsed.payload_type != PAYLOAD or not typed:
        raise ValueError("it holds no in-toto statement")
    return dict(contents)


def signers(document: Mapping[str, Any]) -> list[str]:
    """Return the ids of the keys that an envelope claims; none where it is unsigned."""
    return [str(signature["keyid"]) for signature in document.get("signatures", [])]


def signed_by(document: Mapping[str, Any], key: Path) -> bool:
    """Return whether an envelope carries a valid signature of a public key.

    Args:
        document: the envelope.
        key: file of the public key (PEM).

    Raises:
        ParameterError: the file holds no public key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]

    parsed, public = Envelope.from_dict(json.loads(json.dumps(document))), public_key(key)
    for signature in parsed.signatures.values():  # the signature counts, not the key's id that it claims
        renamed = {public.keyid: Signature(public.keyid, signature.signature)}
        candidate = Envelope(parsed.payload, parsed.payload_type, renamed)
        try:
            candidate.verify([public], 1)
        except VerificationError:
            continue
        return True
    return False


def check_signing_key(key: Path | None) -> str:
    """Sign something with the key, so that a bad key stops a run before its training.

    Args:
        key: file of the private key (PEM, without a password); None for no key.

    Returns:
        The key's id; empty without a key.

    Raises:
        ParameterError: the file can't be read, or holds no private key that can sign without a password.
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


def public_key(path: Path) -> Any:
    """Return a public key for `signed_by`; raise ParameterError if the file (PEM) holds none."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        return SSlibKey.from_crypto(load_pem_public_key(read_bytes(path, "a public key", ParameterError)))
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"{path} (--key) holds no public key in PEM; write it with `openssl pkey -in key.pem -pubout`."
        ) from error
