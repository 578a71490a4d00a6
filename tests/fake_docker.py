"""Stand-in for `docker run` and `docker kill`: records its arguments in FAKE_DOCKER, and starts the command.

As with docker, the command has its own session and only the variables passed, outlives a client that is
killed, and gets the client's SIGTERM. All processes of a container end with its first one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

NOTES = Path(os.environ["FAKE_DOCKER"])
PYTHON = os.environ["SKUMATCH_PYTHON"]  # stands in for the image's


def run(words: list[str]) -> int:
    image = words.index(os.environ["SKUMATCH_IMAGE"])
    options, inside = words[:image], words[image + 1 :]
    names = [words[i + 1] for i, word in enumerate(options) if word == "-e"]
    env = {name: os.environ[name] for name in names if "=" not in name and name in os.environ}
    folder = options[options.index("-w") + 1]
    assert inside[0] == "python"
    first = subprocess.Popen(
        [PYTHON, *inside[1:]],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: first.terminate())
    note = NOTES / f"{options[options.index('--name') + 1]}.json"
    note.write_text(json.dumps({"words": ["docker", "run", *words], "env": env, "pid": first.pid}))
    output = threading.Thread(target=show, args=[first])
    output.start()
    code = first.wait()
    end(first.pid)
    output.join()
    return 128 - code if code < 0 else code


def show(first: subprocess.Popen[bytes]) -> None:
    """Copy the container's output: it doesn't hold the client's pipe, which ends with the client."""
    assert first.stdout
    for line in first.stdout:
        print(line.decode(), end="", flush=True)


def kill(name: str) -> int:
    (NOTES / "killed.txt").open("a").write(f"{name}\n")
    return 0 if end(json.loads((NOTES / f"{name}.json").read_text())["pid"]) else 1


def end(pid: int) -> bool:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(run(sys.argv[2:]) if sys.argv[1] == "run" else kill(sys.argv[2]))
