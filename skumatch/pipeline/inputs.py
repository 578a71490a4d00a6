"""A run's input set: one archive, named by its MD5, of all that the run depends on.

It has code, parameters, and pointers to data, champion and weights.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from skumatch.config import Settings, load_params
from skumatch.errors import CodeError, DataError
from skumatch.files import canonical_json, replacing, write_json, write_text
from skumatch.git import Checkout, NoRepository, checkout, object_id
from skumatch.params import Params
from skumatch.pipeline.package import PACKAGE, InstalledPackage, installed_package, listing_hash
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.recipe.strict_yaml import dump_yaml
from skumatch.stages import artefacts
from skumatch.stages.artefacts import CodeFacts, RunFacts
from skumatch.texts import UTF8, decode, first_of, read_text, visible

CODE = (PACKAGE, "dvc.yaml", ".dvcignore", "requirements/constraints.txt")
# Files that git ignores are taken along if programs read them; other ignored files are caches and leftovers.
READ = (".py", ".json", ".jinja")
FEW = 3  # how many names of changed files a message has
ARCHIVE = "inputs.tar"
OWN = ("inputs/", "params.yaml", "data.dvc")  # members of an input set that aren't code
# Content of artefacts.ABSENT in inputs/<name> where a run has no such input.
NONE = {
    "champion": {"champion": None},
    "released": {"released": None},
    "trained": {"trained": None},
    "weights": {},
}


class Trouble(NamedTuple):
    """The reason why a model made by some code can't be promoted.

    Attributes:
        found: the fault, as the predicate of a sentence about the code.
        cure: a sentence that says how to mend it.
    """

    found: str
    cure: str

    @property
    def warning(self) -> str:
        """The message to print before the run starts."""
        return f"The code {self.found}. The run works, but the gate will refuse its model. {self.cure}"


@dataclass(frozen=True)
class CodeSnapshot:
    """The code that a run takes along, and its state in git.

    Attributes:
        files: path below the project -> content.
        commit: the hash of HEAD; None outside a repository, and in one without a commit.
        changed: paths whose content differs from the commit's, deleted ones too.
        folder: the project's path in its repository, with a slash at its end; empty at the root.
        trouble: the reason why a model of this code can't be promoted; None for the code of a commit.
        package: the installed skumatch, for a project without a folder skumatch/ of its own.
    """

    files: dict[str, bytes]
    commit: str | None = None
    changed: tuple[str, ...] = ()
    folder: str = ""
    trouble: Trouble | None = None
    package: InstalledPackage | None = None

    @property
    def name(self) -> str:
        """The commit and the installed package: `commit 1a2b3c4d5e6f, skumatch 0.1.0 from its wheel`."""
        package = f", skumatch {self.package.version} from its wheel" if self.package else ""
        return f"commit {(self.commit or 'none')[:12]}{package}"

    def facts(self) -> dict[str, Any]:
        """Return the content of inputs/code.json.

        Returns:
            `commit`; `dirty`, true where the code differs from the commit's or the wheel's; `sha256` of all
            code; `folder` where the project isn't the root of its repository; and `package`, the version and
            hash of the installed skumatch, where the project has none of its own.
        """
        facts = {"commit": self.commit, "dirty": bool(self.changed), "sha256": code_hash(self.files.items())}
        facts |= {"folder": self.folder} if self.folder else {}
        package = self.package
        return facts | (
            {"package": {"version": package.version, "sha256": package.sha256}} if package else {}
        )


def read_code(project: Path) -> CodeSnapshot:
    """Read the code that a run in `project` takes along.

    That is the project's own folder skumatch/, as in a clone of the repository, else the installed package.

    Raises:
        CodeError: git is missing or refuses; or the code has something that an archive can't hold: a link, a
            repository, a file that can't be read, a name that isn't UTF-8.
    """
    code = _project_code(project)
    if os.path.lexists(project / PACKAGE):
        return code
    package = installed_package()
    changed = tuple(sorted((*code.changed, *package.changed)))
    trouble = code.trouble or _package_trouble(package)
    return replace(
        code, files={**code.files, **package.files}, changed=changed, trouble=trouble, package=package
    )


def _package_trouble(package: InstalledPackage) -> Trouble | None:
    """Return why a model of an installed package can't be promoted; None where it is as its wheel had it."""
    if not package.sha256:
        why = "comes from a skumatch that was installed from a checkout, not from a wheel"
        return Trouble(why, "Install a wheel, or run in the checkout, to release a model.")
    if not package.changed:
        return None
    names = first_of([*map(visible, package.changed)], FEW)
    why = f"has an installed skumatch with other files than its wheel ({names})"
    return Trouble(
        why, f"Install it again: pip install --force-reinstall --no-deps skumatch=={package.version}"
    )


def _project_code(project: Path) -> CodeSnapshot:
    try:
        tree = checkout(project, holding="dvc.yaml")
    except NoRepository as error:
        why = f"is under no git commit: it is in no git repository ({error})"
        trouble = Trouble(why, "Clone the project with git to release a model.")
        return CodeSnapshot(_contents(project, _walk(project)), trouble=trouble)
    listed = tree.names("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CODE)
    ignored = tree.names("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", *CODE)
    read = [name for name in ignored if name.endswith((*READ, "/")) and "__pycache__" not in Path(name).parts]
    return _compared(tree, _contents(project, [*listed, *read]))


def _compared(tree: Checkout, files: dict[str, bytes]) -> CodeSnapshot:
    """Compare the files with the commit by their content, as an audit does; git's index is not asked."""
    commit = tree.commit()
    known = tree.committed(*CODE) if commit else {}
    if strange := [name for name, (kind, _) in known.items() if kind != "blob"]:
        raise _not_taken(strange[0], "is a submodule", "put its files there")
    ids = {name: digest for name, (_, digest) in known.items() if name in files}
    same = {name for name, digest in ids.items() if object_id("blob", files[name], digest) == digest}
    changed = tuple(sorted((files.keys() | known.keys()) - same))
    return CodeSnapshot(files, commit, changed, tree.prefix, _trouble(tree, commit, changed))


def _trouble(tree: Checkout, commit: str | None, changed: tuple[str, ...]) -> Trouble | None:
    """Return why a model of this code can't be promoted; None for the code of a commit."""
    if commit is None:
        return Trouble("is under no git commit: its repository has none yet", "Commit it to release a model.")
    if not changed:
        return None
    names = first_of([*map(visible, changed)], FEW)
    if tree.read("status", "--porcelain", "--untracked-files=all", "--", *CODE):
        return Trouble(f"has uncommitted changes ({names})", "Commit them to release a model.")
    why = "it ignores them, converts them or takes them for unchanged"
    where = "See `git check-ignore -v`, .gitattributes, core.autocrlf and `git ls-files -v`"
    fault = f"has uncommitted changes that `git status` doesn't show ({names}: {why})"
    return Trouble(fault, f"{where}; then commit to release a model.")


def _contents(project: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return name -> content of the files that exist.

    Raises:
        CodeError: an archive can't hold one of them.
    """
    present = [name for name in sorted(set(names)) if os.path.lexists(project / name)]
    contents = {name: _content(project, name) for name in present}
    return {name: data for name, data in contents.items() if data is not None}


def _content(project: Path, name: str) -> bytes | None:
    path = project / name
    if path.is_symlink():
        raise _not_taken(name, "is a symbolic link", "put the file itself there")
    if name.endswith("/") or (path / ".git").exists():
        raise _not_taken(name, "is a git repository of its own", "move it away")
    if path.is_dir():
        return None  # a file of that name was committed; the files in the folder are listed by themselves
    try:
        os.fsencode(name).decode("utf-8")
        return path.read_bytes()
    except UnicodeDecodeError as error:
        raise _not_taken(name, "has a name that isn't UTF-8", "rename it") from error
    except OSError as error:
        raise _not_taken(name, f"can't be read ({error.strerror})", "mend that") from error


def _not_taken(name: str, why: str, cure: str) -> CodeError:
    fault = f"The code file {visible(name)} {why}, so a run can't take it along"
    return CodeError(f"{fault}; {cure}, then run again.")


def _walk(project: Path) -> Iterator[str]:
    """Yield the code of a folder without git: every file except Python's caches, and every link."""
    for name in CODE:
        if (project / name).is_symlink() or (project / name).is_file():
            yield name
        for root, folders, files in os.walk(project / name, onerror=_unreadable):
            folders[:] = [folder for folder in folders if folder != "__pycache__"]
            links = [folder for folder in folders if Path(root, folder).is_symlink()]
            yield from (str(Path(root, each).relative_to(project)) for each in [*files, *links])


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _not_taken(str(error.filename), f"can't be read ({error.strerror})", "mend that") from error


def data_pointer(project: Path, ref: str | None) -> str:
    """Return the text of data.dvc, from git `ref`, or from the working tree where that is None or empty.

    Raises:
        DataError: there is none.
        CodeError: git is missing or refuses.
    """
    if not ref:
        path = project / "data.dvc"
        if not path.is_file():
            cure = "import some with `skumatch data import PATH` or render it with `skumatch data sample`"
            raise DataError(f"There is no data yet; {cure}.")
        return read_text(path, "the data.dvc that `skumatch data import` wrote", marks=UTF8)
    try:
        committed = checkout(project).object("blob", f"{ref}:./data.dvc")
    except NoRepository as error:
        where = f"{project} is in no git repository ({error})"
        raise DataError(f"Git ref '{ref}' names nothing: {where}; clone it with git.") from error
    except LookupError as error:
        cure = "give a ref at which data was committed"
        raise DataError(f"Git ref '{ref}' has no data.dvc (git: {error}); {cure}.") from error
    return decode(committed, f"data.dvc at git ref '{ref}'", marks=UTF8)


def write_params(source: Path, target: Path, overrides: Iterable[str]) -> Params:
    """Write every parameter of `source`, with overrides applied, to `target`, and return them.

    Args:
        source: a params.yaml, which may leave parameters out.
        target: file for all parameters.
        overrides: each `section.name=value`.

    Raises:
        ParameterError: as for `load_params`.
    """
    params = load_params(source, overrides)
    write_text(target, dump_yaml(params.model_dump(mode="json", by_alias=True)))
    return params


@dataclass(frozen=True)
class Fetched:
    """The inputs of a run besides parameters and data.

    Attributes:
        code: the code that the run takes along.
        champion: folder of the champion's bundle; None where there is no champion.
        weights: folder of the base weights; None where none are needed.
        baseline: the profile of the data version that drift is measured against (`pull.fetch_baseline`); None
            where there is none.
        kind: `retrain` or `refresh`.
        released: the bundle in which the champion's encoder was first released, before any refresh; None
            where that is the champion itself.
        trained: the bundle whose encoder is judged once more, on today's data; None where this run trains the
            encoder, or judges none.
    """

    code: CodeSnapshot
    champion: Path | None
    weights: Path | None
    baseline: dict[str, Any] | None
    kind: str = "retrain"
    released: Path | None = None
    trained: Path | None = None


def place_inputs(folder: Path, fetched: Fetched) -> None:
    """Copy the fetched bundles and weights and write the run's facts into `folder`/inputs.

    An input that the run doesn't have is a folder with the file none.json alone.
    """
    for name in NONE:
        source, target = getattr(fetched, name), folder / "inputs" / name
        shutil.rmtree(target, ignore_errors=True)
        if source is None:
            write_json(target / artefacts.ABSENT, NONE[name])
        else:
            shutil.copytree(source, target)
    artefacts.RUN.write(folder, RunFacts(kind=fetched.kind))
    write_json(artefacts.BASELINE.at(folder), {"baseline": fetched.baseline})
    write_json(artefacts.CODE.at(folder), fetched.code.facts())


def build(
    folder: Path, project: Path, settings: Settings, data: str, overrides: Iterable[str], fetched: Fetched
) -> str:
    """Assemble the input set in `folder`, store it in the remote, and return the archive's MD5.

    Args:
        folder: a workspace.
        project: the folder with params.yaml.
        settings: this machine's settings.
        data: the text of data.dvc.
        overrides: of parameters, each `section.name=value`.
        fetched: the run's other inputs.

    Raises:
        ParameterError: as for `load_params`.
        StorageError: the remote or the disk refuses.
    """
    place_inputs(folder, fetched)
    write_params(project / "params.yaml", folder / "params.yaml", overrides)
    write_text(folder / "data.dvc", data)
    repository = Repository(folder, settings)
    for name in NONE:
        repository.add(f"inputs/{name}")
    own = ["params.yaml", "data.dvc", *(f"inputs/{name}.dvc" for name in NONE)]
    own += [artefact.path for artefact in (artefacts.RUN, artefacts.CODE, artefacts.BASELINE)]
    members = {name: (folder / name).read_bytes() for name in own} | fetched.code.files
    _write_archive(folder / ARCHIVE, members)
    return md5_of(repository.add(ARCHIVE))


def _write_archive(path: Path, members: dict[str, bytes]) -> None:
    with replacing(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in sorted(members.items()):
            # Without time and owner, so that equal members make an archive of equal bytes.
            info = tarfile.TarInfo(os.fsencode(name).decode("utf-8"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def members(archive: Path) -> dict[str, bytes]:
    """Return an input set's files: path -> content."""
    with tarfile.open(archive) as tar:
        streams = ((info.name, tar.extractfile(info)) for info in tar.getmembers())
        return {name: stream.read() for name, stream in streams if stream is not None}


def code_of(archive: Path) -> list[str]:
    """Return the paths of the code among an input set's files."""
    return sorted(name for name in members(archive) if not name.startswith(OWN))


def in_repository(names: Iterable[str], facts: CodeFacts) -> dict[str, str]:
    """Return path from the repository's root -> path from the project, for the code that a commit has.

    The repository's root may lie above the project. An installed package is in no commit.

    Args:
        names: paths of code, from the project.
        facts: the run's record of its code.
    """
    committed = [name for name in names if not (facts.package and name.startswith(f"{PACKAGE}/"))]
    return {f"{facts.folder}{name}": name for name in committed}


def code_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the SHA-256 over code files (path and content), in the order of their paths.

    A path with a newline or a backslash is escaped and its line marked, as sha256sum does, so that two
    different sets of files never make the same text.

    Args:
        files: pairs of path and content.
    """
    return listing_hash({name: hashlib.sha256(data).hexdigest() for name, data in files})


def unpack(archive: Path, folder: Path) -> None:
    """Extract an input set's files into `folder`; DVC checked the archive's hash when it fetched it."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
