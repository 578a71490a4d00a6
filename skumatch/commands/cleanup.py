"""`skumatch gc` and `skumatch data erase`: delete what is no longer needed, and what must not be kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from skumatch.commands.data_changes import Why, change_data
from skumatch.commands.options import flag, written
from skumatch.config import PARAMS, check_places, load_params, require_project, user
from skumatch.config import settings as current_settings
from skumatch.data import deltas
from skumatch.errors import ParameterError
from skumatch.files import write_json
from skumatch.texts import agreeing, counted

if TYPE_CHECKING:
    from skumatch.audit.uses import Use
    from skumatch.cleanup.erase_choice import Chosen
    from skumatch.cleanup.erasing import Losses
    from skumatch.registry.registry import Registry


TITLES = {
    "workspaces": "Workspaces of killed processes",
    "cache": "This machine's cache",
    "remote": "The remote",
    "checkpoints": "Checkpoints",
    "vectors": "Vectors",
    "claims": "Claims of old runs",
    "mlflow": "Files in MLflow",
    "bundles": "This machine's bundles",
    "reports": "This machine's reports",
    "project": "Stages run by hand",
}


def table_of(title: str, piles: Mapping[str, Sequence[Any]], first: str = "what") -> Table:
    """Return a table of deletable things: number, size and the largest of each kind.

    Args:
        title: The table's title.
        piles: Kind, a key of TITLES -> its things, with `name` and `size` in bytes.
        first: Heading of the first column.
    """
    table = Table(title=title)
    for name in (first, "how many", "size", "for example"):
        table.add_column(name, justify="right" if name in ("how many", "size") else "left")
    for kind, items in piles.items():
        largest = max(items, key=lambda item: item.size, default=None)
        example = Text(largest.name, overflow="ellipsis", no_wrap=True) if largest else ""
        table.add_row(TITLES[kind], f"{len(items):,}", size_of(items), example, style="" if items else "dim")
    return table


def size_of(items: Sequence[Any]) -> str:
    """Return the total size of items in words, such as `1.2 MB`."""
    return decimal(sum(item.size for item in items))


console = Console()

Age = Annotated[
    int,
    typer.Option("--age", metavar="DAYS", min=1, help="Keep everything that is younger than so many days."),
]
KeepRuns = Annotated[
    int,
    typer.Option(
        "--keep-runs", metavar="DAYS", min=1, help="Keep what MLflow's runs of so many last days rest on."
    ),
]
Delete = Annotated[bool, flag("--delete", "Really delete; otherwise what would be deleted is shown.")]
Erase = Annotated[bool, flag("--erase", "Instead: files with pictures that `data erase` erased.")]
AcceptLoss = Annotated[bool, flag("--accept-loss", "With --erase: versions may lose parts for good.")]
Output = Annotated[
    Path | None, written("--json", "Write the same facts, with all names, as JSON to this file.")
]


def gc(
    age: Age = 7,
    keep_runs: KeepRuns = 90,
    delete: Delete = False,
    output: Output = None,
    erase: Erase = False,
    accept_loss: AcceptLoss = False,
) -> None:
    """Show or delete everything that no registered version, kept run or data version needs.

    These are old workspaces, objects in cache and remote, checkpoints, vectors and claims.
    With --erase it is instead every file with erased pictures, needed or not.

    Exit code 42: it can't tell what is needed, or a run is at work; 44: versions would lose parts.

    Example: `skumatch gc --age 14 --keep-runs 180 --delete`
    """
    if erase:
        _erase_everywhere(delete, accept_loss)
        return
    from skumatch.cleanup.cleanup import Limits, piles
    from skumatch.cleanup.cleanup import delete as delete_shown
    from skumatch.progress import track

    settings, limits = current_settings(), Limits(age, keep_runs, time.time())
    require_project(settings.project)  # its history names the data versions that are needed
    shown = piles(settings, limits)
    unneeded = {pile.kind: list(pile.items) for pile in shown}
    if delete and any(unneeded.values()):
        with track("gc", sum(len(items) for items in unneeded.values()), "files") as advance:
            unneeded = delete_shown(settings, limits, shown, advance)
    console.print(table_of("Deleted" if delete else "Not needed any more", unneeded))
    console.print(
        _sentence(unneeded, delete, f"--age {age} --keep-runs {keep_runs}"), highlight=False, soft_wrap=True
    )
    if output:
        write_json(
            output,
            {
                "deleted": delete,
                "age": age,
                "keep_runs": keep_runs,
                "kinds": [_as_json(kind, items) for kind, items in unneeded.items()],
            },
        )


def _sentence(unneeded: dict[str, list[Any]], deleted: bool, limits: str) -> str:
    everything = [item for items in unneeded.values() for item in items]
    if not everything:
        return "There is nothing to delete."
    items = f"{counted(len(everything), 'file or folder', 'files and folders')} ({size_of(everything)})"
    if deleted:
        return f"Deleted: {items}. What is registered or kept has all it had."
    return f"Nothing was deleted. To delete {items}: skumatch gc {limits} --delete"


def _as_json(kind: str, items: list[Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "count": len(items),
        "bytes": sum(item.size for item in items),
        "names": [item.name for item in items],
    }


Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="SHA256", help="A picture, by its SHA-256; repeatable.")
]
Products = Annotated[
    list[str] | None, typer.Option("--sku", metavar="SKU", help="All pictures of a product; repeatable.")
]
ROLES = {"train": "trained on", "val": "validated on", "gallery": "in the gallery", "query": "asked as query"}


def erase(image: Images = None, sku: Products = None, why: Why = "") -> None:
    """Erase pictures: show everything that has them, and make a data version without them, for good.

    `skumatch gc --erase` then deletes them from older versions, models and stores.

    Example: `skumatch data erase --sku "Cola Classic 1 L" --why "recalled"`
    """
    from skumatch.audit.uses import Wanted, uses
    from skumatch.cleanup.erase_choice import choose
    from skumatch.pipeline.pull import open_registry

    if not image and not sku:
        raise ParameterError("Name pictures with --image, or products with --sku.")
    settings = current_settings()
    require_project(settings.project)
    check_places(settings)
    registry = open_registry(settings, load_params(settings.project / PARAMS))
    chosen = choose(settings, image or [], sku or [])
    by_version = list(uses(settings, registry, Wanted(hashes=tuple(sorted(chosen.pictures)))))
    _show(chosen, by_version)
    changed = change_data(
        "erase",
        lambda version, _: deltas.erase(version, chosen.pictures),
        why,
        erased=chosen.pixels,
        undone=False,
    )
    if not changed.changed:
        _say("Today's data has none of them; the erasure is on record, for the older versions.")
    for sentence in _of_models(registry, by_version):
        _say(sentence)
    _say("Next: `skumatch refresh`, then `skumatch gc --erase`, which shows what still holds them.")


def _show(chosen: Chosen, by_version: list[Use]) -> None:
    """Print the places of the pictures: data versions, model versions with roles, stores."""
    copies = f", {chosen.copies:,} of them not named, but with equal pixels" if chosen.copies else ""
    _say(f"Pictures to erase: {len(chosen.pictures):,}{copies}.")
    table = Table(title="What has them")
    for name in ("where", "which", "how many", "as"):
        table.add_column(name, justify="right" if name == "how many" else "left", overflow="fold")
    for version in chosen.versions:
        rows = version.having(chosen.pictures)
        today = ", today's" if version.md5 == chosen.current else ""
        sides = ", ".join(sorted({name.partition("/")[0] for name in rows["id"]}))
        table.add_row("data version", f"{version.md5[:12]}{today}", f"{len(rows):,}", sides)
    for use in by_version:
        aliases = f" ({', '.join(use.ref.aliases)})" if use.ref.aliases else ""
        if use.rows is None:
            table.add_row("model version", f"{use.ref.version}{aliases}", "?", Text(use.reason))
        elif len(use.rows):
            counts = use.rows["role"].map(lambda role: ROLES.get(role, role)).value_counts()
            roles = ", ".join(f"{role} ({count:,})" for role, count in counts.items())
            table.add_row("model version", f"{use.ref.version}{aliases}", f"{len(use.rows):,}", roles)
    for store, count in chosen.stores().items():
        table.add_row("store", Text(store), f"{count:,}", "")
    if holding := [use for use in by_version if use.rows is None or len(use.rows)]:
        table.add_row("store", "MLflow: bundles and reports of these versions", f"{len(holding):,}", "")
    console.print(table)


def _of_models(registry: Registry, by_version: list[Use]) -> list[str]:
    """Return sentences on models that still rest on the pictures after an erasure from the data alone."""
    from skumatch.registry.registry import RELEASE_TAG, TRAINED_TAG

    held = {
        use.ref.version: set(use.rows["role"]) for use in by_version if use.rows is not None and len(use.rows)
    }
    learnt = sorted(version for version, roles in held.items() if "train" in roles)
    sentences = []
    if learnt:
        numbers = ", ".join(map(str, learnt))
        encoders, versions = agreeing(len(learnt), "encoder"), agreeing(len(learnt), "version")
        sentences.append(
            f"The {encoders} of {versions} {numbers} learnt from them, and weights can't unlearn: "
            "`skumatch retrain` trains one that never saw them."
        )
    champion = registry.champion()
    if champion is None:
        return sentences
    if held.get(champion.version, set()) & {"train", "val", "gallery"}:
        serves = f"What serves, version {champion.version}, still has them in its gallery"
        sentences.append(f"{serves}, until `skumatch refresh` releases one without.")
    origin = champion.tags.get(TRAINED_TAG, champion.tags.get(RELEASE_TAG, str(champion.version)))
    if int(origin) in learnt or champion.version in learnt:
        sentences.append(f"The encoder that serves, of version {origin}, is one that learnt from them.")
    return sentences


def _erase_everywhere(delete: bool, accept: bool) -> None:
    """Show or delete everything that holds pictures which were erased by the record of data.

    Args:
        delete: Whether to delete it; otherwise it is only shown.
        accept: Whether versions may lose parts for good.

    Raises:
        LossNotAccepted: Versions would lose parts, and `accept` is false; nothing was deleted.
    """
    from skumatch.cleanup.erasing import Losses, plan
    from skumatch.cleanup.erasing import erase as erase_planned
    from skumatch.progress import track

    settings = current_settings()
    require_project(settings.project)
    planned = plan(settings, user())
    if planned.erasure is None:
        _say("No picture was erased, by the record of data; `skumatch data erase` erases one.")
        return
    _show_losses(planned.losses)
    piles = {pile.kind: pile.items for pile in planned.piles}
    console.print(table_of("What holds erased pictures", piles, "where"))
    if not delete:
        command = f"skumatch gc --erase --delete{' --accept-loss' if planned.losses else ''}"
        shown = f"Nothing was deleted. To delete what is listed: {command}"
        _say(shown if planned.count else "Nothing here holds an erased picture.")
        return
    with track("gc --erase", planned.count, "files") as advance:
        deleted = erase_planned(settings, user(), planned.losses if accept else Losses(), advance)
    count = sum(len(items) for items in deleted.values())
    items = counted(count, "file or folder", "files and folders")
    _say(
        f"Deleted: {items}; the record of it is in records/erasures of the remote."
        if count
        else "Nothing is left to erase."
    )


def _show_losses(losses: Losses) -> None:
    if not losses:
        return
    table = Table(title="What will no longer work")
    for name in ("version", "serve, roll back", "make again, audit whole"):
        table.add_column(name)
    for loss in sorted(losses.versions, key=lambda loss: (loss.model, loss.version)):
        table.add_row(f"{loss.model} {loss.version}", "no more" if loss.gallery else "as before", "no more")
    for name in sorted(losses.data):
        table.add_row(f"data {name[:12]}", "", "its shards with erased pictures are gone")
    console.print(table)


def _say(sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)
