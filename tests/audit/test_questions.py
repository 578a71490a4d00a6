"""Questions to an audit: times of service, uses of a picture or SKU, changes between two versions."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from skumatch.audit.chain import STEPS, linked, links
from skumatch.audit.collect import collect
from skumatch.audit.diff import (
    AnswerChange,
    Data,
    Diff,
    VersionFigures,
    VersionGain,
    _changes,
    _data,
    diff,
)
from skumatch.audit.screen import diff_table
from skumatch.audit.served import aliases, by_hand, on, services
from skumatch.audit.uses import Use, Wanted, check_sku, picture, uses
from skumatch.errors import AuditFailed, DataError, ParameterError, ReferenceNotFound, ServiceError
from skumatch.files import read_json, write_json
from skumatch.registry.journal import Acknowledgement, After, Before, Entry, MoveRequest
from skumatch.registry.registry import ModelRef, Registry
from skumatch.retrieval.statistics import Interval
from tests.audit.conftest import MODEL, settings_of
from tests.pipeline.home import Home


def entry(number: int, day: int, before: int | None, after: int | None, hour: int = 12) -> Entry:
    at = datetime(2026, 11, day, hour, tzinfo=UTC)
    question = MoveRequest(
        action="promote", version=after or 1, expected=before, who="ann", why=f"entry {number}"
    )
    return Entry(
        number=number,
        asked=question,
        before=Before(previous="", champion=before, at=at),
        after=After(outcome="done", champion=after, at=at),
    )


JOURNAL = [entry(1, 2, None, 1), entry(2, 3, 1, 1), entry(3, 5, 1, 2), entry(4, 5, 2, 1, hour=18)]


def test_each_champion_has_its_time_and_an_entry_that_moved_nothing_makes_none() -> None:
    periods = services(JOURNAL)
    assert [service.version for service in periods] == [None, 1, 2, 1]
    assert (
        all(service.until == following.since for service, following in pairwise(periods))
        and periods[-1].until is None
    )


@pytest.mark.parametrize(
    ("day", "versions"), [(1, [None]), (2, [None, 1]), (3, [1]), (4, [1]), (5, [1, 2, 1]), (6, [1])]
)
def test_who_served_on_a_day(day: int, versions: list[int | None]) -> None:
    assert [service.version for service in on(JOURNAL, date(2026, 11, day))] == versions


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (
            1,
            [
                "registered",
                "became champion (ann: entry 1)",
                "became previous, replaced by version 2",
                "became champion (ann: entry 4)",
            ],
        ),
        (2, ["registered", "became champion (ann: entry 3)", "became previous, replaced by version 1"]),
        (3, ["registered"]),
    ],
)
def test_a_version_s_aliases_have_a_history(version: int, told: list[str]) -> None:
    history = aliases(JOURNAL, version, datetime(2026, 11, 1, tzinfo=UTC))
    assert len(history) == len(told) and all(
        words.startswith(start) for (_, words), start in zip(history, told, strict=True)
    )
    assert [at for at, _ in history] == sorted(at for at, _ in history)


def test_a_version_is_previous_until_another_one_is() -> None:
    history = aliases([*JOURNAL, entry(5, 7, 1, 3)], 2, datetime(2026, 11, 1, tzinfo=UTC))
    assert history[-1][1] == "no longer previous: version 3 replaced version 1 (ann: entry 5)"


def test_before_any_promotion_nobody_served() -> None:
    assert [service.version for service in on([], date(2026, 11, 1))] == [None]


def test_a_picture_and_a_sku_are_found_in_every_version_that_was_given_them(home: Home) -> None:
    registry, settings = Registry(home.mlflow, MODEL), settings_of(home)
    (path,) = (home.home.parent / "delivery/all/train/sku 3").glob("1.png")
    for wanted in (picture(str(path)), picture(picture(str(path)).hashes[0][:12].upper())):
        entries = list(uses(settings, registry, wanted))
        assert [use.ref.version for use in entries] == [2, 1]
        assert all(
            use.rows is not None and use.rows["id"].tolist() == ["train/sku 3/1.png"] for use in entries
        )
    for use in uses(settings, registry, Wanted(sku="SKU\u00a03")):  # as `alike` spells it
        assert use.rows is not None
        assert use.rows["role"].value_counts().to_dict() in (
            {"train": 3, "val": 1, "query": 2},
            {"train": 4, "query": 2},
        )
    assert all(use.rows is not None and use.rows.empty for use in uses(settings, registry, Wanted(sku="sku")))


@pytest.mark.parametrize("name", ["", "1234567", "no-such.png", "g" * 64])
def test_what_is_no_picture_and_no_hash_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="is no file and no hash"):
        picture(name)


def test_a_version_whose_remote_is_gone_says_so(home: Home, tmp_path: Path) -> None:
    settings = settings_of(home).model_copy(
        update={"remote": str(tmp_path / "elsewhere"), "home": tmp_path / "home"}
    )
    entries = list(uses(settings, Registry(home.mlflow, MODEL), Wanted(sku="sku 3")))
    assert [use.rows for use in entries] == [None, None] and all(
        "Could not fetch" in use.reason for use in entries
    )


def test_what_changed_between_two_versions(home: Home, tmp_path: Path) -> None:
    registry, settings = Registry(home.mlflow, MODEL), settings_of(home)
    first, second = (
        collect(settings, registry, registry.resolve(name), tmp_path / name, whole=False)
        for name in ("1", "2")
    )
    changes = diff(first, second)
    assert changes.params == {"encoder.resize": ("squash", "pad")}
    assert not changes.data.changed and changes.code == changes.packages == ()
    assert changes.before.comparable(changes.after)
    assert changes.before.shares["top1"] < changes.after.shares["top1"] == 1.0
    assert changes.gain is not None and changes.gain.interval.low > 0 and changes.gain.n == 20
    assert changes.gain.basis == "on the same gallery and queries"
    assert all(
        sku.after == 1.0 > sku.before and sku.gain.low <= sku.gain.value <= sku.gain.high
        for sku in changes.gain.skus
    )
    assert not diff(first, first).params and diff(first, first).gain.skus == ()  # type: ignore[union-attr]


def test_figures_of_other_queries_are_never_subtracted(home: Home, tmp_path: Path) -> None:
    """The gate's own comparison stands in their place, whichever version is named first."""
    registry, settings = Registry(home.mlflow, MODEL), settings_of(home)
    first, second = (
        collect(settings, registry, registry.resolve(name), tmp_path / name, whole=False)
        for name in ("1", "2")
    )
    gain = second.decision.gain
    assert gain is not None
    for dossier, stem, name in ((first, "challenger", "queries"), (second, "refreshed", "encoder")):
        path = dossier.path(f"run/evaluate/{stem}.json")
        evaluation = read_json(path)
        evaluation["hashes"][name] = "0" * 64
        write_json(path, evaluation)
        changes = diff(first, second)
        assert not changes.before.comparable(changes.after)
        if stem == "refreshed":  # another encoder than that of version 1 was compared
            assert changes.gain is None
            continue
        assert changes.gain is not None and "by the gate of version 2" in changes.gain.basis
        assert changes.gain.interval.value == pytest.approx(gain.estimate)
        back = diff(second, first).gain
        assert back is not None and back.interval.value == pytest.approx(-gain.estimate)


def figures(version: int, top1: float, queries: str) -> VersionFigures:
    shares = {"top1": top1, "top3": 0.9, "top5": 0.95, "macro_top1": 0.5}
    return VersionFigures(version, "d" * 36, "full", "g" * 64, queries * 64, 1234, 300, (0.5, 0.75), shares)


def shown(difference: Diff) -> str:
    console = Console(file=(file := io.StringIO()), width=200)
    console.print(diff_table(difference, "1", "2"))
    return file.getvalue()


def test_a_diff_shows_figures_side_by_side_only_where_they_are_comparable() -> None:
    data = Data(0, 0, 0, (), ())
    gain = VersionGain("by the gate of version 2", 0.554, 0.599, Interval(0.045, 0.01, 0.08), 900, ())
    whole = Diff(False, data, {}, (), (), figures(1, 0.651, "a"), figures(2, 0.599, "b"), gain)
    text = shown(whole)
    assert "version 1: top-1 65.1 % (50.0 to 75.0); 1,234 queries of 300 SKUs, protocol full" in text
    assert "version 2: top-1 59.9 %" in text and "gallery gggggg, queries bbbbbb, data dddddd" in text
    assert "These two can't be compared" in text and "65.1 % ->" not in text
    assert "by the gate of version 2: top-1 55.4 % -> 59.9 %, +4.5 points (+1.0 to +8.0), 900 queries" in text
    assert "No run measured both encoders" in shown(replace(whole, gain=None))
    same = shown(replace(whole, before=figures(1, 0.651, "b")))
    assert "top-1 65.1 % -> 59.9 %" in same and "can't be compared" not in same
    released = shown(replace(whole, answers=AnswerChange(0.9, 0.91, 800)))
    assert "right answers as served, to the same 800 photos: 90.0 % -> 91.0 %" in released
    assert "moved by hand" in shown(replace(whole, moved_by_hand=("After entry 1 ...",)))


def test_a_move_by_hand_is_in_the_history_with_its_explanation() -> None:
    """Version 2 was found instead of 1 on the 7th; who served, and both versions' histories, say so."""
    later = entry(5, 7, 2, 1)
    assert [service.version for service in services([*JOURNAL, later])] == [None, 1, 2, 1, 2, 1]
    by = services([*JOURNAL, later])[-2]
    expected = (later.after.at, "somebody, outside the journal", "not acknowledged")  # type: ignore[union-attr]
    assert (by.since, by.who, by.why) == expected
    last = entry(6, 8, 1, 1)
    explanation = Acknowledgement(entry=4, was=1, found=2, who="bob", why="a test")
    acknowledged = [*JOURNAL, later, last.model_copy(update={"asked": explanation})]
    assert services(acknowledged)[-2].why == "acknowledged by bob: a test"
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for version, state in ((1, "found champion no more"), (2, "found as champion")):
        words = [event for _, event in aliases(acknowledged, version, start)]
        assert f"{state} (somebody, outside the journal: acknowledged by bob: a test)" in words
    (sentence,) = by_hand(acknowledged, 1)
    assert sentence.endswith("acknowledged by bob in entry 6: a test")
    (end,) = by_hand(JOURNAL, None)
    assert end.startswith("After entry 4 the champion was version 1, now it is none")


BEFORE = pd.DataFrame({"sha256": ["1", "2", "3", "4"], "sku": ["a", "a", "b", "c"], "side": ["train"] * 4})
AFTER = pd.DataFrame(
    {"sha256": ["1", "2", "2", "3", "5"], "sku": ["a", "a", "a", "a", "d"], "side": ["train"] * 5}
)


def test_data_and_code_changes_are_counted() -> None:
    changes = _data(BEFORE, AFTER)
    assert (changes.added, changes.removed, changes.moved) == (2, 1, 1)
    assert (changes.new_skus, changes.gone_skus) == (("d",), ("b", "c"))
    assert _changes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ("- a 1", "~ b 2 -> 3", "+ c 4")
    assert _changes({"f.py": "x\ny\n"}, {"f.py": "x\nz\nw\n"}) == ("~ f.py (+2 -1 lines)",)


def test_the_command_answers_one_question_at_a_time(home: Home, tmp_path: Path) -> None:
    done = home.command("audit", "--sku", "sku 1", "--json", str(tmp_path / "uses.json"))
    assert done.returncode == 0 and set(json.loads((tmp_path / "uses.json").read_text())) == {
        "1",
        "2",
        "served",
    }
    assert "Nameable by what served: from " in done.stdout and "until now, by versions 1 and 2" in done.stdout
    both = home.command("audit", "--sku", "sku 1", "--at", "2026-11-01")
    assert both.returncode == ParameterError.exit_code and "ask one at a time" in both.stderr


def test_a_remote_that_is_away_breaks_nothing_but_leaves_what_needs_it_unchecked(
    home: Home, tmp_path: Path
) -> None:
    registry, settings = (
        Registry(home.mlflow, MODEL),
        settings_of(home).model_copy(update={"remote": str(tmp_path / "away")}),
    )
    dossier = collect(settings, registry, registry.resolve("champion"), tmp_path / "dossier")
    links_by_name = {link.name: link for link in links(dossier, verify=True)}
    assert {name: link.reason for name, link in links_by_name.items() if link.verdict == "broken"} == {}
    assert (
        links_by_name["journal"].verdict
        == links_by_name["version"].verdict
        == links_by_name["provenance"].verdict
        == "holds"
    )
    assert links_by_name["bundle"].verdict == "unchecked", (
        "its bytes are right, but whether the run made them is in the remote"
    )
    assert (
        "Could not fetch" in links_by_name["data"].reason
        and "check the DVC remote" in links_by_name["stages"].reason
    )


def test_a_bundle_whose_bytes_the_registry_changed_is_broken_in_the_store_s_words(
    home: Home, tmp_path: Path
) -> None:
    registry = Registry(home.mlflow, MODEL)
    other = replace(registry.resolve("champion"), bundle="0" * 64)
    dossier = collect(settings_of(home), registry, other, tmp_path / "dossier", whole=False)
    (step,) = (step for step in STEPS if step.name == "bundle")
    link = linked(dossier, step, verify=True)
    assert link.verdict == "broken" and "not 000000000000 as recorded" in link.reason


def test_what_is_told_needs_no_stage_s_outs(home: Home, tmp_path: Path) -> None:
    registry = Registry(home.mlflow, MODEL)
    little = collect(
        settings_of(home), registry, registry.resolve("champion"), tmp_path / "little", whole=False
    )
    assert not little.path("workspace/out").exists() and not little.path("workspace/data/shards").exists()
    assert "not readable" not in {name for link in links(little, verify=False) for name in link.said}


def test_a_journal_that_was_changed_answers_but_ends_in_an_error(home: Home) -> None:
    fine = home.command("audit", "--at", "2026-01-01")
    assert fine.returncode == 0 and "none" in fine.stdout
    with Registry(home.mlflow, MODEL).client() as client:
        question = client.get_model_version(f"{MODEL}-journal", "1").tags["skumatch.asked"]
        client.set_model_version_tag(
            f"{MODEL}-journal", "1", "skumatch.asked", question.replace("audit-first", "someone")
        )
        try:
            changed = home.command("audit", "--at", "2026-01-01")
        finally:
            client.set_model_version_tag(f"{MODEL}-journal", "1", "skumatch.asked", question)
    assert (
        changed.returncode == AuditFailed.exit_code
        and "Entry 2 doesn't follow from the one before it" in changed.stderr
    )


def test_a_folder_that_is_in_use_is_no_place_for_a_dossier(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    registry = Registry(home.mlflow, MODEL)
    with pytest.raises(DataError, match="isn't an empty folder"):
        collect(settings_of(home), registry, registry.resolve("champion"), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_mistyped_sku_is_refused_and_a_known_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known is a SKU of any gallery, and one whose pictures any version was given."""
    ref = ModelRef(version=1, bundle="b", run_id="r", created=datetime(2026, 11, 2, tzinfo=UTC))
    registry, nothing = Registry("http://127.0.0.1:9", "shelf"), pd.DataFrame({"id": []})
    monkeypatch.setattr("skumatch.audit.uses.nameable", lambda registry, ref: frozenset({"Cola", "Tea"}))
    with pytest.raises(
        ReferenceNotFound, match="^Did you mean 'Cola'. No version of 'shelf' knows a SKU 'Colla'"
    ):
        check_sku(registry, "Colla", [Use(ref, nothing)])
    check_sku(registry, "COLA", [Use(ref, nothing)])
    check_sku(registry, "Colla", [Use(ref, pd.DataFrame({"id": ["train/Colla/1.png"]}))])


def test_a_sku_that_an_unreadable_version_may_know_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ModelRef(version=1, bundle="b", run_id="r", created=datetime(2026, 11, 2, tzinfo=UTC))
    registry, nothing = Registry("http://127.0.0.1:9", "shelf"), pd.DataFrame({"id": []})

    def gone(registry: Registry, ref: ModelRef) -> frozenset[str]:
        raise ServiceError("It is gone; restore it.")

    monkeypatch.setattr("skumatch.audit.uses.nameable", gone)
    check_sku(registry, "Colla", [Use(ref, nothing)])
    check_sku(registry, "Colla", [Use(ref, None, "unreadable")])
