"""`skumatch doctor`: checks of an installation, with advice on what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from skumatch.commands.options import written
from skumatch.config import settings as current_settings
from skumatch.doctor.finding import Finding
from skumatch.errors import Unwell
from skumatch.files import write_json
from skumatch.texts import counted

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
    return Text(f"{counted(len(findings), 'part')}: {words}.", style=style)


console = Console()


def doctor(
    output: Annotated[Path | None, written("--json", "Write the same facts as JSON to this file.")] = None,
) -> None:
    """Check packages, project, disk, GPU, remote, MLflow, Airflow and workers, and say what to mend.

    Exit code 43: a part doesn't work.
    """
    from skumatch.doctor.checks import CHECKS
    from skumatch.doctor.finding import Place, examine
    from skumatch.progress import track

    findings = []
    with track("doctor", len(CHECKS), "checks") as advance:
        for finding in examine(Place(current_settings()), CHECKS):
            findings.append(finding)
            advance(text=finding.name)
    console.print(findings_table(findings), highlight=False)
    if output:
        write_json(output, [finding.model_dump() for finding in findings])
    if ill := [finding.name for finding in findings if finding.verdict == "failed"]:
        raise Unwell(f"Not everything is well ({', '.join(ill)}); what to do stands above.")
