"""`skumatch compare`: any number of encoders on one folder under one protocol.

The output is a table, JSON, a page or a chart.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console

from skumatch.commands.options import completed, written
from skumatch.config import PARAMS
from skumatch.config import settings as current_settings
from skumatch.errors import ParameterError
from skumatch.files import write_json, write_text
from skumatch.retrieval.figures import Protocol

if TYPE_CHECKING:
    from skumatch.comparing.comparison import Comparison

console = Console()

PROTOCOLS = get_args(Protocol)
Evaluated = Annotated[Path, typer.Option("--data", metavar="FOLDER", help="A folder in RP2K's layout.")]
ProtocolName = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        autocompletion=completed(*PROTOCOLS),
        help=f"One of {', '.join(PROTOCOLS)}; docs/evaluation.md tells what each asks.",
    ),
]
# Beginnings of a reference without a name: an equals sign in it belongs to a path.
NO_NAME = ("/", ".", "~", "frozen:", "hf:")


def compare(
    models: Annotated[
        str,
        typer.Option(
            metavar="MODEL,...",
            help="Models as for --model of `evaluate`, each with a name if you like: CLIP=hf:clip,champion.",
        ),
    ],
    data: Evaluated,
    protocol: ProtocolName = "full",
    json_file: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
    html: Annotated[Path | None, written("--html", "Write a page with chart and table to this file.")] = None,
    chart: Annotated[Path | None, written("--chart", "Write the chart as SVG to this file.")] = None,
) -> None:
    """Compare encoders on the same pictures: top-1/3/5 with intervals, and differences to the first one.

    Example: `skumatch compare --data photos --models hf:clip,champion`
    """
    from skumatch.comparing.page import draw, page
    from skumatch.comparing.table import table

    comparison = compare_folder(data, named(models), protocol)
    if json_file:
        write_json(json_file, comparison.model_dump(mode="json"))
    if html:
        write_text(html, page(comparison))
    if chart:
        write_text(chart, draw(comparison))
    console.print(table(comparison))


def named(models: str) -> dict[str, str]:
    """Return the references in the option --models, by the name that is shown for each.

    Args:
        models: Entries with commas between them: `NAME=REFERENCE`, or a reference whose `label` is its name.

    Raises:
        ParameterError: An entry is empty, or two have the same name.
    """
    by_name: dict[str, str] = {}
    for item in models.split(","):
        name, equals, reference = item.strip().partition("=")
        if not equals or name.startswith(NO_NAME):
            name, reference = label(item.strip()), item.strip()
        if not name or not reference:
            raise ParameterError(
                f"--models is '{models}', with an empty place in it; "
                "give references with commas between them."
            )
        if name in by_name:
            raise ParameterError(
                f"Two models are named '{name}'; "
                f"name them apart: --models first={by_name[name]},second={reference}."
            )
        by_name[name] = reference
    return by_name


def label(reference: str) -> str:
    """Return a reference without its kind, its folders and the ending of weights.

    For `frozen:vit-s14-dinov2@weights/dinov2.safetensors` this is `vit-s14-dinov2@dinov2`.
    """
    model, at, weights = reference.removeprefix("frozen:").removeprefix("hf:").rpartition("@")
    return model + at + Path(weights).name.removesuffix(".safetensors")


def compare_folder(data: Path, references: dict[str, str], protocol: str) -> Comparison:
    """Embed and score a folder in RP2K's layout with each encoder; say which parameters are used.

    Args:
        data: The folder.
        references: Model references by the name that is shown for each.
        protocol: Name of an evaluation protocol.
    """
    from skumatch import api

    settings, comparison = current_settings(), api.compare(data, references, protocol)
    if not (settings.project / PARAMS).is_file():
        sentence = f"There is no {settings.project / PARAMS}, so the default parameters are used."
        console.print(sentence, highlight=False, soft_wrap=True)
    return comparison
