"""The module git: the repository of a folder, git's own error messages, and any environment."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from skumatch.errors import CodeError
from skumatch.git import NoRepository, checkout, object_id
from tests.conftest import commit, git

Spoil = Callable[[Path], None]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one file, committed."""
    folder = tmp_path / "repository"
    (folder / "apps/shelf").mkdir(parents=True)
    (folder / "apps/shelf/dvc.yaml").write_text("stages: {}\n")
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "one")
    return folder


def test_checkout_knows_where_in_its_repository_a_folder_lies(repository: Path) -> None:
    assert (checkout(repository).prefix, checkout(repository / "apps/shelf").prefix) == ("", "apps/shelf/")
    head = git(repository, "rev-parse", "HEAD").strip()
    assert checkout(repository / "apps").commit() == head
    assert set(checkout(repository / "apps").committed("shelf")) == {"shelf/dvc.yaml"}


def test_checkout_reads_a_worktree(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert checkout(tmp_path / "tree").commit() == git(repository, "rev-parse", "HEAD").strip()


def test_checkout_without_a_repository_says_what_git_says(tmp_path: Path) -> None:
    with pytest.raises(NoRepository, match="not a git repository") as raised:
        checkout(tmp_path)
    assert raised.value.passed is None
    (tmp_path / "inner").mkdir()
    (tmp_path / ".git").mkdir()
    with pytest.raises(NoRepository, match="passes over") as raised:
        checkout(tmp_path / "inner")
    assert raised.value.passed == tmp_path / ".git"


def test_checkout_leaves_a_folder_that_its_repository_ignores(repository: Path) -> None:
    (repository / "home/project").mkdir(parents=True)
    (repository / ".gitignore").write_text("home\n")
    assert checkout(repository / "home/project").prefix == "home/project/"
    with pytest.raises(NoRepository, match="ignores it"):
        checkout(repository / "home/project", holding="dvc.yaml")
    (repository / ".gitignore").write_text("*\n")
    assert checkout(repository / "apps/shelf", holding="dvc.yaml").prefix == "apps/shelf/", "it is committed"


def broken_folder(root: Path) -> None:
    shutil.rmtree(root / ".git")
    (root / ".git").mkdir()


def broken_file(root: Path) -> None:
    shutil.rmtree(root / ".git")
    (root / ".git").write_text("gitdir: /nowhere\n")


def broken_head(root: Path) -> None:
    (root / ".git/refs/heads/main").write_text(f"{40 * '1'}\n")


def bare(root: Path) -> None:
    git(root, "config", "core.bare", "true")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (broken_folder, "not a git repository"),
        (broken_file, "/nowhere"),
        (broken_head, "bad object HEAD"),
        (bare, "bare repository"),
    ],
)
def test_a_refused_repository_is_told_in_git_s_words(repository: Path, spoil: Spoil, reason: str) -> None:
    spoil(repository)
    with pytest.raises(CodeError, match=reason) as raised:
        checkout(repository).commit()
    assert str(repository) in str(raised.value) and "\n" not in str(raised.value)


def test_another_owner_s_repository_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With git's own cure in the sentence, and not where that was done."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(CodeError, match=r"dubious ownership .* git config --global --add safe.directory"):
        checkout(repository)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "*")
    assert checkout(repository).commit()


def test_without_git_a_repository_is_refused_and_a_plain_folder_is_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for folder in (repository, repository / "apps/shelf"):
        with pytest.raises(CodeError, match=rf"{repository} is a git repository, but there is no git here"):
            checkout(folder)
    with pytest.raises(NoRepository, match="there is no git here"):
        checkout(tmp_path)
    (tmp_path / "git").write_text("#!/nowhere\n")
    (tmp_path / "git").chmod(0o755)
    with pytest.raises(CodeError, match="git can't be started"):
        checkout(repository)


def test_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert checkout(tmp_path).commit() is None


def test_a_hook_s_variables_lead_nowhere_else(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git(tmp_path, "init", "-q", "other")
    for name, value in (("GIT_DIR", ".git"), ("GIT_WORK_TREE", "."), ("GIT_INDEX_FILE", "index")):
        monkeypatch.setenv(name, str(tmp_path / "other" / value))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    tree = checkout(repository)
    assert tree.commit()
    assert tree.names("ls-files", "-z", "--", ":(glob)**/dvc.yaml") == ["apps/shelf/dvc.yaml"]


def test_settings_of_a_user_change_no_answer(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = checkout(repository).commit()
    settings = "[color]\nui = always\n[log]\nshowSignature = true\n[format]\npretty = full\n"
    (tmp_path / "settings").write_text(settings)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    assert checkout(repository).commit() == before


def test_a_folder_that_git_passes_over_is_no_empty_one(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """git lists the folders that it can open, warns of the others, and exits with 0."""
    real, path = shutil.which("git"), tmp_path / "bin/git"
    path.parent.mkdir()
    warning = "warning: could not open directory 'x/': Permission denied"
    path.write_text(f'#!/bin/sh\n{real} "$@" || exit $?\necho "{warning}" >&2\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    tree = checkout(repository)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(CodeError, match="could not open directory 'x/': Permission denied"):
        tree.names("ls-files", "-z", "--others")


@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_objects_are_named_as_git_names_them(tmp_path: Path, form: str) -> None:
    git(tmp_path, "init", "-q", f"--object-format={form}")
    (tmp_path / "name").write_bytes(b"content\r\n\0")
    commit(tmp_path, "one")
    tree = checkout(tmp_path)
    head = tree.commit()
    assert head
    assert object_id("blob", b"content\r\n\0", head) == tree.committed("name")["name"][1]
    content = tree.object("commit", head)
    assert content and object_id("commit", content, head) == head
    with pytest.raises(LookupError, match="bad file|Not a valid object name"):
        tree.object("commit", "0" * len(head))
