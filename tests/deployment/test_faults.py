"""Parts of a deployment fail while a training runs: the run still ends well, or reports the failure."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.deployment.runs import Deployment, Run
from tests.deployment.stack import START_SECONDS, well
from tests.proving import IN_PROOF

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]
Fault = Callable[[Deployment, Run], None]


def worker_killed(deployment: Deployment, run: Run) -> None:
    training(run)
    saved = max(run.steps())
    run.trainer().end(signal.SIGKILL)
    began = time.monotonic()
    assert saved > 0 and run.attempt() == 1
    run.until(lambda: run.tasks()["train"]["try_number"] == 2 and run.tasks()["train"]["state"] == "running")
    run.until(lambda: run.trained(2))
    there, again = run.trained(1)[-1], run.trained(2)[0]
    assert run.attempt() == 2 and again >= saved, "it began anew, not at the checkpoint"
    elapsed_s = time.monotonic() - began
    print(
        f"The training was taken up {elapsed_s:.0f} s after its worker was killed, "
        f"at image {again} ({there} before)."
    )


def worker_stopped(deployment: Deployment, run: Run) -> None:
    """Stop a worker as compose, an operator or a cloud does: SIGTERM, and SIGKILL some seconds later."""
    trainer = run.trainer()
    assert trainer.process
    trainer.kept = False
    trainer.process.send_signal(signal.SIGTERM)
    time.sleep(5)
    trainer.end(signal.SIGKILL)


def scheduler_restarted(deployment: Deployment, run: Run) -> None:
    training(run)
    restarted(deployment, "scheduler", 10)


def broker_restarted(deployment: Deployment, run: Run) -> None:
    training(run)
    restarted(deployment, "redis", 5, signal.SIGTERM)


def mlflow_away(deployment: Deployment, run: Run) -> None:
    """From the training on; back before register needs it, which waits with the stages between them."""
    assert run.tasks()["register"]["state"] not in ("running", "success")
    deployment.stack.services["mlflow"].end(signal.SIGKILL)
    run.until(lambda: run.tasks()["train"]["state"] == "success")
    deployment.stack.services["mlflow"].start()


def mlflow_away_at_register(deployment: Deployment, run: Run) -> None:
    deployment.stack.services["mlflow"].end(signal.SIGKILL)
    run.until(
        lambda: (
            (run.tasks()["register"]["try_number"] or 0) >= 1
            and run.tasks()["register"]["state"] != "scheduled"
        )
    )
    time.sleep(5)
    deployment.stack.services["mlflow"].start()
    wait_until(lambda: well(f"http://127.0.0.1:{deployment.stack.ports['mlflow']}/health"), START_SECONDS)


def postgres_away(deployment: Deployment, run: Run) -> None:
    """Airflow's scheduler ends where its database is away, and is started again, as compose does."""
    restarted(deployment, "postgres", 20, signal.SIGINT)


def api_server_killed(deployment: Deployment, run: Run) -> None:
    restarted(deployment, "api-server", 10)


def dag_processor_killed(deployment: Deployment, run: Run) -> None:
    restarted(deployment, "dag-processor", 10)


def all_servers_killed(deployment: Deployment, run: Run) -> None:
    names = ("api-server", "scheduler", "dag-processor", "triggerer")
    for name in names:
        deployment.stack.services[name].end(signal.SIGKILL)
    time.sleep(5)
    for name in names:
        deployment.stack.services[name].start()


def store_refuses_writes(deployment: Deployment, run: Run) -> None:
    deployment.gate.closed, deployment.gate.refused = True, 0
    try:
        run.until(
            lambda: run.tasks()["train"]["try_number"] >= 2 or run.tasks()["train"]["state"] == "up_for_retry"
        )
    finally:
        deployment.gate.closed = False
    assert deployment.gate.refused


def store_hangs(deployment: Deployment, run: Run) -> None:
    store = deployment.stack.services["store"].process
    assert store
    store.send_signal(signal.SIGSTOP)
    time.sleep(20)
    store.send_signal(signal.SIGCONT)


def worker_killed_at_register(deployment: Deployment, run: Run) -> None:
    run.until_begun("register")
    time.sleep(4)
    for worker in run.workers.values():
        worker.end(signal.SIGKILL)
    run.workers["one"].start()


def training(run: Run) -> None:
    """Wait until the training runs, so that the fault hits it."""
    assert run.tasks()["train"]["state"] == "running", run.words()


def restarted(deployment: Deployment, name: str, away: float, how: signal.Signals = signal.SIGKILL) -> None:
    service = deployment.stack.services[name]
    service.end(how, seconds=15)
    time.sleep(away)
    service.start()


COMMON: tuple[Fault, ...] = (worker_killed, scheduler_restarted, broker_restarted, mlflow_away)
FAULTS: tuple[Fault, ...] = (
    *COMMON,
    *(worker_stopped, mlflow_away_at_register, postgres_away, api_server_killed, dag_processor_killed),
    *(all_servers_killed, store_refuses_writes, store_hangs, worker_killed_at_register),
)


def test_consecutive_stages_go_to_different_workers(undisturbed: str) -> None:
    assert len(undisturbed) == 64


@IN_PROOF
def test_a_worker_whose_disk_is_full_leaves_nothing_half_written(
    deployment: Deployment, undisturbed: str
) -> None:
    """The run fails and leaves no partial files; it goes on there when there is room again."""
    with (
        ExitStack() as undo,
        deployment.run("disk-full", queues=("default", "gpu"), homes=lambda home: small(home, undo)) as run,
    ):
        run.until_training()
        ballast = deployment.stack.root / "disk-full-two/home/ballast"
        fill(ballast)
        assert run.ended() == "failed" and run.tasks()["train"]["state"] == "failed", run.words()
        assert not list((ballast.parent / "workspaces").rglob("train-*")), (
            "a failed stage leaves no workspace"
        )
        ballast.unlink()
        run.go_on()
        assert run.ended() == "success", run.words()
        assert run.bundle() == undisturbed


def small(home: Path, undo: ExitStack) -> None:
    home.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(home)], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small disk")
    undo.callback(subprocess.run, ["umount", "--lazy", str(home)], check=False)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 16))


@IN_PROOF
@pytest.mark.parametrize(
    "faults",
    [COMMON, *((fault,) for fault in FAULTS)],
    ids=lambda faults: "-".join(fault.__name__ for fault in faults),
)
def test_a_disturbed_run_makes_the_same_model(
    faults: tuple[Fault, ...], deployment: Deployment, undisturbed: str
) -> None:
    """One run meets the commonest faults, one after the other; then each of all has a run of its own."""
    with deployment.run("-".join(fault.__name__ for fault in faults).replace("_", "-")[:40]) as run:
        run.until_training()
        for fault in faults:
            fault(deployment, run)
        if run.ended() == "failed":  # it said so; what was mended goes on where it was
            run.go_on()
        assert run.ended() == "success", run.words()
        assert run.bundle() == undisturbed
