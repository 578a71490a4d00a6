"""A run's input set: code, parameters and pointers to data, champion and weights, in one archive known by its hash."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skumatch.config import Settings, load_params
from skumatch.errors import DataError
from skumatch.files import canonical_json, replacing, write_json, write_text
from skumatch.params import Params
from skumatch.pipeline.repository import Repository, md5_of

CODE = ("skumatch", "dvc.yaml", ".dvcignore", "requirements/constraints.txt")
ARCHIVE = "inputs.tar"
OWN = ("inputs/", "params.yaml", "data.dvc")  # of an input set, what isn't code
NO_CHAMPION = {"champion": None}


def code_files(project: Path) -> list[str]:
    """The code a run takes along, as paths below `project`: tracked and new files, ignored ones left out."""
    listed = _git(project, "ls-files", "--cached", "--others", "--exclude-standard", "--", *CODE)
    if listed is None:
        found = [p for name in CODE for p in ([project / name] if (project / name).is_file() else (project / name).rglob("*"))]
        return sorted(str(p.relative_to(project)) for p in found if p.is_file() and "__pycache__" not in p.parts)
    return sorted(line for line in set(listed.splitlines()) if (project / line).is_file())


def describe_code(project: Path) -> dict[str, Any]:
    """commit (None without git), dirty (code that isn't committed), sha256 over all code files."""
    commit = _git(project, "rev-parse", "HEAD")
    changes = _git(project, "status", "--porcelain", "--", *CODE)
    digest = code_hash((name, (project / name).read_bytes()) for name in code_files(project))
    return {"commit": commit.strip() if commit else None, "dirty": bool(changes), "sha256": digest}


def data_pointer(project: Path, ref: str | None) -> str:
    """The text of data.dvc, from the working tree or from git `ref`. Raises DataError if there is none."""
    if not ref:
        path = project / "data.dvc"
        if not path.is_file():
            raise DataError("There is no data yet; import some with `skumatch data import PATH` or render it with `skumatch data sample`.")
        return path.read_text("utf-8")
    text = _git(project, "show", "--end-of-options", f"{ref}:data.dvc")
    if text is None:
        raise DataError(f"Git ref '{ref}' has no data.dvc; give a ref at which data was committed.")
    return text


def write_params(source: Path, target: Path, overrides: Iterable[str]) -> Params:
    """Write `source` with overrides applied to `target`, checked first. Raises ParameterError."""
    params = load_params(source, overrides)
    write_text(target, yaml.safe_dump(params.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True))
    return params


@dataclass(frozen=True)
class Fetched:
    """What a run starts from besides code, parameters and data: the champion's bundle (None: there is none), the base weights,
    and the profile of the last data version that passed (None: there was none).
    """

    champion: Path | None
    weights: Path
    baseline: dict[str, Any] | None


def place_inputs(folder: Path, project: Path, fetched: Fetched) -> None:
    """Lay what was fetched (or the note that there is none) and the code's facts into `folder`/inputs."""
    for name, source in (("champion", fetched.champion), ("weights", fetched.weights)):
        target = folder / "inputs" / name
        shutil.rmtree(target, ignore_errors=True)
        if source is None:
            write_json(target / "none.json", NO_CHAMPION)
        else:
            shutil.copytree(source, target)
    write_json(folder / "inputs" / "baseline.json", {"baseline": fetched.baseline})
    write_json(folder / "inputs" / "code.json", describe_code(project))


def build(folder: Path, project: Path, settings: Settings, data: str, overrides: Iterable[str], fetched: Fetched) -> str:
    """Assemble the input set in `folder`, store it in the remote, and return the archive's MD5."""
    place_inputs(folder, project, fetched)
    write_params(project / "params.yaml", folder / "params.yaml", overrides)
    write_text(folder / "data.dvc", data)
    repository = Repository(folder, settings)
    for name in ("champion", "weights"):
        repository.add(f"inputs/{name}")
    own = ["params.yaml", "data.dvc", *(f"inputs/{name}" for name in ("champion.dvc", "weights.dvc", "code.json", "baseline.json"))]
    members = {name: (folder / name).read_bytes() for name in own} | {name: (project / name).read_bytes() for name in code_files(project)}
    _write_archive(folder / ARCHIVE, members)
    return md5_of(repository.add(ARCHIVE))


def _write_archive(path: Path, members: dict[str, bytes]) -> None:
    with replacing(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)  # no time, no owner: one hash for one content
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def fingerprint(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _git(project: Path, *words: str) -> str | None:
    if not (project / ".git").exists() or not shutil.which("git"):
        return None
    result = subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def members(archive: Path) -> dict[str, bytes]:
    """An input set's files: path -> content."""
    with tarfile.open(archive) as tar:
        streams = ((info.name, tar.extractfile(info)) for info in tar.getmembers())
        return {name: stream.read() for name, stream in streams if stream is not None}


def code_of(archive: Path) -> list[str]:
    """The code among an input set's files, as paths."""
    return sorted(name for name in members(archive) if not name.startswith(OWN))


def code_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 over code files (path and content), in order of their paths."""
    digest = hashlib.sha256()
    for name, data in sorted(files):
        digest.update(f"{name}:{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Lay an input set's files into `folder`; DVC checked the archive's hash when it was fetched."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
