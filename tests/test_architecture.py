"""docs/architecture.md and the code say the same of rooms, layers and the message."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from skumatch.pipeline.message import Message

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs/architecture.md").read_text("utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text: str) -> list[str]:
    """The words in backticks of a table's first column."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def test_every_room_and_module_of_the_package_is_told_once() -> None:
    package = ROOT / "skumatch"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert sorted(first_column(section("Rooms"))) == sorted(folders | files)


def test_the_layers_are_those_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    wanted = [sorted(re.findall(r"skumatch\.(\w+)", layer)) for layer in layers]
    lines = [line.strip() for line in section("Rooms").splitlines() if line.startswith("    ")]
    assert [sorted(line.split(", ")) for line in lines] == wanted


def test_the_fields_of_the_message_are_told() -> None:
    assert sorted(first_column(section("The message").split("`register` returns")[0])) == sorted(
        Message.model_fields
    )
