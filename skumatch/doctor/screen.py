"""The findings in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.doctor.finding import Finding

SIGNS = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}
WORDS = {"ok": "well", "warning": "to look at", "failed": "failed", "skipped": "not asked"}


def findings_table(found: Sequence[Finding]) -> RenderableType:
    """A row a part: its sign, what was found, and under it what to do; then how many of each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=1)
    table.add_column("part", style="bold", no_wrap=True)
    table.add_column("what was found")
    for finding in found:
        sign, style = SIGNS[finding.verdict]
        table.add_row(Text(sign, style=style), Text(finding.name), _said(finding))
    return Group(table, _sum(found))


def _said(finding: Finding) -> RenderableType:
    if finding.verdict == "skipped":
        return Text(": ".join(filter(None, (finding.found, finding.fix))), style="dim")
    return (
        Group(Text(finding.found), Text(finding.fix, style="yellow")) if finding.fix else Text(finding.found)
    )


def _sum(found: Sequence[Finding]) -> Text:
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in SIGNS}
    style = "bold red" if counts["failed"] else "bold yellow" if counts["warning"] else "bold green"
    return Text(
        f"{len(found)} parts: {', '.join(f'{count} {WORDS[name]}' for name, count in counts.items() if count)}.",
        style=style,
    )
