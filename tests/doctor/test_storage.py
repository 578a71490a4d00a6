"""The remote: on a disk and in an object store, read-only, lying, away; and whether it has the data."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skumatch.cli import app
from skumatch.config import Settings
from skumatch.doctor import storage
from tests.conftest import Delivery
from tests.doctor.asking import DATA, MD5, ask

LOCAL = "fsspec.implementations.local.LocalFileSystem"


def test_the_remote_is_written_and_read_and_nothing_stays(here: Settings, tmp_path: Path) -> None:
    deep = here.model_copy(update={"remote": str(tmp_path / "new/remote")})
    assert ask(storage.remote, deep).verdict == "ok"
    assert not (tmp_path / "new").exists()
    kept = tmp_path / "new/remote/files"
    kept.mkdir(parents=True)
    assert ask(storage.remote, deep).verdict == "ok"
    assert list((tmp_path / "new/remote").iterdir()) == [kept]


def test_a_remote_that_cannot_be_written_is_told(
    here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    finding = ask(storage.remote, here.model_copy(update={"remote": str(tmp_path / "file" / "remote")}))
    assert finding.verdict == "failed" and "rights" in finding.fix

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(f"{LOCAL}.pipe_file", read_only)
    finding = ask(storage.remote, here)
    assert finding.verdict == "failed" and "Read-only file system" in finding.found
    assert not here.home_dir.exists()


def test_a_store_that_lies_is_told_and_cleaned(here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(here.remote_url).mkdir(parents=True)
    monkeypatch.setattr(f"{LOCAL}.cat_file", lambda *_: b"other")
    assert "something else" in ask(storage.remote, here).found

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"{LOCAL}.cat_file", broken)
    assert "Input/output error" in ask(storage.remote, here).found
    assert not list(Path(here.remote_url).iterdir())


def test_an_address_of_no_kind_is_told_without_its_password(here: Settings) -> None:
    finding = ask(storage.remote, here.model_copy(update={"remote": "floppy://ann:s3cr3t@host/a"}))
    assert finding.verdict == "failed" and "floppy://host/a" in finding.found and "s3cr3t" not in str(finding)


def test_a_bucket_is_written_and_read_and_none_is_made(here: Settings, s3: Any) -> None:
    own = here.model_copy(update={"remote": "s3://shop/skumatch"})
    assert ask(storage.remote, own).verdict == "ok"
    assert "Contents" not in s3.list_objects_v2(Bucket="shop")
    finding = ask(storage.remote, own.model_copy(update={"remote": "s3://shpo/skumatch"}))
    assert finding.verdict == "failed" and "bucket" in finding.found
    assert "shpo" not in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]
    (here.project / "data.dvc").write_text(DATA)
    assert "lacks the data version" in ask(storage.data, own).found
    for name, body in (
        ("01/23456789abcdef0123456789abcdef.dir", json.dumps([{"md5": "f" * 32, "relpath": "a"}])),
        ("ff/" + "f" * 30, "a"),
    ):
        s3.put_object(Bucket="shop", Key=f"skumatch/files/md5/{name}", Body=body)
    assert ask(storage.data, own).verdict == "ok"


def put(remote: str, md5: str, text: str) -> None:
    path = Path(remote) / "files/md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_remote_has_all_of_the_data_or_not(here: Settings) -> None:
    assert "no data yet" in ask(storage.data, here).found
    (here.project / "data.dvc").write_text(DATA)
    assert "lacks the data version 0123456789ab" in ask(storage.data, here).found
    put(here.remote_url, MD5, json.dumps([{"md5": digit * 32, "relpath": digit} for digit in "abc"]))
    put(here.remote_url, "a" * 32, "")
    finding = ask(storage.data, here)
    assert (
        finding.verdict == "failed"
        and "lacks 2 files of data version 0123456789ab" in finding.found
        and "skumatch data push" in finding.fix
    )
    put(here.remote_url, "b" * 32, "")
    put(here.remote_url, "c" * 32, "")
    assert ask(storage.data, here).verdict == "ok"
    assert {path.name for path in here.home_dir.iterdir()} == {"remote"}, "DVC left something here"
    assert not (here.project / ".dvc/config.local").exists()


def test_the_remedy_brings_back_what_the_remote_lost(
    here: Settings, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard, the manifest, and the list of the version's files, each followed word for word."""
    monkeypatch.chdir(here.project)
    monkeypatch.setenv("SKUMATCH_HOME", str(here.home_dir))
    typed("data", "import", str(delivery()))
    (listing,) = (Path(here.remote_url) / "files/md5").rglob("*.dir")
    md5s = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())}
    shard = next(name for name in md5s if name.startswith("shards/"))
    members = [listing.parents[1] / md5[:2] / md5[2:] for md5 in (md5s[shard], md5s["manifest.parquet"])]
    for lost in (*members, listing):
        lost.unlink()
        finding = ask(storage.data, here)
        command = re.search("`skumatch (.*)`", finding.fix)
        assert finding.verdict == "failed" and command
        typed(*command[1].split())
        assert lost.is_file() and ask(storage.data, here).verdict == "ok"
    for lost in (*members, listing):
        lost.unlink()
        typed("data", "import", str(delivery()))
        assert lost.is_file()


def typed(*words: str) -> None:
    """Run `skumatch WORDS` in this process."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\nouts:\n", "outs: []\n", "outs:\n- path: data\n", "12\n"])
def test_a_pointer_that_cannot_be_read_is_told(here: Settings, text: str) -> None:
    (here.project / "data.dvc").write_text(text)
    finding = ask(storage.data, here)
    assert finding.verdict == "failed" and "git checkout" in finding.fix
