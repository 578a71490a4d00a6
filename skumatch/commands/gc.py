"""`skumatch gc`: count, and delete on request, everything that is no longer needed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from skumatch.cleanup.screen import size_of, table_of
from skumatch.config import require_project
from skumatch.config import settings as current_settings
from skumatch.files import write_json

console = Console()

Age = Annotated[int, typer.Option("--age", min=1, help="Keep everything that is younger than so many days.")]
KeepRuns = Annotated[
    int, typer.Option("--keep-runs", min=1, help="Keep what MLflow's runs of so many last days rest on.")
]
Delete = Annotated[
    bool, typer.Option("--delete", help="Really delete; otherwise what would be deleted is shown.")
]
Erase = Annotated[
    bool, typer.Option("--erase", help="Instead: files with pictures that `data erase` erased.")
]
AcceptLoss = Annotated[
    bool, typer.Option("--accept-loss", help="With --erase: versions may lose parts for good.")
]
Output = Annotated[
    Path | None,
    typer.Option("--json", help="Write the names of what is (or would be) deleted to this file, too."),
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
    """
    if erase:
        from skumatch.commands.erase import erase_everywhere

        erase_everywhere(delete, accept_loss)
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
    counted = f"{len(everything):,} files and folders ({size_of(everything)})"
    if deleted:
        return f"Gone are {counted}. What is registered or kept has all it had."
    return f"Nothing was deleted. To delete these {counted}: skumatch gc {limits} --delete"


def _as_json(kind: str, items: list[Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "count": len(items),
        "bytes": sum(item.size for item in items),
        "names": [item.name for item in items],
    }
