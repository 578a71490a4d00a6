"""`skumatch evaluate | match`: score any encoder on any folder, match pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.commands.compare import PROTOCOL_HELP, compare_folder
from skumatch.commands.figures import headline, tables
from skumatch.config import settings as current_settings
from skumatch.errors import DataError
from skumatch.files import write_json

console = Console()

Reference = Annotated[str, typer.Option("--model", help="champion, challenger, a version, a bundle's folder, or frozen:NAME.")]


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


def match(
    images: Annotated[list[Path], typer.Argument(help="Pictures of single products.")],
    model: Reference = "champion",
    top_k: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of ranked matches for each picture.")] = False,
) -> None:
    """Say which SKU each picture shows."""
    from skumatch.data.images import Extent, Images
    from skumatch.reference import find_bundle
    from skumatch.release.bundle import Bundle

    missing = next((path for path in images if not path.is_file()), None)
    if missing:
        raise DataError(f"There is no {missing}; give picture files.")
    names = [str(path) for path in images]
    pictures = list(Images(names, [""] * len(names), names, [Extent(name) for name in names]))
    found = Bundle.load(find_bundle(model, current_settings())).match(pictures, top_k)
    if as_json:
        print(json.dumps([[m._asdict() for m in matches] for matches in found], ensure_ascii=False))
        return
    for path, matches in zip(images, found, strict=True):
        verdict = "unknown product; the nearest in the gallery:" if matches[0].unknown else ""
        table = Table("SKU", "similarity", "nearest gallery image", title=Text(f"{path} {verdict}".strip()))
        for m in matches:
            table.add_row(Text(m.sku), f"{m.similarity:.3f}", Text(m.gallery_id))
        console.print(table)
