"""`skumatch match`: which product each picture shows; a few in the terminal, any number into a table and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.config import Settings, load_params
from skumatch.config import settings as current_settings
from skumatch.errors import DataError, ParameterError
from skumatch.files import write_text
from skumatch.params import Params

if TYPE_CHECKING:
    from PIL import Image

    from skumatch.matching.batch import Plan
    from skumatch.release.bundle import Bundle

console = Console()

MANY = "give --out matches.parquet"


def match(
    images: Annotated[list[Path], typer.Argument(help="Pictures of single products; or folders or Parquet tables of them, with --out.")],
    model: Annotated[str, typer.Option("--model", help="champion, challenger, a version or a bundle's folder.")] = "champion",
    top_k: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of ranked matches for each picture.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write a row a picture to this Parquet file; a stopped call goes on.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that shows the pictures by product, beside --out.")] = None,
) -> None:
    """Say which SKU each picture shows."""
    from skumatch.reference import find_bundle
    from skumatch.release.bundle import Bundle

    large = next((path for path in images if path.is_dir() or path.suffix == ".parquet"), None)
    if out is None and (large or html):
        raise ParameterError(f"{large} may hold many pictures; {MANY}." if large else f"--html shows a table's pictures; {MANY}.")
    if out is not None and as_json:
        raise ParameterError("--json prints what --out writes; give one of them.")
    missing = next((path for path in images if not path.exists()), None)
    if missing:
        raise DataError(f"There is no {missing}; give pictures, folders or Parquet tables of them.")
    if out is None:
        _print(images, model, top_k, as_json)
    else:
        settings = current_settings()
        _write(Bundle.load(find_bundle(model, settings)), images, top_k, out, html, settings)


def _print(paths: list[Path], model: str, top_k: int, as_json: bool) -> None:
    from skumatch.matching.pictures import find_pictures
    from skumatch.reference import find_bundle
    from skumatch.release.bundle import Bundle

    pictures = list(find_pictures(paths, Path()))  # first: a broken picture is told without waiting for the model
    found = Bundle.load(find_bundle(model, current_settings())).match(pictures, top_k)
    if as_json:
        print(json.dumps([[m._asdict() for m in matches] for matches in found], ensure_ascii=False))
        return
    for path, matches in zip(paths, found, strict=True):
        verdict = "unknown product; the nearest in the gallery:" if matches[0].unknown else ""
        table = Table("SKU", "similarity", "nearest gallery image", title=Text(f"{path} {verdict}".strip()))
        for m in matches:
            table.add_row(Text(m.sku), f"{m.similarity:.3f}", Text(m.gallery_id))
        console.print(table)


def _write(bundle: Bundle, paths: list[Path], top_k: int, out: Path, html: Path | None, settings: Settings) -> None:
    from skumatch.matching.batch import Plan, match_all, matching
    from skumatch.matching.page import page
    from skumatch.matching.pictures import find_pictures

    path = settings.project / "params.yaml"
    params = load_params(path) if path.is_file() else Params()  # a bundle's folder matches outside any project
    with matching(out) as parts:
        plan = Plan(bundle, find_pictures(paths, parts), top_k, out)
        before, total = match_all(plan, parts, params.embed.batch, params.runtime)
        if before:
            console.print(f"{before:,} of {total:,} pictures were matched before." if before < total else f"{out} is up to date.")
        if html:
            write_text(html, page(plan, _gallery(plan, settings)))
    _tell(plan, html)


def _gallery(plan: Plan, settings: Settings) -> Callable[[str], Image.Image | None]:
    from skumatch.matching.pictures import gallery_pictures

    try:
        return gallery_pictures(settings.project / "data", plan.bundle.gallery.ids, plan.bundle.gallery.skus)
    except DataError as error:
        console.print(f"The page shows no gallery pictures: {error}", highlight=False, soft_wrap=True)
        return lambda _: None


def _tell(plan: Plan, html: Path | None) -> None:
    from skumatch.matching.batch import UNKNOWN, counts

    unknown, skus, problems = counts(plan.out)
    table = Table(title=Text(f"{len(plan.images):,} pictures"), show_header=False)
    table.add_row("matched", f"{sum(skus.values()):,}", f"{len(skus):,} products")
    table.add_row("unknown", f"{unknown:,}", UNKNOWN[plan.bundle.thresholds.fitted])
    table.add_row("not readable", f"{sum(problems.values()):,}", ", ".join(f"{reason} {n:,}" for reason, n in problems.most_common()))
    table.columns[1].justify = "right"
    console.print(table)
    for path in filter(None, (plan.out, html)):
        console.print(str(path), style="bold", highlight=False, soft_wrap=True)
