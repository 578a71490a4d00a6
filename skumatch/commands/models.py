"""`skumatch models | evaluate | match`: look at versions, score any encoder on any folder, match pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.config import load_params
from skumatch.config import settings as current_settings
from skumatch.errors import DataError
from skumatch.files import write_json
from skumatch.retrieval.evaluate import Evaluation

console = Console()

Reference = Annotated[str, typer.Option("--model", help="champion, challenger, a version, a bundle's folder, or frozen:NAME.")]


def models() -> None:
    """List the registered versions and their aliases."""
    from skumatch.pipeline.pull import open_registry

    settings = current_settings()
    versions = open_registry(settings, load_params(settings.project / "params.yaml")).versions()
    table = Table(title="Registered models")
    for name in ("version", "aliases", "top-1", "bundle", "data", "created"):
        table.add_column(name, justify="right" if name in ("version", "top-1") else "left")
    for ref in versions:
        top1 = f"{100 * ref.top1:.1f} %" if ref.top1 is not None else "-"
        hashes = ref.bundle[:12], (ref.data or "-")[:12]
        table.add_row(str(ref.version), ", ".join(ref.aliases) or "-", top1, *hashes, f"{ref.created:%Y-%m-%d %H:%M}")
    console.print(table if versions else "No model is registered yet; `skumatch run` makes the first.")


def evaluate(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    model: Reference = "champion",
    protocol: Annotated[str, typer.Option(help="full: gallery all of all/train, queries all of all/test.")] = "full",
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
    """Embed and score a folder in RP2K's layout with the encoder that `reference` names."""
    if protocol != "full":
        raise DataError(f"There is no protocol '{protocol}'; the one that exists is full.")
    from skumatch.data.layout import folder_images
    from skumatch.data.manifest import content_hash
    from skumatch.reference import find_encoder
    from skumatch.retrieval.embed import embed
    from skumatch.retrieval.evaluate import evaluate as score
    from skumatch.retrieval.evaluate import rank

    settings = current_settings()
    params = load_params(settings.project / "params.yaml")
    gallery, queries = (folder_images(data, side, params.data.others) for side in ("train", "test"))
    encoder, weights = find_encoder(reference, settings)
    sides = {"gallery": gallery, "queries": queries}
    vectors = {name: embed(encoder, images, params.embed.batch, params.runtime, f"embed {name}") for name, images in sides.items()}
    ranking = rank(vectors["gallery"], gallery.ids, gallery.skus, vectors["queries"], queries.ids, queries.skus, params.search.backend)
    hashes = {
        name: content_hash([hashlib.sha256(images.read_bytes(i)).hexdigest() for i in range(len(images))], images.skus)
        for name, images in sides.items()
    }
    return score(ranking, set(gallery.skus), "full", params.evaluate, params.seed, hashes | {"encoder": weights})


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
