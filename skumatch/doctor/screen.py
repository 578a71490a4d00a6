"""Terminal output of the findings."""

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


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Return a table with one row per part (verdict, state, remedy), and the number of each verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=1)
    table.add_column("part", style="bold", no_wrap=True)
    table.add_column("what was found")
    for finding in findings:
        sign, style = SIGNS[finding.verdict]
        table.add_row(Text(sign, style=style), Text(finding.name), _said(finding))
    return Group(table, _sum(findings))


def _said(finding: Finding) -> RenderableType:
    if finding.verdict == "skipped":
        return Text(": ".join(filter(None, (finding.found, finding.fix))), style="dim")
    return (
        Group(Text(finding.found), Text(finding.fix, style="yellow")) if finding.fix else Text(finding.found)
    )


def _sum(findings: Sequence[Finding]) -> Text:
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in SIGNS}
    style = "bold red" if counts["failed"] else "bold yellow" if counts["warning"] else "bold green"
    words = ", ".join(f"{count} {WORDS[name]}" for name, count in counts.items() if count)
    return Text(f"{len(findings)} parts: {words}.", style=style)
