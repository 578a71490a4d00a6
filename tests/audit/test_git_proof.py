"""A commit's proof: kept from a repository, read without git, never whole where a part is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from skumatch.audit.git_proof import blob_id, committed_files, keep_proof
from skumatch.errors import CodeError
from tests.conftest import commit, git

NAMES = ("dvc.yaml", "skumatch/a.py", 'skumatch/data/größe "1".json', "skumatch/data/line\nend")


@pytest.fixture(params=["", "apps/shelf/"], ids=["root", "folder"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Where the project lies in its repository."""
    return str(request.param)


def made(root: Path, prefix: str, form: str = "sha1") -> str:
    """A repository with the project's files and one of another name; returns its commit."""
    for name in NAMES:
        path = root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / os.fsdecode(b"latin\xe9.txt")).write_text("another's")
    git(root, "init", "-q", "-b", "main", f"--object-format={form}")
    commit(root, "one")
    return git(root, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_proof_leads_from_the_commit_to_the_files(tmp_path: Path, prefix: str, form: str) -> None:
    head, names = made(tmp_path / "repository", prefix, form), [f"{prefix}{name}" for name in NAMES]
    assert keep_proof(tmp_path / "repository" / prefix, head, names, tmp_path / "proof") == ""
    files = committed_files(tmp_path / "proof", head, names)
    assert all(files[f"{prefix}{name}"] == blob_id(name.encode(), head) for name in NAMES)


def test_a_proof_without_a_tree_on_the_way_is_none(tmp_path: Path, prefix: str) -> None:
    head, names = made(tmp_path / "repository", prefix), [f"{prefix}{name}" for name in NAMES]
    keep_proof(tmp_path / "repository", head, names, tmp_path / "proof")
    for tree in sorted((tmp_path / "proof/trees").iterdir()):
        kept = tree.read_bytes()
        tree.unlink()
        with pytest.raises(ValueError, match="is missing"):
            committed_files(tmp_path / "proof", head, names)
        tree.write_bytes(kept + b"1")
        with pytest.raises(ValueError, match="was changed"):
            committed_files(tmp_path / "proof", head, names)
        tree.write_bytes(kept)
    assert committed_files(tmp_path / "proof", head, names)


def test_a_proof_that_cannot_be_had_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = made(tmp_path / "repository", "")
    other, folder = "1" * 40, tmp_path / "proof"
    assert "doesn't have the commit 111111111111" in keep_proof(tmp_path / "repository", other, NAMES, folder)
    assert "is in no git repository (not a git repository" in keep_proof(tmp_path, head, NAMES, folder)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(CodeError, match="dubious ownership"):
        keep_proof(tmp_path / "repository", head, NAMES, folder)
    assert not folder.exists()


def test_a_file_that_is_new_lies_in_no_tree(tmp_path: Path) -> None:
    head, new = made(tmp_path / "repository", ""), [*NAMES, "skumatch/new/folder/x.py"]
    assert keep_proof(tmp_path / "repository", head, new, tmp_path / "proof") == ""
    assert "skumatch/new/folder/x.py" not in committed_files(tmp_path / "proof", head, new)
    shutil.rmtree(tmp_path / "proof/trees")
    with pytest.raises(ValueError, match="the kept tree of the root is missing"):
        committed_files(tmp_path / "proof", head, new)
