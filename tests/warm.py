"""A Python whose libraries are imported already, for the commands that tests run to their end.

`python()` is a program that takes the words of Python. For `-m skumatch ...` and `-m benchmarks ...` it asks
a server, which has imported the libraries and none of the project's code, to fork; the fork runs the module
as Python would, with the caller's environment, folder and streams. Such a start takes a tenth of a second of
processor time instead of one to three. All forks share one order of sets (Python's hash seed). All else, what
a test kills or measures, and all of `make prove` start Python itself.
"""

from __future__ import annotations

import atexit
import gc
import marshal
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module, invalidate_caches
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = ROOT / "tests/hidden"  # modules that a user's installation doesn't have
# What brings the libraries: the project's rooms, which are dropped again, and what those import late.
IMPORTED = """
    skumatch.cli skumatch.api skumatch.audit.collect skumatch.audit.reproduce skumatch.cleanup.cleanup
    skumatch.pipeline.pull skumatch.pipeline.register skumatch.pipeline.worker skumatch.lineage
    skumatch.stages.validate skumatch.stages.split skumatch.stages.frozen skumatch.stages.train
    skumatch.stages.evaluate skumatch.stages.report
    dvc.commands.repro dvc.repo.reproduce dvc.stage.run dvc.fs dvc.cachemgr dvc.data_cloud dvc.render
    dvc.rwlock dvc_data.index.collect dulwich.client networkx croniter sympy pyarrow.dataset
    PIL.BmpImagePlugin PIL.GifImagePlugin PIL.PngImagePlugin PIL.PpmImagePlugin
    mlflow.pyfunc mlflow.entities.model_registry great_expectations.expectations faiss
    torch.utils.data pytorch_metric_learning.losses safetensors.torch threadpoolctl
""".split()  # noqa: SIM905
# Variables that Python or a library reads when it starts. Where one differs, the command starts cold.
READ_AT_START = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "LD_", "COV", "GX_", "MALLOC_")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
MAY_DIFFER = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LANGUAGE", "LC_TERMINAL", *THREADS)
NAME = "WARM_PYTHON"  # the variable by which the processes of one test run share the program
PROGRAM = """#!{python} -IS
import marshal, os, sys
words, environ, cold = sys.argv[1:], dict(os.environ), {python!r}
names = [name for name in environ if name.startswith({names}) and name not in {differ}]
known = words[:1] == ["-m"] and words[1].split(".")[0] in ("skumatch", "benchmarks")
if not known or {{name: environ[name] for name in names}} != {read!r}:
    os.execv(cold, [cold, *words])
import _socket, signal
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
server.connect({address!r})
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
streams = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
request = marshal.dumps((words, environ, os.getcwd()))
server.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
ended = int.from_bytes(server.recv(8), "big", signed=True)
if ended < 0:
    if -ended != signal.SIGKILL:
        signal.signal(-ended, signal.SIG_DFL)
    os.kill(os.getpid(), -ended)
os._exit(ended)
"""


def start() -> str:
    """Start the server, and return the path of the program."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    program = folder / "python"
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # Great Expectations reads it when it is imported
    names = [name for name in os.environ if name.startswith(READ_AT_START) and name not in MAY_DIFFER]
    places = {"python": sys.executable, "address": str(folder / "server")}
    read = {name: os.environ[name] for name in names}
    program.write_text(PROGRAM.format(names=READ_AT_START, differ=MAY_DIFFER, read=read, **places))
    program.chmod(0o700)
    environment = os.environ | {"PYTHONPATH": f"{HIDDEN}{os.pathsep}{ROOT}"}
    words = [sys.executable, __file__, str(program)]
    server = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    os.environ[NAME] = str(program)
    return str(program)


def prepare() -> str | None:
    """Start the server unless it is started; return the program, or None where every start is to be cold.

    That is so in `make prove`, where coverage is measured, and on systems other than Linux.
    """
    proving = os.environ.get("HYPOTHESIS_PROFILE") == "prove"
    if proving or not hasattr(os, "pidfd_open") or any(name.startswith("COV") for name in os.environ):
        return None
    return os.environ.get(NAME) or start()


@cache
def python() -> str:
    """Return a Python that starts warm where it can."""
    prepared = prepare()
    if prepared is None:
        return sys.executable
    program = Path(prepared)
    end = time.monotonic() + 300
    while not program.with_name("server").exists():
        assert time.monotonic() < end, "the server of warm Pythons did not start"
        time.sleep(0.05)
    return str(program)


class Server:
    """Forks for each request at `address`, until the test run closes its standard input."""

    def __init__(self, address: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(f"{address}.new")
        self.listener.listen(64)
        Path(f"{address}.new").rename(address)  # it is there once it listens
        self.forks: dict[socket.socket, tuple[int, int]] = {}  # caller -> its fork and that one's pidfd
        self.selector = selectors.DefaultSelector()
        self.watch(self.listener, self.accept)
        self.watch(0, self.close)

    def watch(
        self, fd: socket.socket | int, action: Callable[[], tuple[list[str], dict[str, str]] | None]
    ) -> None:
        self.selector.register(fd, selectors.EVENT_READ, action)

    def serve(self) -> tuple[list[str], dict[str, str]]:
        """Return, in each fork, the words and the environment of its caller."""
        while True:
            for key, _ in self.selector.select():
                request = key.data()
                if request:
                    return request  # type: ignore[no-any-return]

    def accept(self) -> tuple[list[str], dict[str, str]] | None:
        caller, _ = self.listener.accept()
        request, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
        pid = os.fork()
        if pid == 0:
            self.listener.close()
            self.selector.close()
            for other, (_, fd) in self.forks.items():
                other.close()
                os.close(fd)
            caller.close()
            return become(request, streams)
        for fd in streams:
            os.close(fd)
        self.forks[caller] = pid, os.pidfd_open(pid)
        self.watch(caller, partial(self.pass_on, caller))
        self.watch(self.forks[caller][1], partial(self.end, caller))
        return None

    def pass_on(self, caller: socket.socket) -> None:
        """Send its fork a caller's signal, or kill the fork where the caller is gone."""
        number = caller.recv(1)
        if not number:
            self.selector.unregister(caller)
        with suppress(ProcessLookupError, KeyError):
            pid, _ = self.forks[caller]
            os.kill(pid, number[0]) if number else os.killpg(pid, signal.SIGKILL)

    def end(self, caller: socket.socket) -> None:
        """Tell a caller how its fork ended."""
        pid, fd = self.forks.pop(caller)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for watched in (fd, caller):
            with suppress(KeyError):
                self.selector.unregister(watched)
        with suppress(OSError):
            caller.send(status.to_bytes(8, "big", signed=True))
        os.close(fd)
        caller.close()

    def close(self) -> None:
        for pid, _ in self.forks.values():
            os.killpg(pid, signal.SIGKILL)
        os._exit(0)


def become(request: bytes, streams: list[int]) -> tuple[list[str], dict[str, str]]:
    """Take over a caller's streams and folder; return its words and its environment."""
    words, environ, folder = marshal.loads(request)  # noqa: S302 - from this test run
    os.setsid()
    for fd, stream in enumerate(streams):
        os.dup2(stream, fd)
        os.close(stream)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        new = open(fd, old.mode, encoding=old.encoding, errors=old.errors, closefd=False)  # noqa: SIM115
        new.reconfigure(line_buffering=name == "stderr" or new.isatty())
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    os.chdir(folder)
    return words, environ


def run(module: str) -> int:
    """Run a module as `python -m` would, and return its exit code; the libraries are not taken down first."""
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        code = -signal.SIGINT
    except BaseException:  # noqa: BLE001 - as Python itself ends
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return int(code or 0)  # type: ignore[call-overload]


def main(program: str) -> None:
    # Without this file's folder and the two of PYTHONPATH; the project is installed as the path's last place.
    path = [*sys.path[3:], str(ROOT)]
    for name in IMPORTED:
        import_module(name)
    sys.modules["skumatch.model.torchvision_ops"]._LIBRARIES.clear()  # what they declared goes with them
    for name in [name for name in sys.modules if name.partition(".")[0] == "skumatch"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    words, environ = Server(Path(program).with_name("server")).serve()
    os.environ.clear()
    os.environ.update(environ)
    threads = [int(environ[name]) for name in THREADS if name in environ]
    if threads:  # the libraries read it when they are loaded
        import_module("threadpoolctl").threadpool_limits(threads[0])
    sys.executable, sys.orig_argv, sys.argv = program, [program, *words], words[1:]
    sys.path[:] = [os.getcwd(), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep)), *path]
    invalidate_caches()
    ended = run(words[1])
    if ended < 0:
        signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    os._exit(ended)


if __name__ == "__main__":
    main(sys.argv[1])
