"""The stage validate in a workspace: its outputs when data passes, and when it doesn't."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from skumatch.data.delivery.importer import import_data
from skumatch.data.validation.drift import read_baseline
from skumatch.errors import ValidationFailed
from skumatch.files import read_json, write_json
from skumatch.stages import runner
from tests.conftest import ROOT, Delivery, draw

SKU = "太太乐鸡精 <script>alert(1)</script>".replace("/", "∕")


@pytest.fixture
def workspace(delivery: Delivery, tmp_path: Path) -> Path:
    """A data version of six SKUs, and its own profile as the version before."""
    root = tmp_path / "workspace"
    folder = delivery(skus=5, train=4, test=2)
    for side, count in (("train", 4), ("test", 2)):
        for number in range(count):
            draw(folder / "all" / side / SKU / f"{number}.png", f"{SKU} {side} {number}")
    import_data(folder, root / "data")
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    return root


def outs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "out/validate").iterdir()}


def refused(root: Path) -> dict[str, Any]:
    with pytest.raises(ValidationFailed):
        runner.run("validate", root)
    return dict(read_json(root / runner.ERROR))


def test_data_that_passes_leaves_results_profile_and_docs_the_same_each_time(workspace: Path) -> None:
    runner.run("validate", workspace)
    first = outs(workspace)
    runner.run("validate", workspace)
    assert outs(workspace) == first and set(first) == {"validation.json", "profile.json", "docs.html"}
    tree = read_json(workspace / "out/validate/validation.json")
    assert {record["name"] for record in tree["expectations"]} >= {"conflicts", "bytes"} and not any(
        record["name"].startswith("drift") for record in tree["expectations"]
    )
    assert (
        "There is no earlier version" in first["docs.html"].decode()
        and not (workspace / runner.PAGES).exists()
    )


def test_its_profile_is_the_next_version_s_baseline(workspace: Path) -> None:
    runner.run("validate", workspace)
    write_json(
        workspace / "inputs/baseline.json", {"baseline": read_json(workspace / "out/validate/profile.json")}
    )
    assert read_baseline(workspace / "inputs/baseline.json")
    runner.run("validate", workspace)
    tree = read_json(workspace / "out/validate/validation.json")
    assert {"drift-removed", "drift-size"} <= {record["name"] for record in tree["expectations"]}
    assert "Compared with the version before" in (workspace / "out/validate/docs.html").read_text("utf-8")


def test_data_that_fails_leaves_a_page_and_a_sentence_that_names_it_and_no_out(workspace: Path) -> None:
    runner.run("validate", workspace)
    shard = next((workspace / "data/shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    error = refused(workspace)
    page = workspace / "log/pages/validation.html"
    assert (error["kind"], error["exit_code"], error["retry"]) == ("ValidationFailed", 13, False)
    assert (
        "the bytes of every image are those that were imported" in error["sentence"].lower()
        and str(page) in error["sentence"]
    )
    assert "The data did not pass" in page.read_text("utf-8") and not (workspace / "out/validate").exists()


def test_a_script_bearing_sku_is_shown_and_named_as_text(workspace: Path) -> None:
    text = (workspace / "params.yaml").read_text("utf-8")
    (workspace / "params.yaml").write_text(text.replace("min_images_per_sku: 2 ", "min_images_per_sku: 5 "))
    error = refused(workspace)
    page = (workspace / "log/pages/validation.html").read_text("utf-8")
    assert SKU in error["sentence"] or "sku 0" in error["sentence"]
    assert "太太乐鸡精 &lt;script&gt;" in page and "<script" not in page and "data:image/jpeg;base64," in page


def test_the_page_of_an_earlier_failure_is_gone_when_the_data_passes(workspace: Path) -> None:
    text = (workspace / "params.yaml").read_text("utf-8")
    (workspace / "params.yaml").write_text(text.replace("min_skus: 2 ", "min_skus: 9 "))
    refused(workspace)
    (workspace / "params.yaml").write_text(text)
    runner.run("validate", workspace)
    assert not (workspace / runner.PAGES).exists()
