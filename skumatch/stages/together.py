"""Run one stage in several processes of one machine, which torchrun starts and which end with the stage.

The first error that a process raises becomes the stage's error.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skumatch.config import load_params
from skumatch.errors import Relayed, SkumatchError, StageFailed
from skumatch.files import read_json, write_json
from skumatch.params import RuntimeParams

ERROR = "log/error.json"
LAUNCHER = "SKUMATCH_LAUNCHER"  # process id of the process that starts the others
END_SECONDS = 30  # from SIGTERM on, for the current step and a checkpoint
STOPPED = 128 + signal.SIGTERM
PR_SET_PDEATHSIG = 1


def together(stage: str, root: Path, runtime: RuntimeParams) -> None:
    """Run a stage in `runtime.nproc` processes.

    On SIGTERM the processes end as a single one would, and then this one (143).

    Args:
        stage: The stage's name.
        root: The stage's workspace.
        runtime: `nproc`, and the device that is checked.

    Raises:
        Relayed: A process raised a SkumatchError, which this repeats.
        ParameterError: There are fewer GPUs than processes.
        StageFailed: A process ended without leaving an error.
        SystemExit: SIGTERM arrived.
    """
    _model("distributed").check_gpus(runtime, runtime.nproc)
    arguments = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={runtime.nproc}",
    ]
    arguments += [f"--shutdown-timeout={END_SECONDS}", "-m", __name__, stage, str(root)]
    # torchrun's own default, which it would warn of; `prepare` sets torch's threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = _end_with(os.getpid())
    # The launcher gets its own session, so that signals to this process's group don't reach it: a second
    # SIGTERM would cut short the orderly end that the first one started.
    with subprocess.Popen(
        [sys.executable, *arguments], start_new_session=True, preexec_fn=before
    ) as launcher:
        code = _ended(launcher)
    error = root / ERROR
    if code == STOPPED:
        # a process that lost another one while both were ending may have left this
        error.unlink(missing_ok=True)
        raise SystemExit(code)
    if code:
        raise Relayed(**read_json(error)) if error.is_file() else StageFailed(_without_a_word(stage))


def _without_a_word(stage: str) -> str:
    return (
        f"A process of stage {stage} ended without a word of its own, often for want of memory; "
        "its log has the last lines."
    )


def _model(name: str) -> Any:
    """Import a module of skumatch.model without an import statement.

    A stage reruns when a module that it imports changes; this module has no effect on results.
    """
    return importlib.import_module(f"skumatch.model.{name}")


def _ended(launcher: subprocess.Popen[bytes]) -> int:
    """Wait until the launcher has ended with all processes that it started.

    Returns:
        Its exit code; STOPPED after a SIGTERM, which is passed on once.
    """
    stopping = False

    def pass_on(*_: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            launcher.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        code = launcher.wait()
    finally:
        launcher.terminate()
        launcher.wait()
        signal.signal(signal.SIGTERM, before)
    return STOPPED if stopping else code


def signal_of_parents_death(number: int) -> Callable[[], None]:
    """Return a function that asks Linux to send the calling process a signal when its parent dies.

    On other systems the function does nothing.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries
    return lambda: prctl(PR_SET_PDEATHSIG, number)


def _end_with(parent: int) -> Callable[[], None]:
    """Return a function that torchrun's process calls before it starts torchrun.

    It asks Linux to kill the process when the stage dies, and puts its process id in the environment of all
    processes that it starts.
    """
    ask = signal_of_parents_death(signal.SIGKILL)

    def end_with_parent() -> None:
        ask()
        if os.getppid() != parent:
            os._exit(1)
        os.environ[LAUNCHER] = str(os.getpid())

    return end_with_parent


def _end_with_launcher() -> None:
    """Ask Linux to kill this process when torchrun dies; end it at once if torchrun is gone already.

    Each process has its own session, so no signal to a group would reach one that outlived torchrun.
    """
    signal_of_parents_death(signal.SIGKILL)()
    if sys.platform == "linux" and os.environ.get(LAUNCHER) != str(os.getppid()):
        sys.exit("The process that started this one has ended.")


def main(stage: str, root: Path) -> None:
    """Run the stage as one of the processes; write an error to a file for the waiting stage."""
    _end_with_launcher()
    try:
        importlib.import_module(f"skumatch.stages.{stage}").run(root, load_params(root / "params.yaml"))
    except SkumatchError as error:
        write_json(root / ERROR, error.as_dict())
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
