"""The command as a whole: nothing hangs, nothing stays, no secret is shown.

And an installation where all is well.
"""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from rich.console import Console

from skumatch.commands.doctor import findings_table
from skumatch.config import Settings
from skumatch.doctor import servers
from skumatch.doctor.checks import CHECKS
from skumatch.doctor.finding import Finding, PartCheck, Place, Problem, examine
from skumatch.started import recorded
from tests.cli import Cli
from tests.conftest import commit, free_port, wait_until
from tests.doctor.asking import PARAMS, ask
from tests.e2e.live import Live, serving
from tests.proving import IN_PROOF

SERVERS = {"MLflow", "Airflow"}


def test_a_host_that_never_answers_does_not_hold_up_the_others(here: Settings) -> None:
    over = threading.Event()

    def waits(_: Place) -> str:
        over.wait(600)
        raise Problem("late", "never told")

    checks = [
        PartCheck("slow", waits, "See its host.", seconds=0.2),
        PartCheck("quick", lambda _: "well", ""),
    ]
    findings = list(examine(Place(here, PARAMS), checks))
    over.set()
    assert (
        [entry.verdict for entry in findings] == ["failed", "ok"]
        and findings[0].fix == "See its host."
        and "no answer" in findings[0].found
    )


def test_what_rests_on_something_that_failed_is_not_asked(here: Settings) -> None:
    def fails(_: Place) -> str:
        raise OSError(5, "Input/output error", "/somewhere")

    checks = [
        PartCheck("a", fails, "Mend it."),
        PartCheck("b", fails, "", after="a"),
        PartCheck("c", fails, "", after="b"),
        PartCheck("d", lambda _: "well", ""),
    ]
    findings = list(examine(Place(here, PARAMS), checks))
    assert [entry.verdict for entry in findings] == ["failed", "skipped", "skipped", "ok"]
    assert findings[0].found == "Input/output error: /somewhere" and "without a" in findings[1].found


def test_each_part_says_what_to_do_and_rests_on_an_earlier_one() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for number, check in enumerate(CHECKS):
        assert check.cure.endswith(".") and (not check.after or check.after in names[:number]), check.name


def test_the_screen_shows_a_sign_and_what_to_do() -> None:
    findings = [
        Finding(name="disk", verdict="ok", found="53 GiB free"),
        Finding(name="code", verdict="warning", found="it has uncommitted changes [x]", fix="Commit them."),
        Finding(name="MLflow", verdict="failed", found="doesn't answer", fix="Start it."),
        Finding(name="broker", verdict="skipped", found="none is known", fix="Ask elsewhere."),
    ]
    console = Console(file=(file := io.StringIO()), width=80)
    console.print(findings_table(findings))
    lines = [line.split() for line in file.getvalue().splitlines() if line.strip()]
    assert [line[:2] for line in lines[2:-1]] == [
        ["✓", "disk"],
        ["!", "code"],
        ["Commit", "them."],
        ["✗", "MLflow"],
        ["Start", "it."],
        ["–", "broker"],
    ]
    assert (
        "[x]" in file.getvalue()
        and "4 parts: 1 well, 1 to look at, 1 failed, 1 not asked." in file.getvalue()
    )


def test_the_command_says_what_is_wrong_and_keeps_secrets(project: Path, tmp_path: Path) -> None:
    cli, before = Cli(project, tmp_path / "home"), tree(tmp_path)
    places = {name: f"http://ann:s3cr3t@127.0.0.1:{free_port()}" for name in ("airflow", "mlflow")}
    done = cli("doctor", "--json", tmp_path / "found.json", **places)
    assert done.code == 43 and all(name in done.err for name in SERVERS) and done.err.count("\n") == 1
    by_name = {finding["name"]: finding for finding in json.loads((tmp_path / "found.json").read_text())}
    assert [*by_name] == [check.name for check in CHECKS]
    assert {name for name, finding in by_name.items() if finding["verdict"] == "failed"} == SERVERS
    assert all(
        finding["found"][:20] in done.out and finding["fix"][:20] in done.out for finding in by_name.values()
    )
    assert "s3cr3t" not in done.out + done.err + (tmp_path / "found.json").read_text()
    assert tree(tmp_path) - before == {tmp_path / "found.json"}


def test_parameters_that_cannot_be_read_are_one_of_the_findings(project: Path, tmp_path: Path) -> None:
    (project / "params.yaml").write_text("train: {epochs: none}\n")
    done = Cli(project, tmp_path / "home")(
        "doctor", "--json", tmp_path / "found.json", airflow_port=free_port()
    )
    verdict_by_name = {
        entry["name"]: entry["verdict"] for entry in json.loads((tmp_path / "found.json").read_text())
    }
    assert (
        done.code == 43
        and verdict_by_name["parameters"] == "failed"
        and verdict_by_name["GPU"] == "skipped"
        and "Traceback" not in done.err
    )


def tree(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "__pycache__" not in path.parts}


@IN_PROOF
@pytest.mark.live
def test_an_installation_is_well_until_a_server_is_lost(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("doctor")
    with serving(root, "ann:admin") as live:
        assert live.command("data", "import", str(live.delivery)).code == 0
        commit(live.project, "Data")
        before = tree(live.settings.home_dir / "mlflow/artifacts") | tree(live.settings.home_dir / "remote")
        findings, code = examined(live)
        assert code == 0, findings
        ill = {name for name, finding in findings.items() if finding.verdict != "ok"}
        assert ill <= {"broker", "workers", "GPU", "proxy"}, findings
        assert findings["proxy"].verdict == "warning" and "fd00::/8" in findings["proxy"].found
        assert (
            tree(live.settings.home_dir / "mlflow/artifacts") | tree(live.settings.home_dir / "remote")
            == before
        )
        nobody = live.settings.model_copy(update={"airflow_users": None})
        assert "wants a user and password" in ask(servers.airflow, nobody).found
        [scheduler] = [
            server for server in recorded(live.settings.servers_file) if server.name == "scheduler"
        ]
        killed = scheduler.process()
        assert killed
        killed.kill()
        wait_until(lambda: "last heard of its scheduler" in ask(servers.airflow, live.settings).found, 180)
        findings, code = examined(live)
        assert code == 43 and [name for name, entry in findings.items() if entry.verdict == "failed"] == [
            "Airflow"
        ]
        assert "scheduler.log" in findings["Airflow"].fix and findings["DAGs"].verdict == "skipped"


def examined(live: Live) -> tuple[dict[str, Finding], int]:
    file = live.root / "found.json"
    done = live.command("doctor", "--json", str(file))
    findings = [Finding(**entry) for entry in json.loads(file.read_text())]
    return {entry.name: entry for entry in findings}, done.code
