"""`skumatch init`: lay out a project for an installed skumatch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console

from skumatch.errors import CodeError, ParameterError
from skumatch.files import replacing
from skumatch.git import NoRepository, checkout, run_git
from skumatch.pipeline.package import PACKAGE

LAID_OUT = ("dags", ".dvc/.gitignore", ".dvc/config", ".dvcignore", "dvc.yaml", "params.yaml")
KEPT = ("params.yaml", ".gitignore")  # a person's own after the first time
LOCK = "requirements/constraints.txt"
EXTRAS = ("cpu", "gpu", "s3", "airflow", "deployment", "tracking")
FIRST = "Project laid out by skumatch"

console = Console()


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="The project's folder; made if it doesn't exist.", show_default=False
        ),
    ] = Path(),
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="In a project: replace dags/, dvc.yaml and the pins by this version's; keep params.yaml.",
        ),
    ] = False,
) -> None:
    """Lay out a project: params.yaml, dvc.yaml, dags/ and .gitignore, in a git repository.

    In a new repository they are committed, so that the first run can be promoted. Run `skumatch run` there.
    """
    files = dict(_files())
    present = [name for name in files if (folder / name).exists()]
    if present and not update:
        fault = f"{folder} has {present[0]} already"
        raise ParameterError(
            f"{fault}; give a new folder, or `--update` for this version's pipeline and DAGs."
        )
    if (folder / PACKAGE).exists():
        fault = f"{folder / PACKAGE} exists, and runs would take it for their code"
        raise ParameterError(f"{fault}; give another folder.")
    for name, content in files.items():
        if not (update and name in KEPT and name in present):
            with replacing(folder / name) as aside:
                aside.write_bytes(content)
    console.print(_commit(folder, list(files)), highlight=False, soft_wrap=True)


def _files() -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each file of a project.

    Raises:
        CodeError: The installation lacks them.
    """
    package = Path(__file__).parents[1]
    root = package / "template" if (package / "template/dvc.yaml").is_file() else package.parent
    for name in LAID_OUT:
        source = root / name
        paths = sorted(source.iterdir()) if source.is_dir() else [source]
        for path in paths:
            if path.is_dir():  # compiled files
                continue
            if not path.is_file():
                raise CodeError(f"This skumatch has no {name} to lay out; install its wheel again.")
            yield path.relative_to(root).as_posix(), path.read_bytes()
    yield ".gitignore", (package / "template/gitignore").read_bytes()
    yield LOCK, "".join(f"{line}\n" for line in pins()).encode()


def pins() -> list[str]:
    """Return skumatch's dependencies as they are installed, as `name==version`, sorted.

    They are part of a run's code: its model depends on them. A local version such as 2.13.0+cpu is a build of
    2.13.0, and is written so.
    """
    versions: dict[str, str] = {}
    waiting = [("skumatch", extra) for extra in ("", *EXTRAS)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed
            continue
        versions[canonicalize_name(package.name)] = package.version.partition("+")[0]
        needs = [Requirement(line) for line in package.requires or ()]
        needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
        following = {(need.name, chosen) for need in needs for chosen in ("", *need.extras)} - seen
        seen |= following
        waiting += following
    del versions["skumatch"]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _commit(folder: Path, names: list[str]) -> str:
    """Commit the files if the repository is new; return the next steps."""
    then = "Next: skumatch run" if folder == Path() else f"Next: cd {folder} && skumatch run"
    name = folder.resolve().name
    try:
        checkout(folder, holding="dvc.yaml")
    except NoRepository:
        run_git(folder, "init", "--quiet")
        run_git(folder, "add", "--", *names)
        run_git(folder, *_identity(folder), "commit", "--quiet", "--message", FIRST)
        return f"{name} is a project in a new git repository. {then}"
    return f"{name} is a project. Commit its files, so that its models can be promoted. {then}"


def _identity(folder: Path) -> list[str]:
    """Return git options for an author's name where git knows none."""
    try:
        run_git(folder, "var", "GIT_COMMITTER_IDENT")
    except CodeError:
        return ["-c", "user.name=skumatch init", "-c", "user.email=skumatch@localhost"]
    return []
