"""`skumatch models | promote | rollback` as a release manager types them, against a real MLflow server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from skumatch.bundle import LabelledVectors, write_bundle
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams
from skumatch.registry.registry import CHALLENGER, COMPARED_TAG, ENCODER_TAG, RELEASE_TAG, Registry
from tests.cli import Cli
from tests.conftest import free_port, serving_mlflow
from tests.pipeline.middleman import Middleman, between

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_mlflow(tmp_path_factory.mktemp("mlflow"), free_port()) as url:
        yield url


@pytest.fixture(scope="module")
def registry(url: str, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version 1 was first; 2 and 3 were compared with 1, and 4 with an unknown version."""
    registry, root = Registry(url), tmp_path_factory.mktemp("bundles")
    run = registry.log_run("run", {}, {}, {}, {})
    torch.manual_seed(0)
    encoders.save(
        encoders.build(EncoderParams(model="smoke", weights="none", height=32, width=32), None).eval(), root
    )
    vectors = torch.nn.functional.normalize(torch.randn(4, encoders.load(root).dim), dim=1).numpy()
    gallery = LabelledVectors([f"train/{i}" for i in range(4)], ["a", "a", "b", "b"], vectors)
    for number, compared in enumerate(("none", "1", "1", None)):
        folder = root / f"bundle-{number}"
        write_bundle(folder, root, gallery, {"similarity": number / 10}, [])
        tags = {"skumatch.top1": "0.9"} | ({COMPARED_TAG: compared} if compared else {})
        registry.register(folder, run, tags, "")
    return registry


@pytest.fixture(scope="module")
def cli(url: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("release"), url)


@pytest.fixture
def recording(url: str) -> Iterator[Middleman]:
    with between(url) as server:
        yield server


def champion(registry: Registry) -> int | None:
    version = registry.champion()
    return version.version if version else None


def test_a_release_from_the_first_to_the_rollback(cli: Cli, registry: Registry, recording: Middleman) -> None:
    assert cli("models", "--history").out == "Nothing was promoted yet.\n"
    cli.refuses(17, "No earlier champion is left", "rollback")
    cli.refuses(17, "has no challenger", "promote")
    cli.refuses(18, "There is no champion now, but version 2 was compared with version 1", "promote", "2")
    cli.refuses(40, "Nothing says which champion version 4 was compared with", "promote", "4")
    registry.set_alias(CHALLENGER, 1)
    dry = cli("promote", "--dry-run", mlflow=recording.url)
    assert "Version 1 would be the champion" in dry.out and champion(registry) is None
    first = cli("promote", "--why", "it passed the gate")
    assert (first.code, first.err) == (0, "") and "Version 1 is the champion (bundle" in first.out
    assert "in place of version 1" in cli("promote", "2").out and champion(registry) == 2
    cli.refuses(
        18,
        "The champion is now version 2, but version 3 was compared with version 1; retrain",
        "promote",
        "3",
    )
    cli.refuses(17, "Version 3 never was champion", "rollback", "3")
    for words, phrase in (
        (("promote", "3"), "version 3 was compared with version 1; retrain"),
        (("promote", "2"), "champion already"),
    ):
        cli.refuses(18, phrase, *words, "--dry-run", mlflow=recording.url)
    cli.refuses(
        40,
        "Nothing says which champion version 4 was compared with",
        "promote",
        "4",
        "--dry-run",
        mlflow=recording.url,
    )
    dry = cli("rollback", "--dry-run", mlflow=recording.url)
    assert "would be the champion again" in dry.out and champion(registry) == 2
    assert len(recording.asked) > 10 and recording.writes == []
    back = cli("rollback", "--why", "it mistakes [b]cola[/b] for tea", mlflow=recording.url)
    assert recording.writes, "a write would have been seen"
    assert (back.code, back.err) == (0, "") and champion(registry) == 1
    bundle = registry.resolve("1").bundle[:12]
    assert (
        back.out == f"Version 1 is the champion again, in place of version 2 (bundle {bundle}, verified).\n"
    )
    cli.refuses(17, "Version 1 is the champion already", "rollback", "1")
    ended = cli("models", "--history")
    assert (
        ended.code == 0
        and "The chain of 5 entries holds" in ended.out
        and "it mistakes [b]cola[/b] for tea" in ended.out
    )
    outcomes = [
        [word.strip() for word in line.split("│")[1:6]]
        for line in ended.out.splitlines()
        if line.startswith("│")
    ]
    assert [(row[2], row[3], row[4]) for row in outcomes] == [
        ("promote 2", "stale", "none"),
        ("promote 1", "done", "1"),
        ("promote 2", "done", "2"),
        ("promote 3", "stale", "2"),
        ("rollback 1", "done", "1"),
    ]
    assert "challenger" in cli("models").out


def test_a_gallery_and_a_model_need_their_own_approval(cli: Cli, registry: Registry) -> None:
    """Each kind needs its own; a comparison outdated only by a new gallery doesn't advise to train."""
    with registry.client() as client:
        for number in (1, 2, 3):
            client.set_model_version_tag(
                registry.model_name, str(number), ENCODER_TAG, "a" * 64 if number < 3 else "b" * 64
            )
        client.set_model_version_tag(registry.model_name, "2", RELEASE_TAG, "1")
    assert champion(registry) == 1
    path = cli.project / "params.yaml"
    before = path.read_text("utf-8")
    for name, version, other in (("approval", "3", "2"), ("approval_refresh", "2", "3")):
        path.write_text(before.replace(f"  {name}: none", f"  {name}: required"), "utf-8")
        cli.refuses(40, f"approval (release.{name})", "promote", version)
        assert cli("promote", other, "--dry-run").code == 0
    path.write_text(before, "utf-8")
    assert cli("promote", "2").code == 0
    cli.refuses(
        18,
        "gallery changed since version 3 was compared; `skumatch refresh --encoder 3`",
        "promote",
        "3",
        "--dry-run",
    )
    cli.refuses(
        18, "gallery changed since version 3 was compared; `skumatch refresh --encoder 3`", "promote", "3"
    )
    assert champion(registry) == 2


def test_audit_says_when_a_product_could_be_named(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    ended = cli("audit", "--sku", "B", "--json", tmp_path / "uses.json")
    assert ended.code == 0 and "Nameable by what served: from " in ended.out
    assert re.search(r" until now, by versions 1(, 2)? and \d \(UTC\)\.", ended.out)
    [served] = json.loads((tmp_path / "uses.json").read_text("utf-8"))["served"]
    assert (served["until"], served["reason"]) == (None, "") and 1 in served["versions"]
    assert "It could never be named by what served." in cli("audit", "--sku", "c").out


def test_a_champion_moved_by_hand_is_mended_and_acknowledged(cli: Cli, registry: Registry) -> None:
    number = champion(registry)
    with registry.client() as client:
        client.delete_registered_model_alias(registry.model_name, "champion")
    gone = f"skumatch has no champion now: the alias of version {number} was removed in MLflow"
    cure = f"`skumatch rollback` makes version {number} the champion again"
    assert f"{gone[0].upper()}{gone[1:]}; {cure}.\n" in cli("models").out
    cli.refuses(17, f"{gone}; {cure}", "audit", "champion")
    assert "`skumatch audit acknowledge` records why" in cli("rollback").out
    assert champion(registry) == number
    broken = cli("models", "--history").out
    assert "✗ After entry" in broken and "entries holds" not in broken
    cli.refuses(10, "An explanation is needed", "audit", "acknowledge", "--why", " ")
    done = cli("audit", "acknowledge", "--why", "I cleaned up the [b]wrong[/b] model")
    assert (
        done.code == 0 and "in entry" in done.out and ": I cleaned up the [b]wrong[/b] model.\n" in done.out
    )
    whole = cli("models", "--history").out
    assert "entries holds" in whole and "acknowledged by" in whole
    cli.refuses(17, "there is nothing to acknowledge", "audit", "acknowledge", "--why", "again")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    printed = " ".join(cli("audit", "--at", today).out.replace("│", " ").split())
    assert "acknowledged by" in printed
    with registry.client() as client:
        client.delete_registered_model_alias(registry.model_name, "champion")
    cli.refuses(41, "now it is none: it was moved outside the journal", "audit", "--at", today)
