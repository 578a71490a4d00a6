"""Files that would run code where they are unpickled: none is, wherever a user or a store can put one."""

from __future__ import annotations

import ast
import hashlib
import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skumatch.bundle import PARTS, Bundle, LabelledVectors, write_bundle
from skumatch.config import load_params
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import SkumatchError
from skumatch.files import write_json
from skumatch.matching.pictures import list_pictures
from skumatch.model import encoder as encoders
from skumatch.model.checkpoint import Checkpoints, _hash
from skumatch.model.hf import load_clip
from skumatch.model.weights import fetch_weights
from skumatch.params import EncoderParams
from tests.conftest import ROOT, draw
from tests.release.forging import bound

PICKLES = {"pickle", "cloudpickle", "joblib", "dill"}
UNSAFE = {"eval", "exec", "yaml.unsafe_load", "yaml.full_load"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def unsafe(text: str) -> list[str]:
    """The imports and calls in a source file that may run what a file holds."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(text)) if _runs_code(node)]


def _runs_code(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in PICKLES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in PICKLES
    return isinstance(node, ast.Call) and _calls_code(node)


def _calls_code(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return keywords.get("weights_only") != "True"
    if name == "yaml.load":
        positional = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
        return keywords.get("Loader", positional) not in SAFE_LOADERS
    return name in UNSAFE or keywords.get("allow_pickle", "False") != "False"


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


def _parquet(trap: Trap) -> bytes:
    """A column of a type that old versions of Arrow unpickle (CVE-2023-47248)."""
    named = {
        "ARROW:extension:name": b"arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(trap),
    }
    stream = io.BytesIO()
    pq.write_table(pa.table([["a"]], pa.schema([pa.field("id", pa.string(), metadata=named)])), stream)
    return stream.getvalue()


def _faiss(trap: Trap) -> bytes:
    return bytes(faiss.serialize_index(faiss.IndexFlatIP(4))) + pickle.dumps(trap)


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
    "parquet": _parquet,
    "faiss": _faiss,
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
    encoders.save(
        encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval(),
        root / "encoder",
    )
    vectors = np.eye(4, encoders.load(root / "encoder").dim, dtype=np.float32)
    write_bundle(
        root / "bundle",
        root / "encoder",
        LabelledVectors([f"train/{i}" for i in range(4)], ["a", "a", "b", "b"], vectors),
        {},
        [],
    )
    return root / "bundle"


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_bundle_with_right_hashes(
    trap: bytes, mark: Path, tmp_path: Path, sound: Path, part: str
) -> None:
    """An attacker who writes a part can write its hashes and its owner, too."""
    folder = shutil.copytree(sound, tmp_path / "bundle")
    (folder / part).write_bytes(trap)
    with pytest.raises(SkumatchError):
        Bundle.load(bound(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["gallery.index", "gallery.npy", "encoder/pytorch_model.bin"])
def test_what_is_no_part_of_a_bundle(trap: bytes, mark: Path, tmp_path: Path, sound: Path, name: str) -> None:
    folder = shutil.copytree(sound, tmp_path / "bundle")
    (folder / name).write_bytes(trap)
    with pytest.raises(SkumatchError, match="no part of it"):
        Bundle.load(folder)
    assert not mark.exists()


def test_a_hugging_face_folder(trap: bytes, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model", "projection_dim": 8}')
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(trap)
    with pytest.raises(SkumatchError):
        load_clip(tmp_path)
    assert not mark.exists()


def test_a_checkpoint_with_the_right_hash(trap: bytes, mark: Path, tmp_path: Path) -> None:
    facts = {"step": 1, "sha256": hashlib.sha256(trap).hexdigest(), "attempt": 1, "meta": {}}
    checkpoints = Checkpoints(str(tmp_path), "key")
    write_json(tmp_path / "checkpoints/key/1.json", facts | {"facts_sha256": _hash(facts)})
    (tmp_path / "checkpoints/key/1.safetensors").write_bytes(trap)
    assert checkpoints.latest() is None
    assert not mark.exists()


def test_a_table_of_pictures_to_match(trap: bytes, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.parquet").write_bytes(trap)
    with pytest.raises(SkumatchError):
        list_pictures([tmp_path / "photos.parquet"])
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
        imported = import_data(given, tmp_path / f"data-{number}")
        assert [entry["id"] for entry in imported.quarantined] == ["train/a/2.png"]
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
    paths = [*(ROOT / "skumatch").rglob("*.py"), *(ROOT / "dags").rglob("*.py")]
    offences = {path.name: unsafe(path.read_text("utf-8")) for path in paths}
    assert {name: lines for name, lines in offences.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import dill.source",
        "torch.load(path)",
        "torch.load(\n    path, weights_only=False\n)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "eval(text)",
    ],
)
def test_what_unpickles_is_noticed(line: str) -> None:
    assert len(unsafe(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(\n    path,\n    weights_only=True,\n)",
        "yaml.load(text, yaml.CSafeLoader)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
    ],
)
def test_what_reads_data_alone_is_let_through(line: str) -> None:
    assert unsafe(line) == []
