"""`skumatch models | evaluate | match`: look at versions, score any encoder on any folder, match pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.config import Params, load_params
from skumatch.config import settings as current_settings
from skumatch.errors import DataError
from skumatch.files import write_json
from skumatch.retrieval.figures import Evaluation, Protocol

if TYPE_CHECKING:
    from skumatch.data.images import Images

console = Console()

Reference = Annotated[str, typer.Option("--model", help="champion, challenger, a version, a bundle's folder, or frozen:NAME.")]


def evaluate(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    model: Reference = "champion",
    protocol: Annotated[
        str, typer.Option(help=f"One of {', '.join(get_args(Protocol))}; docs/evaluation.md tells what each asks.")
    ] = "full",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Score any encoder on any folder: top-1/3/5 with intervals, no pipeline needed."""
    evaluation = evaluate_folder(data, model, protocol)
    if json_file:
        write_json(json_file, evaluation.model_dump(mode="json"))
    low, high = evaluation.interval.top1
    figures = f"top-1 {100 * evaluation.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    figures += f", top-3 {100 * evaluation.top3:.1f} %, top-5 {100 * evaluation.top5:.1f} %"
    what = f"protocol {evaluation.protocol}, {evaluation.n:,} queries of {evaluation.skus:,} SKUs"
    left_out = f", {evaluation.without_partner} without a gallery image left out" if evaluation.without_partner else ""
    console.print(f"{figures}, {what}{left_out}", highlight=False, soft_wrap=True)


def evaluate_folder(data: Path, reference: str, protocol: str) -> Evaluation:
    """Embed and score a folder in RP2K's layout with the encoder that `reference` names. Raises DataError for an unknown protocol."""
    from skumatch.data.protocols import protocols
    from skumatch.reference import find_encoder
    from skumatch.retrieval.embed import embed
    from skumatch.retrieval.protocols import ask

    known = get_args(Protocol)
    if protocol not in known:
        raise DataError(f"There is no protocol '{protocol}'; there are {', '.join(known)}.")
    settings = current_settings()
    params = load_params(settings.project / "params.yaml")
    rows, images = _folder(data, ("train", "test", "catalogue") if protocol == "catalogue" else ("train", "test"), params)
    lists = protocols(rows).get(protocol)
    if lists is None:
        raise DataError(f"{data} has no pictures for the protocol '{protocol}'; docs/evaluation.md tells what each one needs.")
    needed = rows["id"].isin(lists["id"])
    rows, images = rows[needed].reset_index(drop=True), images.take(needed.to_numpy().nonzero()[0].tolist())
    encoder, weights = find_encoder(reference, settings)
    vectors = embed(encoder, images, params.embed.batch, params.runtime, "embed")
    asked = ask(cast(Protocol, protocol), lists, rows, vectors, params.search.backend)
    return asked.evaluate(params.evaluate, params.seed, weights)


def _folder(data: Path, sides: tuple[str, ...], params: Params) -> tuple[pd.DataFrame, Images]:
    """The pictures of a folder, and for each its id, sku, role, unseen and the SHA-256 of its bytes."""
    from skumatch.data.delivery.opening import folder_images
    from skumatch.data.images import Images
    from skumatch.data.split import is_unseen

    roles = {"train": "gallery", "test": "query", "catalogue": "catalogue"}
    found = {roles[side]: folder_images(data, side, params.data.others) for side in sides}
    columns = ([value for side in found.values() for value in getattr(side, name)] for name in ("ids", "skus", "names", "extents"))
    images = Images(*columns)
    rows = pd.DataFrame({"id": images.ids, "sku": images.skus, "role": [role for role, side in found.items() for _ in range(len(side))]})
    digests = [hashlib.sha256(images.read_bytes(i)).hexdigest() for i in range(len(images))]
    return rows.assign(unseen=[is_unseen(sku, params.split) for sku in images.skus], sha256=digests), images


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
        table = Table("SKU", "similarity", "nearest gallery image", title=Text(str(path)))
        for m in matches:
            table.add_row(Text(m.sku + (" (unknown)" if m.unknown else "")), f"{m.similarity:.3f}", Text(m.gallery_id))
        console.print(table)
