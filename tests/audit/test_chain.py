"""Every link of a true chain holds, and each changed link is named: offline, from the dossier alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from skumatch.audit import recompute
from skumatch.audit.chain import STEPS, linked, links
from skumatch.audit.dossier import Dossier
from skumatch.audit.link import Broken
from skumatch.audit.page import lineage_page
from skumatch.files import read_json, sha256, write_json
from skumatch.pipeline import inputs
from skumatch.stages import split as split_stage
from tests.audit.conftest import ODD_CODE, ODD_SKU
from tests.browser import CHROMIUM, browsing

Change = Callable[[Path], None]


def verdicts(dossier: Dossier) -> dict[str, str]:
    return {link.name: str(link.verdict) for link in links(dossier, verify=True)}


def reason(dossier: Dossier, name: str) -> str:
    """Why one link is broken; looks at no other."""
    (step,) = (step for step in STEPS if step.name == name)
    link = linked(dossier, step, verify=True)
    assert link.verdict == "broken", link
    return link.reason


def broken(dossier: Dossier) -> set[str]:
    return {name for name, verdict in verdicts(dossier).items() if verdict == "broken"}


def edit(path: Path, change: Callable[[Any], None]) -> None:
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def relabel(root: Path) -> None:
    path = root / "workspace/data/manifest.parquet"
    frame = pd.read_parquet(path)
    frame.loc[0, "sku"] = frame["sku"].iloc[-1]
    frame.to_parquet(path, index=False)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def other_index(root: Path) -> None:
    """Other vectors, and a bundle.json that was rewritten to fit."""
    flip(root / "bundle/gallery.parquet")
    digest = sha256(root / "bundle/gallery.parquet")
    edit(root / "bundle/bundle.json", lambda tree: tree["parts"]["gallery.parquet"].update(sha256=digest))


SET = {"inputs", "stages"}  # what else holds an input set's files against the record
# The eight inputs of promise 25: how each is changed, and what else rests on it.
CHANGES: dict[str, tuple[Change, set[str]]] = {
    "commit": (
        lambda root: edit(root / "workspace/inputs/code.json", lambda tree: tree.update(commit="0" * 40)),
        SET | {"decision"},
    ),
    "tree": (
        lambda root: edit(root / "workspace/inputs/code.json", lambda tree: tree.update(dirty=True)),
        SET | {"decision"},
    ),
    "data": (
        lambda root: flip(next((root / "workspace/data/shards").iterdir())),
        {"stages", "validation", "split"},
    ),
    "manifest": (relabel, {"stages", "validation", "split"}),
    "parameters": (lambda root: append(root / "workspace/params.yaml", "\n# more\n"), {"inputs"}),
    "environment": (
        lambda root: append(root / "workspace/requirements/constraints.txt", "left-pad==1.0\n"),
        SET | {"code", "tree"},
    ),
    "weights": (lambda root: flip(root / "workspace/inputs/weights/weights.safetensors"), {"stages"}),
    "index": (other_index, {"bundle", "provenance"}),
}


def test_every_link_of_a_true_chain_holds(collected: Dossier) -> None:
    assert verdicts(collected) == {step.name: "holds" for step in STEPS}
    assert not collected.facts.missing


def test_the_chain_is_of_all_that_a_delivery_may_bring(collected: Dossier) -> None:
    """Pictures set aside, catalogue, groups, copies, many scripts, a project in a larger repository."""
    sentence_by_link = {link.name: link.said for link in links(collected, verify=False)}
    assert sentence_by_link["validation"]["set aside"] == "1 tiny, 1 truncated"
    assert sentence_by_link["split"]["duplicates"].startswith("18 of equal pixels, 36 nearly so")
    assert (
        sentence_by_link["manifest"]["pictures"].endswith("9 catalogue")
        and sentence_by_link["manifest"]["SKUs"] == "10"
    )
    manifest = pd.read_parquet(collected.path("workspace/data/manifest.parquet"))
    assert ODD_SKU in set(manifest["sku"])
    assert read_json(collected.path("workspace/data/import.json"))["groups"]
    assert set(ODD_CODE) <= set(inputs.code_of(collected.path("workspace/inputs.tar")))
    assert collected.code.folder == "apps/shelf/"


@pytest.mark.parametrize("name", CHANGES)
def test_an_input_that_was_changed_alone_is_named(dossier: Dossier, name: str) -> None:
    change, others = CHANGES[name]
    change(dossier.folder)
    broken_links = broken(dossier)
    assert name in broken_links and broken_links - {name} <= others


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("commit", lambda tree: tree["registered"]["tags"].update({"skumatch.commit": "0" * 40})),
        ("version", lambda tree: tree["registered"]["tags"].update({"skumatch.lineage": "0" * 64})),
        ("version", lambda tree: tree["registered"]["tags"].update({"skumatch.verdict": "first"})),
        ("manifest", lambda tree: tree["registered"]["tags"].update({"skumatch.data": "0.dir"})),
        ("journal", lambda tree: tree["registered"].update(champion=1)),
        ("journal", lambda tree: tree["journal"].pop(0)),
        ("journal", lambda tree: tree["journal"].reverse()),
        ("journal", lambda tree: tree["journal"][0]["asked"].update(who="someone else")),
        ("bundle", lambda tree: tree["registered"].update(bundle="0" * 64)),
        ("evaluation", lambda tree: tree["registered"]["tags"].update({"skumatch.top1": "0.123456"})),
        ("evaluation", lambda tree: tree["run"]["metrics"].update({"challenger.top1": 1.25})),
        ("evaluation", lambda tree: tree["run"]["metrics"].pop("refreshed.top1")),
        ("parameters", lambda tree: tree["run"]["params"].update({"train.epochs": "99"})),
        ("parameters", lambda tree: tree["run"]["params"].pop("seed")),
    ],
)
def test_what_the_registry_says_otherwise_is_named(
    dossier: Dossier, name: str, change: Callable[[Any], None]
) -> None:
    edit(dossier.path("dossier.json"), change)
    assert reason(dossier, name)


def test_a_decision_that_does_not_follow_is_named_even_where_every_hash_was_made_to_fit(
    dossier: Dossier,
) -> None:
    """Someone rewrites decision, record, tag and lock: the gate still decides otherwise."""
    for path in (dossier.path("workspace/out/gate/decision.json"), dossier.path("run/gate/decision.json")):
        edit(path, lambda tree: tree["gain"].update(estimate=tree["gain"]["estimate"] - 0.25))
    digest = sha256(dossier.path("run/gate/decision.json"))
    edit(dossier.path("run/lineage.json"), lambda tree: tree["results"].update(decision=digest))
    edit(
        dossier.path("dossier.json"),
        lambda tree: tree["registered"]["tags"].update(
            {"skumatch.lineage": sha256(dossier.path("run/lineage.json"))}
        ),
    )
    reasons = {link.name: link.reason for link in links(dossier, verify=True) if link.verdict == "broken"}
    assert "decision.json comes out otherwise when it is computed again" in reasons["decision"]
    assert "version" not in reasons


def test_figures_that_do_not_follow_from_the_ranked_lists_are_named(dossier: Dossier) -> None:
    paths = [dossier.path(place, "evaluate/challenger.json") for place in ("workspace/out", "run")]
    top1 = read_json(paths[0])["top1"]
    for path in paths:
        edit(path, lambda tree: tree.update(top1=top1 / 2))
    digest = sha256(dossier.path("run/evaluate/challenger.json"))
    edit(dossier.path("run/lineage.json"), lambda tree: tree["results"].update(challenger=digest))
    assert reason(dossier, "evaluation").startswith(
        f"top1 of the challenger is {top1 / 2}, from its ranked lists it is {top1}"
    )


def test_a_stage_that_read_another_out_than_was_made_is_named(dossier: Dossier) -> None:
    for path in (dossier.path("run/dvc.lock"), dossier.path("workspace/dvc.lock")):
        tree = yaml.safe_load(path.read_text("utf-8"))
        next(dep for dep in tree["stages"]["gate"]["deps"] if dep["path"] == "out/evaluate")["md5"] = "0.dir"
        path.write_text(yaml.safe_dump(tree), "utf-8")
    assert reason(dossier, "stages") == "stage gate of dvc.lock isn't as recorded"


@pytest.mark.parametrize("part", ["bundle", "run", "workspace/out", "workspace/data", "git", "data.dir.json"])
def test_a_part_that_is_gone_never_ends_the_audit(dossier: Dossier, part: str) -> None:
    path = dossier.path(part)
    moved = path.rename(path.with_name("elsewhere"))
    verdict_by_link = verdicts(dossier)
    assert moved.exists() and len(verdict_by_link) == len(STEPS) and set(verdict_by_link.values()) - {"holds"}


def test_without_pictures_what_needs_them_cant_be_checked_and_the_rest_holds(dossier: Dossier) -> None:
    (dossier.path("workspace/data/shards")).rename(dossier.path("shards"))
    verdict_by_link = verdicts(dossier)
    assert {name for name, verdict in verdict_by_link.items() if verdict == "unchecked"} == {
        "split",
        "validation",
        "data",
    }
    assert set(verdict_by_link.values()) == {"holds", "unchecked"}


def test_nothing_is_judged_unless_asked_but_all_is_told(collected: Dossier) -> None:
    links_by_name = {link.name: link for link in links(collected, verify=False)}
    assert {link.verdict for link in links_by_name.values()} == {None} and all(
        link.said or link.hash for link in links_by_name.values()
    )
    assert "not readable" not in {name for link in links_by_name.values() for name in link.said}
    assert (
        "train: " in links_by_name["stages"].said["machines"]
        and " cores" in links_by_name["stages"].said["machines"]
    )
    assert links_by_name["stages"].said["training"].startswith("last epoch: loss ")
    assert links_by_name["journal"].said and links_by_name["decision"].said["verdict"] == "promote"


def test_the_page_shows_every_link_and_escapes_what_others_wrote(dossier: Dossier, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    edit(dossier.path("dossier.json"), lambda tree: tree["registered"].update(model=nasty))
    page = lineage_page(dossier.facts, links(dossier, verify=True))
    assert (
        nasty not in page
        and "&lt;script&gt;" in page
        and "<script" not in page
        and "http://www.w3" not in page
    )
    assert all(f'id="{step.name}"' in page and f'href="#{step.name}"' in page for step in STEPS)
    assert page.count('class="node holds"') == len(STEPS)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
def test_the_page_fits_every_screen_and_loads_nothing(collected: Dossier, tmp_path: Path) -> None:
    page = tmp_path / "lineage.html"
    page.write_text(lineage_page(collected.facts, links(collected, verify=True)), "utf-8")
    with browsing(tmp_path / "profile") as browser:
        for width, media in ((1280, "screen"), (390, "screen"), (718, "print")):
            browser.open(page, width, media)
            assert browser.value("document.documentElement.scrollWidth") <= width, (width, media)
            assert browser.requests == [page.as_uri()]
            assert not browser.methods & {"Runtime.exceptionThrown", "Log.entryAdded"}


def test_a_dossier_reads_as_json_only_where_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "dossier.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(Exception, match="can't be read as a dossier's facts"):
        links(Dossier(tmp_path), verify=True)[0]
        _ = Dossier(tmp_path).facts


def test_parameters_that_this_version_cant_read_leave_unchecked_what_needs_them(dossier: Dossier) -> None:
    """A parameter that a later version removed is no tampering.

    The links that hash the file report its change here.
    """
    path = dossier.path("workspace/params.yaml")
    path.write_text(path.read_text("utf-8") + "retired: {knob: 1}\n", "utf-8")
    links_by_name = {link.name: link for link in links(dossier, verify=True)}
    for name in ("decision", "evaluation", "split", "validation"):
        assert (
            links_by_name[name].verdict == "unchecked" and "can't be read here" in links_by_name[name].reason
        ), name
    assert links_by_name["parameters"].verdict == links_by_name["inputs"].verdict == "broken"


def test_two_versions_of_the_same_data_are_split_once(
    dossier: Dossier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process splits the same bytes with the same parameters once, and changed ones anew."""
    runs: list[Path] = []
    run = split_stage.run
    monkeypatch.setattr(split_stage, "run", lambda root, params: (runs.append(root), run(root, params)))
    monkeypatch.setattr(recompute, "_MADE", {})
    for _ in range(2):
        assert recompute.stage(dossier, "split") == "computed again, the same"
    assert len(runs) == 1
    (dossier.workspace / "out/validate/more.json").write_text("{}")
    recompute.stage(dossier, "split")
    assert len(runs) == 2
    path = dossier.workspace / "params.yaml"
    path.write_text(re.sub("^seed: .*", "seed: 12345", path.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
    with pytest.raises(Broken, match="comes out otherwise"):
        recompute.stage(Dossier(dossier.folder), "split")
    assert len(runs) == 3
