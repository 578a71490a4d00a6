"""Files that would run code where they are unpickled: none is, wherever a user or a store can put one."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from skumatch.config import EncoderParams, load_params
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import SkumatchError
from skumatch.files import read_json, sha256, write_json
from skumatch.model import encoder as encoders
from skumatch.model.weights import fetch_weights
from skumatch.release.bundle import MANIFEST, PARTS, Bundle, Gallery, write_bundle
from tests.conftest import ROOT, draw

FORBIDDEN = re.compile(
    r"import (?:cloud)?pickle|import joblib|import dill|weights_only=False|allow_pickle=True"
    r"|yaml\.(?:unsafe_)?load\(|(?<![.\w])(?:eval|exec)\("
)


class Trap:
    """Makes `mark` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.mark,)


def _npy(trap: Trap) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([trap], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _npz(trap: Trap) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, gallery=np.array([trap], dtype=object))
    return stream.getvalue()


def _torch(trap: Trap, zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save({"weights": trap}, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


TRAPS: dict[str, Callable[[Trap], bytes]] = {
    **{f"pickle-{n}": lambda trap, n=n: pickle.dumps(trap, protocol=n) for n in (0, 2, 4, 5)},  # type: ignore[misc]
    "torch": lambda trap: _torch(trap, True),
    "torch-legacy": lambda trap: _torch(trap, False),
    "npy": _npy,
    "npz": _npz,
}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture(params=TRAPS)
def trap(request: pytest.FixtureRequest, mark: Path) -> bytes:
    return TRAPS[request.param](Trap(mark))


def test_the_traps_work(mark: Path) -> None:
    """Or nothing is shown by the others."""
    pickle.loads(pickle.dumps(Trap(mark)))  # noqa: S301 the trap itself
    assert mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
def test_weights(trap: bytes, mark: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(trap)
    with pytest.raises(SkumatchError):
        fetch_weights(EncoderParams(model="smoke", weights=str(path), height=32, width=32), tmp_path / "out")
    assert not mark.exists()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    encoders.save(encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval(), root / "encoder")
    vectors = np.eye(4, encoders.load(root / "encoder").dim, dtype=np.float32)
    write_bundle(root / "bundle", root / "encoder", Gallery([f"train/{i}" for i in range(4)], ["a", "a", "b", "b"], vectors), {}, [])
    return root / "bundle"


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_bundle_with_right_hashes(trap: bytes, mark: Path, tmp_path: Path, sound: Path, part: str) -> None:
    """Whoever wrote the part wrote the hashes as well."""
    folder = shutil.copytree(sound, tmp_path / "bundle")
    (folder / part).write_bytes(trap)
    manifest = read_json(folder / MANIFEST)
    manifest["parts"][part] = {"sha256": sha256(folder / part), "size": len(trap)}
    write_json(folder / MANIFEST, manifest)
    if part == "encoder/encoder.safetensors":
        facts = read_json(folder / "encoder/encoder.json") | {"sha256": sha256(folder / part)}
        write_json(folder / "encoder/encoder.json", facts)
        manifest["parts"]["encoder/encoder.json"] = {
            "sha256": sha256(folder / "encoder/encoder.json"),
            "size": (folder / "encoder/encoder.json").stat().st_size,
        }
        write_json(folder / MANIFEST, manifest)
    if part in ("labels.json", "training.parquet"):
        Bundle.load(folder)  # neither is read to match
    else:
        with pytest.raises(SkumatchError):
            Bundle.load(folder)
    assert not mark.exists()


def test_pictures_and_archives(trap: bytes, mark: Path, tmp_path: Path) -> None:
    root = tmp_path / "delivery"
    for side in ("train", "test"):
        for sku in ("a", "b"):
            draw(root / "all" / side / sku / "1.png", f"{side}{sku}")
    (root / "all/train/a/2.png").write_bytes(trap)
    with zipfile.ZipFile(tmp_path / "delivery.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
    for number, given in enumerate((root, tmp_path / "delivery.zip")):
        found = import_data(given, tmp_path / f"data-{number}")
        assert [entry["id"] for entry in found.quarantined] == ["train/a/2.png"]
    assert not mark.exists()


def test_manifest(trap: bytes, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(trap)
    with pytest.raises(SkumatchError):
        read_manifest(tmp_path)
    assert not mark.exists()


def test_parameters(mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"seed: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(SkumatchError):
        load_params(path)
    with pytest.raises(SkumatchError):
        load_params(ROOT / "params.yaml", [f"seed=!!python/object/apply:os.system ['touch {mark}']"])
    assert not mark.exists()


def test_the_package_has_nothing_that_unpickles() -> None:
    """`torch.load` reads one file, that of an installed package, and tensors alone."""
    found = {}
    for path in [*(ROOT / "skumatch").rglob("*.py"), *(ROOT / "dags").rglob("*.py")]:
        text = path.read_text("utf-8")
        loads = [line for line in text.splitlines() if re.search(r"(?<![.\w])torch\.load\(", line) and "weights_only=True" not in line]
        if FORBIDDEN.search(text) or loads:
            found[path.name] = FORBIDDEN.findall(text) + loads
    assert found == {}
