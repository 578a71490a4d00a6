"""The chain in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.audit.dossier import Facts
from skumatch.audit.link import Link
from skumatch.audit.reproduce import Reproduction

SIGNS = {"holds": ("✓", "green"), "broken": ("✗", "bold red"), "unchecked": ("?", "yellow"), None: ("·", "dim")}


def chain_table(facts: Facts, chain: list[Link]) -> RenderableType:
    """A row a link: its verdict and hash, what is told of it, and why it holds or doesn't."""
    registered = facts.registered
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{registered.model}, version {registered.version}", show_lines=False)
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
        lines.append(Text(link.reason, style={"holds": "green", "broken": "bold red", "unchecked": "yellow"}[link.verdict]))
    return Group(*lines) if lines else Text("")


def _sum(chain: list[Link]) -> Text:
    counts = {verdict: sum(link.verdict == verdict for link in chain) for verdict in ("holds", "broken", "unchecked")}
    if not any(counts.values()):
        return Text("Nothing was checked; `--verify` hashes and computes everything again.", style="dim")
    words = {"holds": "hold", "broken": "broken", "unchecked": "can't be checked"}
    parts = [f"{count} {words[verdict]}" for verdict, count in counts.items() if count]
    return Text(f"{len(chain)} links: {', '.join(parts)}.", style="bold red" if counts["broken"] else "bold green")


def reproduction_table(found: Reproduction, version: int) -> RenderableType:
    """A row an out of a stage: its hash as recorded and as it came out."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Version {version}, made again")
    for name in ("", "stage", "out", "recorded", "found"):
        grid.add_column(name)
    for out in found.outs:
        sign, style = SIGNS["holds" if out.equal else "broken"]
        grid.add_row(
            Text(sign, style=style), out.stage, out.path, *(digest.removeprefix("md5:")[:12] for digest in (out.recorded, out.found))
        )
    tops = f"top-1 was {100 * found.recorded:.2f} %, is {100 * found.found:.2f} %"
    words = f"Bit-equal throughout; {tops}." if found.equal else f"{sum(not out.equal for out in found.outs)} outs differ; {tops}."
    notes = (
        [] if found.environment else [Text("The environment's lock here isn't the run's (requirements/constraints.txt).", style="yellow")]
    )
    return Group(grid, Text(words, style="bold green" if found.equal else "bold yellow"), *notes)
