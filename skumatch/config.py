"""Settings from environment variables, and the reading and checking of params.yaml."""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from skumatch import network
from skumatch.errors import CREDENTIALS, ParameterError
from skumatch.params import Params
from skumatch.recipe.overrides import apply_overrides, refuse_read_with_dags
from skumatch.recipe.refusal import Refusal
from skumatch.recipe.strict_yaml import read_yaml, written
from skumatch.texts import UTF8, read_text

PARAMS = "params.yaml"
UNWRITABLE = dict.fromkeys(("Cc", "Zl", "Zp"), "a control character") | {"Cs": "bytes that aren't UTF-8"}
# Parts of a path that a program would read as a template. Airflow expands variables in its settings. DVC
# formats its progress bars; ConfigObj, which reads DVC's settings, interpolates and can't quote both triples.
AIRFLOW_EXPANDS = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)
DVC_FORMATS = re.compile(r"%\([^)]*\)s|\{[^}]*\}|[{}]|\'\'\'.*\"\"\"|\"\"\".*\'\'\'")
TEMPLATES = (
    ("Airflow", AIRFLOW_EXPANDS, ("SKUMATCH_PROJECT", "SKUMATCH_HOME", "SKUMATCH_OPENLINEAGE")),
    ("DVC", DVC_FORMATS, ("SKUMATCH_HOME", "SKUMATCH_REMOTE")),
)
USERS = r"^[A-Za-z0-9_.-]+:(viewer|user|op|admin)(,[A-Za-z0-9_.-]+:(viewer|user|op|admin))*$"


def expanded(path: str | Path) -> Path:
    """Return the path with a leading `~` or `~NAME` expanded; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 pathlib's raises for a file that is called ~name


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("there is no such user here") from error


def _place(place: str) -> str:
    """Return a URL unchanged, and a path with `~` expanded."""
    return _address(place) if "://" in place else str(_expanded(Path(place)))


def _address(url: str) -> str:
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError("it is no URL, as http://HOST:PORT is") from error
    return url


UserPath = Annotated[Path, AfterValidator(_expanded)]
Place = Annotated[str, AfterValidator(_place)]
Address = Annotated[str, AfterValidator(_address)]


class Settings(BaseSettings):
    """Places and servers of this machine, each from an environment variable `SKUMATCH_<NAME>`.

    A variable that is empty or blank counts as unset. A path may begin with `~`; a relative path starts from
    the project's folder, and a relative project folder from the current one.

    Attributes:
        project: The project's folder.
        home: Caches, run workspaces, server state, logs; default: `.skumatch`.
        remote: fsspec URL or path of the shared DVC remote; default: `remote` in the home.
        mlflow: URL of your own tracking server; default: an embedded MLflow.
        mlflow_page: URL at which people open MLflow, where it differs from `mlflow`.
        airflow: URL of your own Airflow, with user and password; default: an embedded Airflow.
        airflow_port: Loopback port of the embedded Airflow.
        mlflow_port: Loopback port of the embedded MLflow.
        airflow_users: Users of the embedded Airflow, as name:role,... (viewer, user, op, admin); without
            them everybody who reaches it is its admin.
        signing_key: A private key (PEM) that signs each registered run's provenance.
        vectors: `keep` reads vectors from the remote and keeps new ones there; `off` computes all of them.
        openlineage: Target of lineage events, an http(s) URL or a file; without it there are no events.
    """

    model_config = SettingsConfigDict(env_prefix="SKUMATCH_", frozen=True)

    project: UserPath = Field(default_factory=Path.cwd)
    home: UserPath | None = None
    remote: Place | None = None
    mlflow: Address | None = None
    mlflow_page: Address | None = None
    airflow: Address | None = None
    airflow_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    mlflow_port: Annotated[int, Field(ge=1, le=65535)] = 5000
    airflow_users: Annotated[str, Field(pattern=USERS)] | None = None
    signing_key: UserPath | None = None
    openlineage: Place | None = None
    vectors: Literal["keep", "off"] = "keep"

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        blank = {name for name, value in values.items() if isinstance(value, str) and not value.strip()}
        return {name: value for name, value in values.items() if name not in blank}

    @property
    def passwords_file(self) -> Path:
        """File of Airflow's passwords by user, readable by its owner; exists if `airflow_users` is set."""
        return self.home_dir / "airflow-passwords.json"

    @property
    def home_dir(self) -> Path:
        """The home as an absolute path."""
        return (self.project / (self.home or ".skumatch")).resolve()

    @property
    def servers_file(self) -> Path:
        """File that records the servers that `up` started."""
        return self.home_dir / "services.json"

    @property
    def remote_url(self) -> str:
        """The remote's URL, or its absolute path, since stages run in folders of their own."""
        if self.remote and "://" in self.remote:
            return self.remote
        return str((self.project / self.remote).resolve() if self.remote else self.home_dir / "remote")

    @property
    def mlflow_url(self) -> str:
        """URL of the tracking server."""
        return self.mlflow or f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def mlflow_shown(self) -> str:
        """URL at which a person opens MLflow; a worker may use a host name that only machines know."""
        return shown(self.mlflow_page or self.mlflow_url).rstrip("/")

    @property
    def models_page(self) -> str:
        """URL of MLflow's page of registered models, for a person; its first page is of language models."""
        return f"{self.mlflow_shown}/#/models"

    @property
    def openlineage_target(self) -> str | None:
        """URL or absolute path that lineage events go to; None: no events."""
        if self.openlineage is None or "://" in self.openlineage:
            return self.openlineage
        return str((self.project / self.openlineage).resolve())

    @property
    def signing_key_file(self) -> Path | None:
        """The signing key as an absolute path; None: nothing is signed."""
        return (self.project / self.signing_key).resolve() if self.signing_key else None

    @property
    def servers(self) -> list[str]:
        """URLs of all servers in use, including any credentials in them."""
        places = (self.mlflow_url, self.airflow or self.airflow_url, self.remote, self.openlineage)
        return [place for place in places if place and "://" in place]

    @property
    def airflow_url(self) -> str:
        """URL of Airflow without user and password, fit for logs and pages."""
        return shown(self.airflow).rstrip("/") if self.airflow else f"http://127.0.0.1:{self.airflow_port}"


def shown(url: str) -> str:
    """Return a URL without user and password, fit for logs, pages and tags."""
    return CREDENTIALS.sub("", url)


def check_places(settings: Settings) -> None:
    """Check the paths that are passed to other programs, before anything is written or started.

    Raises:
        ParameterError: A path can't be written as text, or Airflow or DVC would read a template in it.
    """
    places = {
        "SKUMATCH_PROJECT": str(settings.project.resolve()),
        "SKUMATCH_HOME": str(settings.home_dir),
        "SKUMATCH_REMOTE": settings.remote_url,
        "SKUMATCH_OPENLINEAGE": settings.openlineage_target or "",
    }
    for name, text in places.items():
        kinds = map(unicodedata.category, text)
        reasons = [f"it has {UNWRITABLE[kind]} in it" for kind in kinds if kind in UNWRITABLE]
        for program, template, readers in TEMPLATES:
            match = template.search(text) if name in readers else None
            reasons += [f"{program} would read {match[0]} in it as a template"] if match else []
        if reasons:
            raise ParameterError(f"{name} is {text!r}, but {reasons[0]}; choose another folder for it.")


def settings() -> Settings:
    """Read the settings from the environment, and normalize its proxy variables (network.py).

    Raises:
        ParameterError: A value is out of range, or no client can use the proxy that a server needs.
    """
    try:
        current = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"SKUMATCH_{str(first['loc'][0]).upper()}"
        why = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].lower()
        sentence = f"{name} is '{first['input']}': {why}"
        raise ParameterError(f"{sentence}; correct the environment variable.") from error
    network.settle(current.servers)
    return current


def check_approval(settings: Settings, params: Params) -> None:
    """Check that Airflow knows its users where a person's approval is required.

    Raises:
        ParameterError: Approval is required, but everybody is Airflow's admin.
    """
    release = {
        "release.approval": params.release.approval,
        "release.approval_refresh": params.release.approval_refresh,
    }
    required = next((name for name, value in release.items() if value == "required"), None)
    if required and not (settings.airflow_users or settings.airflow):
        why = "whoever reaches this Airflow is its admin, so nobody would be known to have approved"
        cure = f"set SKUMATCH_AIRFLOW_USERS=name:role,... before `skumatch up`, or {required}=none"
        raise ParameterError(f"{required} is required, but {why}; {cure}.")


def require_project(folder: Path) -> None:
    """Check that a folder is a project's, before anything is written into it.

    Raises:
        ParameterError: The folder has no params.yaml.
    """
    if not (folder / PARAMS).is_file():
        raise _absent(folder / PARAMS)


def params_or_defaults(settings: Settings) -> Params:
    """Return the project's parameters, or the defaults outside a project.

    Raises:
        ParameterError: As in `load_params`.
    """
    path = settings.project / PARAMS
    return load_params(path) if path.is_file() else Params()


def load_params(path: Path, overrides: Iterable[str] = ()) -> Params:
    """Read params.yaml and apply a run's overrides.

    Args:
        path: Path of params.yaml; parameters that the file leaves out have their defaults.
        overrides: Texts `section.name=value`; the last one for a name counts.

    Raises:
        ParameterError: The file is missing or can't be read, a name doesn't exist, a value has the wrong type
            or is out of its range, or Airflow reads an overridden parameter with its DAGs.
    """
    overrides = list(overrides)
    refuse_read_with_dags(overrides)
    text = _text(path)
    tree = apply_overrides(_sections(text, path), overrides)
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ParameterError(Refusal(error, text, path.name, tuple(overrides)).sentence()) from error


def _text(path: Path) -> str:
    if not path.is_file():
        raise _absent(path)
    return read_text(path, "the project's params.yaml", ParameterError, UTF8)


def _absent(path: Path) -> ParameterError:
    cure = "run skumatch in the project's folder, or set SKUMATCH_PROJECT to it"
    return ParameterError(f"There is no {path}; {cure}.")


def _sections(text: str, path: Path) -> dict[str, Any]:
    tree = read_yaml(text, str(path))
    if tree is not None and not isinstance(tree, dict):
        raise ParameterError(
            f"{path} holds no sections, but {written(text, ())}; write each as in the project's own."
        )
    return tree or {}


def user() -> str:
    """Return the name of this process's user, or its number where it has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def cores() -> int:
    """Return how many cores this process may use; the processes that torchrun started share them equally."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
