"""`skumatch models | promote | rollback`: which versions there are, and which one serves."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.config import Settings, load_params
from skumatch.config import settings as current_settings
from skumatch.errors import ReferenceNotFound, Refused
from skumatch.release.journal import Entry, breaks, unheaded
from skumatch.release.registry import ModelRef, Registry

console = Console()

Why = Annotated[str, typer.Option("--why", help="The reason, kept in the journal.")]
History = Annotated[bool, typer.Option("--history", help="Who was champion when, and who said so: the journal.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]


def models(
    history: Annotated[bool, typer.Option("--history", help="Who was champion when, and who said so: the journal.")] = False,
) -> None:
    """List the registered versions and their aliases, or the journal of promotions."""
    from skumatch.release import promotion

    registry = _registry(current_settings())
    if history:
        heads = promotion.heads(registry)  # first: the journal grows
        _show_history(promotion.history(registry), heads)
        return
    table = Table(title="Registered models")
    for name in ("version", "aliases", "top-1", "bundle", "data", "created"):
        table.add_column(name, justify="right" if name in ("version", "top-1") else "left")
    versions = registry.versions()
    for ref in versions:
        top1 = f"{100 * ref.top1:.1f} %" if ref.top1 is not None else "-"
        hashes = ref.bundle[:12], (ref.data or "-")[:12]
        table.add_row(str(ref.version), ", ".join(ref.aliases) or "-", top1, *hashes, f"{ref.created:%Y-%m-%d %H:%M}")
    console.print(table if versions else "No model is registered yet; `skumatch run` makes the first.")


def promote(
    version: Annotated[str, typer.Argument(help="A version or an alias.")] = "challenger", why: Why = "by hand", dry_run: DryRun = False
) -> None:
    """Make a version that passed the gate the champion, if the champion still is the one it was compared with."""
    from skumatch.pipeline import releases
    from skumatch.release import promotion

    settings = current_settings()
    if load_params(settings.project / "params.yaml").release.approval == "required":
        raise Refused(f"Promotion needs a person's approval (release.approval); give it at {settings.airflow_url}/dags/skumatch_release.")
    registry = _registry(settings)
    wanted = registry.resolve(version)
    expected = promotion.proposed(registry, wanted) if dry_run else promotion.compared_with(wanted)
    releases.verified(settings, registry, wanted)
    if not dry_run:
        promotion.promote(registry, wanted.version, expected, getpass.getuser(), why)
    _say(wanted, "would be" if dry_run else "is", "" if expected is None else f", in place of version {expected}")


def rollback(
    version: Annotated[int | None, typer.Argument(help="A version that served before; default: the last one.")] = None,
    why: Why = "by hand",
    dry_run: DryRun = False,
) -> None:
    """Make an earlier champion the champion again."""
    from skumatch.pipeline import releases
    from skumatch.release import promotion

    settings = current_settings()
    registry = _registry(settings)
    target, now = releases.rollback_plan(settings, registry, version)
    if now == target.version:
        raise ReferenceNotFound(f"Version {target.version} is the champion already; `skumatch models --history` lists what was before.")
    if not dry_run:
        promotion.rollback(registry, target.version, now, getpass.getuser(), why)
    _say(target, "would be" if dry_run else "is", " again" + (f", in place of version {now}" if now else ""))


def _registry(settings: Settings) -> Registry:
    from skumatch.pipeline.pull import open_registry

    return open_registry(settings, load_params(settings.project / "params.yaml"))


def _say(ref: ModelRef, how: str, more: str) -> None:
    console.print(f"Version {ref.version} {how} the champion{more} (bundle {ref.bundle[:12]}, verified).", highlight=False, soft_wrap=True)


def _show_history(entries: list[Entry], heads: dict[int, str]) -> None:
    if not entries:
        console.print("Nothing was promoted yet.")
        return
    table = Table(title="Promotions and rollbacks")
    for name in ("entry", "when", "what", "outcome", "champion", "who", "why"):
        table.add_column(name, justify="right" if name == "entry" else "left")
    for entry in entries:
        when = f"{entry.before.at:%Y-%m-%d %H:%M}" if entry.before else "waiting"
        outcome, champion = (entry.after.outcome, str(entry.after.champion or "none")) if entry.after else ("open", "")
        moved = Text(champion, style="bold green" if entry.changed else "")
        asked = entry.asked
        table.add_row(str(entry.number), when, f"{asked.action} {asked.version}", outcome, moved, Text(asked.who), Text(asked.why))
    console.print(table)
    broken = [*breaks(entries), *unheaded(entries, heads)]
    for sentence in broken:
        console.print(f"[bold red]✗[/] {sentence}")
    if not broken:
        console.print(f"The chain of {len(entries):,} entries holds; its last hash is {entries[-1].hash}.", highlight=False, soft_wrap=True)
