"""`make mutants`: delete or invert one guard after the other, and see that a test turns red for each.

tests/mutants.toml lists the guards. Each worker changes a copy of the project's files, never the project.
A guard whose mutant leaves its tests green is printed as survived; the exit code is then 1, unless the list
has a reason why no test can notice.
"""

from __future__ import annotations

import compileall
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
LIMIT_SECONDS = 300  # a mutant that hangs its tests is noticed, too
GREEN, RED = 0, 1  # pytest's exit codes; all others say that a test could not be collected or started


@dataclass(frozen=True)
class Mutant:
    """One guard: `text`, once in `file`, becomes `becomes` (empty: deleted), and one of `tests` turns red.

    survives: why no test can notice that, in words; empty for nearly all.
    """

    name: str
    file: str
    text: str
    tests: tuple[str, ...]
    becomes: str = ""
    survives: str = ""

    def applied(self, source: str) -> str:
        """The file's source with the guard changed. Raises ValueError unless the guard stands in it once."""
        if (count := source.count(self.text)) != 1:
            words = f"The text of {self.name} stands {count} times in {self.file}"
            raise ValueError(f"{words}; correct {LIST.name}.")
        return source.replace(self.text, self.becomes)


@dataclass(frozen=True)
class Outcome:
    """The tests' exit code (None: stopped after LIMIT_SECONDS), their last lines, and their seconds."""

    code: int | None
    lines: tuple[str, ...]
    seconds: float

    @property
    def word(self) -> str:
        words = {GREEN: "survived", RED: "red", None: "red, hung"}
        return words.get(self.code, f"not run (pytest's exit code {self.code})")

    @property
    def failed_test(self) -> str:
        failures = [line.split(" - ")[0] for line in self.lines if line.startswith(("FAILED ", "ERROR "))]
        return failures[0] if failures else ""


def listed(path: Path = LIST) -> list[Mutant]:
    """The guards of the list, in its order."""
    entries = tomllib.loads(path.read_text("utf-8"))["guard"]
    return [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]


def copy_project(folder: Path) -> Path:
    """Copy the files that git knows or would add, as a repository of its own: some tests ask git for them.

    Each file is compiled once. That bytecode holds for the content it was made of, so never for a mutant's.
    """
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    for words in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(words, cwd=folder, check=True)
    return folder


def run_tests(folder: Path, tests: Iterable[str], *more: str) -> Outcome:
    """Run the tests on the copy in `folder`, until the first fails."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *more, *tests]
    # Bytecode may be written, whatever the shell says: pytest would compile its plugins anew in each run.
    named = {"PYTHONPATH": str(folder), "HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": ""}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=os.environ | named,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(None if more else LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)
        output.seek(0)
        return Outcome(code, tuple(output.read().splitlines()[-40:]), time.monotonic() - started)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def try_mutant(mutant: Mutant, folders: queue.Queue[Path]) -> Outcome:
    """Change the guard in a copy that is free, run its tests, and put the file back."""
    folder = folders.get()
    path = folder / mutant.file
    source = path.read_text("utf-8")
    try:
        path.write_text(mutant.applied(source), "utf-8")
        return run_tests(folder, mutant.tests)
    finally:
        path.write_text(source, "utf-8")
        folders.put(folder)


def check(mutants: Sequence[Mutant], jobs: int) -> int:
    """Try all mutants, print a line for each, and return the exit code: 0 where each is red, or justified."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        folders: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            folders.put(copy_project(Path(place) / str(number)))
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        print(f"{len(mutants)} guards; first their tests on the unchanged project", flush=True)
        unchanged = run_tests(Path(place) / "0", tests, "-n", str(jobs), "--dist", "loadfile")
        if unchanged.code != GREEN:
            print(*unchanged.lines, "The tests fail without any mutant; mend them first.", sep="\n")
            return 1
        print(f"green after {unchanged.seconds:.0f} s", flush=True)
        survivors = sorted(_tried(mutants, folders))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes, cpu_minutes = (time.monotonic() - started) / 60, (used.ru_utime + used.ru_stime) / 60
    held = f"{len(mutants) - len(survivors)} of {len(mutants)} guards are held"
    print(f"{held} ({minutes:.1f} min, {cpu_minutes:.1f} min of CPU time)")
    if survivors:
        print(f"Not held: {', '.join(survivors)}")
    return 1 if survivors else 0


def _tried(mutants: Sequence[Mutant], folders: queue.Queue[Path]) -> Iterator[str]:
    """Names of the guards that no test holds, as they are found; prints a line for each mutant."""
    pool = ThreadPoolExecutor(folders.qsize())
    futures = {pool.submit(try_mutant, mutant, folders): mutant for mutant in mutants}
    try:
        for number, future in enumerate(as_completed(futures), 1):
            mutant, outcome = futures[future], future.result()
            justified = mutant.survives and outcome.code == GREEN
            word = "justified" if justified else outcome.word
            line = f"[{number}/{len(mutants)}] {word}: {mutant.name} ({outcome.seconds:.0f} s)"
            print(f"{line} {outcome.failed_test}".rstrip(), flush=True)
            if outcome.code not in (RED, None) and not justified:
                yield mutant.name
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for those that run, not for all


def main(words: Sequence[str]) -> int:
    """words: names of guards, or none for all."""
    mutants = listed()
    unknown = sorted(set(words) - {mutant.name for mutant in mutants})
    if unknown:
        print(f"{LIST.name} has no guard named {', '.join(unknown)}.")
        return 1
    chosen = [mutant for mutant in mutants if not words or mutant.name in words]
    try:
        for mutant in chosen:
            mutant.applied((ROOT / mutant.file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(error)
        return 1
    return check(chosen, int(os.environ.get("JOBS", "2")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
