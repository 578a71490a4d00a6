"""`skumatch gc` as a user types it, and as it would look in a year."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from skumatch.cli import app
from tests.cli import NOWHERE, Cli
from tests.pipeline.test_cleanup import whole
from tests.pipeline.world import FUTURE, World, hashes

pytestmark = pytest.mark.live


@pytest.fixture
def cli(world: World) -> Cli:
    return Cli(world.home.project, world.home.home, world.mlflow)


def test_today_there_is_nothing_to_delete_and_nothing_is_written(cli: Cli, world: World) -> None:
    before = hashes(world.root)
    for words in ((), ("--delete",)):
        ended = cli("gc", *words, remote=world.remote)
        assert (ended.code, ended.err) == (0, "") and "There is nothing to delete." in ended.out
        assert hashes(world.root) == before


def test_what_goes_wrong_is_told_and_deletes_nothing(cli: Cli, world: World) -> None:
    before = hashes(world.root)
    cli.refuses(20, "doesn't answer", "gc", "--delete", remote=world.remote, mlflow=NOWHERE)
    cli.refuses(
        42, "knows of no run whose input set is in", "gc", "--delete", remote=world.root / "elsewhere"
    )
    assert cli("gc", "--age", "0", remote=world.remote).code == 2
    assert hashes(world.root) == before


def test_in_a_year_it_shows_then_deletes_and_the_version_is_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {
        "project": world.home.project,
        "home": world.home.home,
        "remote": world.remote,
        "mlflow": world.mlflow,
    }
    for name, value in places.items():
        monkeypatch.setenv(f"SKUMATCH_{name.upper()}", str(value))
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("skumatch.commands.cleanup.time", SimpleNamespace(time=lambda: FUTURE.now))
    runner, report, before = CliRunner(), world.root.parent / "gc.json", hashes(world.root)

    shown = runner.invoke(app, ["gc", "--keep-runs", "30", "--json", str(report)], catch_exceptions=False)
    assert shown.exit_code == 0 and hashes(world.root) == before
    assert (
        "Nothing was deleted. To delete " in shown.output
        and "skumatch gc --age 7 --keep-runs 30 --delete" in shown.output
    )
    tree = json.loads(report.read_text())
    kinds = {kind["kind"]: kind for kind in tree["kinds"]}
    assert (
        tree["deleted"] is False
        and kinds["remote"]["count"] == len(kinds["remote"]["names"]) > 10 < kinds["remote"]["bytes"]
    )

    done = runner.invoke(app, ["gc", "--keep-runs", "30", "--delete"], catch_exceptions=False)
    assert done.exit_code == 0 and "Deleted: " in done.output
    left = hashes(world.root)
    assert (
        before.keys() - left.keys() >= {f"remote/{name}" for name in kinds["remote"]["names"]}
        and left.items() <= before.items()
    )
    whole(world)
    again = runner.invoke(app, ["gc", "--keep-runs", "30", "--delete"], catch_exceptions=False)
    assert "There is nothing to delete." in again.output
