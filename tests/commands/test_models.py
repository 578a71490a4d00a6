"""`skumatch evaluate` and `skumatch match`: any encoder on any folder, no pipeline.

The JSON is a form others rely on.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from rich.console import Console

from skumatch.bundle import LabelledVectors, bundle_hash, write_bundle
from skumatch.commands import release
from skumatch.commands.release import versions_table
from skumatch.data.delivery.archives import folder_images
from skumatch.files import sha256
from skumatch.model import encoder as encoders
from skumatch.model.embed import embed
from skumatch.params import EncoderParams, RuntimeParams
from skumatch.registry.gate_figures import FIGURES_TAG, ChampionGain, GateFigures
from skumatch.registry.registry import ENCODER_TAG, RELEASE_TAG, TOP1_TAG, ModelRef
from skumatch.registry.tracking import DATA_TAG
from tests.cli import Cli
from tests.conftest import draw, make_shelf

SKUS, TRAIN, TEST = 4, 2, 2


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"), SKUS, TRAIN, TEST)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    folder, source = tmp_path_factory.mktemp("bundle") / "model", tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    encoders.save(
        encoders.build(EncoderParams(model="smoke", weights="none", height=64, width=64), None).eval(), source
    )
    images = folder_images(shelf, "train")
    vectors = embed(encoders.load(source), images, 8, RuntimeParams(device="cpu", threads=1), "gallery")
    write_bundle(folder, source, LabelledVectors(images.ids, images.skus, vectors), {}, images.ids)
    return folder


def test_the_json_of_an_evaluation_keeps_its_form(cli: Cli, shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / "figures" / "one.json"
    ended = cli(
        "evaluate", "--data", shelf, "--model", "frozen:smoke@none", "--protocol", "full", "--json", path
    )
    assert (ended.code, ended.err) == (0, "")
    tree = json.loads(path.read_text("utf-8"))
    assert {name: type(value).__name__ for name, value in tree.items()} == {
        "protocol": "str",
        "n": "int",
        "without_partner": "int",
        "skus": "int",
        "top1": "float",
        "top3": "float",
        "top5": "float",
        "image_top1": "float",
        "image_top3": "float",
        "image_top5": "float",
        "macro_top1": "float",
        "interval": "dict",
        "hashes": "dict",
        "near_duplicate_free": "NoneType",
        "map_r": "float",
        "r_precision": "float",
        "mrr": "float",
        "slices": "list",
        "scorers": "dict",
        "unknown": "NoneType",
    }
    assert set(tree["interval"]) == {"top1", "top3", "top5", "confidence", "method", "clusters"}
    assert all(len(tree["interval"][name]) == 2 for name in ("top1", "top3", "top5"))
    assert set(tree["hashes"]) == {"gallery", "queries", "encoder"}
    assert (tree["protocol"], tree["n"], tree["skus"], tree["without_partner"]) == (
        "full",
        SKUS * TEST,
        SKUS,
        1,
    )
    assert 0 <= tree["top1"] <= tree["top3"] <= tree["top5"] <= 1
    assert (
        f"top-1 {100 * tree['top1']:.1f} %" in ended.out and "1 without a gallery image left out" in ended.out
    )
    assert f"R-precision              {100 * tree['r_precision']:.1f} %" in ended.out and all(
        entry["about"] in ended.out for entry in tree["slices"]
    )


@pytest.mark.parametrize(("protocol", "queries"), [("test_loo", SKUS * TEST), ("k5", 10 * SKUS * TEST)])
def test_other_protocols_can_be_asked_of_a_folder(
    cli: Cli, shelf: Path, tmp_path: Path, protocol: str, queries: int
) -> None:
    path = tmp_path / "one.json"
    ended = cli(
        "evaluate", "--data", shelf, "--model", "frozen:smoke@none", "--protocol", protocol, "--json", path
    )
    assert (ended.code, ended.err) == (0, "")
    tree = json.loads(path.read_text("utf-8"))
    assert (tree["protocol"], tree["n"]) == (protocol, queries)


def test_catalogue_pictures_of_a_folder_are_a_gallery_of_their_own(
    cli: Cli, shelf: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "with catalogue"
    shutil.copytree(shelf, folder)
    refused = cli("evaluate", "--data", folder, "--model", "frozen:smoke@none", "--protocol", "catalogue")
    assert refused.code == 11 and "all/catalogue" in refused.err
    for sku in range(SKUS - 1):
        draw(folder / f"all/catalogue/sku {sku}/front.png", f"sku {sku}")
    path = tmp_path / "one.json"
    assert (
        cli(
            "evaluate",
            "--data",
            folder,
            "--model",
            "frozen:smoke@none",
            "--protocol",
            "catalogue",
            "--json",
            path,
        ).code
        == 0
    )
    tree = json.loads(path.read_text("utf-8"))
    assert (tree["protocol"], tree["n"], tree["without_partner"]) == (
        "catalogue",
        (SKUS - 1) * TEST,
        TEST + 1,
    )


def test_an_unknown_protocol_is_refused_with_those_there_are(cli: Cli, shelf: Path) -> None:
    ended = cli("evaluate", "--data", shelf, "--model", "frozen:smoke@none", "--protocol", "k10")
    assert (
        ended.code == 11
        and "no protocol 'k10'" in ended.err
        and "full, k5, test_loo, unseen, catalogue" in ended.err
    )


def test_an_evaluation_names_what_was_judged(cli: Cli, shelf: Path, bundle: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert (
            cli("evaluate", "--data", shelf, "--model", bundle, "--json", tmp_path / f"{name}.json").code == 0
        )
    first = (tmp_path / "one.json").read_text("utf-8")
    assert first == (tmp_path / "two.json").read_text("utf-8")
    hashes = json.loads(first)["hashes"]
    assert hashes["encoder"] == sha256(bundle / "encoder/encoder.safetensors")
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values())


def test_a_bundles_folder_matches_pictures(cli: Cli, shelf: Path, bundle: Path) -> None:
    before = bundle_hash(bundle)
    pictures = [shelf / f"all/train/sku {sku}/0.png" for sku in range(SKUS)]
    ended = cli("match", *pictures, "--model", bundle, "--top-k", "3", "--json")
    assert ended.code == 0 and ended.err.startswith("The model has no thresholds")
    tree = json.loads(ended.out)
    assert [matches[0]["sku"] for matches in tree] == [f"sku {sku}" for sku in range(SKUS)]
    for matches in tree:
        assert len({match["sku"] for match in matches}) == len(matches) == 3
        assert set(matches[0]) == {"sku", "similarity", "gallery_id", "unknown"}
        assert matches[0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert [match["similarity"] for match in matches] == sorted(
            (match["similarity"] for match in matches), reverse=True
        )
    assert bundle_hash(bundle) == before


def test_matches_are_shown_as_a_table_for_each_picture(cli: Cli, shelf: Path, bundle: Path) -> None:
    ended = cli("match", shelf / "all/test/sku 2/3.png", "--model", bundle, "--top-k", "2")
    assert ended.code == 0 and ended.err.startswith("The model has no thresholds")
    assert "similarity" in ended.out and "train/sku 2/" in ended.out


def version(number: int, aliases: tuple[str, ...] = (), **tags: str) -> ModelRef:
    """A version with a bundle's hash of its own, of 2026-11-02 12:00."""
    created = datetime(2026, 11, 2, 12, tzinfo=UTC)
    return ModelRef(
        number,
        f"{number:064x}"[::-1],
        "run",
        created,
        aliases,
        {TOP1_TAG: "0.9671", DATA_TAG: "d" * 36} | tags,
    )


@pytest.mark.parametrize("width", [80, 100])
def test_models_shows_each_kind_and_encoder_on_a_narrow_terminal(width: int) -> None:
    refreshed = {ENCODER_TAG: "a" * 64, RELEASE_TAG: "1"}
    versions = [
        version(3, ("challenger",), **{ENCODER_TAG: "b" * 64}),
        version(2, ("champion", "previous", "refreshed"), **refreshed),
        version(1),
    ]
    console = Console(file=(file := io.StringIO()), width=width)
    console.print(versions_table(versions))
    lines = [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    rows = {row[0]: row for row in cells if row[0].isdecimal()}
    assert rows["3"][1:5] == ["model", "bbbbbb", "challenger", "96.7 %"]
    assert rows["2"][1:3] == ["gallery of 1", "aaaaaa"] and "champion" in rows["2"][3]
    assert rows["1"][1:4] == ["model", "-", "-"], "a version of before has no encoder's tag"
    assert all(row[-1].startswith("2026-11-02") for row in rows.values())
    assert file.getvalue().count("data dddddd") == 3
    assert max(map(len, lines)) <= width and "…" not in file.getvalue()


class NoServer:
    """A registry with two versions, and no server."""

    def versions(self) -> list[ModelRef]:
        created = datetime(2026, 11, 2, 8, tzinfo=UTC)
        tags = {TOP1_TAG: "0.967", DATA_TAG: "d" * 32, ENCODER_TAG: "a" * 64, RELEASE_TAG: "1"}
        return [
            ModelRef(2, "b" * 64, "r2", created, ("champion", "refreshed"), tags),
            ModelRef(1, "c" * 64, "r1", created),
        ]


def test_the_json_of_models_keeps_its_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(release, "_registry", lambda settings: NoServer())
    release.models(as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {
            "version": 2,
            "kind": "gallery",
            "gallery_of": 1,
            "encoder": "a" * 64,
            "aliases": ["champion", "refreshed"],
            "top1": 0.967,
            "bundle": "b" * 64,
            "data": "d" * 32,
            "created": "2026-11-02T08:00:00+00:00",
            "erased": None,
            "figures": None,
        },
        {
            "version": 1,
            "kind": "model",
            "gallery_of": None,
            "encoder": None,
            "aliases": [],
            "top1": None,
            "bundle": "c" * 64,
            "data": None,
            "created": "2026-11-02T08:00:00+00:00",
            "erased": None,
            "figures": None,
        },
    ]


def measured(number: int, queries: str, gain: ChampionGain | None) -> ModelRef:
    figures = GateFigures(
        protocol="full",
        data=str(number) * 36,
        gallery="g" * 64,
        queries=queries,
        n=1234,
        skus=300,
        top1=0.651,
        low=0.61,
        high=0.69,
        gain=gain,
    )
    return version(number, **{FIGURES_TAG: figures.model_dump_json()})


def test_models_shows_what_the_gate_measured_and_invites_no_other_comparison() -> None:
    model = ChampionGain(champion=1, figure="top-1", before=0.606, after=0.651, lower=0.012, confidence=0.98)
    gallery = ChampionGain(champion=2, figure="right answers", before=0.9, after=0.895)
    versions = [measured(3, "b", gallery), measured(2, "b", model), measured(1, "a", None), version(9)]

    def text(refs: list[ModelRef]) -> str:
        console = Console(file=(file := io.StringIO()), width=140)
        console.print(versions_table(refs))
        return " ".join(file.getvalue().split())

    whole = text(versions)
    for words in ("65.1 %", "61.0 to 69.0", "data 222222", "+4.5", "over 1", "at least", "+1.2", "full"):
        assert words in whole
    assert "-0.5" in whole and "over 2" in whole and "answers" in whole and "the first" in whole
    assert "recorded" in whole and "they can't be compared" in whole
    assert "can't be compared" not in text(versions[:2]), "these were asked the same queries"
