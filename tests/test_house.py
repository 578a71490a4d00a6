"""The promises of `make house`: names, docstrings and rooms of the code, by its syntax trees."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.house import ROOT, Module, modules, public_classes, statements, vague_names, without_args


def module(text: str) -> Module:
    return Module(Path("skumatch/shop/prices.py"), text.count("\n"), ast.parse(text))


def test_no_two_public_classes_have_one_name() -> None:
    assert {
        name: paths for name, paths in public_classes(modules("skumatch")).items() if len(paths) > 1
    } == {}


def test_a_class_in_two_modules_is_noticed() -> None:
    shops = [
        module("class Price: ..."),
        module("class Price: ...\nclass _Own: ..."),
        module("class _Own: ..."),
    ]
    assert {name: len(paths) for name, paths in public_classes(shops).items()} == {"Price": 2}


@pytest.mark.parametrize("folder", ["skumatch", "dags", "benchmarks"])
def test_functions_of_over_two_parameters_say_what_each_is(folder: str) -> None:
    assert [line for code in modules(folder) for line in without_args(code)] == []


def test_a_function_without_args_is_noticed() -> None:
    text = 'def price(sku, day, shop):\n    """Return it."""\n\n\n'
    text += "def _own(a, b, c): ...\n\n\ndef two(a, b): ...\n"
    assert without_args(module(text)) == ["skumatch/shop/prices.py:1 price"]
    assert without_args(module(text.replace("Return it.", "Return it.\n\n    Args:\n"))) == []
    method = "class Shop:\n    def price(self, sku, day): ...\n    def sell(self, sku, day, price): ...\n"
    assert without_args(module(method)) == ["skumatch/shop/prices.py:3 sell"]


def test_a_vague_name_is_noticed() -> None:
    text = "found = 1\nfor one in [found]:\n    rows = one\n"
    assert [line.split()[-1] for line in vague_names(module(text))] == ["found", "one"]


def test_variables_say_what_they_are() -> None:
    """What is left are fields, and lines that a guard in mutants.toml quotes."""
    names = [
        line for folder in ("skumatch", "dags") for code in modules(folder) for line in vague_names(code)
    ]
    assert len(names) <= 30, names


def test_statements_are_counted_without_docstrings() -> None:
    text = '"""Prices."""\n\ndef price(sku):\n    """Return it."""\n'
    text += "    if sku:\n        return 1\n    return 0\n"
    assert statements(module(text)) == 4


def test_rooms_are_few() -> None:
    assert len({code.room for code in modules("skumatch") if not code.room.endswith(".py")}) <= 20


def test_a_module_stem_occurs_once_in_a_room() -> None:
    stems = defaultdict(list)
    for code in modules("skumatch"):
        stems[code.room, code.path.stem].append(code.path)
    twice = {key: paths for key, paths in stems.items() if len(paths) > 1 and key[1] != "__init__"}
    assert twice == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions and those for types alone count, too."""
    graph = grimp.build_graph("skumatch")
    importers = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        TopologicalSorter(importers).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_package_has_at_most_twenty_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "skumatch").glob("*/__init__.py")}
    assert len(rooms) <= 20, sorted(rooms)
