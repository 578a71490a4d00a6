"""A new delivery next to an old one: bytes kept, bytes sent, and messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skumatch.config import Settings
from skumatch.data import shards
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import COLUMNS, images, read_manifest
from skumatch.pipeline.repository import Repository
from tests.conftest import Delivery, draw
from tests.data.test_importer import hashes, members

CONTENT = [name for name in COLUMNS if name not in ("shard", "offset")]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 6000)


def shard_hashes(root: Path) -> dict[str, str]:
    return hashes(root / "shards")


def assert_sound(root: Path, folder: Path, fresh: Path) -> None:
    """Assert that each row finds its bytes, and no shard holds anything else.

    Except for the places of the bytes, the manifest has to equal that of a fresh import.
    """
    rows = read_manifest(root)
    pictures = images(root, rows)
    assert all(
        pictures.read_bytes(i) == (folder / "all" / name).read_bytes() for i, name in enumerate(rows["id"])
    )
    held = [name.split(".")[0] for shard in (root / "shards").iterdir() for name in members(shard)]
    assert sorted(held) == sorted(set(rows["sha256"]))
    import_data(folder, fresh)
    assert rows[CONTENT].equals(read_manifest(fresh)[CONTENT])
    assert (root / "import.json").read_bytes() == (fresh / "import.json").read_bytes()


def test_added_images_go_into_new_shards_and_the_old_ones_stay(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    assert import_data(folder, root).changes is None
    before = shard_hashes(root)
    draw(folder / "all/train/sku 1/new.png", "new")
    draw(folder / "all/test/sku 9/first.png", "first")
    changes = import_data(folder, root).changes
    after = shard_hashes(root)
    assert before.items() < after.items() and len(after) == len(before) + 1
    assert changes and (changes.added, changes.skus_added) == (
        ["test/sku 9/first.png", "train/sku 1/new.png"],
        ["sku 9"],
    )
    assert not (changes.removed or changes.relabelled or changes.moved or changes.skus_removed)
    assert_sound(root, folder, tmp_path / "fresh")


def test_a_removed_image_is_gone_and_only_its_shard_is_written_again(
    delivery: Delivery, tmp_path: Path
) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    before = shard_hashes(root)
    (folder / "all/train/sku 3/3.png").unlink()
    changes = import_data(folder, root).changes
    assert changes and changes.removed == ["train/sku 3/3.png"] and not changes.added
    after = shard_hashes(root)
    assert len(before.keys() - after.keys()) == 1 and len(before) > 3
    assert_sound(root, folder, tmp_path / "fresh")


def test_relabelled_and_moved_images_send_no_bytes(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    before = shard_hashes(root)
    shutil.move(folder / "all/train/sku 0/0.png", folder / "all/train/sku 1/right.png")
    shutil.move(folder / "all/train/sku 2/0.png", folder / "all/test/sku 2/asked.png")
    imported = import_data(folder, root)
    assert imported.changed and imported.changes
    assert imported.changes.relabelled == ["train/sku 1/right.png (was sku 0)"]
    assert imported.changes.moved == ["test/sku 2/asked.png"]
    assert not (imported.changes.added or imported.changes.removed)
    assert shard_hashes(root) == before
    assert_sound(root, folder, tmp_path / "fresh")


def test_a_sku_that_goes_is_named(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    for side in ("train", "test"):
        shutil.rmtree(folder / "all" / side / "sku 2")
    changes = import_data(folder, root).changes
    assert changes and changes.skus_removed == ["sku 2"] and len(changes.removed) == 6
    assert_sound(root, folder, tmp_path / "fresh")


def test_the_same_again_is_unchanged(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    draw(folder / "all/train/sku 1/new.png", "new")
    import_data(folder, root)
    before = hashes(root)
    again = import_data(folder, root)
    assert (again.changed, bool(again.changes)) == (False, False) and again.changes is not None
    assert hashes(root) == before


def test_an_image_whose_stored_bytes_were_damaged_is_stored_again(delivery: Delivery, tmp_path: Path) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    row = read_manifest(root).iloc[5]
    path = root / "shards" / row["shard"]
    data = bytearray(path.read_bytes())
    data[row["offset"] + 20] ^= 0xFF
    path.write_bytes(data)
    import_data(folder, root)
    assert_sound(root, folder, tmp_path / "fresh")


@pytest.mark.parametrize("spoil", ["shard", "manifest.parquet", "import.json"])
def test_a_version_that_lacks_a_file_is_made_whole(delivery: Delivery, tmp_path: Path, spoil: str) -> None:
    folder, root = delivery(), tmp_path / "data"
    import_data(folder, root)
    path = min((root / "shards").iterdir()) if spoil == "shard" else root / spoil
    path.write_bytes(b"") if spoil == "import.json" else path.unlink()
    import_data(folder, root)
    assert_sound(root, folder, tmp_path / "fresh")


class Project:
    """A folder whose data/ is under DVC, with a cache and a remote of its own."""

    def __init__(self, root: Path) -> None:
        self.folder, self.remote = root / "project", root / "remote"
        self.folder.mkdir()
        self.settings = Settings(project=self.folder, home=root / "home", remote=str(self.remote))

    def store(self, delivery: Path) -> int:
        """Import and push; return the bytes in the remote."""
        import_data(delivery, self.folder / "data")
        Repository(self.folder, self.settings).add("data")
        return sum(path.stat().st_size for path in self.remote.rglob("*") if path.is_file())


def test_damage_under_dvc_is_mended_in_its_cache_too(delivery: Delivery, tmp_path: Path) -> None:
    folder, project = delivery(), Project(tmp_path)
    project.store(folder)
    for path in (project.folder / "data/shards").iterdir():
        path.chmod(0o644)
        with path.open("r+b") as stream:
            stream.seek(600)
            stream.write(b"damage")
    project.store(folder)
    assert_sound(project.folder / "data", folder, tmp_path / "fresh")
    shutil.rmtree(project.folder / "data")
    Repository(project.folder, project.settings).pull("data.dvc")
    assert_sound(project.folder / "data", folder, tmp_path / "fresh again")


def test_one_percent_new_images_send_about_one_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000_000)
    folder, project = tmp_path / "delivery", Project(tmp_path)
    noise = np.random.default_rng(0)

    def add(first: int, count: int) -> None:
        for number in range(first, first + count):
            path = (
                folder / "all" / ("train" if number % 5 else "test") / f"sku {number % 40}" / f"{number}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (80, 60, 3), np.uint8)).save(path)

    add(0, 1000)
    first = project.store(folder)
    add(1000, 10)
    second = project.store(folder)
    assert 0.01 < (second - first) / first < 0.02
    assert project.store(folder) == second
