"""The servers that `skumatch up` started in a home: their record, and whether they still are this home's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from skumatch.config import Settings
from skumatch.errors import RegistryUnavailable, ServiceError
from skumatch.files import read_json


@dataclass(frozen=True)
class Server:
    """A process that skumatch started.

    Attributes:
        name: Name of the server.
        pid: Process id.
        created: Start of the process in seconds since 1970; tells it from a later process with the same pid.
        origin: Description of its settings, to detect a start with others.
        folder: Device and inode of the record's folder (`identity`), which a copy of it doesn't share.
        home: Path of that folder when the process started; a process keeps it when the folder is moved.
    """

    name: str
    pid: int
    created: float
    origin: str
    folder: str = ""
    home: str = ""

    def process(self) -> psutil.Process | None:
        """Return the running process, or None if it has ended."""
        try:
            candidate = psutil.Process(self.pid)
            running = candidate.status() != psutil.STATUS_ZOMBIE
            same = abs(candidate.create_time() - self.created) < 1
        except psutil.NoSuchProcess:
            return None
        return candidate if same and running else None


def identity(folder: Path) -> str:
    """Return a folder's device and inode: kept when it is moved, and another one for a copy."""
    status = folder.stat()
    return f"{status.st_dev}:{status.st_ino}"


def recorded(record: Path) -> list[Server]:
    """Return the servers that the file `record` lists, running or not.

    In a copied home the record came along, but its servers are the original's, so they are left out.
    """
    servers = [Server(**fields) for fields in read_json(record)] if record.exists() else []
    return [server for server in servers if server.folder in ("", identity(record.parent))]


def ended(record: Path) -> list[str]:
    """Return the names of recorded servers that ended without being stopped."""
    return [server.name for server in recorded(record) if not server.process()]


def check_airflow(settings: Settings) -> None:
    """Check that the embedded Airflow is the one of this home; another home's may listen on the same port.

    Raises:
        ServiceError: It isn't up here, or it was started before the home was moved.
    """
    if not settings.airflow and (fault := server_fault(settings, "api-server")):
        raise ServiceError(f"The Airflow of {settings.home_dir} {fault}.")


def check_mlflow(settings: Settings) -> None:
    """Check that the embedded MLflow is the one of this home; another home's may listen on the same port.

    Raises:
        RegistryUnavailable: It isn't up here, or it was started before the home was moved.
    """
    if not settings.mlflow and (fault := server_fault(settings, "mlflow")):
        raise RegistryUnavailable(f"The MLflow of {settings.home_dir} {fault}, or set SKUMATCH_MLFLOW.")


def server_fault(settings: Settings, name: str) -> str:
    """Return what is wrong with an embedded server, with its remedy; empty where all is well."""
    servers = [server for server in recorded(settings.servers_file) if server.name == name]
    alive = next((server for server in servers if server.process()), None)
    if alive is None:
        return "is not up; start it with `skumatch up`"
    if alive.home not in ("", str(settings.home_dir)):
        again = "start it anew: `skumatch down`, then `skumatch up`"
        return f"was started when that folder was {alive.home}; {again}"
    return ""
