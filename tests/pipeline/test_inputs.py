"""Inputs of a run: its code, with any file names, and the state of git."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skumatch.config import Settings, load_params
from skumatch.errors import CodeError, DataError
from skumatch.pipeline import inputs
from skumatch.pipeline.repository import Repository
from tests.conftest import commit, git
from tests.proving import count


def test_code_that_is_committed_is_clean_and_known_by_its_content(project: Path) -> None:
    clean = inputs.read_code(project).facts()
    commit(project, "nothing new")
    again = inputs.read_code(project).facts()
    assert clean["dirty"] is False and clean["commit"] and clean["commit"] != again["commit"]
    assert clean["sha256"] == again["sha256"]


@pytest.mark.parametrize(
    "name", ["skumatch/files.py", "skumatch/new.py", "dvc.yaml", "requirements/constraints.txt"]
)
def test_a_changed_or_new_code_file_makes_it_dirty(project: Path, name: str) -> None:
    before = inputs.read_code(project).facts()
    with (project / name).open("a") as stream:
        stream.write("\n# changed\n")
    after = inputs.read_code(project).facts()
    assert (
        after["dirty"] is True
        and after["sha256"] != before["sha256"]
        and name in list(inputs.read_code(project).files)
    )


@pytest.mark.parametrize("name", ["params.yaml", "data.dvc", "notes.txt", "tests/x.py"])
def test_what_is_no_code_of_a_run_does_not(project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    with (project / name).open("a") as stream:
        stream.write("\n# changed\n")
    assert inputs.read_code(project).facts()["dirty"] is False


def test_without_git_the_commit_is_unknown(project: Path) -> None:
    files = list(inputs.read_code(project).files)
    (project / ".git").rename(project / "no-git")
    assert inputs.read_code(project).facts()["commit"] is None
    assert list(inputs.read_code(project).files) == files


def test_code_facts_at_a_repository_s_root_are_three(project: Path) -> None:
    assert set(inputs.read_code(project).facts()) == {"commit", "dirty", "sha256"}


def code_in(folder: Path) -> Path:
    """A minimal repository with code, committed: for tests that would take too long on a whole project."""
    for name in ("skumatch/a.py", "skumatch/data/b.json", "dvc.yaml", "requirements/constraints.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "code")
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return code_in(tmp_path / "small")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=40)
ODD = dict.fromkeys(["größe.json", "牛乳.py", "q\"uo'te.py", "ta\tb", "line\nend", "back\\slash"], b"1")


@given(st.dictionaries(NAMES, st.binary(max_size=20), max_size=6))
@example(ODD)
@settings(max_examples=count(15, 300))
def test_every_name_of_a_code_file_is_held(contents: dict[str, bytes]) -> None:
    """New or committed, with git or without: in the listing, in the hash's files and in the archive."""
    with tempfile.TemporaryDirectory() as folder:
        root, archive = code_in(Path(folder) / "project"), Path(folder) / "inputs.tar"
        before = inputs.read_code(root)
        new = {f"skumatch/data/x{name}": data for name, data in contents.items()}
        for name, data in new.items():
            (root / name).write_bytes(data)
        code = inputs.read_code(root)
        assert code.files == before.files | new and code.changed == tuple(sorted(new))
        commit(root, "new")
        committed = inputs.read_code(root)
        assert committed.files == code.files and committed.trouble is None and not committed.facts()["dirty"]
        inputs._write_archive(archive, committed.files)
        assert inputs.members(archive) == committed.files
        assert inputs.code_of(archive) == sorted(committed.files)
        inputs.unpack(archive, Path(folder) / "workspace")
        assert inputs.read_code(Path(folder) / "workspace").facts()["sha256"] == committed.facts()["sha256"]


def test_dvc_holds_every_name_of_a_code_file(small: Path, tmp_path: Path) -> None:
    """A stage depends on the folders of the code, so a name that DVC can't hold would end it."""
    for name, data in ODD.items():
        (small / "skumatch/data" / name).write_bytes(data)
    (small / "dvc.yaml").write_text("stages: {make: {cmd: echo 1 > out, deps: [skumatch/data], outs: [out]}}")
    repository = Repository(small, Settings(project=small, home=tmp_path / "home"))
    repository.reproduce("make")
    assert "skumatch/data" in repository.lock


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": b"1"}, {"b": b"1"}),
        ({"a": b"1"}, {"a": b"2"}),
        ({"a": b"1", "b": b"2"}, {f"a:{hashlib.sha256(b'1').hexdigest()}\nb": b"2"}),
        ({"a\nb": b"1"}, {"a\\nb": b"1"}),
        ({"\\a": b"1"}, {"a": b"1"}),
    ],
)
def test_a_code_hash_is_of_one_set_of_files(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert inputs.code_hash(first.items()) != inputs.code_hash(second.items())


def test_the_hash_of_plain_names_is_what_records_have() -> None:
    """Lineage records name it: an audit of an old run computes it again."""
    files = {"skumatch/a.py": b"1", "dvc.yaml": b"2", "skumatch/größe.json": b"3"}
    recorded = "29e453fe48428eca30d7ffc22fc9a1d1b2df908a2f8579c524f34399bb80c5b7"
    assert inputs.code_hash(files.items()) == recorded


def link_to_file(root: Path) -> None:
    (root / "skumatch/link.py").symlink_to("a.py")


def link_to_folder(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "elsewhere/c.py").write_text("c")
    (root / "skumatch/link").symlink_to("../elsewhere")


def link_to_nothing(root: Path) -> None:
    (root / "skumatch/link.py").symlink_to("nothing")


def all_of_it_a_link(root: Path) -> None:
    (root / "skumatch").rename(root / "elsewhere")
    (root / "skumatch").symlink_to("elsewhere")


def not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root / "skumatch") + b"/latin\xe9.py")).write_text("latin")


Spoil = Callable[[Path], None]
NOT_TAKEN = {
    link_to_file: "skumatch/link.py is a symbolic link",
    link_to_folder: "skumatch/link is a symbolic link",
    link_to_nothing: "skumatch/link.py is a symbolic link",
    all_of_it_a_link: "skumatch is a symbolic link",
    not_utf8: r"skumatch/latin\\udce9.py has a name that isn't UTF-8",
}


@pytest.mark.parametrize("spoil", NOT_TAKEN, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("under", ["git", "nothing"])
def test_code_that_no_archive_can_hold_is_refused(small: Path, spoil: Spoil, under: str) -> None:
    spoil(small)
    if under == "nothing":
        shutil.rmtree(small / ".git")
    with pytest.raises(CodeError, match=NOT_TAKEN[spoil]) as raised:
        inputs.read_code(small)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("how", ["new", "ignored", "submodule", "submodule that was not fetched"])
def test_a_repository_within_the_code_is_refused(small: Path, how: str, tmp_path: Path) -> None:
    inner = small / "skumatch/inner"
    if how in ("new", "ignored"):
        code_in(inner)
        (small / ".gitignore").write_text("inner\n" if how == "ignored" else "")
    else:
        code_in(tmp_path / "inner")
        local = ("-c", "protocol.file.allow=always")
        git(small, *local, "submodule", "add", "-q", str(tmp_path / "inner"), "skumatch/inner")
    if how.endswith("fetched"):
        commit(small, "submodule")
        shutil.rmtree(inner)
        inner.mkdir()
    with pytest.raises(CodeError, match=r"skumatch/inner.* is a (git repository of its own|submodule), so"):
        inputs.read_code(small)


def test_code_that_cannot_be_read_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "a.py":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CodeError, match=r"skumatch/a.py can't be read \(Permission denied\)"):
        inputs.read_code(small)


def test_a_deleted_code_file_is_no_code_and_a_change(small: Path) -> None:
    (small / "skumatch/a.py").unlink()
    code = inputs.read_code(small)
    assert "skumatch/a.py" not in code.files
    assert code.changed == ("skumatch/a.py",) and code.facts()["dirty"]
    assert code.trouble and code.trouble.found == "has uncommitted changes (skumatch/a.py)"


def test_what_git_ignores_is_code_where_a_program_reads_it(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's own ignore list hides no code, and an editor's temporary files make nothing dirty."""
    (tmp_path / "ignored").write_text("*.json\n*.swp\n__pycache__\n")
    settings = f"[core]\nexcludesFile = {tmp_path / 'ignored'}\n[status]\nshowUntrackedFiles = no\n"
    (tmp_path / "settings").write_text(settings)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    (small / "skumatch/__pycache__").mkdir()
    for name in ("a.swp", "__pycache__/c.json"):
        (small / "skumatch" / name).write_text("leavings")
    assert inputs.read_code(small).trouble is None
    (small / "skumatch/new.json").write_text("{}")
    code = inputs.read_code(small)
    assert code.changed == ("skumatch/new.json",) and code.files["skumatch/new.json"] == b"{}"
    assert code.trouble and "that `git status` doesn't show" in code.trouble.found
    assert "check-ignore" in code.trouble.cure


def test_code_that_git_takes_for_unchanged_is_no_commit_s(small: Path) -> None:
    git(small, "update-index", "--assume-unchanged", "skumatch/a.py")
    (small / "skumatch/a.py").write_text("other")
    code = inputs.read_code(small)
    assert code.facts()["dirty"]
    assert code.trouble and "that `git status` doesn't show" in code.trouble.found


def test_a_project_in_a_folder_of_its_repository_is_its_commit_s(tmp_path: Path) -> None:
    project = code_in(tmp_path / "many/apps/shelf")
    alone = inputs.read_code(project)
    (project / "data.dvc").write_text("one")
    shutil.rmtree(project / ".git")
    (tmp_path / "many/skumatch").mkdir()
    (tmp_path / "many/skumatch/other.py").write_text("not ours")
    git(tmp_path / "many", "init", "-q", "-b", "main")
    commit(tmp_path / "many", "all")
    code = inputs.read_code(project)
    assert code.files == alone.files and code.trouble is None
    head = git(project, "rev-parse", "HEAD").strip()
    expected = alone.facts() | {"commit": head, "folder": "apps/shelf/"}
    assert code.facts() == expected and not code.facts()["dirty"]
    (project / "data.dvc").write_text("two")
    assert inputs.data_pointer(project, "HEAD") == "one" and not inputs.read_code(project).changed
    (project / "skumatch/a.py").write_text("changed")
    assert inputs.read_code(project).changed == ("skumatch/a.py",)


def test_three_cases_without_a_commit_are_told_apart(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository, none that git may read, no git: only the first is a run that may start."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for ask in (inputs.read_code, lambda project: inputs.data_pointer(project, "HEAD")):
        with pytest.raises(CodeError, match=r"dubious ownership .* safe\.directory"):
            ask(small)
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nowhere")
        for ask in (inputs.read_code, lambda project: inputs.data_pointer(project, "HEAD")):
            with pytest.raises(CodeError, match="there is no git here"):
                ask(small)
    shutil.rmtree(small / ".git")
    code = inputs.read_code(small)
    assert code.commit is None and code.files and code.trouble
    reason = "is under no git commit: it is in no git repository (not a git repository"
    assert code.trouble.found.startswith(reason)
    with pytest.raises(DataError, match="names nothing: .* is in no git repository"):
        inputs.data_pointer(small, "HEAD")


def test_a_repository_without_a_commit_says_to_commit(small: Path) -> None:
    shutil.rmtree(small / ".git")
    git(small, "init", "-q")
    code = inputs.read_code(small)
    assert code.commit is None and code.trouble and code.trouble.cure.startswith("Commit it")
    assert "its repository has none yet" in code.trouble.found


def test_the_data_pointer_is_the_working_tree_s_or_a_ref_s(project: Path) -> None:
    with pytest.raises(DataError, match="There is no data yet"):
        inputs.data_pointer(project, None)
    (project / "data.dvc").write_bytes(b"\xff")
    with pytest.raises(DataError, match="data.dvc is not UTF-8"):
        inputs.data_pointer(project, None)
    (project / "data.dvc").write_text("one")
    commit(project, "data one")
    (project / "data.dvc").write_text("two")
    assert (
        inputs.data_pointer(project, None) == inputs.data_pointer(project, "") == "two"
        and inputs.data_pointer(project, "HEAD") == "one"
    )
    reasons = {"no-such-ref": "invalid object name", "HEAD~1": "path 'data.dvc'", "--output=x": "git: "}
    for ref, reason in reasons.items():
        with pytest.raises(DataError, match=f"has no data.dvc .*{reason}"):
            inputs.data_pointer(project, ref)


def test_the_archive_is_a_function_of_its_members(tmp_path: Path) -> None:
    members = {"b/x": b"1", "a": b"2" * 2000}
    inputs._write_archive(tmp_path / "1.tar", members)
    inputs._write_archive(tmp_path / "2.tar", dict(reversed(members.items())))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    inputs.unpack(tmp_path / "1.tar", tmp_path / "out")
    assert {
        str(p.relative_to(tmp_path / "out")): p.read_bytes()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    } == members


def test_write_params_is_whole_and_read_alike_by_dvc(tmp_path: Path) -> None:
    """A run's file has every parameter, though the project's omits most, and texts stay texts for DVC."""
    (tmp_path / "short.yaml").write_text("data: {others: ['0o10', '1e3', 'søren', 'on']}")
    params = inputs.write_params(
        tmp_path / "short.yaml", tmp_path / "params.yaml", ["release.model_name='089'"]
    )
    text = (tmp_path / "params.yaml").read_text("utf-8")
    assert load_params(tmp_path / "params.yaml") == params
    assert parse_yaml(text, "it") == yaml.safe_load(text) == params.model_dump(mode="json", by_alias=True)
    assert params.data.others == ("0o10", "1e3", "søren", "on") and params.release.model_name == "089"
