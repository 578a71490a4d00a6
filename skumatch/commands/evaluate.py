"""`skumatch evaluate`: scores of any encoder on any folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.commands.compare import Evaluated, ProtocolName, compare_folder
from skumatch.commands.options import ALIASES, completed, written
from skumatch.files import write_json
from skumatch.retrieval.figures import Evaluation
from skumatch.texts import queries_of

DEPTHS = {
    "map_r": "mAP@R",
    "r_precision": "R-precision",
    "mrr": "MRR",
    "macro_top1": "top-1, every SKU alike",
}
SCORERS = {"prototype": "top-1 by prototype", "knn": "top-1 by k-NN vote"}


def headline(evaluation: Evaluation) -> str:
    """Return top-1/3/5, the protocol, and the numbers of queries and SKUs in one line."""
    low, high = evaluation.interval.top1
    figures = f"top-1 {100 * evaluation.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    figures += f", top-3 {100 * evaluation.top3:.1f} %, top-5 {100 * evaluation.top5:.1f} %"
    scope = f"protocol {evaluation.protocol}, {queries_of(evaluation.n, evaluation.skus)}"
    left_out = (
        f", {evaluation.without_partner} without a gallery image left out"
        if evaluation.without_partner
        else ""
    )
    return f"{figures}, {scope}{left_out}"


def tables(evaluation: Evaluation) -> Iterator[RenderableType]:
    """Yield the tables below the headline: further figures, and the slices if there are any."""
    yield _others(evaluation)
    if evaluation.slices:
        yield _slices(evaluation)


def _others(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    values = [(name, getattr(evaluation, field)) for field, name in DEPTHS.items()]
    values += [(name, evaluation.scorers.get(field)) for field, name in SCORERS.items()]
    for name, value in values:
        if value is not None:
            table.add_row(name, f"{100 * value:.1f} %")
    return table


def _slices(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, justify in (
        ("by", "left"),
        ("slice", "left"),
        ("top-1", "right"),
        ("interval", "right"),
        ("queries", "right"),
        ("SKUs", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("")
    family = ""
    for part in evaluation.slices:
        bounds = f"{100 * part.interval[0]:.1f} to {100 * part.interval[1]:.1f}"
        shown = Text(part.family if part.family != family else "")
        table.add_row(
            shown,
            Text(part.name),
            f"{100 * part.top1:.1f} %",
            bounds,
            f"{part.n:,}",
            f"{part.skus:,}",
            Text(part.about, style="dim"),
        )
        family = part.family
    return table


console = Console()

EncoderReference = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        autocompletion=completed(*ALIASES),
        help="As for `match`, or an encoder alone: frozen:NAME, or a Hugging Face CLIP folder.",
    ),
]


def evaluate(
    data: Evaluated,
    model: EncoderReference = "champion",
    protocol: ProtocolName = "full",
    json_file: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
) -> None:
    """Score any encoder on any folder: top-1/3/5 with intervals, precision, slices; no pipeline needed.

    Example: `skumatch evaluate --data photos --json figures.json`
    """
    evaluation = compare_folder(data, {"embed": model}, protocol).models[0].evaluation
    if json_file:
        write_json(json_file, evaluation.model_dump(mode="json"))
    console.print(headline(evaluation), highlight=False, soft_wrap=True)
    console.print(*tables(evaluation), highlight=False)
