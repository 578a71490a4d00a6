"""One stage in several processes of one machine: started by torchrun, ended with the stage.

The first error is the stage's.
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
LAUNCHER = "SKUMATCH_LAUNCHER"  # the number of the process that starts the others
END_SECONDS = 30  # from SIGTERM on, for the step that is on its way and a checkpoint
STOPPED = 128 + signal.SIGTERM
PR_SET_PDEATHSIG = 1


def together(stage: str, root: Path, runtime: RuntimeParams) -> None:
    """Run `stage` of the workspace `root` in `runtime.nproc` processes.

    On SIGTERM they end as one would, and then this one (143).

    Raises what a process of them raised, ParameterError for fewer GPUs than processes, StageFailed where one
    ended without a word.
    """
    _model("distributed").check_gpus(runtime, runtime.nproc)
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={runtime.nproc}",
    ]
    words += [f"--shutdown-timeout={END_SECONDS}", "-m", __name__, stage, str(root)]
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # torchrun's own default, which it would warn of; `prepare` sets torch's threads
    before = _end_with(os.getpid()) if sys.platform == "linux" else None
    # In a session of its own: of the SIGTERMs that a group gets, a second one would cut short the end that
    # the first one asked for.
    with subprocess.Popen([sys.executable, *words], start_new_session=True, preexec_fn=before) as launcher:
        code = _ended(launcher)
    error = root / ERROR
    if code == STOPPED:
        error.unlink(missing_ok=True)  # of one that lost another as it was about to end itself
        raise SystemExit(code)
    if code:
        raise Relayed(**read_json(error)) if error.is_file() else StageFailed(_without_a_word(stage))


def _without_a_word(stage: str) -> str:
    return f"A process of stage {stage} ended without a word of its own, often for want of memory; its log has the last lines."


def _model(name: str) -> Any:
    """A module that is not among the imports: what a stage imports decides when it reruns, and this decides no result."""
    return importlib.import_module(f"skumatch.model.{name}")


def _ended(launcher: subprocess.Popen[bytes]) -> int:
    """Its exit code, once it has ended with all it started.

    STOPPED after a SIGTERM, which is passed on once.
    """
    asked = False

    def pass_on(*_: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            launcher.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        code = launcher.wait()
    finally:
        launcher.terminate()
        launcher.wait()
        signal.signal(signal.SIGTERM, before)
    return STOPPED if asked else code


def _end_with(parent: int) -> Callable[[], None]:
    """What torchrun does before its first instruction: it asks to be killed with the stage, and tells its processes its number."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: a forked child must not load libraries

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.environ[LAUNCHER] = str(os.getpid())

    return ask


def _end_with_launcher() -> None:
    """torchrun gives each process a session of its own, so no signal to a group would reach one that outlived it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(LAUNCHER) != str(os.getppid()):
            sys.exit("The process that started this one has ended.")


def main(stage: str, root: Path) -> None:
    """Be one of the processes; an error is left for the stage that waits."""
    _end_with_launcher()
    try:
        importlib.import_module(f"skumatch.stages.{stage}").run(root, load_params(root / "params.yaml"))
    except SkumatchError as error:
        write_json(root / ERROR, error.as_dict())
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
