"""Hash of the code that decides stored results; tests compare it, so a change asks for a new version."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable

from tests.conftest import ROOT


def code_hash(files: Iterable[str]) -> str:
    """SHA-256 of files below skumatch/, in their order, without comments, docstrings and layout."""
    words: list[str] = []
    for name in files:
        nodes = list(ast.walk(ast.parse((ROOT / "skumatch" / name).read_text("utf-8"))))
        texts = [
            node for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ]
        left_out = {id(node) for text in texts for node in (text, text.value)}
        for node in nodes:
            if id(node) not in left_out:
                values = [value for _, value in ast.iter_fields(node)]
                words += [
                    type(node).__name__,
                    *(str(value) for value in values if isinstance(value, str | int | float)),
                ]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
