"""What checks of all links share: hashes held against a record's, and what isn't there."""

from __future__ import annotations

from skumatch.audit.dossier import RUN, WORKSPACE, Dossier
from skumatch.audit.link import Broken, Unchecked
from skumatch.files import sha256
from skumatch.pipeline.register import SHOWN


def same(dossier: Dossier, told: str, kept: str, used: str) -> None:
    """A file has the recorded hash, as MLflow keeps it with the run and as it lies in the run's workspace."""
    for path in (dossier.path(RUN, kept), dossier.path(WORKSPACE, used)):
        found = sha256(path)
        must(
            found == told,
            f"{path.relative_to(dossier.folder)} is {short(found)}, the record names {short(told)}",
        )


def copies(dossier: Dossier, *stages: str) -> None:
    """What MLflow shows of a stage is what the stage wrote: the chain is told from MLflow's copies."""
    outs = {name: dossier.path(WORKSPACE, "out", name) for name in stages}
    paths = {name: sorted(dossier.path(RUN, name).glob("*")) for name in stages}
    pairs = [(path, outs[name]) for name in stages for path in paths[name] if path.is_file()]
    for path, out in pairs:
        wrote, shown = out / path.name, path.relative_to(dossier.folder)
        known = wrote.exists() or not out.is_dir() or out.name not in SHOWN
        must(known, f"{shown} isn't among what the stage wrote")
        must(not wrote.exists() or sha256(path) == sha256(wrote), f"{shown} isn't what the stage wrote")
    for _, out in pairs:  # at the end: what isn't there hides nothing that was changed
        out.stat()


def absent(dossier: Dossier, part: str, otherwise: str) -> Broken | Unchecked:
    """What an audit may lack: in the store's own words, where it should have given that."""
    missing = dossier.why(dossier.path(part))
    return (
        Unchecked(otherwise) if missing is None else (Broken if missing.broken else Unchecked)(missing.reason)
    )


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
