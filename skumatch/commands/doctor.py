"""`skumatch doctor`: checks of an installation, with advice on what to mend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from skumatch.config import settings as current_settings
from skumatch.errors import Unwell
from skumatch.files import write_json

console = Console()


def doctor(
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the findings to this file, too.")
    ] = None,
) -> None:
    """Check packages, project, disk, GPU, remote, MLflow, Airflow and workers, and say what to mend."""
    from skumatch.doctor.checks import CHECKS
    from skumatch.doctor.finding import Place, examine
    from skumatch.doctor.screen import findings_table
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
