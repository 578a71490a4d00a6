"""The list of guards that `make mutants` changes stays true; no test depends on how busy the machine is."""

from __future__ import annotations

import ast
import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import mutants
from tests.conftest import ROOT
from tests.mutants import Mutant, listed

GUARDS = listed()


def test_the_list_names_at_least_sixty_guards_and_justifies_few() -> None:
    assert len(GUARDS) >= 60
    assert [name for name, count in Counter(guard.name for guard in GUARDS).items() if count > 1] == []
    assert sum(bool(guard.survives) for guard in GUARDS) <= 3


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_once_in_its_file_and_its_tests_exist(guard: Mutant) -> None:
    """The mutant has to be valid Python: a file that can't be imported would turn any test red."""
    source = (ROOT / guard.file).read_text("utf-8")
    changed = guard.applied(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), "nothing but words is changed"
    assert guard.tests
    for test in guard.tests:
        file, _, name = test.partition("::")
        assert file.startswith("tests/") and (ROOT / file).is_file()
        assert not name or f"\ndef {name}(" in (ROOT / file).read_text("utf-8"), f"{file} has no {name}"


def test_a_text_that_is_gone_or_stands_twice_is_refused() -> None:
    for source in ("b", "a a"):
        with pytest.raises(ValueError, match="correct mutants.toml"):
            Mutant("x", "file", "a", ("tests/x.py",)).applied(source)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project of one function and its test."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "shop.py").write_text("def price(cents):\n    assert cents >= 0\n    return cents\n")
    (tmp_path / "test_shop.py").write_text(
        "import pytest, shop\n\ndef test_price():\n    assert shop.price(3) == 3\n"
        "\ndef test_debt():\n    with pytest.raises(AssertionError):\n        shop.price(-1)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("test", "becomes", "word"),
    [
        ("test_shop.py", "    pass\n", "red"),
        ("test_shop.py::test_price", "    pass\n", "survived"),
        ("test_shop.py", "    pass\nimport nowhere\n", "not run"),
        ("test_shop.py::test_gone", "    pass\n", "not run"),
    ],
)
def test_a_mutant_is_red_where_a_test_fails(small: Path, test: str, becomes: str, word: str) -> None:
    """One whose tests can't even be collected is not red: that would hold for any change."""
    before, folders = (small / "shop.py").read_text(), queue.Queue[Path]()
    folders.put(small)
    mutant = Mutant("debt", "shop.py", "    assert cents >= 0\n", (test,), becomes)
    outcome = mutants.try_mutant(mutant, folders)
    assert outcome.word.startswith(word), outcome.lines
    assert (outcome.failed_test == "FAILED test_shop.py::test_debt") is (word == "red")
    assert (small / "shop.py").read_text() == before and folders.qsize() == 1


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    """Every call of a function of that name in the tests, but where the profiles are made."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.name != "proving.py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and name in (
                    getattr(node.func, "id", ""),
                    getattr(node.func, "attr", ""),
                ):
                    yield path, node


def test_no_property_test_has_a_deadline() -> None:
    """Neither by the profile nor by its own settings: on a busy machine an example may take seconds."""
    assert settings().deadline is None and HealthCheck.too_slow in settings().suppress_health_check
    own = [(path, keyword) for path, call in calls("settings") for keyword in call.keywords]
    assert own, "settings are found"
    assert [str(path) for path, keyword in own if keyword.arg == "deadline"] == []
    checks = [(path, ast.unparse(word.value)) for path, word in own if word.arg == "suppress_health_check"]
    assert [str(path) for path, value in checks if "too_slow" not in value] == []


def test_no_test_asserts_how_long_something_took() -> None:
    """An assert may read a clock only to give up waiting: `assert time.monotonic() < end`."""
    offences = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Assert):
                words = ast.unparse(node.test)
                clocks = (
                    "monotonic() -",
                    "perf_counter() -",
                    "process_time() -",
                    "time.time() - began",
                    "elapsed",
                )
                offences += [f"{path.name}:{node.lineno}" for clock in clocks if clock in words]
    assert offences == []
