"""`make house`: the size and language of the code in figures, by its syntax trees.

`tests/test_house.py` holds the figures that are promises.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("skumatch", "dags", "benchmarks", "tests")
VAGUE = frozenset({"found", "told", "said", "asked", "ours", "theirs", "one", "what"})
FEW_PARAMETERS = 2
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file.

    Attributes:
        path: relative to the project.
        lines: their number.
        tree: the syntax tree.
    """

    path: Path
    lines: int
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder below the package, or the module itself."""
        return self.path.parts[1] if len(self.path.parts) > 1 else self.path.name


@cache
def modules(folder: str) -> list[Module]:
    """All modules of a top-level folder but for empty ones."""
    texts = {path: path.read_text("utf-8") for path in sorted((ROOT / folder).rglob("*.py"))}
    full = {path.relative_to(ROOT): text for path, text in texts.items() if text}
    return [Module(path, text.count("\n"), ast.parse(text)) for path, text in full.items()]


def statements(module: Module) -> int:
    """The number of statements, docstrings apart."""
    nodes = [node for node in ast.walk(module.tree) if isinstance(node, ast.stmt)]
    return sum(not _is_text(node) for node in nodes)


def _is_text(node: ast.stmt) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def functions(module: Module) -> Iterator[Function]:
    """All functions, methods and inner ones."""
    return (node for node in ast.walk(module.tree) if isinstance(node, Function))


def lengths(sources: Sequence[Module]) -> list[int]:
    """Lines of each function."""
    nodes = [node for module in sources for node in functions(module)]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes]


def vague_names(module: Module) -> list[str]:
    """Variables whose name doesn't say what they are, as `file:line name`."""
    names = [node for node in ast.walk(module.tree) if isinstance(node, ast.Name) and node.id in VAGUE]
    stored = [node for node in names if isinstance(node.ctx, ast.Store)]
    return [f"{module.path}:{node.lineno} {node.id}" for node in stored]


def public_classes(sources: Sequence[Module]) -> dict[str, list[Path]]:
    """Name of each public class -> the modules that define one."""
    places = defaultdict(list)
    for module in sources:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.path)
    return dict(places)


def without_args(module: Module) -> list[str]:
    """Public functions of over two parameters whose docstring has no `Args:`, as `file:line name`.

    Command lines are left out: typer prints their docstrings, and each option has a help text.
    """
    if {"commands", "commands.py", "__main__.py"} & {*module.path.parts}:
        return []
    bodies = [module.tree.body] + [node.body for node in module.tree.body if isinstance(node, ast.ClassDef)]
    public = [node for body in bodies for node in body if isinstance(node, Function) and node.name[0] != "_"]
    long = [node for node in public if _parameters(node) > FEW_PARAMETERS]
    bare = [node for node in long if "Args:" not in (ast.get_docstring(node) or "")]
    return [f"{module.path}:{node.lineno} {node.name}" for node in bare]


def _parameters(node: Function) -> int:
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def figures(code: Sequence[Module]) -> dict[str, str]:
    """Name of each figure -> the figure of some modules."""
    spans, classes = lengths(code), public_classes(code)
    return {
        "statements, docstrings apart": f"{sum(map(statements, code)):,}",
        "modules": f"{len(code):,}",
        "rooms": str(len({module.room for module in code if not module.room.endswith(".py")})),
        "lines of a module, median": f"{median(module.lines for module in code):.0f}",
        "modules over 300 lines": str(sum(module.lines > 300 for module in code)),
        "lines of a function, median / p95": f"{median(spans):.0f} / {quantiles(spans, n=20)[-1]:.0f}",
        "variables with a vague name": str(sum(len(vague_names(module)) for module in code)),
        "public classes of one name": str(sum(len(paths) > 1 for paths in classes.values())),
        "public functions without Args": str(sum(len(without_args(module)) for module in code)),
    }


def main() -> None:
    """Print the figures of each folder."""
    table = Table(title="The code in figures")
    for name in ("", *FOLDERS):
        table.add_column(name, justify="right" if name else "left")
    columns = [figures(modules(folder)) for folder in FOLDERS]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
