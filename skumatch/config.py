"""Settings (environment) and the reading of params.yaml, checked before anything runs."""

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
# What a program takes for a template in the paths that it is given. Airflow expands variables in its
# settings.
# DVC formats its progress bars; ConfigObj, which reads its settings, interpolates and can't quote both
# triples.
AIRFLOW_EXPANDS = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)
DVC_FORMATS = re.compile(r"%\([^)]*\)s|\{[^}]*\}|[{}]|\'\'\'.*\"\"\"|\"\"\".*\'\'\'")
TEMPLATES = (
    ("Airflow", AIRFLOW_EXPANDS, ("SKUMATCH_PROJECT", "SKUMATCH_HOME", "SKUMATCH_OPENLINEAGE")),
    ("DVC", DVC_FORMATS, ("SKUMATCH_HOME", "SKUMATCH_REMOTE")),
)
USERS = r"^[A-Za-z0-9_.-]+:(viewer|user|op|admin)(,[A-Za-z0-9_.-]+:(viewer|user|op|admin))*$"


def expanded(path: str | Path) -> Path:
    """The path with a home folder for a leading `~` or `~NAME`; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 pathlib's raises for a file that is called ~name


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("there is no such user here") from error


def _place(place: str) -> str:
    """A URL as it is, a path without `~`."""
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
    """Where things are on this machine; each is an environment variable `SKUMATCH_<NAME>`.

    A variable that is empty or blank counts as unset. A path may begin with `~`; a relative one lies in the
    project's folder, and that in the current one.

    Attributes:
        project: The project's folder.
        home: Caches, run workspaces, server state, logs; default: `.skumatch`.
        remote: fsspec URL or path of the shared DVC remote; default: `remote` in the home.
        mlflow: The tracking server.
        mlflow_page: Where people find it, if not there.
        airflow: One of your own, with user and password in its URL.
        airflow_port: Loopback port of the embedded Airflow.
        mlflow_port: Loopback port of the embedded MLflow.
        airflow_users: Who signs in to the embedded Airflow, as name:role,... (viewer, user, op, admin);
            without it whoever reaches it is its admin.
        signing_key: A private key (PEM) that signs each registered run's provenance.
        vectors: `keep` reads vectors from the remote and keeps new ones there; `off` computes all of them.
        openlineage: Where events of lineage go, an http(s) URL or a file; without it there are none.
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
    def _blank_is_unset(cls, given: dict[str, Any]) -> dict[str, Any]:
        blank = {name for name, value in given.items() if isinstance(value, str) and not value.strip()}
        return {name: value for name, value in given.items() if name not in blank}

    @property
    def passwords_file(self) -> Path:
        """Airflow's passwords by user, readable by its owner only; there where `airflow_users` is set."""
        return self.home_dir / "airflow-passwords.json"

    @property
    def home_dir(self) -> Path:
        return (self.project / (self.home or ".skumatch")).resolve()

    @property
    def servers_file(self) -> Path:
        """The record of the servers that `up` started."""
        return self.home_dir / "services.json"

    @property
    def remote_url(self) -> str:
        """A URL as it is, a path made absolute: stages run in folders of their own."""
        if self.remote and "://" in self.remote:
            return self.remote
        return str((self.project / self.remote).resolve() if self.remote else self.home_dir / "remote")

    @property
    def mlflow_url(self) -> str:
        return self.mlflow or f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def mlflow_shown(self) -> str:
        """Where a person opens MLflow: a worker may know it by a name that only machines do."""
        return shown(self.mlflow_page or self.mlflow_url).rstrip("/")

    @property
    def openlineage_target(self) -> str | None:
        """A URL as it is, a path made absolute; None: no events."""
        if self.openlineage is None or "://" in self.openlineage:
            return self.openlineage
        return str((self.project / self.openlineage).resolve())

    @property
    def signing_key_file(self) -> Path | None:
        return (self.project / self.signing_key).resolve() if self.signing_key else None

    @property
    def servers(self) -> list[str]:
        """The addresses of all servers in use, with the credentials that they may carry."""
        places = (self.mlflow_url, self.airflow or self.airflow_url, self.remote, self.openlineage)
        return [place for place in places if place and "://" in place]

    @property
    def airflow_url(self) -> str:
        """Without the user and password that `airflow` may carry: fit for logs and pages."""
        return shown(self.airflow).rstrip("/") if self.airflow else f"http://127.0.0.1:{self.airflow_port}"


def shown(url: str) -> str:
    """A URL without the user and password it may carry: fit for logs, pages and tags."""
    return CREDENTIALS.sub("", url)


def check_places(settings: Settings) -> None:
    """Check the paths that other programs are given, before anything is written or started.

    Raises:
        ParameterError: a path that no text can hold, or in which Airflow or DVC would see a template.
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
    """Read this process's environment, and settle its proxy variables for all clients (network.py).

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
    """Raises ParameterError where a person's approval is required, but Airflow knows no persons."""
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
    """Refuse a folder that is no project's, before anything is written into it. Raises ParameterError."""
    if not (folder / PARAMS).is_file():
        raise _absent(folder / PARAMS)


def params_or_defaults(settings: Settings) -> Params:
    """The project's parameters; outside a project the defaults. Raises as `load_params` does."""
    path = settings.project / PARAMS
    return load_params(path) if path.is_file() else Params()


def load_params(path: Path, overrides: Iterable[str] = ()) -> Params:
    """Read params.yaml and apply a run's overrides.

    Args:
        path: of params.yaml; a parameter that it leaves out has its default.
        overrides: each `section.name=value`; of two for one name the last counts.

    Raises: ParameterError: the file is missing or can't be read, a name doesn't exist, a value is of another
        kind or out of its range, or Airflow reads an overridden parameter with its DAGs.
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
    """The name of this process's user, or its number where there is no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
