from __future__ import annotations

from pathlib import Path

import pytest

from skumatch.errors import DataError
from skumatch.pipeline import inputs
from tests.conftest import commit


def test_code_that_is_committed_is_clean_and_known_by_its_content(project: Path) -> None:
    clean = inputs.describe_code(project)
    commit(project, "nothing new")
    again = inputs.describe_code(project)
    assert clean["dirty"] is False and clean["commit"] and clean["commit"] != again["commit"]
    assert clean["sha256"] == again["sha256"]


@pytest.mark.parametrize("name", ["skumatch/files.py", "skumatch/new.py", "dvc.yaml", "requirements/constraints.txt"])
def test_a_changed_or_new_code_file_makes_it_dirty(project: Path, name: str) -> None:
    before = inputs.describe_code(project)
    with (project / name).open("a") as stream:
        stream.write("\n# changed\n")
    after = inputs.describe_code(project)
    assert after["dirty"] is True and after["sha256"] != before["sha256"] and name in inputs.code_files(project)


@pytest.mark.parametrize("name", ["params.yaml", "data.dvc", "notes.txt", "tests/x.py"])
def test_what_is_no_code_of_a_run_does_not(project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    with (project / name).open("a") as stream:
        stream.write("\n# changed\n")
    assert inputs.describe_code(project)["dirty"] is False


def test_without_git_the_commit_is_unknown(project: Path) -> None:
    files = inputs.code_files(project)
    (project / ".git").rename(project / "no-git")
    assert inputs.describe_code(project)["commit"] is None
    assert inputs.code_files(project) == files


def test_the_data_pointer_is_the_working_tree_s_or_a_ref_s(project: Path) -> None:
    with pytest.raises(DataError, match="There is no data yet"):
        inputs.data_pointer(project, None)
    (project / "data.dvc").write_text("one")
    commit(project, "data one")
    (project / "data.dvc").write_text("two")
    assert inputs.data_pointer(project, None) == inputs.data_pointer(project, "") == "two" and inputs.data_pointer(project, "HEAD") == "one"
    for ref in ("no-such-ref", "HEAD~1", "--output=x"):
        with pytest.raises(DataError, match="has no data.dvc"):
            inputs.data_pointer(project, ref)


def test_the_archive_is_a_function_of_its_members(tmp_path: Path) -> None:
    members = {"b/x": b"1", "a": b"2" * 2000}
    inputs._write_archive(tmp_path / "1.tar", members)
    inputs._write_archive(tmp_path / "2.tar", dict(reversed(members.items())))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    inputs.unpack(tmp_path / "1.tar", tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == members
