"""Stand-in for `python -m skumatch worker ...`.

`<home>/fake.json` sets the behaviour of each task: {"train": "error"}.

A task is named by its last word. Behaviours: result (default), error, away (an error that may pass, in the
first try only), crash (SIGKILL, first try only), skip, hang, deaf (hangs and ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOME = Path(os.environ["SKUMATCH_HOME"])
SCORE = {"top1": 0.91, "top3": 0.97, "top5": 0.99, "interval": [0.88, 0.94], "n": 484}


def say(kind: str, /, **fields: Any) -> None:
    print(f"skumatch-{kind} {json.dumps(fields)}", flush=True)


def first_try(name: str) -> bool:
    mark = HOME / f"tried-{name}"
    fresh = not mark.exists()
    mark.touch()
    return fresh


def main(words: list[str]) -> None:
    assert words[:3] == ["-m", "skumatch", "worker"], words
    assert os.environ["SKUMATCH_EVENTS"] == "1"
    assert not [name for name in os.environ if name.startswith("AIRFLOW__")]
    name, message = words[-1], json.load(sys.stdin)
    with (HOME / "worked.txt").open("a") as stream:
        stream.write(f"{name}\n")
    plan = json.loads((HOME / "fake.json").read_text())
    print(f"working on {name} – 50 %")
    say("progress", stage=name, done=1, total=2, unit="images", text="half")
    time.sleep(plan.get("seconds", 0))
    act(plan.get(name, "result"), name)
    if name == "register":
        result(dict(message, decision=plan.get("decision", "first")))
    done = dict.fromkeys(words[4:], 0.1)  # of `stage NAME...`
    seconds, cached = message.get("seconds", {}) | done, [*message.get("cached", []), *done]
    say("result", **message | {"inputs": "0" * 64, "lock": "x" * 8000, "seconds": seconds, "cached": cached})


def act(behaviour: str, name: str) -> None:
    if behaviour == "error":
        say(
            "error",
            kind="TrainingDiverged",
            sentence="The loss is no number; lower train.optimizer.lr_tower.",
            exit_code=15,
            retry=False,
        )
        sys.exit(15)
    if behaviour == "away" and first_try(name):
        say("error", kind="StorageError", sentence="The remote is away; try later.", exit_code=21, retry=True)
        sys.exit(21)
    if behaviour == "crash" and first_try(name):
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "skip":
        say("skip", reason="The data is the last run's.")
        sys.exit(99)
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour in ("hang", "deaf"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (HOME / "hang.json").write_text(json.dumps([os.getpid(), child.pid]))
        time.sleep(600)


def result(message: dict[str, Any]) -> None:
    say(
        "result",
        **{key: message[key] for key in ("decision", "seconds", "cached", "dry_run")},
        sentence="The first model reaches the floor.",
        reasons=["top-1 is 0.91, the floor 0.50"],
        challenger=SCORE,
        refreshed=None,
        answers={},
        products=None,
        kind="retrain",
        version=1,
        aliases={"champion": 1},
        report="out/report/report.html",
        mlflow_run="http://127.0.0.1/run",
    )
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
