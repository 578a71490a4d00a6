"""Helpers of all checks: comparison of hashes with the record's, and absent parts."""

from __future__ import annotations

from skumatch.audit.dossier import RUN, WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import sha256
from skumatch.pipeline.register import SHOWN
from skumatch.stages import artefacts


def same(dossier: Dossier, recorded: str, kept: str, used: str = "") -> None:
    """Check that both copies of a file have the recorded hash.

    Args:
        dossier: The dossier with the copies.
        recorded: SHA-256 from the lineage record.
        kept: Path of MLflow's copy, below RUN.
        used: Path of the run's copy, below WORKSPACE; by default that of a stage's result.

    Raises:
        Broken: A copy has another hash.
        FileNotFoundError: A copy is missing.
    """
    for copy in (dossier.path(RUN, kept), dossier.path(WORKSPACE, used or artefacts.out(kept))):
        digest = sha256(copy)
        must(
            digest == recorded,
            f"{copy.relative_to(dossier.folder)} is {short(digest)}, the record names {short(recorded)}",
        )


def copies(dossier: Dossier, *stages: str) -> None:
    """Check that MLflow's copies of stages' outs are what the stages wrote.

    The facts of the chain are read from MLflow's copies.

    Raises:
        Broken: A copy differs, or the stage wrote no such file.
        FileNotFoundError: The outs of a stage are missing.
    """
    outs = {name: dossier.path(WORKSPACE, artefacts.out(name)) for name in stages}
    paths = {name: sorted(dossier.path(RUN, name).glob("*")) for name in stages}
    pairs = [(path, outs[name]) for name in stages for path in paths[name] if path.is_file()]
    for path, out in pairs:
        written, shown = out / path.name, path.relative_to(dossier.folder)
        known = written.exists() or not out.is_dir() or out.name not in SHOWN
        must(known, f"{shown} isn't among what the stage wrote")
        must(not written.exists() or sha256(path) == sha256(written), f"{shown} isn't what the stage wrote")
    for _, out in pairs:  # last, so that a missing part doesn't hide a changed one
        out.stat()


def absent(dossier: Dossier, part: str, otherwise: str) -> Broken | Unchecked:
    """Return the error for a part that an audit may lack.

    Args:
        dossier: The dossier that lacks the part.
        part: The part's path in the dossier.
        otherwise: The reason to give if the dossier's facts don't explain the absence.

    Returns:
        The reason from the dossier's facts: Broken if the store should have delivered the part, else
        Unchecked.
    """
    missing = dossier.why(dossier.path(part))
    if missing is None:
        return Unchecked(otherwise)
    return Broken(missing.reason) if missing.broken else Unchecked(missing.reason)


def must(holds: bool, otherwise: str) -> None:
    """Raise Broken with the message `otherwise` unless the condition holds."""
    if not holds:
        raise Broken(otherwise)


def short(digest: str | None) -> str:
    """Return the first 12 digits of a hash; `none` for None."""
    return "none" if digest is None else digest[:12]
