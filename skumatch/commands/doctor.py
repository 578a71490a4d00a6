"""`skumatch doctor`: is everything well here, and what to do where it isn't."""

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
    """Check this installation: packages, project, disk, GPU, remote, MLflow, Airflow, workers.

    Say what to mend.
    """
    from skumatch.doctor.checks import CHECKS
    from skumatch.doctor.finding import Place, examine
    from skumatch.doctor.screen import findings_table
    from skumatch.progress import track

    found = []
    with track("doctor", len(CHECKS), "checks") as advance:
        for finding in examine(Place(current_settings()), CHECKS):
            found.append(finding)
            advance(text=finding.name)
    console.print(findings_table(found), highlight=False)
    if output:
        write_json(output, [finding.model_dump() for finding in found])
    if ill := [finding.name for finding in found if finding.verdict == "failed"]:
        raise Unwell(f"Not everything is well ({', '.join(ill)}); what to do stands above.")
