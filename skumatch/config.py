"""Settings (environment) and the reading of params.yaml, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from skumatch.errors import CREDENTIALS, ParameterError
from skumatch.params import Params

BEFORE_RUNS = ("runtime.queues", "runtime.execution")  # read by Airflow with its DAGs, when no run is known
USERS = r"^[A-Za-z0-9_.-]+:(viewer|user|op|admin)(,[A-Za-z0-9_.-]+:(viewer|user|op|admin))*$"


class Settings(BaseSettings):
    """Where things are on this machine; each is an environment variable `SKUMATCH_<NAME>`.

    home: caches, run workspaces, server state, logs. remote: fsspec URL or path of the shared DVC remote (default
    `<home>/remote`). mlflow: the tracking server. mlflow_page: where people find it, if not there. airflow: one of your own,
    with user and password in its URL. ports: loopback ports of the embedded servers. airflow_users: who
    signs in to the embedded Airflow, as name:role,... (viewer, user, op, admin); without it whoever reaches it is its admin.
    signing_key: a private key (PEM) that signs each registered run's provenance. openlineage: where events of lineage go, an
    http(s) URL or a file; without it there are none.
    """

    model_config = SettingsConfigDict(env_prefix="SKUMATCH_", frozen=True)

    project: Path = Field(default_factory=Path.cwd)
    home: Path | None = None
    remote: str | None = None
    mlflow: str | None = None
    mlflow_page: str | None = None
    airflow: str | None = None
    airflow_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    mlflow_port: Annotated[int, Field(ge=1, le=65535)] = 5000
    airflow_users: Annotated[str, Field(pattern=USERS)] | None = None
    signing_key: Path | None = None
    openlineage: str | None = None

    @property
    def passwords_file(self) -> Path:
        """Airflow's passwords by user, readable by its owner only; there where `airflow_users` is set."""
        return self.home_dir / "airflow-passwords.json"

    @property
    def home_dir(self) -> Path:
        return (self.home or self.project / ".skumatch").resolve()

    @property
    def servers_file(self) -> Path:
        """The record of the servers that `up` started."""
        return self.home_dir / "services.json"

    @property
    def remote_url(self) -> str:
        """A URL as it is, a path made absolute: stages run in folders of their own."""
        if self.remote and "://" in self.remote:
            return self.remote
        return str((self.project / Path(self.remote).expanduser()).resolve() if self.remote else self.home_dir / "remote")

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
        return str((self.project / Path(self.openlineage).expanduser()).resolve())

    @property
    def airflow_url(self) -> str:
        """Without the user and password that `airflow` may carry: fit for logs and pages."""
        return shown(self.airflow).rstrip("/") if self.airflow else f"http://127.0.0.1:{self.airflow_port}"


def shown(url: str) -> str:
    """A URL without the user and password it may carry: fit for logs, pages and tags."""
    return CREDENTIALS.sub("", url)


def settings() -> Settings:
    """The settings of this process's environment. Raises ParameterError for a value that can't be."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"SKUMATCH_{str(first['loc'][0]).upper()}"
        raise ParameterError(f"{name} is '{first['input']}': {first['msg'].lower()}; correct the environment variable.") from error


def check_approval(settings: Settings, params: Params) -> None:
    """Raises ParameterError where a person's approval is required, but Airflow knows no persons."""
    if params.release.approval == "required" and not (settings.airflow_users or settings.airflow):
        raise ParameterError(
            "release.approval is required, but whoever reaches this Airflow is its admin, so nobody would be known to have approved; "
            "set SKUMATCH_AIRFLOW_USERS=name:role,... before `skumatch up`, or release.approval=none."
        )


def load_params(path: Path, overrides: Iterable[str] = ()) -> Params:
    """Read params.yaml and apply `section.name=value` overrides.

    Raises ParameterError for a missing file, a name that doesn't exist or a value out of range.
    """
    return _check(apply_overrides(_read(path), overrides), path)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `tree` with each `section.name=value` replaced; values are read as YAML."""
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ParameterError(f"'{override}' is no override; write it as section.name=value, for example train.epochs=3.")
        if name.startswith(BEFORE_RUNS):
            raise ParameterError(f"'{name}' can't be changed for one run: Airflow reads it with its DAGs; set it in params.yaml.")
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None  # type: ignore[assignment]
        if not isinstance(node, dict) or last not in node:
            raise ParameterError(f"There is no parameter '{name}'; params.yaml lists every one with a comment.")
        node[last] = _value(text, override)
    return tree


def _value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParameterError(f"The value of '{override}' can't be read as YAML; correct it, for example train.epochs=3.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ParameterError(f"There is no {path}; run skumatch in the project's folder.")
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from error
    return tree if isinstance(tree, dict) else {}


def _check(tree: dict[str, Any], path: Path) -> Params:
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ParameterError(f"There is no parameter '{name}' (in {path.name}); remove it or correct its name.") from error
        if first["type"] == "value_error":  # of several parameters, so there is no one value to show
            words = str(first["ctx"]["error"])
            raise ParameterError(f"{f'Parameters {name}: ' if name else ''}{words} (in {path.name}).") from error
        raise ParameterError(f"Parameter {name} is {first['input']!r}: {first['msg'].lower()} (in {path.name}).") from error
