"""The chain in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.audit.diff import Diff, Gain
from skumatch.audit.dossier import Facts
from skumatch.audit.link import Link, counted
from skumatch.audit.reproduce import Reproduction
from skumatch.audit.served import Service
from skumatch.audit.uses import Use

SIGNS = {
    "holds": ("✓", "green"),
    "broken": ("✗", "bold red"),
    "unchecked": ("?", "yellow"),
    None: ("·", "dim"),
}


def chain_table(facts: Facts, chain: list[Link]) -> RenderableType:
    """A row a link: its verdict and hash, what is told of it, and why it holds or doesn't."""
    registered = facts.registered
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{registered.model}, version {registered.version}",
        show_lines=False,
    )
    grid.add_column("", width=1)
    grid.add_column("link", style="bold", no_wrap=True)
    grid.add_column("hash", style="dim", no_wrap=True)
    grid.add_column("what is told")
    for link in chain:
        sign, style = SIGNS[link.verdict]
        grid.add_row(Text(sign, style=style), link.title, (link.hash or "")[:12], _said(link))
    return Group(grid, _sum(chain))


def _said(link: Link) -> RenderableType:
    lines = [Text.assemble((f"{name}: ", "dim"), value) for name, value in link.said.items()]
    if link.verdict:
        lines.append(
            Text(
                link.reason,
                style={"holds": "green", "broken": "bold red", "unchecked": "yellow"}[link.verdict],
            )
        )
    return Group(*lines) if lines else Text("")


def _sum(chain: list[Link]) -> Text:
    counts = counted(chain)
    if not any(counts.values()):
        return Text("Nothing was checked; `--verify` hashes and computes everything again.", style="dim")
    words = {"holds": "hold", "broken": "broken", "unchecked": "can't be checked"}
    parts = [f"{count} {words[verdict]}" for verdict, count in counts.items() if count]
    if left := len(chain) - sum(counts.values()):
        parts.append(f"{left} not looked at (`--verify` does)")
    style = "bold red" if counts["broken"] else "bold yellow" if counts["unchecked"] else "bold green"
    return Text(f"{len(chain)} links: {', '.join(parts)}.", style=style)


def reproduction_table(found: Reproduction, version: int) -> RenderableType:
    """A row an out of a stage: its hash as recorded and as it came out."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Version {version}, made again")
    for name in ("", "stage", "out", "recorded", "found"):
        grid.add_column(name)
    for out in found.outs:
        sign, style = SIGNS["holds" if out.equal else "broken"]
        grid.add_row(
            Text(sign, style=style),
            out.stage,
            out.path,
            *(digest.removeprefix("md5:")[:12] for digest in (out.recorded, out.found)),
        )
    tops = f"top-1 was {100 * found.recorded:.2f} %, is {100 * found.found:.2f} %"
    words = (
        f"Bit-equal throughout; {tops}."
        if found.equal
        else f"{sum(not out.equal for out in found.outs)} outs differ; {tops}."
    )
    notes = (
        []
        if found.environment
        else [
            Text(
                "The environment's lock here isn't the run's (requirements/constraints.txt).", style="yellow"
            )
        ]
    )
    return Group(
        grid,
        Text(words, style="bold green" if found.equal else "bold yellow" if found.holds else "bold red"),
        *notes,
    )


def services_table(day: str, found: list[Service]) -> RenderableType:
    """A row a champion of that day."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"In production on {day} (UTC)")
    for name in ("version", "from", "to", "by", "why"):
        grid.add_column(name)
    for one in found:
        since, until = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (one.since, one.until))
        grid.add_row(
            Text(str(one.version or "none"), style="bold"),
            since,
            until or "now",
            Text(one.who),
            Text(one.why),
        )
    return grid


def uses_table(what: str, found: list[Use]) -> RenderableType:
    """A row a version: as what it was given the pictures that were looked for."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(f"Models that were given {what}"))
    for name in (
        "version",
        "aliases",
        "trained on",
        "validated on",
        "in the gallery only",
        "asked as query",
        "pictures",
    ):
        grid.add_column(name, justify="left" if name in ("aliases", "pictures") else "right")
    for use in found:
        ref = use.ref
        if use.rows is None:
            grid.add_row(
                str(ref.version), ", ".join(ref.aliases), "?", "?", "?", "?", Text(use.reason, style="yellow")
            )
            continue
        counts = [int(use.rows["role"].eq(role).sum()) for role in ("train", "val", "gallery", "query")]
        shown = [Text(str(count), style="bold" if count else "dim") for count in counts]
        names = ", ".join(use.rows["id"].head(3)) + (", ..." if len(use.rows) > 3 else "")
        grid.add_row(str(ref.version), ", ".join(ref.aliases), *shown, Text(names))
    return grid


def diff_table(found: Diff, before: str, after: str) -> RenderableType:
    """What changed, a section a kind."""
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"From version {before} to version {after}",
        show_header=False,
    )
    grid.add_column("", style="bold", no_wrap=True)
    grid.add_column("")
    grid.add_row("encoder", Text("the same" if found.same_encoder else "another"))
    data = found.data
    pictures = (
        f"{data.added:,} pictures more, {data.removed:,} fewer, {data.moved:,} with another SKU or side"
    )
    skus = [f"+ {name}" for name in data.new_skus] + [f"- {name}" for name in data.gone_skus]
    grid.add_row("data", Text("\n".join([pictures, *skus]) if data.changed else "the same"))
    params = [f"{name}: {old} -> {new}" for name, (old, new) in found.params.items()]
    for name, lines in (
        ("parameters", params),
        ("code", list(found.code)),
        ("environment", list(found.packages)),
    ):
        grid.add_row(name, Text("\n".join(lines) or "the same"))
    figures = [f"{name} {100 * old:.1f} % -> {100 * new:.1f} %" for name, (old, new) in found.figures.items()]
    grid.add_row(
        "figures",
        Text("\n".join([*figures, *(_gains(found.gain) if found.gain else ["no query was asked of both"])])),
    )
    return grid


def _gains(gain: Gain) -> list[str]:
    low, high = (f"{100 * value:+.1f}" for value in (gain.interval.low, gain.interval.high))
    head = f"top-1 {100 * gain.interval.value:+.1f} points ({low} to {high}) on the {gain.n:,} queries asked of both"
    rows = [
        f"  {sku.name}: {100 * sku.before:.0f} % -> {100 * sku.after:.0f} % of {sku.n}"
        + (f" ({100 * sku.gain.low:+.0f} to {100 * sku.gain.high:+.0f})" if sku.n > 1 else "")
        for sku in gain.skus
    ]
    few = 10
    return [
        head,
        *rows[:few],
        *([f"  ... {len(rows) - 2 * few} more (--json has all)"] if len(rows) > 2 * few else []),
        *rows[few:][-few:],
    ]
