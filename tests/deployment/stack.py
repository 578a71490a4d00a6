"""The services of docker/compose.yaml as processes on loopback: commands, environment and secrets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

from skumatch.config import Settings
from skumatch.servers.airflow_api import RETRAIN, Airflow
from tests.conftest import ROOT, free_port, wait_until

COMPOSE = ROOT / "docker/compose.yaml"
CONTAINER_PORTS = {"postgres": 5432, "redis": 6379, "store": 8333, "mlflow": 5000, "api-server": 8080}
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
MISSING = [name for name in ("redis-server", "psql") if not shutil.which(name)] + (
    [] if POSTGRES else ["postgres"]
)
START_SECONDS = 240


@dataclass
class Service:
    """A service of compose.yaml that runs natively; `kept` means compose's `restart: unless-stopped`."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    as_user: list[str] = field(default_factory=list)
    kept: bool = False
    _turn: threading.RLock = field(default_factory=threading.RLock)

    def start(self) -> None:
        with self._turn, self.log.open("ab") as log:
            words = [*self.as_user, *self.command]
            self.process = subprocess.Popen(
                words,
                env=self.env,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self) -> None:
        """Start a service that ends by itself, as init containers do, and wait for it."""
        self.start()
        assert self.process and self.process.wait(START_SECONDS) == 0, self.log.read_text("utf-8", "replace")[
            -3000:
        ]

    def start_again(self) -> None:
        """Restart services that ended by themselves, as compose does, like Airflow without its database."""
        with self._turn:
            if self.kept and self.process and self.process.poll() is not None:
                self.start()

    def end(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> None:
        """End the service with all it started, which SIGKILL does at once, as when a machine is lost."""
        with self._turn:
            ended, self.process = self.process, None
        if ended is None:
            return
        family = [*_descendants(ended.pid)]
        if how == signal.SIGKILL:
            for process in family:
                process.kill()
        elif ended.poll() is None:
            ended.send_signal(how)
        _, left = psutil.wait_procs(family, timeout=seconds)
        for process in left:
            process.kill()
        ended.wait(30)


def _descendants(pid: int) -> Iterator[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        yield leader
        yield from leader.children(recursive=True)
    except psutil.NoSuchProcess:
        return


class Stack:
    """The deployment in `root`: `services` by compose's names.

    Workers have homes of their own and share nothing but the servers.
    """

    def __init__(self, root: Path, project: Path) -> None:
        self.root, self.project = root, project
        self.compose = yaml.safe_load(COMPOSE.read_text("utf-8"))
        self.ports = {name: free_port() for name in (*CONTAINER_PORTS, "health", "gate")}
        self.secrets = root / "secrets"
        hosts = {"POSTGRES": "postgres", "REDIS": "redis", "AIRFLOW": "api-server"}
        hosts = {name: f"127.0.0.1:{self.ports[service]}" for name, service in hosts.items()}
        subprocess.run(
            [ROOT / "docker/make-secrets", self.secrets],
            env=os.environ | hosts,
            check=True,
            capture_output=True,
        )
        self.services: dict[str, Service] = {}
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def settings(self) -> Settings:
        """Settings of a person who works with the deployment from another machine."""
        return Settings(
            **{name.removeprefix("SKUMATCH_").lower(): value for name, value in self.person.items()}
        )  # type: ignore[arg-type]

    @property
    def person(self) -> dict[str, str]:
        return {
            "SKUMATCH_PROJECT": str(self.project),
            "SKUMATCH_HOME": str(self.root / "person"),
            "SKUMATCH_AIRFLOW": f"http://skumatch:{self.secret('airflow_service')}@127.0.0.1:{self.ports['api-server']}",
            "SKUMATCH_MLFLOW": f"http://127.0.0.1:{self.ports['mlflow']}",
            "SKUMATCH_REMOTE": "s3://dvc/skumatch",
        }

    @property
    def environment(self) -> dict[str, str]:
        """Of that person's commands."""
        return (
            _clean()
            | self.person
            | self.store
            | {
                "MLFLOW_TRACKING_USERNAME": "admin",
                "MLFLOW_TRACKING_PASSWORD": self.secret("mlflow_admin"),
                "COLUMNS": "200",
            }
        )

    @property
    def store(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.secret("s3_key"),
            "AWS_SECRET_ACCESS_KEY": self.secret("s3_secret"),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['store']}",
        }

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text("utf-8")

    def service(
        self, name: str, of: str | None = None, command: list[str] | None = None, **more: str
    ) -> Service:
        """The service `of` compose.yaml (default: `name`) as a native process.

        `more` environment, or another command.
        """
        definition = self.compose["services"][of or name]
        folder = self.root / name
        self._shared_logs(folder / "airflow")
        env = {
            key: self._native(str(value), name)
            for key, value in (definition.get("environment") or {}).items()
        }
        words = [self._native(word, name) for word in command or definition["command"]]
        here = {
            "SECRETS": str(self.secrets),
            "PATH": f"{ROOT / 'docker'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        env = _clean() | here | env | self._of_one_machine() | more
        kept = definition.get("restart") == "unless-stopped"
        self.services[name] = Service(name, ["entrypoint", *words], env, folder / "log", kept=kept)
        self.services[name].command[0] = str(ROOT / "docker/entrypoint")
        return self.services[name]

    def _shared_logs(self, airflow: Path) -> None:
        """The volume airflow-logs of all services, where the API server reads the logs of workers' tasks."""
        airflow.mkdir(parents=True, exist_ok=True)
        (self.root / "airflow-logs").mkdir(exist_ok=True)
        if not (airflow / "logs").exists():
            (airflow / "logs").symlink_to(self.root / "airflow-logs")

    def _of_one_machine(self) -> dict[str, str]:
        """Settings that differ from containers: separate ports, and as few processes as possible."""
        return {
            "AIRFLOW__API__PORT": str(self.ports["api-server"]),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self.ports["health"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "GPU_SLOTS": "2",
            "PORT": str(self.ports["mlflow"]),
            "HOST": "127.0.0.1",
            "WORKERS": "1",
        }

    def _native(self, text: str, name: str) -> str:
        """A value of compose.yaml as it is here: defaults taken, hosts and folders replaced."""
        while text != (
            inner := re.sub(r"\$\{[A-Z_]+:-([^{}]*)\}", r"\1", text)
        ):  # a default may have one itself
            text = inner
        for host, port in CONTAINER_PORTS.items():
            text = text.replace(f"{host}:{port}", f"127.0.0.1:{self.ports[host]}")
        for port, service in (("8080", "api-server"), ("5000", "mlflow")):
            text = text.replace(f"localhost:{port}", f"127.0.0.1:{self.ports[service]}")
        text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        places = {
            "/run/secrets": self.secrets,
            "/project": self.project,
            "/var/lib/skumatch": self.root / name / "home",
        }
        for there, here in (places | {"/opt/airflow": self.root / name / "airflow"}).items():
            text = re.sub(rf"(?<![\w/]){there}(?!\w)", str(here), text)
        return text

    def begin(self) -> None:
        """Start the stores: databases, broker, object store."""
        self.postgres()
        conf = self.service(
            "redis", command=["redis-server", "/run/secrets/redis_conf", "--dir", str(self.root / "redis")]
        )
        conf.command += ["--port", str(self.ports["redis"]), "--bind", "127.0.0.1"]
        conf.start()
        store = self.service(
            "store", command=["moto_server", "-H", "127.0.0.1", "-p", str(self.ports["store"])]
        )  # SeaweedFS's part
        store.start()
        wait_until(lambda: _listens(self.ports["store"]), START_SECONDS)
        self.service("buckets", **self.store).run()

    def serve(self) -> None:
        """The servers that people and workers talk to."""
        self.service("mlflow", MLFLOW_S3_ENDPOINT_URL=self.store["AWS_ENDPOINT_URL"]).start()
        self.service("airflow-init").run()
        for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
            self.service(name).start()
        wait_until(lambda: well(f"http://127.0.0.1:{self.ports['mlflow']}/health"), START_SECONDS)
        wait_until(lambda: well(f"http://127.0.0.1:{self.ports['api-server']}/api/v2/version"), START_SECONDS)
        with Airflow(self.settings) as airflow:
            wait_until(
                lambda: any(dag["dag_id"] == RETRAIN for dag in airflow.get("/dags")["dags"]), START_SECONDS
            )
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.wait(1):
            for service in list(self.services.values()):
                service.start_again()

    def worker(self, name: str, queues: str, **more: str) -> Service:
        """Start a worker with a home of its own."""
        service = self.service(
            name,
            of="worker",
            command=["airflow", "celery", "worker", "--queues", queues, "--celery-hostname", f"{name}@%h"],
            **more,
        )
        service.start()
        return service

    def postgres(self) -> None:
        """The database server, new, with its roles and empty databases."""
        assert POSTGRES
        folder, log = self.root / "postgres", self.root / "postgres.log"
        folder.mkdir()
        user = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        )
        if user:
            shutil.chown(folder, "postgres", "postgres")
            log.touch()
        env = _clean() | {
            "PGHOST": str(folder),
            "PGPORT": str(self.ports["postgres"]),
            "SECRETS": str(self.secrets),
        }
        data = folder / "data"
        made = [
            *user,
            str(POSTGRES / "initdb"),
            "--pgdata",
            str(data),
            "--username=postgres",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
        ]
        subprocess.run(made, env=env, check=True, capture_output=True, cwd=folder)
        words = [
            str(POSTGRES / "postgres"),
            "-D",
            str(data),
            "-p",
            env["PGPORT"],
            "-c",
            "listen_addresses=127.0.0.1",
            "-k",
            str(folder),
        ]
        self.services["postgres"] = Service("postgres", words, env, log, as_user=user)
        self.services["postgres"].start()
        wait_until(lambda: subprocess.run(["pg_isready", "-q"], env=env, check=False).returncode == 0, 60)
        subprocess.run(
            [ROOT / "docker/databases.sh"],
            env=env | {"POSTGRES_USER": "postgres"},
            check=True,
            capture_output=True,
        )

    def healthy(self, name: str, of: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a service's health check of compose.yaml against its process here."""
        test = self.compose["services"][of or name]["healthcheck"]["test"]
        here = {"8974": self.ports["health"], "5000": self.ports["mlflow"], "8080": self.ports["api-server"]}
        words = [
            self._native(word, name).replace("$$", "$").replace("celery@", f"{name}@") for word in test[1:]
        ]
        words = [
            re.sub(r"(?<=127\.0\.0\.1:)(\d+)", lambda match: str(here.get(match[1], match[1])), word)
            for word in words
        ]
        command = ["sh", "-c", words[0]] if test[0] == "CMD-SHELL" else words
        env = self.services[name].env | {"HOSTNAME": socket.gethostname()}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    def database(self, script: str, folder: Path) -> None:
        """dump-databases or restore-databases, as in Postgres's container."""
        env = self.services["postgres"].env | {"PGUSER": "postgres"}
        subprocess.run([ROOT / "docker" / script, folder], env=env, check=True, capture_output=True)

    def sql(self, database: str, command: str, user: str = "airflow") -> str:
        """Return a database's answer to one of its own users."""
        env = self.services["postgres"].env
        words = [
            "psql",
            "--username",
            user,
            "--dbname",
            database,
            "--tuples-only",
            "--no-align",
            "--quiet",
            "--command",
            command,
        ]
        return subprocess.run(words, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def buckets(self, way: str, folder: Path) -> None:
        """copy-buckets out or in, as in a worker's container."""
        self.service("copy", of="buckets", command=["copy-buckets", way, str(folder)], **self.store).run()

    def stop(self) -> None:
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for name in reversed(self.services):
            self.services[name].end(seconds=20)


def _clean() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SKUMATCH_", "AIRFLOW", "MLFLOW", "AWS_"))
    }


def _listens(port: int) -> bool:
    return any(
        connection.laddr.port == port
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )


def well(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def deployed(root: Path, project: Path, between: Callable[[Stack], None] | None = None) -> Iterator[Stack]:
    """A deployment in `root`; `between` is called when the stores run, but nothing else yet."""
    stack = Stack(root, project)
    with ExitStack() as undo:
        undo.callback(stack.stop)
        stack.begin()
        if between:
            between(stack)
        stack.serve()
        yield stack
