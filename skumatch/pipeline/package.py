"""The installed package skumatch as code of a run: its files, and the hashes that its wheel lists."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from skumatch.version import VERSION

PACKAGE = "skumatch"
TEMPLATE = f"{PACKAGE}/template/"  # what `skumatch init` lays out; no run reads it


@dataclass(frozen=True)
class InstalledPackage:
    """An installation of skumatch.

    Attributes:
        version: its version.
        files: path, from `skumatch/` on -> content; without compiled files and templates of projects.
        sha256: hash over the files as the wheel lists them; empty for an installation from a checkout.
        changed: paths whose content isn't the wheel's, missing and added ones too.
    """

    version: str
    files: Mapping[str, bytes]
    sha256: str
    changed: tuple[str, ...]


def installed_package() -> InstalledPackage:
    """Read the skumatch that runs this process."""
    folder = Path(__file__).parents[1]
    files = {f"{PACKAGE}/{name}": (folder / name).read_bytes() for name in _names(folder)}
    files = {name: data for name, data in files.items() if _is_code(name)}
    listed = _listed()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    differing = {name for name in listed.keys() | hashes.keys() if listed.get(name) != hashes.get(name)}
    return InstalledPackage(
        version=VERSION,
        files=files,
        sha256=listing_hash(listed) if listed else "",
        changed=tuple(sorted(differing)) if listed else (),
    )


def listing_hash(hashes: Mapping[str, str]) -> str:
    """Return one SHA-256 over files, given by path and SHA-256, in the order of their paths.

    A path with a newline or a backslash is escaped and its line marked, as sha256sum does, so that two
    different sets of files never make the same text.
    """
    digest = hashlib.sha256()
    for name, sha256 in sorted((os.fsencode(name), sha256) for name, sha256 in hashes.items()):
        line = name
        if b"\\" in name or b"\n" in name:
            line = b"\\" + name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        digest.update(line + f":{sha256}\n".encode())
    return digest.hexdigest()


def _names(folder: Path) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(root, name).relative_to(folder).as_posix() for name in names)


def _listed() -> dict[str, str]:
    """Return the SHA-256 of each code file by path, as the wheel's RECORD lists it; empty without a wheel."""
    entries = distribution(PACKAGE).files or []
    hashes = {str(entry): entry.hash for entry in entries if _is_code(str(entry))}
    return {name: _hex(entry.value) for name, entry in hashes.items() if entry and entry.mode == "sha256"}


def _is_code(name: str) -> bool:
    inside = name.startswith(f"{PACKAGE}/") and not name.startswith(TEMPLATE)
    return inside and "__pycache__" not in PurePosixPath(name).parts


def _hex(value: str) -> str:
    """Return a hash of a RECORD (URL-safe Base64 without padding) in hexadecimal digits."""
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
