"""`skumatch audit` and `skumatch reproduce`: a model's origin, and proofs of it."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from skumatch.commands.options import (
    ALIASES,
    completed,
    flag,
    output_folder,
    renamed,
    version_argument,
    written,
)
from skumatch.config import Settings, load_params, user
from skumatch.config import settings as current_settings
from skumatch.errors import AuditFailed, ParameterError
from skumatch.files import write_text
from skumatch.registry.registry import Registry


class ShowByDefault(TyperGroup):
    """Command group with the hidden default command `show`: `audit champion` is `audit show champion`.

    Its help and its tab completion are those of `show`, together with the other commands.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the default command put in."""
        completes_a_first_word = ctx.resilient_parsing and not args
        return super().parse_args(ctx, args if completes_a_first_word else self.completed(args))

    def completed(self, args: list[str]) -> list[str]:
        """Return the arguments, with `show` in front where a command is missing."""
        known = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return args if known else ["show", *args]

    def documented(self, ctx: Any) -> TyperGroup:
        """Return a group with the options of `show` and the commands that aren't hidden, for its help."""
        show = self.commands["show"]
        others = {name: command for name, command in self.commands.items() if not command.hidden}
        return TyperGroup(
            name=self.name,
            help=show.help,
            params=[*show.params, self.get_help_option(ctx)],
            add_help_option=False,
            commands=others,
            subcommand_metavar="",
            rich_markup_mode=self.rich_markup_mode,
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of `show`, and the names of the other commands."""
        self.documented(ctx).format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete the first word: a command, an alias or an option of `show`."""
        show = self.commands["show"]
        return [
            *super().shell_complete(ctx, incomplete),
            *show.params[0].shell_complete(ctx, incomplete),
            *show.shell_complete(ctx, incomplete),
        ]


app = typer.Typer(
    cls=ShowByDefault, add_completion=False, help="Show where a model came from, and check that it holds."
)
console = Console()
SIDE = "A version's number or an alias."


@app.command(hidden=True)
def show(
    version: Annotated[str, version_argument()] = "champion",
    verify: Annotated[
        bool, flag("--verify", "Hash everything again, compute what is cheap again, judge every link.")
    ] = False,
    html: Annotated[Path | None, written("--html", "Write the lineage page to this file.")] = None,
    page: Annotated[Path | None, written("--page", "Earlier name of --html.", hidden=True)] = None,
    output: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
    export: Annotated[
        Path | None,
        written(
            "--export",
            "Keep the version's dossier in this new folder; it can be audited offline.",
            output_folder,
        ),
    ] = None,
    dossier: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="Audit a dossier that --export made, without any server."
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The public key (PEM) that the provenance must be signed with."),
    ] = None,
    pictures: Annotated[
        bool, flag("--pictures/--no-pictures", "Fetch the data's pictures too, which may be large.")
    ] = True,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="PICTURE",
            help="Ask which models were given this picture: a file, or 8 or more digits of its SHA-256.",
        ),
    ] = None,
    sku: Annotated[
        str | None,
        typer.Option(
            metavar="SKU",
            help="Ask which models were given pictures of this SKU, and when it could be named.",
        ),
    ] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="Ask which model was in production on that day."
        ),
    ] = None,
) -> None:
    """Show the chain of a model, from its promotion back to the pictures, or answer one question.

    Exit code 41: a link of the chain is broken.

    Example: `skumatch audit champion --verify --html chain.html`
    """
    html = renamed(page, html, "--page", "--html")
    if sum(value is not None for value in (image, sku, at)) > 1:
        raise ParameterError("--image, --sku and --at are questions of their own; ask one at a time.")
    if image is not None or sku is not None:
        _uses(image, sku, output)
        return
    if at is not None:
        _served(at.date(), output)
        return
    from skumatch.audit.chain import links
    from skumatch.audit.dossier import Dossier
    from skumatch.audit.page import lineage_page
    from skumatch.audit.screen import chain_table

    _check(dossier, export, key)
    with ExitStack() as stack:
        source = (
            Dossier(dossier)
            if dossier
            else _collected(stack, version, export, pictures, whole=verify or export is not None)
        )
        chain = links(replace(source, key=key), verify)
        console.print(chain_table(source.facts, chain))
        if html:
            write_text(html, lineage_page(source.facts, chain))
        if output:
            tree = {
                "facts": source.facts.model_dump(mode="json", by_alias=True),
                "links": [link.model_dump(mode="json") for link in chain],
            }
            write_text(output, json.dumps(tree, indent=2, ensure_ascii=False) + "\n")
    broken = [link for link in chain if link.verdict == "broken"]
    if broken:
        raise AuditFailed(
            f"The chain is broken at {', '.join(link.name for link in broken)}: {broken[0].reason}."
        )


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", autocompletion=completed(*ALIASES), help=SIDE)],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", autocompletion=completed(*ALIASES), help=SIDE)
    ] = "champion",
    output: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
) -> None:
    """Compare two versions: data, parameters, code, environment, figures, and SKUs that gained or lost."""
    from skumatch.audit.diff import diff as between
    from skumatch.audit.screen import diff_table

    with ExitStack() as stack:
        sides = [_collected(stack, version, None, pictures=False, whole=False) for version in (before, after)]
        differences = between(*sides)
        console.print(diff_table(differences, *(str(side.facts.registered.version) for side in sides)))
        if output:
            write_text(output, json.dumps(asdict(differences), indent=2, ensure_ascii=False) + "\n")


def _check(dossier: Path | None, export: Path | None, key: Path | None) -> None:
    """Raise ParameterError for options that contradict, and for a file without a key."""
    from skumatch.lineage.provenance import public_key

    if dossier and export:
        raise ParameterError("--from audits a dossier that is there, --export makes one; give one of them.")
    if key:
        public_key(key)


@app.command()
def acknowledge(
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The explanation, kept in the journal.")],
    entry: Annotated[
        int | None,
        typer.Argument(
            metavar="ENTRY",
            help="The journal's last entry before the move; needed if there are several moves.",
        ),
    ] = None,
) -> None:
    """Record why the champion was moved by hand in MLflow; audits then tell it and no longer fail for it."""
    from skumatch.promotion import promotion

    move = promotion.acknowledge(_registry()[1], entry, user(), why)
    console.print(f"{move.sentence}.", markup=False, highlight=False, soft_wrap=True)


def _uses(image: str | None, sku: str | None, output: Path | None) -> None:
    from skumatch.audit.screen import uses_table
    from skumatch.audit.uses import Wanted, check_sku, picture, uses

    pictures = picture(image) if image is not None else Wanted(sku=sku)
    settings, registry = _registry()
    by_version = list(uses(settings, registry, pictures))
    if sku is not None:
        check_sku(registry, sku, by_version)
    subject = f"the picture {image}" if image is not None else f"pictures of {sku}"
    console.print(uses_table(subject, by_version))
    tree: dict[str, Any] = {
        str(use.ref.version): None if use.rows is None else use.rows.to_dict("records") for use in by_version
    }
    if all(use.rows is not None and use.rows.empty for use in by_version):
        console.print("No version was given any.", style="dim")
    breaches: list[str] = []
    if sku is not None:
        tree["served"], breaches = _named(registry, sku)
    if output:
        write_text(output, json.dumps(tree, indent=2, ensure_ascii=False, default=str) + "\n")
    if breaches:
        raise AuditFailed(f"The journal that says so is broken: {' '.join(breaches)}")


def _named(registry: Registry, sku: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Print the times at which the champion of the time could name a product.

    Returns:
        These times as dicts, and sentences on breaks of the journal.
    """
    from skumatch.audit.served import in_words, namings, services
    from skumatch.promotion import promotion
    from skumatch.registry.labels import nameable

    entries, faults = promotion.checked_history(registry)
    times = namings(
        services(entries), sku, lambda version: nameable(registry, registry.resolve(str(version)))
    )
    for sentence in in_words(times):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    return [asdict(time) for time in times], faults


def _served(day: date, output: Path | None) -> None:
    from skumatch.audit.screen import services_table
    from skumatch.audit.served import on
    from skumatch.promotion import promotion

    registry = _registry()[1]
    entries, faults = promotion.checked_history(registry)
    champions = on(entries, day)
    console.print(services_table(str(day), champions))
    if output:
        tree = [asdict(service) for service in champions]
        write_text(output, json.dumps(tree, indent=2, default=str) + "\n")
    if faults:
        raise AuditFailed(f"The journal that says so is broken: {' '.join(faults)}")


def reproduce(
    version: Annotated[str, version_argument()] = "champion",
    force: Annotated[
        bool, flag("--force", "Run every stage, training from its start, although results are known.")
    ] = False,
    output: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
) -> None:
    """Make a version again from its input set, and compare every stage's outs with the record.

    Exit code 41: an out differs.
    """
    from skumatch.audit.reproduce import TOLERANCE, as_json
    from skumatch.audit.reproduce import reproduce as again
    from skumatch.audit.screen import reproduction_table

    settings, registry = _registry()
    ref = registry.resolve(version)
    reproduction = again(settings, registry, ref, force)
    console.print(reproduction_table(reproduction, ref.version))
    if output:
        write_text(output, as_json(reproduction))
    if not reproduction.within:
        raise AuditFailed(
            f"Version {ref.version} comes out otherwise: "
            f"top-1 differs by more than {100 * TOLERANCE:.1f} points."
        )
    if not reproduction.holds:
        differing = ", ".join(out.path for out in reproduction.outs if not out.equal)
        condition = "on the same processor, with as many cores and the same packages"
        raise AuditFailed(f"Version {ref.version} comes out otherwise {condition}: {differing}.")


def _collected(stack: ExitStack, version: str, export: Path | None, pictures: bool, whole: bool) -> Any:
    from skumatch.audit.collect import collect

    settings, registry = _registry()
    ref = registry.resolve(version)
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    folder = export or Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-", dir=settings.home_dir))
    )
    return collect(settings, registry, ref, folder, pictures, whole)


def _registry() -> tuple[Settings, Registry]:
    from skumatch.pipeline.pull import open_registry

    settings = current_settings()
    return settings, open_registry(settings, load_params(settings.project / "params.yaml"))
