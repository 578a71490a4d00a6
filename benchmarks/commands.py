"""Command line `python -m benchmarks NAME`: costs on this machine, as ratios."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.main import get_command

from benchmarks.measure import Row
from benchmarks.packages import PACKAGES
from skumatch.cli import expand_paths, run
from skumatch.config import PARAMS, load_params, params_or_defaults, settings
from skumatch.errors import ParameterError
from skumatch.files import check_writable, read_json, write_text
from skumatch.params import Params
from skumatch.retrieval.backends import Backend
from skumatch.texts import read_names

FROZEN = "frozen:efficientnet-lite0"
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Measure what things cost on this machine.",
)
console = Console()


class GatePart(StrEnum):
    """The part of `bench gate` to simulate: new models against a champion, or refreshed galleries."""

    MODELS = "models"
    GALLERIES = "galleries"


@app.callback()
def bench() -> None:
    """What things cost on this machine, as ratios against a ceiling or a peer in the same run."""


@app.command()
def data(
    images: Annotated[
        int, typer.Option(min=200, help="Images of the made archive that is imported.")
    ] = 20_000,
    rows: Annotated[
        int,
        typer.Option(
            min=1000, help="Rows of the made manifest that is validated and searched for duplicates."
        ),
    ] = 400_000,
    files: Annotated[int, typer.Option(min=100, help="Loose files that DVC is compared on.")] = 100_000,
    names: Annotated[
        Path | None,
        typer.Option(help="A text file of SKU names, one a line; default: made-up Chinese names."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where to work; default: a temporary folder. Needs about 5 GB.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Import, versioning, validation and the duplicate census on made data of RP2K's shape."""
    from benchmarks import archive
    from benchmarks.data import bench_data

    skus = list(read_names(names)) if names else archive.names(min(2388, images // 8))
    with tempfile.TemporaryDirectory(dir=folder) as work:
        _show("What data costs", bench_data(Path(work), images, rows, files, skus), output)


@app.command()
def search(
    sizes: Annotated[
        str, typer.Option(help="Gallery images, small to large, with commas between.")
    ] = "86213,172427,344854",
    dim: Annotated[int, typer.Option(min=8, help="Numbers of a vector.")] = 512,
    queries: Annotated[int, typer.Option(min=1)] = 1024,
    backend: Annotated[Backend, typer.Option(help="faiss or torch.")] = "faiss",
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Exact search against faiss's flat index and the bare products.

    And how time and memory grow with the gallery.
    """
    from benchmarks.search import bench_search

    _show("What exact search costs", bench_search(_sizes(sizes), dim, queries, backend), output)


@app.command("input")
def pictures(
    images: Annotated[int, typer.Option(min=2, help="Pictures of each size, or of the folder's.")] = 96,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that decode and augment together.")
    ] = os.cpu_count() or 1,
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder of JPEGs; default: rendered ones in RP2K's sizes.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as section.name=value; may be repeated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Pictures on their way to the encoder, against decoding alone and against open_clip's own transforms."""
    from benchmarks.input import bench_input

    params = load_params(settings().project / PARAMS, set_ or [])
    with tempfile.TemporaryDirectory() as work:
        _show("What pictures cost", bench_input(Path(work), data, images, workers, params), output)


@app.command()
def embed(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    model: Annotated[
        str,
        typer.Option("--model", help="champion, challenger, a version, a bundle's folder, or frozen:NAME."),
    ] = "champion",
    images: Annotated[
        int, typer.Option(min=2, help="Pictures a side that are embedded to see whether the ways agree.")
    ] = 256,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """An encoder in float32 and bfloat16 (compiled on a GPU).

    And the ceiling that bare matrix products set.
    """
    from benchmarks.embed import bench_embed
    from skumatch.reference import find_encoder

    current = settings()
    others = params_or_defaults(current).data.others
    encoder, _ = find_encoder(model, current)
    _show("What embedding costs", bench_embed(encoder, data, others, images, batch), output)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as section.name=value; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each loop a round.")] = 3,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """Images a second in training, against the loop that one writes in an afternoon.

    On a GPU against the ceiling of products, too.
    """
    from benchmarks.training import bench_train
    from skumatch.data.delivery.archives import folder_images

    params, weights = _to_train(set_)
    images = folder_images(data, "train", params.data.others)
    _show("What training costs", bench_train(images, params, weights, steps, rounds), output)


@app.command(epilog=f"Needs of packages: {', '.join(PACKAGES)}.")
def gpu(
    output: Annotated[
        Path, typer.Option("--json", help="File for the figures; it is written anew after each part.")
    ],
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Try every part at tiny sizes, on the CPU if there is no card.")
    ] = False,
) -> None:
    """An NVIDIA card: training, embedding and search against bare products.

    Takes at most ten minutes and needs no network. Each part has its time; one that takes longer is ended.
    """
    from benchmarks import gpu as card
    from benchmarks.limited import run_parts

    check_writable(output)
    tree: dict[str, Any] = {"machine": card.machine(tiny), "parts": []}
    sizes, rows, began = card.TINY if tiny else card.CARD, list[Row](), time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        # a compiler that was ended leaves half a file in its cache, which breaks the next one
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(work) / "compiled")
        card.write_pictures(sizes, Path(work))
        left_s = card.TOTAL_S - (time.monotonic() - began)
        for outcome in run_parts(card.parts_of(sizes, Path(work)), left_s, sizes.start):
            measured = [asdict(row) | {"holds": row.holds} for row in outcome.rows]
            tree["parts"].append(asdict(outcome) | {"rows": measured})
            write_text(output, json.dumps(tree, indent=2) + "\n")
            line = f"  {outcome.part}: {outcome.state} ({outcome.seconds:.0f} s). {outcome.reason}"
            console.print(
                line, style="dim" if outcome.state == "done" else "red", highlight=False, markup=False
            )
            rows += outcome.rows
    console.print(_table("What the card does", rows))


@app.command()
def recipe(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    out: Annotated[
        Path, typer.Option(help="A folder for each training's outcome; what it has is not done again.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="How often each loop sees every picture.")],
    skus: Annotated[Path | None, typer.Option(help="A text file: only these SKUs, one a line.")] = None,
    loops: Annotated[
        str,
        typer.Option(
            help="Of frozen, plain, softmax, stock, ours, 'ours without INGREDIENT' and 'ours with' it."
        ),
    ] = "frozen,plain,ours",
    seeds: Annotated[str, typer.Option(help="A training for each, with commas between.")] = "7",
    against: Annotated[
        str | None, typer.Option(help="The loop that gains are over; else plain, or frozen.")
    ] = None,
    unseen: Annotated[
        int,
        typer.Option(min=0, help="Folds of SKUs held out of training in turn, then alone matched and asked."),
    ] = 0,
    looks: Annotated[
        int,
        typer.Option(
            min=0, help="Folds of alike gallery pictures held out in turn: to choose parameters by."
        ),
    ] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of ours, as section.name=value; may be repeated."),
    ] = None,
) -> None:
    """Training loops side by side: the same photos, encoder and number of images seen.

    Takes as long as its trainings.
    """
    from benchmarks.contests import ContestRequest, contests
    from benchmarks.recipe import LoopOutcome, bench_recipe, summary
    from benchmarks.recipe_table import recipe_table

    params, weights = _to_train(set_)
    listed = read_names(skus) if skus else None
    chosen = [int(part) if part.strip().isdecimal() else -1 for part in seeds.split(",")]
    if min(chosen) < 0:
        raise ParameterError(
            f"--seeds is '{seeds}'; give whole numbers with commas between, for example 7,8,9."
        )
    if against is not None and against not in loops.split(","):
        raise ParameterError(f"--against is '{against}', which is none of --loops; add it there.")
    outcomes = []
    for contest in contests(ContestRequest(data, listed, epochs, unseen, looks), weights, params):
        trainings: list[LoopOutcome] = []
        outcomes.append((contest, trainings))
        for training in bench_recipe(contest, loops.split(","), chosen, out):
            trainings.append(training)
            name = f"{contest.name}, {training.loop}, seed {training.seed}"
            top1_percent = 100 * sum(training.hits) / len(training.hits)
            line = f"{name}: {top1_percent:.1f} % in {training.seconds / 60:.1f} min"
            console.print(f"  {line}", style="dim", highlight=False)
    console.print(recipe_table([contest for contest, _ in outcomes], summary(outcomes, against)))


@app.command()
def gate(
    pairs: Annotated[int, typer.Option(min=20, help="Simulated pairs of models a scene.")] = 2000,
    guarded: Annotated[
        int, typer.Option(min=1, help="Of them, pairs that the guards are asked about.")
    ] = 400,
    years: Annotated[int, typer.Option(min=1, help="Simulated years of retrains.")] = 200,
    weeks: Annotated[int, typer.Option(min=4, help="Simulated refreshes a row.")] = 240,
    only: Annotated[
        GatePart | None, typer.Option(help="Only new models, or only refreshed galleries.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """How often the gate errs on simulated models whose errors come in SKUs.

    Takes 22 minutes, 7 of them for galleries.
    """
    tree: dict[str, list[dict[str, Any]]] = {}
    if only is not GatePart.GALLERIES:
        tree |= _models(pairs, min(guarded, pairs), years)
    if only is not GatePart.MODELS:
        tree |= _galleries(weeks)
    if output:
        write_text(output, json.dumps(tree, indent=2) + "\n")


def _models(pairs: int, guarded: int, years: int) -> dict[str, list[dict[str, Any]]]:
    """Simulate pairs of models and years of retrains, print both, and return their figures by name."""
    from benchmarks import gate_table
    from benchmarks.gate import bench_gate, bench_years

    outcomes = []
    for outcome in bench_gate(pairs, guarded):
        outcomes.append(outcome)
        scene = outcome.scene
        row = f"{scene.shape.name}, {scene.clustering.name}, {100 * scene.gain:+.1f} points"
        console.print(f"  {row}: shown in {100 * outcome.shown:.1f} % of pairs", style="dim", highlight=False)
    retrains = list(bench_years(years))
    console.print(gate_table.scenes(outcomes), gate_table.years(retrains))
    scenes = [asdict(outcome) | {"holds": outcome.holds} for outcome in outcomes]
    return {"scenes": scenes, "years": [asdict(year) for year in retrains]}


def _galleries(weeks: int) -> dict[str, list[dict[str, Any]]]:
    """Simulate refreshes and years of them, print both, and return their figures by name."""
    from benchmarks import refresh_table
    from benchmarks.refresh import bench_refresh_years, bench_weeks

    outcomes = []
    for outcome in bench_weeks(weeks):
        outcomes.append(outcome)
        week = outcome.week
        row = f"{week.shape.name}, {week.clustering.name}, {refresh_table.FAULTS[week.fault]}"
        console.print(f"  {row}: released {100 * outcome.released:.1f} %", style="dim", highlight=False)
    refreshes = list(bench_refresh_years(weeks))
    console.print(refresh_table.weeks(outcomes), refresh_table.years(refreshes))
    rows = [asdict(outcome) | {"holds": outcome.holds} for outcome in outcomes]
    return {"refreshes": rows, "refresh_years": [asdict(year) for year in refreshes]}


@app.command()
def assortment(
    data: Annotated[Path, typer.Option(help="A folder in RP2K's layout.")],
    model: Annotated[str, typer.Option(help="It should know none of the photos.")] = FROZEN,
    skus: Annotated[Path | None, typer.Option(help="A text file: only these SKUs, one a line.")] = None,
    shares: Annotated[str, typer.Option(help="Sizes of assortments as shares of the SKUs.")] = "0.1",
    rounds: Annotated[int, typer.Option(min=1, help="How often the SKUs are shuffled and cut up.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffles.")] = 0,
    output: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """What it is worth to know which products a shop sells: top-1, and what is called unknown."""
    from benchmarks.assortment import bench_assortment, photos_of
    from benchmarks.assortment_table import table
    from skumatch.reference import find_encoder

    sizes, listed = _shares(shares), read_names(skus) if skus else None
    current = settings()
    encoder, _ = find_encoder(model, current)
    photos = photos_of(encoder, data, listed, params_or_defaults(current))
    rows = list(bench_assortment(photos, sizes, rounds, seed))
    console.print(table(rows, photos.thresholds))
    if output:
        tree = {"thresholds": photos.thresholds.model_dump(), "rows": [asdict(row) for row in rows]}
        write_text(output, json.dumps(tree, indent=2) + "\n")


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [0.0]
    if not all(0 < share <= 0.5 for share in shares):
        form = "give numbers above 0 and up to 0.5 with commas between, for example 0.1,0.25"
        raise ParameterError(f"--shares is '{text}'; {form}.")
    return shares


@app.command()
def intervals(
    trials: Annotated[int, typer.Option(min=1, help="Simulated sets of queries a scene.")] = 1000,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file, too.")
    ] = None,
) -> None:
    """How often intervals hold the truth near 100 %, on simulated hits that go with the SKU.

    Takes 15 minutes.
    """
    from benchmarks.intervals import bench_intervals, table

    outcomes = []
    for outcome in bench_intervals(trials):
        outcomes.append(outcome)
        scene = outcome.scene
        law = f"{scene.skus} SKUs of {scene.sizes}, {100 * scene.truth:g} %, ICC {scene.icc:g}"
        console.print(f"  {law}: {100 * outcome.printed.coverage:.1f} %", style="dim", highlight=False)
    console.print(table(outcomes))
    if output:
        write_text(output, json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n")


@app.command()
def rehearsal(
    state: Annotated[
        Path,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write the figures to this file after each phase; a second call goes on after the last one.",
        ),
    ],
    share: Annotated[
        float, typer.Option(min=0.0005, max=10, help="Size of the archive, as a share of RP2K's.")
    ] = 0.05,
    names: Annotated[
        Path | None,
        typer.Option(help="A text file of SKU names, one a line; default: made-up Chinese names."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to work; default: FILE without its ending. It is kept for further calls."),
    ] = None,
) -> None:
    """The whole workflow on a made archive of RP2K's form, on live servers, with the cost of each part.

    Takes 15 minutes of processor time at a share of 0.05.
    """
    from benchmarks.rehearsal import Plan, rehearse
    from benchmarks.rehearsal_table import table

    plan = Plan(share, state.resolve(), (folder or state.with_suffix("")).resolve(), names)
    if plan.folder == plan.state:
        raise ParameterError(
            f"{state} would be the working folder, too; give --json a name that ends in .json."
        )
    for phase in rehearse(plan):
        console.print(f"  {phase['name']}: {_figure(phase['wall_s'])} s", style="dim", highlight=False)
    console.print(table(read_json(state)))


@app.command()
def growth(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="State files of two rehearsals or more.")
    ],
) -> None:
    """Rehearsals of several sizes side by side: what grows faster than the pictures."""
    from benchmarks.rehearsal import read_state
    from benchmarks.rehearsal_table import growth as growth_table

    states = [read_state(file) for file in files]
    if len({state["images"] for state in states}) < 2:
        raise ParameterError("Growth shows between rehearsals of two sizes; give the files of at least two.")
    console.print(growth_table(states))


def _to_train(overrides: list[str] | None) -> tuple[Params, Path | None]:
    """Return the project's parameters, and the file of the base weights that they name."""
    from skumatch.model.fetched import fetched_weights
    from skumatch.pipeline.pull import fetch_base_weights

    current = settings()
    params = load_params(current.project / PARAMS, overrides or [])
    return params, fetched_weights(fetch_base_weights(current, params))


def _sizes(text: str) -> list[int]:
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(numbers) < 2 or min(numbers) < 1 or sorted(numbers) != numbers:
        raise ParameterError(
            f"--sizes is '{text}'; give two or more numbers, small to large, for example 10000,20000,40000."
        )
    return numbers


def _show(title: str, rows: Iterable[Row], output: Path | None) -> None:
    """Print each row as it comes, then the table of all; write them as JSON to `output`, if given."""
    measured = []
    for row in rows:
        measured.append(row)
        console.print(f"  {row.name}: {_figure(row.measured)} {row.unit}", style="dim", highlight=False)
    console.print(_table(title, measured))
    if output:
        tree = [asdict(row) | {"holds": row.holds} for row in measured]
        write_text(output, json.dumps(tree, indent=2) + "\n")


def _table(title: str, rows: list[Row]) -> Table:
    table = Table(title=f"{title} here ({os.cpu_count()} cores)")
    for name, justify in (
        ("", "left"),
        ("measured", "right"),
        ("bound", "right"),
        ("", "center"),
        ("parts", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        sign = "≤" if row.better == "less" else "≥"
        bound = "" if row.bound is None else f"{sign} {_figure(row.bound)} {row.unit}"
        table.add_row(
            row.name,
            f"[bold]{_figure(row.measured)} {row.unit}",
            bound,
            {True: "[green]✓", False: "[red]✗", None: ""}[row.holds],
            row.parts,
        )
    return table


def _figure(value: float) -> str:
    """Format a number with three significant digits, or with all digits before the point from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Run the command line; each error becomes one sentence on stderr and an exit code of its kind."""
    command = get_command(app)
    expand_paths(command)
    run(command)
