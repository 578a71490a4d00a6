"""Damaged or forged parts are broken; only parts of an unreachable store can't be checked.

No damage ends in a traceback.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skumatch.audit import uses
from skumatch.audit.chain import STEPS, ChainStep, linked, links
from skumatch.audit.collect import collect
from skumatch.audit.diff import diff
from skumatch.audit.dossier import ORIGIN, RUN, Dossier, Missing
from skumatch.audit.link import Broken, Link, Unchecked
from skumatch.audit.page import lineage_page
from skumatch.audit.screen import chain_table
from skumatch.config import Settings
from skumatch.errors import DataError, ParameterError, StorageError
from skumatch.files import sha256, write_json
from skumatch.lineage import provenance
from skumatch.pipeline.repository import Repository
from skumatch.registry.journal import HEAD
from skumatch.registry.registry import Registry
from tests.audit.conftest import MODEL, settings_of
from tests.audit.test_chain import edit, flip
from tests.pipeline.home import Home
from tests.proving import count

AWAY = "Could not fetch train: the remote is away"
Change = Callable[[Path], None]


def judged(dossier: Dossier, name: str, key: Path | None = None) -> Link:
    """One link of the chain; looks at no other."""
    (step,) = (step for step in STEPS if step.name == name)
    return linked(Dossier(dossier.folder, key), step, verify=True)


def note(dossier: Dossier, part: str, broken: bool = False) -> None:
    """As if a store had not given the part."""
    missing = Missing(part=part, reason=AWAY, broken=broken).model_dump()
    edit(dossier.path("dossier.json"), lambda tree: tree["missing"].append(missing))


def object_of(remote: Path, md5: str) -> Path:
    return remote / "files/md5" / md5[:2] / md5[2:]


def out_of(dossier: Dossier, stage: str) -> str:
    return dossier.record.stages[stage].outs[f"out/{stage}"].removeprefix("md5:")


@pytest.fixture
def remote(home: Home, tmp_path: Path) -> Path:
    """A copy of the remote, to damage."""
    return shutil.copytree(home.remote, tmp_path / "remote")


def collected_from(home: Home, remote: Path, tmp_path: Path, **how: Any) -> Dossier:
    registry, settings = (
        Registry(home.mlflow, MODEL),
        settings_of(home).model_copy(update={"remote": str(remote)}),
    )
    return collect(settings, registry, registry.resolve("champion"), tmp_path / "dossier", **how)


def change(path: Path) -> None:
    path.chmod(0o644)
    flip(path)


def test_a_remote_that_answers_without_an_object_or_with_other_bytes_is_broken(
    home: Home, collected: Dossier, remote: Path, tmp_path: Path
) -> None:
    """Gone: one of an out's files.

    Other bytes: the weights' listing, a picture's shard. All else still holds.
    """
    report = json.loads(object_of(remote, out_of(collected, "report")).read_text("utf-8"))
    object_of(remote, report[0]["md5"]).unlink()
    listed = json.loads(collected.path("data.dir.json").read_text("utf-8"))
    change(
        object_of(remote, next(entry["md5"] for entry in listed if entry["relpath"].startswith("shards/")))
    )
    weights = yaml.safe_load(collected.path("workspace/inputs/weights.dvc").read_text("utf-8"))["outs"][0][
        "md5"
    ]
    change(object_of(remote, weights))
    dossier = collected_from(home, remote, tmp_path)
    links_by_name = {link.name: link for link in links(dossier, verify=True)}
    broken = {name for name, link in links_by_name.items() if link.verdict == "broken"}
    assert {entry.part for entry in dossier.facts.missing if entry.broken} >= {"report", "data"} and all(
        entry.broken for entry in dossier.facts.missing
    )
    assert (
        {"stages", "data", "weights"}
        <= broken
        <= {"stages", "data", "weights", "split", "validation", "manifest"}
    )
    assert (
        "the DVC remote answers, but what data.dvc names is gone or changed in it"
        in links_by_name["data"].reason
    )
    assert {
        links_by_name[name].verdict for name in ("journal", "decision", "evaluation", "bundle", "inputs")
    } == {"holds"}


def test_an_input_set_that_the_remote_changed_breaks_what_rests_on_it(
    home: Home, collected: Dossier, remote: Path, tmp_path: Path
) -> None:
    change(object_of(remote, collected.record.inputs.archive.removeprefix("md5:")))
    dossier = collected_from(home, remote, tmp_path, whole=False)
    (missing,) = (entry for entry in dossier.facts.missing if entry.part != "git")
    assert missing.broken and "names is gone or changed in it" in missing.reason
    assert judged(dossier, "inputs").verdict == judged(dossier, "stages").verdict == "broken"


def test_objects_that_are_amiss_are_told_from_a_remote_that_is_away(tmp_path: Path) -> None:
    def at(folder: str) -> Repository:
        (tmp_path / folder).mkdir(exist_ok=True)
        places = {
            "project": tmp_path,
            "home": tmp_path / folder / "home",
            "remote": str(tmp_path / "remote"),
            "mlflow": "http://127.0.0.1:9",
        }
        return Repository(tmp_path / folder, Settings.model_validate(places))

    maker, taker = at("maker"), at("taker")
    for name in ("one", "two"):
        (tmp_path / "maker/things").mkdir(exist_ok=True)
        (tmp_path / "maker/things" / name).write_text(name)
    (tmp_path / "taker/things.dvc").write_text(maker.add("things"))
    assert taker.amiss("things.dvc") == []
    listing = next((tmp_path / "remote").rglob("*.dir"))
    first, second = (
        object_of(tmp_path / "remote", entry["md5"]) for entry in json.loads(listing.read_text("utf-8"))
    )
    first.unlink()
    assert [len(at("taker").amiss(*names)) for names in (["things.dvc"], ["things/one"], ["things/two"])] == [
        1,
        1,
        0,
    ]
    change(second)
    assert len(at("taker").amiss("things.dvc")) == 2
    change(listing)
    assert at("taker").amiss("things.dvc") == [f"{listing.parent.name}{listing.name}"]
    (tmp_path / "remote").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="the DVC remote holds nothing"):
        at("taker").amiss("things.dvc")


def test_a_store_that_was_away_excuses_only_what_it_did_not_give(dossier: Dossier) -> None:
    note(dossier, "train")
    flip(dossier.path("workspace/inputs/weights/weights.safetensors"))
    flip(dossier.path("bundle/gallery.parquet"))
    dossier.path("run/lineage.json").write_text("{}")
    assert {judged(dossier, name).verdict for name in ("weights", "bundle", "version", "provenance")} == {
        "broken"
    }


def test_an_absent_part_is_unchecked_only_where_it_is_the_one_that_a_store_did_not_give(
    dossier: Dossier,
) -> None:
    shutil.rmtree(dossier.path("workspace/out/train"))
    assert judged(dossier, "stages").reason == "workspace/out/train is missing"
    note(dossier, "train")
    link = judged(dossier, "stages")
    assert (link.verdict, link.reason) == ("unchecked", AWAY)
    dossier.path("workspace/out/embed/items.parquet").unlink()
    assert judged(dossier, "stages").verdict == judged(dossier, "evaluation").verdict == "broken"
    note(dossier, "embed")
    assert judged(dossier, "evaluation").verdict == "unchecked"
    note(dossier, "embed", broken=True)
    assert judged(dossier, "evaluation").verdict == "broken"


def test_where_a_key_is_given_a_statement_that_is_not_there_is_broken_whoever_was_away(
    dossier: Dossier, tmp_path: Path
) -> None:
    note(dossier, RUN)
    dossier.path(RUN, ORIGIN).unlink()
    assert judged(dossier, "provenance").verdict == "unchecked"
    link = judged(dossier, "provenance", tmp_path / "key.pub")
    assert (link.verdict, link.reason) == ("broken", "there is no statement that key.pub could have signed")
    dossier.path(RUN, ORIGIN).write_text("{")
    assert judged(dossier, "provenance", tmp_path / "key.pub").verdict == "broken"


def last(tree: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = tree["journal"][-1]
    return entry


@pytest.mark.parametrize(
    "forge",
    [
        lambda tree: last(tree)["asked"].update(who="someone else"),
        lambda tree: last(tree)["asked"].update(why="another reason"),
        lambda tree: last(tree)["after"].update(at="2020-01-01T00:00:00Z"),
        lambda tree: (tree["journal"].pop(), tree["registered"].update(champion=1)),
        lambda tree: (tree["journal"].clear(), tree["registered"].update(champion=None)),
    ],
)
def test_the_journal_s_last_entry_is_held_by_the_version_it_promoted(
    dossier: Dossier, forge: Callable[[Any], None]
) -> None:
    assert judged(dossier, "journal").verdict == "holds"
    edit(dossier.path("dossier.json"), forge)
    link = judged(dossier, "journal")
    assert link.verdict == "broken" and "which was changed or removed since" in link.reason


def test_a_journal_whose_head_no_version_names_is_unchecked(dossier: Dossier) -> None:
    assert dossier.facts.registered.tags[HEAD] == dossier.facts.heads[dossier.facts.registered.version]
    edit(dossier.path("dossier.json"), lambda tree: tree.pop("heads"))
    link = judged(dossier, "journal")
    assert link.verdict == "unchecked" and "its head is not recorded" in link.reason


def forged_json(path: Path) -> None:
    edit(path, lambda tree: tree.update(note="forged"))


@pytest.mark.parametrize(
    ("name", "link", "forge"),
    [
        ("split/split.json", "split", forged_json),
        ("split/split.parquet", "split", flip),
        ("validate/validation.json", "validation", forged_json),
        ("evaluate/challenger-hits.parquet", "evaluation", flip),
        ("frozen/frozen.json", "stages", forged_json),
    ],
)
def test_what_mlflow_shows_of_a_stage_must_be_what_it_wrote(
    dossier: Dossier, name: str, link: str, forge: Change
) -> None:
    path = dossier.path(RUN, name)
    path = path if path.exists() else next(path.parent.glob("*.json"))
    forge(path)
    for link_name in {link, "stages"}:
        findings = judged(dossier, link_name)
        assert (
            findings.verdict == "broken"
            and findings.reason == f"run/{path.relative_to(dossier.path(RUN))} isn't what the stage wrote"
        )


def test_the_bundle_is_the_one_that_the_run_made_and_the_gate_let_pass(dossier: Dossier) -> None:
    path = dossier.path("run/gate/decision.json")
    kept = path.read_text("utf-8")
    edit(path, lambda tree: tree["hashes"].update(challenger_bundle="0" * 64))
    assert judged(dossier, "bundle").reason.startswith(
        "the gate decided on bundle 000000000000, registered is"
    )
    path.write_text(kept, "utf-8")
    edit(dossier.path("workspace/out/bundle/model/bundle.json"), lambda tree: tree.update(format="other"))
    assert judged(dossier, "bundle").reason.startswith("the run made bundle")


def test_what_cant_be_checked_is_no_success(dossier: Dossier) -> None:
    from rich.console import Console

    dossier.path("workspace/data/shards").rename(dossier.path("shards"))
    chain = links(dossier, verify=True)
    page = lineage_page(dossier.facts, chain)
    assert "17 of 20 links hold, 3 can&#39;t be checked" in page and '<body class="warn">' in page
    assert "The chain holds" not in page and "Every part was hashed again" not in page
    assert "split, validation, pictures" in page
    console = Console(width=200, record=True)
    console.print(chain_table(dossier.facts, chain))
    text = console.export_text(styles=True)
    assert "\x1b[1;33m20 links: 17 hold, 3 can't be checked." in text


def payload(content: Any) -> str:
    return json.dumps(provenance.envelope(content, None))


@pytest.mark.parametrize(
    ("name", "text", "link"),
    [
        ("workspace/inputs.tar", "garbage", "inputs"),
        ("workspace/inputs.tar", "garbage", "code"),
        ("workspace/dvc.yaml", "stages: [", "decision"),
        ("workspace/dvc.yaml", "- no mapping", "split"),
        ("run/lineage.json", '{"schema": "skumatch-lineage-1"}', "version"),
        ("run/lineage.json", "[]", "champion"),
        (f"run/{ORIGIN}", payload(["no", "statement"]), "provenance"),
        (f"run/{ORIGIN}", payload("no statement"), "provenance"),
        (f"run/{ORIGIN}", payload({"_type": provenance.STATEMENT, "predicate": []}), "provenance"),
        (f"run/{ORIGIN}", '{"payload": 1, "payloadType": 2, "signatures": 3}', "provenance"),
        ("workspace/out/evaluate/challenger.parquet", "garbage", "evaluation"),
        ("workspace/data/manifest.parquet", "garbage", "validation"),
        ("bundle/bundle.json", "{}", "index"),
        ("git/commit", "garbage", "commit"),
    ],
)
def test_whatever_was_damaged_breaks_its_link_and_ends_nothing(
    dossier: Dossier, name: str, text: str, link: str
) -> None:
    dossier.path(name).write_text(text)
    findings = judged(dossier, link)
    assert findings.verdict == "broken" and findings.reason and "\n" not in findings.reason


# Every link, with the files that it is told or checked from.
PARTS = (
    ("version", "run/lineage.json"),
    ("provenance", f"run/{ORIGIN}"),
    ("bundle", "bundle/bundle.json"),
    ("index", "bundle/bundle.json"),
    ("index", "bundle/gallery.parquet"),
    ("decision", "run/gate/decision.json"),
    ("evaluation", "run/evaluate/challenger.json"),
    ("evaluation", "run/evaluate/refreshed.json"),
    ("evaluation", "workspace/out/evaluate/answers.json"),
    ("evaluation", "workspace/out/evaluate/challenger.parquet"),
    ("evaluation", "workspace/out/evaluate/answers.parquet"),
    ("champion", "workspace/inputs/champion/bundle.json"),
    ("champion", "workspace/inputs/champion/encoder/encoder.safetensors"),
    ("stages", "run/dvc.lock"),
    ("inputs", "workspace/inputs.tar"),
    ("parameters", "workspace/params.yaml"),
    ("parameters", "run/params.yaml"),
    ("environment", "run/constraints.txt"),
    ("commit", "workspace/inputs/code.json"),
    ("commit", "git/commit"),
    ("tree", "workspace/inputs/code.json"),
    ("code", "workspace/inputs/code.json"),
    ("weights", "workspace/inputs/weights/weights.json"),
    ("split", "run/split/split.json"),
    ("validation", "run/validate/validation.json"),
    ("validation", "workspace/out/validate/profile.json"),
    ("manifest", "workspace/data/manifest.parquet"),
    ("data", "data.dir.json"),
)
NOT_WHOLE = (
    "profile.json",
    "code.json",
)  # of which the first is no record, and each value of the other is a link's own
RECORDS = [pair for pair in PARTS if pair[1].endswith(".json") and not pair[1].endswith(NOT_WHOLE)]
TEXTS = (b"", b"garbage", b"[]", b"{}", b"null", b'"text"', b"[[1, 2]]", b"- 1\n- 2\n")
SHAPES = (None, *TEXTS, b"\xff\xfe", b"[" * 100_000, b"9" * 5000)


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_part_that_is_gone_or_of_another_shape_never_holds(dossier: Dossier, name: str, part: str) -> None:
    path = dossier.path(part)
    path.stat()
    for content in SHAPES:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        link = judged(dossier, name)
        assert link.verdict == "broken" and link.reason and "\n" not in link.reason, (content, link)


@pytest.mark.parametrize("name", [step.name for step in STEPS if step.name not in ("journal", "inputs")])
def test_every_link_has_a_part_that_is_damaged_here(name: str) -> None:
    assert name in {link for link, _ in PARTS}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON tree that can be given another value: the container and the key."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [(tree, key) for key in keys] + [place for key in keys for place in places(tree[key])]


@pytest.mark.parametrize(("name", "part"), RECORDS)
def test_a_part_with_another_value_anywhere_never_holds(collected: Dossier, name: str, part: str) -> None:
    """It doesn't end the audit either: no reader relies on the shape of a value."""
    (step,) = (step for step in STEPS if step.name == name)
    with TemporaryDirectory() as folder:
        copy = Dossier(shutil.copytree(collected.folder, Path(folder) / "dossier"))
        true = copy.path(part).read_text("utf-8")

        @given(st.data())
        @settings(max_examples=count(12, 300), database=None)
        def changed(data: st.DataObject) -> None:
            tree = json.loads(true)
            container, key = data.draw(st.sampled_from(places(tree)))
            before, container[key] = container[key], data.draw(JSON)
            assume(container[key] != before)
            write_json(copy.path(part), tree)
            link = linked(Dossier(copy.folder), step, verify=True)
            assert link.verdict in ("broken", "unchecked") and "\n" not in link.reason
            linked(Dossier(copy.folder), step, verify=False)

        changed()


@pytest.mark.parametrize(
    ("key", "name"), [("commit", "commit"), ("dirty", "tree"), ("folder", "tree"), ("sha256", "code")]
)
def test_a_fact_of_the_code_that_is_another_one_never_holds(dossier: Dossier, key: str, name: str) -> None:
    for value in (None, 0, "no", "0" * 40, [], {}, 1.5, True):
        edit(dossier.path("workspace/inputs/code.json"), lambda tree, value=value: tree.update({key: value}))
        assert judged(dossier, name).verdict == "broken", value


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ValueError("odd"), "broken"),
        (DataError("odd"), "broken"),
        (Unchecked("odd"), "unchecked"),
        (Broken("odd"), "broken"),
    ],
)
def test_a_link_that_cannot_be_told_never_holds(collected: Dossier, error: Exception, verdict: str) -> None:
    """Whatever its check returns, and without `--verify`, too."""

    def tell(_: Dossier) -> Any:
        raise error

    for verify in (True, False):
        link = linked(collected, ChainStep("split", "Split", tell, lambda _: "fine"), verify)
        assert link.verdict == verdict and "odd" in link.reason and "not readable" in link.said


def test_what_is_broken_outweighs_what_cannot_be_told(collected: Dossier) -> None:
    def unread(_: Dossier) -> Any:
        raise Unchecked("away")

    def check(_: Dossier) -> str:
        raise Broken("another hash")

    link = linked(collected, ChainStep("split", "Split", unread, check), verify=True)
    assert (link.verdict, link.reason) == ("broken", "another hash")


def test_a_bug_of_the_audit_s_own_is_no_verdict(collected: Dossier) -> None:
    """As the AttributeError was that any version with pictures set aside met: it must be seen."""

    def tell(_: Dossier) -> Any:
        return None, [].items()  # type: ignore[attr-defined]

    with pytest.raises(AttributeError):
        linked(collected, ChainStep("split", "Split", tell, lambda _: "fine"), verify=True)


def test_what_no_stage_wrote_is_not_shown_as_its_own(dossier: Dossier) -> None:
    dossier.path("run/validate/more.json").write_text("{}")
    for name in ("validation", "stages"):
        assert judged(dossier, name).reason == "run/validate/more.json isn't among what the stage wrote"


def test_what_a_stage_wrote_and_is_gone_on_both_sides_does_not_come_out_the_same(dossier: Dossier) -> None:
    for place in ("run", "workspace/out"):
        dossier.path(place, "split/split.parquet").unlink()
    assert judged(dossier, "split").reason == "split.parquet comes out otherwise when it is computed again"


def test_a_commit_whose_trees_are_gone_leads_to_no_code(dossier: Dossier) -> None:
    shutil.rmtree(dossier.path("git/trees"))
    assert judged(dossier, "commit").reason == "the kept tree of the root is missing"
    assert judged(dossier, "tree").verdict == "unchecked"


def test_git_that_refuses_is_why_the_commit_cannot_be_checked(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    dossier = collected_from(home, home.remote, tmp_path, whole=False)
    for name in ("commit", "tree"):
        link = judged(dossier, name)
        assert link.verdict == "unchecked" and "detected dubious ownership" in link.reason


def test_a_record_of_another_shape_is_one_sentence(dossier: Dossier) -> None:
    dossier.path("run/lineage.json").write_text('{"schema": "skumatch-lineage-1"}')
    with pytest.raises(DataError, match=r"lineage.json is no lineage record .*run: Field required"):
        _ = dossier.record


def test_versions_whose_remote_is_away_or_whose_parts_are_damaged_are_not_compared(
    dossier: Dossier, collected: Dossier
) -> None:
    dossier.path("workspace/inputs.tar").write_text("garbage")
    with pytest.raises(DataError, match=r"A part of version 2 or 2 is missing or can't be read") as failed:
        diff(collected, dossier)
    assert "\n" not in str(failed.value)
    note(dossier, "data")
    with pytest.raises(DataError, match=f"Version 2 can't be compared: {AWAY}"):
        diff(collected, Dossier(dossier.folder))


def test_a_file_is_no_place_for_a_dossier(home: Home, tmp_path: Path) -> None:
    (tmp_path / "dossier").write_text("mine")
    with pytest.raises(DataError, match="isn't an empty folder"):
        collected_from(home, home.remote, tmp_path)


def test_a_name_that_no_file_can_have_is_no_picture() -> None:
    with pytest.raises(ParameterError, match=r"'a{80}\.\.\.' \(--image\) is no file and no hash"):
        uses.picture("a" * 300 + ".png")


def test_a_version_whose_split_is_damaged_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(home.mlflow, MODEL)
    monkeypatch.setattr(registry, "artifact", lambda *_: b"garbage")
    entries = list(uses.uses(settings_of(home), registry, uses.Wanted(sku="sku 3")))
    assert [use.rows for use in entries] == [None, None] and "split/split.parquet in MLflow" in entries[
        0
    ].reason


@pytest.mark.parametrize("name", ["full", "tail"])
def test_hits_that_do_not_follow_from_the_ranked_lists_are_named(dossier: Dossier, name: str) -> None:
    path = dossier.path("workspace/out/evaluate/refreshed-hits.parquet")
    frame = pd.read_parquet(path)
    place = frame.index[frame["slice"].eq(name)][0]
    frame.loc[place, "hit"] = not frame.loc[place, "hit"]
    frame.to_parquet(path, index=False)
    sentence = (
        f"the hits of the refreshed that the gate goes by (slice {name}) aren't those of its ranked lists"
    )
    assert judged(dossier, "evaluation").reason == sentence


def test_served_answers_that_do_not_follow_are_named(dossier: Dossier) -> None:
    """Their shares are counted again from the answer to each question, in both copies of the file."""
    for place in ("workspace/out", "run"):
        edit(dossier.path(place, "evaluate/answers.json"), lambda tree: tree["served"]["all"].update(n=0))
    assert judged(dossier, "evaluation").reason == "answers.json isn't of answers.parquet"


def test_figures_that_other_code_counts_otherwise_are_unchecked(dossier: Dossier) -> None:
    name = "skumatch/retrieval/metrics.py"
    path = dossier.path("workspace", name)
    path.write_text(path.read_text("utf-8") + "\n# as it was then\n", "utf-8")
    assert judged(dossier, "evaluation").verdict == "holds"
    for place in ("workspace/out", "run"):
        edit(dossier.path(place, "evaluate/challenger.json"), lambda tree: tree.update(top1=tree["top1"] / 2))
    digest = sha256(dossier.path("run/evaluate/challenger.json"))
    edit(dossier.path("run/lineage.json"), lambda tree: tree["results"].update(challenger=digest))
    link = judged(dossier, "evaluation")
    assert link.verdict == "unchecked" and f"where {name} isn't the run's" in link.reason
    write_json(dossier.path("workspace/out/evaluate/challenger.json"), {})
    write_json(dossier.path("run/evaluate/challenger.json"), {})
    digest = sha256(dossier.path("run/evaluate/challenger.json"))
    edit(dossier.path("run/lineage.json"), lambda tree: tree["results"].update(challenger=digest))
    assert judged(dossier, "evaluation").verdict == "broken"
