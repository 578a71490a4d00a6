"""Stages and the store of vectors: equal outs with known rows, kills and removals, and the counts shown."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from skumatch.config import Settings, load_params
from skumatch.data.delivery.importer import import_data
from skumatch.errors import StorageError
from skumatch.files import md5, read_json, sha256
from skumatch.model import encoder as encoders
from skumatch.model.encoder import load
from skumatch.model.vector_store import VectorStore, encoder_key
from skumatch.model.weights import fetch_weights
from skumatch.params import EncoderParams, Params, RuntimeParams
from skumatch.stages import embed, frozen, split
from skumatch.stages.runner import VECTORS, machine
from skumatch.stages.selection import select
from tests.conftest import draw, make_project, wait_until
from tests.proving import IN_PROOF
from tests.stages.test_together import finish, set_params, start

SPEC = EncoderParams(model="efficientnet-lite0", weights="none", height=64, width=64)
PARAMS = Params(encoder=SPEC, runtime=RuntimeParams(device="cpu", threads=1, workers=0))
OUTS = ("challenger.safetensors", "champion.safetensors", "items.parquet", "embed.json")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs of embed and frozen: pictures, split, two encoders, base weights."""
    root, folder = make_project(tmp_path_factory.mktemp("root")), tmp_path_factory.mktemp("delivery")
    for sku in range(4):
        for number in range(9):
            draw(
                folder / "all" / ("train" if number < 6 else "test") / f"sku {sku}" / f"{number}.png",
                f"{sku} {number}",
            )
    import_data(folder, root / "data")
    split.run(root, PARAMS)
    fetch_weights(SPEC, root / "inputs/weights")
    for seed, place in enumerate((root / "out/train/encoder", root / "inputs/champion/encoder")):
        torch.manual_seed(seed)
        encoders.save(encoders.build(SPEC, None).eval(), place)
    return root


@pytest.fixture
def root(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = shutil.copytree(workspace, tmp_path / "root")
    monkeypatch.setenv("SKUMATCH_HOME", str(root / "home"))
    return root


def outs(root: Path) -> dict[str, str]:
    return {name: sha256(root / "out/embed" / name) for name in OUTS}


def counts(root: Path) -> dict[str, tuple[int, int]]:
    """Computed and known, of each encoder; the note is gone then, as it is before another stage."""
    noted = read_json(root / VECTORS)
    (root / VECTORS).unlink()
    return {name: (count["computed"], count["known"]) for name, count in noted.items()}


def once(root: Path) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    embed.run(root, PARAMS)
    return outs(root), counts(root)


def remote(root: Path) -> Path:
    return root / "home/remote/vectors"


def test_embed_gives_the_same_outs_with_all_some_and_none_known(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, computed = once(root)
    assert computed == {"challenger": (36, 0), "champion": (36, 0)}
    assert "Vectors of challenger: 36 computed, 0 known." in capsys.readouterr().out
    assert once(root) == (first, {"challenger": (0, 36), "champion": (0, 36)})
    shutil.rmtree(remote(root))
    shown = select(root, "query")[1]
    store = VectorStore(Settings().remote_url, key(root), SPEC_DIM, 60)
    store.save(shown.hashes or [], vectors(root, shown.ids))
    assert once(root) == (first, {"challenger": (36 - len(shown), len(shown)), "champion": (36, 0)})
    shutil.rmtree(remote(root))
    monkeypatch.setenv("SKUMATCH_VECTORS", "off")
    assert once(root) == (first, computed) and not remote(root).exists()


SPEC_DIM = 1280


def key(root: Path) -> str:
    return encoder_key(load(root / "out/train/encoder"), PARAMS.embed.batch, PARAMS.runtime, machine())


def vectors(root: Path, ids: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The vectors that embed wrote for these pictures."""
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    rows = load_file(root / "out/embed/challenger.safetensors")["embeddings"]
    places = {
        name: row
        for row, name in enumerate(pq.read_table(root / "out/embed/items.parquet")["id"].to_pylist())
    }
    return np.asarray(rows[[places[name] for name in ids]])


def test_without_the_store_nothing_is_read_from_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`skumatch reproduce` runs stages so: each picture is computed again, even if the remote has it."""
    first, _ = once(root)
    pictures = select(root, "gallery", "train", "val", "query")[1]
    wrong = np.eye(SPEC_DIM, dtype=np.float32)[: len(pictures)]
    shutil.rmtree(remote(root))
    VectorStore(Settings().remote_url, key(root), SPEC_DIM).save(pictures.hashes or [], wrong)
    assert once(root)[0] != first, "the store is believed"
    monkeypatch.setenv("SKUMATCH_VECTORS", "off")
    assert once(root)[0] == first


def test_frozen_computes_each_vector_once_and_gives_the_same_bytes(root: Path) -> None:
    digests, counted = set(), []
    for _ in range(2):
        frozen.run(root, PARAMS)
        digests.add(sha256(root / "out/frozen/frozen.json"))
        counted.append(counts(root)["untrained"])
    shutil.rmtree(remote(root))
    frozen.run(root, PARAMS)
    digests.add(sha256(root / "out/frozen/frozen.json"))
    pictures = sum(counted[0])
    assert len(digests) == 1 and counted == [(pictures, 0), (0, pictures)]
    assert counts(root)["untrained"] == (pictures, 0)
    (folder,) = remote(root).iterdir()
    assert (folder / f"used-{md5(root / 'inputs/weights/weights.json')}.json").is_file()


def test_a_killed_embed_goes_on_after_its_last_part(root: Path) -> None:
    """SIGKILL in the midst of the real stage: stored parts aren't computed again, the outs are equal."""
    slow = ("embed.batch=1", "runtime.checkpoint_seconds=0", "runtime.workers=0")
    process = start(root, "embed", *slow)
    indexes = lambda: [path for path in remote(root).glob("*/*.json") if len(path.stem) == 64]  # noqa: E731
    wait_until(lambda: indexes() or process.poll() is not None, 120, pause_s=0.01)
    os.kill(process.pid, signal.SIGKILL)
    code, output = finish(process)
    assert code == -signal.SIGKILL, output
    kept = sum(len(read_json(path)["pictures"]) for path in indexes())
    assert 0 < kept < 72 and not (root / "out/embed/embed.json").exists()
    code, output = finish(start(root, "embed", *slow))
    assert code == 0, output
    noted, resumed = counts(root), outs(root)
    assert noted["challenger"][1] + noted["champion"][1] == kept
    set_params(root, *slow)
    shutil.rmtree(remote(root))
    embed.run(root, load_params(root / "params.yaml"))
    assert outs(root) == resumed


@IN_PROOF
def test_two_processes_keep_their_parts_and_know_them_again(root: Path) -> None:
    two = ("runtime.nproc=2", "runtime.workers=0")
    seen = []
    for _ in range(2):
        code, output = finish(start(root, "embed", *two))
        assert code == 0, output
        seen.append((outs(root), counts(root)))
    assert [counted["challenger"] for _, counted in seen] == [(36, 0), (0, 36)]
    set_params(root)
    shutil.rmtree(remote(root))
    embed.run(root, load_params(root / "params.yaml"))
    assert seen[0][0] == seen[1][0] == outs(root)


def test_a_remote_that_refuses_ends_the_stage_with_its_sentence(root: Path) -> None:
    (root / "home").mkdir()
    (root / "home/remote").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="vectors in .* can't be read or written"):
        embed.run(root, PARAMS)
