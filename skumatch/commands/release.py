"""`skumatch models | promote | rollback`: the registered versions, and the choice of the champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skumatch.commands.options import flag, version_argument
from skumatch.config import Settings, load_params, user
from skumatch.config import settings as current_settings
from skumatch.errors import ReferenceNotFound, Refused, StaleChampion
from skumatch.registry.journal import Entry, MoveRequest, hand_moves
from skumatch.registry.registry import ENCODER_TAG, ERASED_TAG, RELEASE_TAG, ModelRef, Registry
from skumatch.terminal import print_json
from skumatch.texts import counted

console = Console()

GO_BY_THE_GAIN = (
    "These top-1 were measured on different galleries and queries, so they can't be compared. "
    "A gain was measured on the same photos as the champion that it names."
)

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, kept in the journal.")]
DryRun = Annotated[bool, flag("--dry-run", "Say what would be done; write nothing.")]


def models(
    history: Annotated[
        bool, flag("--history", "Who was champion when, and who said so: the journal.")
    ] = False,
    as_json: Annotated[bool, flag("--json", "Print JSON instead.")] = False,
) -> None:
    """List the registered versions and their aliases, or the journal of promotions.

    Example: `skumatch models --json`
    """
    from skumatch.promotion import promotion

    registry = _registry(current_settings())
    if history:
        show = _print_history if as_json else _show_history
        show(*promotion.checked_history(registry))
        return
    versions = registry.versions()
    if as_json:
        print_json([asdict(version_record(ref)) for ref in versions])
        return
    state = registry.champion_state()
    if not versions and state.kind == "never":
        console.print("No model is registered yet; `skumatch run` makes the first.")
        return
    if versions:
        console.print(versions_table(versions))
    if state.cure:
        _print(f"{state.sentence[0].upper()}{state.sentence[1:]}; {state.cure}.")
    for ref in versions:
        if ERASED_TAG in ref.tags:
            held = f"its gallery held a picture that was {ref.tags[ERASED_TAG]}"
            _print(f"Version {ref.version} can't serve: {held}.")


@dataclass(frozen=True)
class VersionRecord:
    """One registered version, as `skumatch models --json` prints it; null for a fact that it lacks.

    Attributes:
        version: Its number.
        kind: `model` for a model release, `gallery` for a gallery release.
        gallery_of: Of a gallery release, the version that brought its encoder.
        encoder: SHA-256 of its encoder's weights.
        aliases: Its aliases, sorted.
        top1: The top-1 that the gate saw, 0 to 1.
        bundle: SHA-256 of its bundle.
        data: MD5 of its data version.
        created: Time of its registration, in ISO 8601.
        erased: Of a version that can't serve any more, the erasure of a picture of its gallery.
        figures: The figures that the gate measured, with their basis and the gain over the champion.
    """

    version: int
    kind: Literal["model", "gallery"]
    gallery_of: int | None
    encoder: str | None
    aliases: tuple[str, ...]
    top1: float | None
    bundle: str
    data: str | None
    created: str
    erased: str | None
    figures: dict[str, Any] | None


def version_record(ref: ModelRef) -> VersionRecord:
    """Return the facts of a version that the table of `skumatch models` shows, unabridged."""
    release = ref.tags.get(RELEASE_TAG)
    return VersionRecord(
        version=ref.version,
        kind="gallery" if release else "model",
        gallery_of=int(release) if release else None,
        encoder=ref.tags.get(ENCODER_TAG),
        aliases=ref.aliases,
        top1=ref.top1,
        bundle=ref.bundle,
        data=ref.data,
        created=ref.created.isoformat(),
        erased=ref.tags.get(ERASED_TAG),
        figures=ref.figures.model_dump(mode="json") if ref.figures else None,
    )


def versions_table(versions: Sequence[ModelRef]) -> Table:
    """Return a table of versions, one row each; at 80 columns most cells take several lines.

    A gallery release names the model release of its encoder: `gallery of 1`. The encoder is shown as the
    start of its weights' SHA-256, or `-` for versions that were registered without it. Each top-1 stands with
    its protocol and data version. The gain is the one that the gate measured on the same photos as the
    champion; where versions were measured on different photos, a caption says to go by the gain.
    """
    bases = {ref.figures.basis if ref.figures else ref.data for ref in versions}
    caption = GO_BY_THE_GAIN if len(bases) > 1 else None
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title="Registered models",
        caption=caption,
        caption_justify="left",
    )
    wrapping = {"aliases": 10}
    for name in ("version", "kind", "encoder", "aliases", "top-1 and\nits data", "gain", "created"):
        justify: Literal["left", "right"] = "right" if name == "version" else "left"
        table.add_column(name, justify=justify, no_wrap=name not in wrapping, min_width=wrapping.get(name))
    for ref in versions:
        table.add_row(
            str(ref.version),
            f"gallery of {ref.tags[RELEASE_TAG]}" if RELEASE_TAG in ref.tags else "model",
            ref.tags.get(ENCODER_TAG, "-")[:6],
            ", ".join(ref.aliases) or "-",
            _measured(ref),
            _gained(ref),
            f"{ref.created:%Y-%m-%d}\n{ref.created:%H:%M}",
        )
    return table


def _measured(ref: ModelRef) -> str:
    """Return a version's top-1 with its interval, protocol and data version."""
    data = f"data {(ref.data or '-')[:6]}"
    if figures := ref.figures:
        interval = f"{100 * figures.low:.1f} to {100 * figures.high:.1f}"
        return f"{100 * figures.top1:.1f} %\n{interval}\n{figures.protocol}\ndata {figures.data[:6]}"
    return f"{100 * ref.top1:.1f} %\n{data}" if ref.top1 is not None else f"-\n{data}"


def _gained(ref: ModelRef) -> str:
    """Return the gain over the champion that the version was compared with."""
    if ref.figures is None:
        return "not\nrecorded"
    gain = ref.figures.gain
    if gain is None:
        return "the first"
    lower = gain.figure.replace(" ", "\n") if gain.lower is None else f"at least\n{100 * gain.lower:+.1f}"
    return f"{100 * (gain.after - gain.before):+.1f}\nover {gain.champion}\n{lower}"


def promote(
    version: Annotated[str, version_argument()] = "challenger",
    why: Why = "by hand",
    dry_run: DryRun = False,
) -> None:
    """Make a version that passed the gate the champion, if it was compared with today's champion."""
    from skumatch.pipeline import releases
    from skumatch.promotion import promotion

    settings = current_settings()
    registry, release = _registry(settings), load_params(settings.project / "params.yaml").release
    candidate = registry.resolve(version)
    name = "approval_refresh" if RELEASE_TAG in candidate.tags else "approval"
    if getattr(release, name) == "required":
        raise Refused(
            f"Promotion needs a person's approval (release.{name}); "
            f"give it at {settings.airflow_url}/dags/skumatch_release."
        )
    try:
        expected = promotion.proposed(registry, candidate) if dry_run else promotion.compared_with(candidate)
        releases.verified(settings, registry, candidate)
        if not dry_run:
            promotion.promote(registry, candidate.version, expected, user(), why)
    except StaleChampion as error:
        if not promotion.gallery_moved(registry, candidate.version, promotion.compared_with(candidate)):
            raise
        cure = f"`skumatch refresh --encoder {candidate.version}` judges its encoder on the newest data"
        raise StaleChampion(
            f"Only the champion's gallery changed since version {candidate.version} was compared; {cure}."
        ) from error
    _say(
        candidate,
        "would be" if dry_run else "is",
        "" if expected is None else f", in place of version {expected}",
    )


def rollback(
    version: Annotated[
        int | None,
        typer.Argument(
            metavar="VERSION", show_default="the last one", help="The number of a version that served before."
        ),
    ] = None,
    why: Why = "by hand",
    dry_run: DryRun = False,
) -> None:
    """Make an earlier champion the champion again."""
    from skumatch.pipeline import releases
    from skumatch.promotion import promotion

    settings = current_settings()
    registry = _registry(settings)
    target, now = releases.rollback_plan(settings, registry, version)
    if now == target.version:
        raise ReferenceNotFound(
            f"Version {target.version} is the champion already; "
            "`skumatch models --history` lists what was before."
        )
    if not dry_run:
        promotion.rollback(registry, target.version, now, user(), why)
        for move in promotion.unexplained(promotion.history(registry), target.version):
            _print(move.sentence)
    _say(target, "would be" if dry_run else "is", " again" + (f", in place of version {now}" if now else ""))


def _registry(settings: Settings) -> Registry:
    from skumatch.pipeline.pull import open_registry

    return open_registry(settings, load_params(settings.project / "params.yaml"))


def _say(ref: ModelRef, verb: str, suffix: str) -> None:
    _print(f"Version {ref.version} {verb} the champion{suffix} (bundle {ref.bundle[:12]}, verified).")


def _print(sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _print_history(entries: list[Entry], faults: list[str]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "entry": entry.number,
            "when": entry.before.at.isoformat() if entry.before else None,
            "action": entry.asked.action,
            "version": entry.asked.version if isinstance(entry.asked, MoveRequest) else None,
            "outcome": entry.after.outcome if entry.after else None,
            "champion": entry.after.champion if entry.after else None,
            "who": entry.asked.who,
            "why": entry.asked.why,
        }
        for entry in entries
    ]
    print_json({"entries": rows, "breaks": faults})


def _show_history(entries: list[Entry], faults: list[str]) -> None:
    """Print the journal's entries, the explained moves by hand, and the journal's faults or its last hash."""
    if not entries:
        console.print("Nothing was promoted yet.")
        return
    table = Table(title="Promotions and rollbacks")
    for name in ("entry", "when", "what", "outcome", "champion", "who", "why"):
        table.add_column(name, justify="right" if name == "entry" else "left")
    for entry in entries:
        when = f"{entry.before.at:%Y-%m-%d %H:%M}" if entry.before else "waiting"
        outcome, champion = (entry.after.outcome, str(entry.left or "none")) if entry.after else ("open", "")
        moved = Text(champion, style="bold green" if entry.changed else "")
        request = entry.asked
        table.add_row(
            str(entry.number),
            when,
            request.words,
            outcome,
            moved,
            Text(request.who),
            Text(request.why),
        )
    console.print(table)
    for move in hand_moves(entries):
        if move.acknowledged:
            _print(f"{move.sentence}.")
    for sentence in faults:
        _print(f"✗ {sentence}")
    if not faults:
        chain = f"The chain of {counted(len(entries), 'entry', 'entries')}"
        console.print(
            f"{chain} holds; its last hash is {entries[-1].hash}.",
            highlight=False,
            soft_wrap=True,
        )
