"""`skumatch doctor`: is everything well here, and what to do where it isn't."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from skumatch.config import load_params
from skumatch.config import settings as current_settings
from skumatch.doctor.finding import Finding
from skumatch.errors import Unwell
from skumatch.files import write_json

console = Console()
SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "bold red"), "skipped": ("–", "dim")}


def doctor(output: Annotated[Path | None, typer.Option("--json", help="Write the findings to this file, too.")] = None) -> None:
    """Check this installation: packages, project, disk, GPU, remote, MLflow, Airflow, workers; say what to mend."""
    from skumatch.doctor import installation, servers, storage
    from skumatch.doctor.finding import Place, examine
    from skumatch.progress import track

    settings = current_settings()
    place = Place(settings, load_params(settings.project / "params.yaml"))
    checks = [
        *(("packages", installation.packages), ("project", installation.project), ("secrets", installation.secrets)),
        *(("disk", installation.disk), ("GPU", installation.gpu), ("DVC remote", storage.remote), ("data", storage.data)),
        *(("MLflow", servers.mlflow), ("clocks", servers.clocks), ("Airflow", servers.airflow), ("DAGs", servers.dags)),
        ("workers", servers.workers),
    ]
    found = []
    with track("doctor", len(checks), "checks") as advance:
        for finding in examine(place, checks):
            found.append(finding)
            advance(text=finding.name)
    console.print(_table(found))
    if output:
        write_json(output, [finding.model_dump() for finding in found])
    if ill := [finding.name for finding in found if finding.verdict == "failed"]:
        raise Unwell(f"Not everything is well ({', '.join(ill)}); what to do stands above.")


def _table(found: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", width=1)
    table.add_column("part", style="bold", no_wrap=True)
    table.add_column("what was found")
    for finding in found:
        sign, style = SIGNS[finding.verdict]
        said = Text(finding.found, style="dim" if finding.verdict == "skipped" else "")
        table.add_row(Text(sign, style=style), finding.name, Group(said, Text(finding.fix, style="yellow")) if finding.fix else said)
    return table
