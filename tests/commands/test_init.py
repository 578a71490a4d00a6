"""`skumatch init`: what it lays out, what it commits, and what it doesn't overwrite."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skumatch import cli
from skumatch.commands import init
from skumatch.errors import CodeError, ParameterError
from tests.conftest import ROOT, git
from tests.wheels import build_wheel, install, run, skumatch

OF_THE_REPOSITORY = (".dvc", ".dvcignore", "dags", "dvc.yaml", "params.yaml")


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in git(folder, "ls-files").splitlines()}


def test_init_lays_out_the_pipeline_and_dags_of_the_repository(tmp_path: Path) -> None:
    init.init(tmp_path / "shop")
    tracked = git(ROOT, "ls-files", "--", *OF_THE_REPOSITORY).splitlines()
    laid_out = content(tmp_path / "shop")
    assert laid_out.keys() - {".gitignore", "requirements/constraints.txt"} == set(tracked)
    assert [name for name in tracked if laid_out[name] != (ROOT / name).read_bytes()] == []


def test_init_commits_in_a_new_repository_where_git_knows_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for name in ("EMAIL", "GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    init.init(tmp_path / "shop")
    assert git(tmp_path / "shop", "status", "--porcelain") == ""
    assert len(git(tmp_path / "shop", "log", "--oneline").splitlines()) == 1


def test_init_leaves_the_commit_to_the_owner_of_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    init.init(tmp_path / "shop")
    assert "?? shop/" in git(tmp_path, "status", "--porcelain")


@pytest.mark.parametrize("name", ["params.yaml", "dags/retrain.py", ".gitignore"])
def test_init_overwrites_nothing(tmp_path: Path, name: str) -> None:
    mine = tmp_path / "shop" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", "utf-8")
    with pytest.raises(ParameterError, match=f"has {name} already.*--update"):
        init.init(tmp_path / "shop")
    assert [path for path in (tmp_path / "shop").rglob("*") if path.is_file()] == [mine]


def test_init_update_replaces_the_pipeline_and_keeps_parameters(tmp_path: Path) -> None:
    init.init(tmp_path)
    before = content(tmp_path)
    for name in before:
        (tmp_path / name).write_text("older", "utf-8")
    init.init(tmp_path, update=True)
    kept = {name for name in before if (tmp_path / name).read_bytes() == b"older"}
    assert kept == {"params.yaml", ".gitignore"}


def test_init_refuses_a_folder_that_would_hide_the_package(tmp_path: Path) -> None:
    (tmp_path / "skumatch").mkdir()
    with pytest.raises(ParameterError, match="runs would take it for their code"):
        init.init(tmp_path)


def test_init_pins_what_skumatch_needs_as_it_is_installed(tmp_path: Path) -> None:
    init.init(tmp_path)
    lines = (tmp_path / "requirements/constraints.txt").read_text("utf-8").splitlines()
    pinned = {name: number for name, _, number in (line.partition("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    names += [Requirement(line).name for line in project["optional-dependencies"]["airflow"]]
    for name in names:
        try:
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        assert pinned[canonicalize_name(name)] == installed
    assert "pluggy" in pinned, "a dependency of a dependency"  # Airflow's
    assert "skumatch" not in pinned and "pytest" not in pinned


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none/shop"])
def test_init_says_that_a_place_cannot_be_a_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["skumatch", "init", place])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    sentence = capsys.readouterr().err
    assert ended.value.code == 21 and sentence.startswith("✗ ") and sentence.count("\n") == 1, sentence


def test_init_says_why_git_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\necho no commits on Sundays >&2\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hooks))
    with pytest.raises(CodeError, match="no commits on Sundays"):
        init.init(tmp_path / "shop")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wheel")
    return install(build_wheel(root), root / "environment")


@pytest.fixture(scope="module")
def project(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    assert skumatch(python, folder, "init", "shop").returncode == 0
    return folder / "shop"


@pytest.fixture
def installed_file(python: Path) -> Iterator[Path]:
    """A file of the installed package, put back afterwards."""
    (path,) = python.parents[1].glob("lib/*/site-packages/skumatch/texts.py")
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def code_of(python: Path, project: Path) -> str:
    """The warning before a run, or the name of the code; changed files; the number of files."""
    words = (
        "import sys; from pathlib import Path; from skumatch.pipeline.inputs import read_code; "
        "code = read_code(Path(sys.argv[1])); "
        "print(code.trouble.warning if code.trouble else code.name, *code.changed, len(code.files))"
    )
    ended = run(python, project, "-c", words, str(project))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_code_of_a_project_is_the_wheel_s_and_a_commit_s(python: Path, project: Path) -> None:
    laid_out = content(project)
    assert laid_out["dags/retrain.py"] == (ROOT / "dags/retrain.py").read_bytes()
    commit = git(project, "rev-parse", "HEAD")[:12]
    sentence = code_of(python, project)
    assert sentence.startswith(f"commit {commit}, skumatch {version('skumatch')} from its wheel ")
    assert int(sentence.split()[-1]) > 200, "all modules are taken along"


@pytest.mark.parametrize("change", ["edited", "deleted", "added"])
def test_a_changed_installation_is_not_promotable(
    python: Path, project: Path, installed_file: Path, change: str
) -> None:
    added = installed_file.with_name("planted.py")
    if change == "edited":
        installed_file.write_text(installed_file.read_text("utf-8") + "\n# mine\n", "utf-8")
    elif change == "deleted":
        (installed_file.parent / "py.typed").rename(installed_file.with_name("py.typed.away"))
    else:
        added.write_text("", "utf-8")
    try:
        sentence = code_of(python, project)
    finally:
        added.unlink(missing_ok=True)
        if change == "deleted":
            installed_file.with_name("py.typed.away").rename(installed_file.parent / "py.typed")
    name = {"edited": "texts.py", "deleted": "py.typed", "added": "planted.py"}[change]
    assert f"other files than its wheel (skumatch/{name}" in sentence
    assert "gate will refuse" in sentence and "pip install --force-reinstall" in sentence


def test_a_changed_pipeline_is_not_promotable(python: Path, project: Path) -> None:
    with (project / "dvc.yaml").open("a") as stream:
        stream.write("# mine\n")
    try:
        assert "uncommitted changes (dvc.yaml)" in code_of(python, project)
    finally:
        git(project, "checkout", "dvc.yaml")


def test_an_installation_from_a_checkout_is_not_promotable(tmp_path: Path) -> None:
    from skumatch.pipeline.inputs import read_code

    init.init(tmp_path)
    trouble = read_code(tmp_path).trouble
    assert trouble is not None and "installed from a checkout" in trouble.found
