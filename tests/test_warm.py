"""A warm Python (tests/warm.py) does what Python does: for each case, both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_until
from tests.warm import python

CODE = """
import atexit, json, os, sys, time
atexit.register(lambda: print("the end"))
word = sys.argv[1]
if word == "facts":
    environ = {name: value for name, value in os.environ.items() if name.startswith(("MINE", "OMP"))}
    facts = [sys.argv, __name__, os.getcwd(), environ, sys.path[:2], sys.stdout.isatty(), sys.stdin.read()]
    print(json.dumps(facts))
elif word == "exit":
    sys.exit(3)
elif word == "say":
    sys.exit("a sentence")
elif word == "raise":
    raise ValueError("no such thing")
elif word == "kill":
    os.kill(os.getpid(), 9)
elif word == "threads":
    import torch
    print(torch.get_num_threads())
elif word == "warm":
    print("torch" in sys.modules, sys.executable)
else:
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if python() == sys.executable:
        pytest.skip("nothing is warm in `make prove`")
    (tmp_path / "skumatch").mkdir()
    (tmp_path / "skumatch/__init__.py").touch()
    (tmp_path / "skumatch/__main__.py").write_text(CODE)
    return tmp_path


def ended(program: str, folder: Path, word: str, **environ: str) -> subprocess.CompletedProcess[str]:
    words = [program, "-m", "skumatch", word, "é x"]
    return subprocess.run(
        words, cwd=folder, env=os.environ | environ, input="in\n", capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("word", ["facts", "exit", "say", "raise", "kill", "threads"])
def test_it_ends_as_python_does(folder: Path, word: str) -> None:
    environ = {"MINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder / "more")}
    warm, cold = (ended(program, folder, word, **environ) for program in (python(), sys.executable))
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]
    assert word != "facts" or json.loads(warm.stdout.splitlines()[0])[-1] == "in\n"


def test_it_is_warm_unless_python_reads_the_environment_at_its_start(folder: Path) -> None:
    assert ended(python(), folder, "warm").stdout.startswith(f"True {python()}\n")
    seeded = ended(python(), folder, "warm", PYTHONHASHSEED="1")
    assert seeded.stdout.startswith(f"False {sys.executable}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_no_process(folder: Path, number: signal.Signals) -> None:
    command = [python(), "-m", "skumatch", "sleep"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        fork = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        assert process.wait(60) == -number
        wait_until(lambda: not fork.is_running(), 30)
