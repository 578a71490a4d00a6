"""`skumatch evaluate`: scores of any encoder on any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skumatch.commands.compare import PROTOCOL_HELP, compare_folder
from skumatch.commands.figures import headline, tables
from skumatch.files import write_json

console = Console()

Reference = Annotated[
    str, typer.Option("--model", help="champion, challenger, a version, a bundle's folder, or frozen:NAME.")
]


def evaluate(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    model: Reference = "champion",
    protocol: Annotated[str, typer.Option(help=PROTOCOL_HELP)] = "full",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Score any encoder on any folder: top-1/3/5 with intervals, precision, slices; no pipeline needed."""
    evaluation = compare_folder(data, {"embed": model}, protocol).models[0].evaluation
    if json_file:
        write_json(json_file, evaluation.model_dump(mode="json"))
    console.print(headline(evaluation), highlight=False, soft_wrap=True)
    console.print(*tables(evaluation), highlight=False)
