"""`skumatch match`: the product of each picture.

A few pictures are answered in the terminal, any number in a table and a page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.commands.options import ModelReference, flag, output_table, written
from skumatch.config import Settings, params_or_defaults
from skumatch.config import settings as current_settings
from skumatch.errors import DataError, ImageError, ParameterError
from skumatch.files import write_text
from skumatch.terminal import print_json
from skumatch.texts import agreeing, counted

if TYPE_CHECKING:
    from PIL import Image

    from skumatch.bundle import Assortment, Bundle
    from skumatch.matching.batch import MatchPlan
    from skumatch.matching.shop_lists import Assortments, ShopList

console = Console()

MANY = "give --out matches.parquet"


def match(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH", help="Pictures of single products; or folders or tables of them, with --out."
        ),
    ],
    model: ModelReference = "champion",
    top_k: Annotated[int, typer.Option(metavar="N", min=1, help="Nearest products of each picture.")] = 5,
    skus: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only the SKUs in this text file, one a line; a table's column `assortment` goes first.",
        ),
    ] = None,
    as_json: Annotated[
        bool, flag("--json", "Print JSON instead: a list of ranked matches for each picture.")
    ] = False,
    out: Annotated[
        Path | None,
        written(
            "--out",
            "Write a row a picture to this table, .parquet or .csv; a stopped call goes on.",
            output_table,
        ),
    ] = None,
    html: Annotated[
        Path | None, written("--html", "With --out: write a page that shows the pictures by product.")
    ] = None,
) -> None:
    """Say which SKU each picture shows.

    Exit code 12: none of the pictures could be read.

    Example: `skumatch match photo.jpg --model champion --top-k 3`
    Many: `skumatch match photos --out matches.parquet --html matches.html`
    """
    from skumatch.matching.shop_lists import read_list
    from skumatch.matching.tables import is_table

    large = next((path for path in images if path.is_dir() or is_table(path)), None)
    if out is None and (large or html):
        raise ParameterError(
            f"{large} may hold many pictures; {MANY}."
            if large
            else f"--html shows a table's pictures; {MANY}."
        )
    if out is not None and as_json:
        raise ParameterError("--json prints what --out writes; give one of them.")
    shop = read_list(skus) if skus else None
    if out is None:
        _print(images, model, top_k, shop, as_json)
    else:
        _write(images, model, top_k, shop, out, html, current_settings())


def _print(paths: list[Path], model: str, top_k: int, shop: ShopList | None, as_json: bool) -> None:
    from skumatch.bundle import Bundle
    from skumatch.matching.pictures import list_pictures, open_pictures
    from skumatch.reference import find_bundle

    # Before the model is loaded, so that a broken picture is reported at once.
    pictures = list(open_pictures(list_pictures(paths), Path()))
    bundle = Bundle.load(find_bundle(model, current_settings()))
    assortment = bundle.assortment(*shop) if shop else None
    _warn(assortment)
    rows = bundle.match(pictures, top_k, assortment)
    if as_json:
        print_json([[m._asdict() for m in matches] for matches in rows])
        _note(bundle)
        return
    searched = "assortment" if assortment else "gallery"
    for path, matches in zip(paths, rows, strict=True):
        verdict = f"unknown product; the nearest in the {searched}:" if matches[0].unknown else ""
        table = Table("SKU", "similarity", "nearest gallery image", title=Text(f"{path} {verdict}".strip()))
        for m in matches:
            table.add_row(Text(m.sku), f"{m.similarity:.3f}", Text(m.gallery_id))
        console.print(table)
    _note(bundle)


def _note(bundle: Bundle) -> None:
    """Say on stderr what the answers of a model without thresholds mean."""
    from skumatch.matching.batch import without_thresholds

    if sentences := without_thresholds(bundle):
        Console(stderr=True, soft_wrap=True).print(sentences, markup=False, highlight=False)


def _warn(assortments: Assortment | Assortments | None) -> None:
    """Name the products that the gallery lacks on stderr, since programs read standard output."""
    if assortments and assortments.warning:
        Console(stderr=True, soft_wrap=True).print(assortments.warning, markup=False, highlight=False)


def _write(
    paths: list[Path],
    model: str,
    top_k: int,
    shop: ShopList | None,
    out: Path,
    html: Path | None,
    settings: Settings,
) -> None:
    from skumatch.bundle import Bundle
    from skumatch.matching.batch import MatchPlan, check_out, match_all, matching, table_of, write_csv
    from skumatch.matching.page import page
    from skumatch.matching.pictures import list_pictures, open_pictures, shop_lists
    from skumatch.matching.shop_lists import look_up
    from skumatch.reference import find_bundle

    check_out(out)
    listings = list_pictures(paths)
    params = params_or_defaults(settings)
    bundle = Bundle.load(find_bundle(model, settings))
    assortments = look_up(bundle, shop_lists(listings), shop)
    _warn(assortments)
    with matching(out) as parts:
        table = table_of(out, parts)
        plan = MatchPlan(bundle, open_pictures(listings, parts), top_k, table, assortments)
        before, total = match_all(plan, parts, params.embed.batch, params.runtime)
        if before:
            were = agreeing(before, "was", "were")
            partly = f"{before:,} of {counted(total, 'picture')} {were} matched before."
            console.print(partly if before < total else f"{out} is up to date.", markup=False)
        if html:
            write_text(html, page(plan, _gallery(plan, settings)))
        if table != out:
            write_csv(table, out)
        _tell(plan, out, html)


def _gallery(plan: MatchPlan, settings: Settings) -> Callable[[str], Image.Image | None]:
    from skumatch.matching.pictures import gallery_pictures

    try:
        return gallery_pictures(settings.project / "data", plan.bundle.gallery.ids, plan.bundle.gallery.skus)
    except DataError as error:
        sentence = f"The page shows no gallery pictures: {error}"
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        return lambda _: None


def _tell(plan: MatchPlan, out: Path, html: Path | None) -> None:
    from skumatch.matching.batch import counts

    unknown, skus, problems = counts(plan.out)
    table = Table(title=Text(counted(len(plan.images), "picture")), show_header=False)
    fitted = plan.bundle.thresholds.fitted
    matched = "matched" if fitted else "nearest product"
    table.add_row(matched, f"{sum(skus.values()):,}", counted(len(skus), "product"))
    table.add_row("unknown", f"{unknown:,}" if fitted else "-", plan.unknown_words)
    table.add_row(
        "not readable",
        f"{sum(problems.values()):,}",
        ", ".join(f"{reason} {n:,}" for reason, n in problems.most_common()),
    )
    table.columns[1].justify = "right"
    console.print(table)
    _note(plan.bundle)
    for path in filter(None, (out, html)):
        console.print(str(path), style="bold", markup=False, highlight=False, soft_wrap=True)
    if sum(problems.values()) == len(plan.images):
        words = f"None of the pictures could be read; the column `problem` of {out} says why of each"
        raise ImageError("unreadable", f"{words}.")
