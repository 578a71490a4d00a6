"""Terminal output of the audit: the chain of links and the answers to its questions."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.audit.diff import FIGURES, Diff, VersionFigures, VersionGain
from skumatch.audit.dossier import DossierFacts
from skumatch.audit.link import Link, count_verdicts
from skumatch.audit.reproduce import Reproduction
from skumatch.audit.served import Service
from skumatch.audit.uses import Use
from skumatch.texts import counted, queries_of

SIGNS = {
    "holds": ("✓", "green"),
    "broken": ("✗", "bold red"),
    "unchecked": ("?", "yellow"),
    None: ("·", "dim"),
}


def chain_table(facts: DossierFacts, chain: list[Link]) -> RenderableType:
    """Return a table with one row per link: its verdict, hash, facts and the verdict's reason."""
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
    grid.add_column("facts")
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
    counts = count_verdicts(chain)
    if not any(counts.values()):
        return Text("Nothing was checked; `--verify` hashes and computes everything again.", style="dim")
    words = {"holds": "hold", "broken": "broken", "unchecked": "can't be checked"}
    parts = [f"{count} {words[verdict]}" for verdict, count in counts.items() if count]
    if left := len(chain) - sum(counts.values()):
        parts.append(f"{left} not looked at (`--verify` does)")
    style = "bold red" if counts["broken"] else "bold yellow" if counts["unchecked"] else "bold green"
    return Text(f"{counted(len(chain), 'link')}: {', '.join(parts)}.", style=style)


def reproduction_table(reproduction: Reproduction, version: int) -> RenderableType:
    """Return a table with one row per out of a stage: its recorded and its reproduced hash."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Version {version}, made again")
    for name in ("", "stage", "out", "recorded", "found"):
        grid.add_column(name)
    for out in reproduction.outs:
        sign, style = SIGNS["holds" if out.equal else "broken"]
        grid.add_row(
            Text(sign, style=style),
            out.stage,
            out.path,
            out.recorded.removeprefix("md5:")[:12],
            out.found.removeprefix("md5:")[:12],
        )
    top1 = f"top-1 was {100 * reproduction.recorded:.2f} %, is {100 * reproduction.found:.2f} %"
    differing = sum(not out.equal for out in reproduction.outs)
    words = f"Bit-equal throughout; {top1}." if reproduction.equal else f"{differing} outs differ; {top1}."
    style = "bold green" if reproduction.equal else "bold yellow" if reproduction.holds else "bold red"
    lines = [Text(words, style=style)]
    if not reproduction.environment:
        note = "The environment's lock here isn't the run's (requirements/constraints.txt)."
        lines.append(Text(note, style="yellow"))
    return Group(grid, *lines)


def services_table(day: str, services: list[Service]) -> RenderableType:
    """Return a table with one row per champion of a day."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"In production on {day} (UTC)")
    for name in ("version", "from", "to", "by", "why"):
        grid.add_column(name)
    for service in services:
        since, until = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (service.since, service.until))
        grid.add_row(
            Text(str(service.version or "none"), style="bold"),
            since,
            until or "now",
            Text(service.who),
            Text(service.why),
        )
    return grid


def uses_table(subject: str, uses: list[Use]) -> RenderableType:
    """Return a table with one row per version: the numbers of wanted pictures in each role.

    Args:
        subject: The wanted pictures in words, for the title.
        uses: Each version's wanted pictures.
    """
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(f"Models that were given {subject}"))
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
    for use in uses:
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


def diff_table(difference: Diff, before: str, after: str) -> RenderableType:
    """Return a table of all differences, one row per kind.

    Args:
        difference: The differences of the two versions.
        before: The earlier version's number.
        after: The later version's number.
    """
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"From version {before} to version {after}",
        show_header=False,
    )
    grid.add_column("", style="bold", no_wrap=True)
    grid.add_column("")
    grid.add_row("encoder", Text("the same" if difference.same_encoder else "another"))
    data = difference.data
    pictures = (
        f"{counted(data.added, 'picture')} more, {data.removed:,} fewer, "
        f"{data.moved:,} with another SKU or side"
    )
    skus = [f"+ {name}" for name in data.new_skus] + [f"- {name}" for name in data.gone_skus]
    grid.add_row("data", Text("\n".join([pictures, *skus]) if data.changed else "the same"))
    params = [f"{name}: {old} -> {new}" for name, (old, new) in difference.params.items()]
    for name, lines in (
        ("parameters", params),
        ("code", list(difference.code)),
        ("environment", list(difference.packages)),
    ):
        grid.add_row(name, Text("\n".join(lines) or "the same"))
    grid.add_row("figures", Text("\n".join(_figure_lines(difference))))
    if difference.moved_by_hand:
        grid.add_row("moved by hand", Text("\n".join(difference.moved_by_hand)))
    return grid


def _figure_lines(difference: Diff) -> list[str]:
    """Return both versions' figures: side by side if they are comparable, else each with its data.

    Then the change that was measured on the same queries follows, or a sentence that nothing was.
    """
    before, after, gain = difference.before, difference.after, difference.gain
    if before.comparable(after):
        lines = [
            f"{title} {_percent(before.shares[name])} -> {_percent(after.shares[name])}"
            for name, title in FIGURES.items()
        ]
        lines.append(_measured_on(after))
    else:
        lines = [
            f"version {each.version}: top-1 {_percent(each.shares['top1'])} "
            f"({100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}); {_measured_on(each)}"
            for each in (before, after)
        ]
        lines.append("These two can't be compared: each was measured on its own run's gallery and queries.")
    if answers := difference.answers:
        shares = f"{_percent(answers.before)} -> {_percent(answers.after)}"
        lines.append(f"right answers as served, to the same {counted(answers.n, 'photo')}: {shares}")
    if gain:
        return lines + _gains(gain)
    return [*lines, "No run measured both encoders on the same gallery and queries."]


def _measured_on(figures: VersionFigures) -> str:
    names = f"gallery {figures.gallery[:6]}, queries {figures.queries[:6]}, data {figures.data[:6]}"
    return f"{queries_of(figures.n, figures.skus)}, protocol {figures.protocol}, {names}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _gains(gain: VersionGain) -> list[str]:
    """Return the change of top-1, then one line for each of the 10 most gained and 10 most lost SKUs."""
    low, high = (f"{100 * value:+.1f}" for value in (gain.interval.low, gain.interval.high))
    points = f"{100 * gain.interval.value:+.1f} points ({low} to {high})"
    shares = f"top-1 {_percent(gain.before)} -> {_percent(gain.after)}"
    head = f"{gain.basis}: {shares}, {points}, {counted(gain.n, 'query', 'queries')}"
    rows = [
        f"  {sku.name}: {100 * sku.before:.0f} % -> {100 * sku.after:.0f} % of {sku.n}"
        + (f" ({100 * sku.gain.low:+.0f} to {100 * sku.gain.high:+.0f})" if sku.n > 1 else "")
        for sku in gain.skus
    ]
    few = 10
    left_out = len(rows) - 2 * few
    more = [f"  ... {left_out} more (--json has all)"] if left_out > 0 else []
    return [head, *rows[:few], *more, *rows[few:][-few:]]
