"""Promotion, rollback and their journal against a real MLflow: one champion and one chain, in all cases."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.bundle import bundle_hash
from skumatch.errors import ReferenceNotFound, Refused, RegistryUnavailable, ServiceError, StaleChampion
from skumatch.promotion import promotion
from skumatch.promotion.promotion import (
    compared_with,
    heads,
    history,
    promote,
    proposed,
    rollback,
    rollback_target,
)
from skumatch.registry import journal
from skumatch.registry.journal import (
    HEAD,
    After,
    Before,
    Entry,
    MoveRequest,
    breaks,
    head_of,
    journal_name,
    predecessors,
    unheaded,
)
from skumatch.registry.registry import CHALLENGER, COMPARED_TAG, ModelRef, Registry
from tests.conftest import free_port
from tests.killing import Killed, dying
from tests.proving import count

pytestmark = pytest.mark.live
ANN, WHY = "ann", "a gain of 2 points"


@pytest.fixture(scope="module")
def run_id(mlflow_url: str) -> str:
    """The run of all versions, so that each bundle is uploaded once for all tests."""
    return Registry(mlflow_url).log_run("promotions", {}, {}, {}, {})


@pytest.fixture
def versions(registry: Registry, run_id: str, several: list[Path]) -> list[int]:
    return [registry.register(folder, run_id, {}, "") for folder in several]


def champion(registry: Registry) -> int | None:
    version = registry.champion()
    return version.version if version else None


def told(registry: Registry) -> list[tuple[str, int, str, int | None]]:
    return [
        (e.asked.action, e.asked.version, e.after.outcome, e.after.champion)
        for e in history(registry)
        if e.after
    ]


def test_promotion_moves_the_aliases_and_is_journalled(
    registry: Registry, versions: list[int], several: list[Path]
) -> None:
    registry.set_alias(CHALLENGER, 1)
    assert promote(registry, 1, None, ANN, WHY).aliases == ("challenger", "champion")
    second = promote(registry, 2, 1, "bob", "better still")
    assert second.bundle == bundle_hash(several[1]) and registry.resolve("previous").version == 1
    assert promote(registry, 2, 1, "bob", "again, after a crash") == registry.champion()
    assert told(registry) == [
        ("promote", 1, "done", 1),
        ("promote", 2, "done", 2),
        ("promote", 2, "already", 2),
    ]
    first, then, _ = history(registry)
    assert (first.asked.who, first.asked.why, then.asked.who) == (ANN, WHY, "bob")
    assert then.before is not None and then.before.previous == first.hash
    assert breaks(history(registry)) == []


def test_a_stale_promotion_is_refused_and_journalled(registry: Registry, versions: list[int]) -> None:
    promote(registry, 1, None, ANN, WHY)
    for expected in (None, 2, 99):
        with pytest.raises(
            StaleChampion, match=r"The champion is now version 1, but version 3 was compared with .*retrain"
        ):
            promote(registry, 3, expected, ANN, WHY)
    assert champion(registry) == 1
    assert told(registry)[1:] == [("promote", 3, "stale", 1)] * 3


def test_what_a_version_was_compared_with_is_looked_up_without_a_word_in_the_journal(
    registry: Registry, run_id: str, several: list[Path]
) -> None:
    for folder, compared in zip(several, ({COMPARED_TAG: "none"}, {COMPARED_TAG: "1"}, {}), strict=True):
        registry.register(folder, run_id, compared, "")
    first, second, unknown = (registry.resolve(str(version)) for version in (1, 2, 3))
    assert (compared_with(first), compared_with(second)) == (None, 1)
    with pytest.raises(Refused, match="Nothing says which champion version 3 was compared with; retrain"):
        compared_with(unknown)
    assert proposed(registry, first) is None
    with pytest.raises(
        StaleChampion, match="There is no champion now, but version 2 was compared with version 1; retrain"
    ):
        proposed(registry, second)
    promote(registry, 1, None, ANN, WHY)
    assert proposed(registry, second) == 1
    with pytest.raises(StaleChampion, match="Version 1 is the champion already"):
        proposed(registry, first)
    assert len(history(registry)) == 1


def test_a_version_that_is_not_there_leaves_no_entry(registry: Registry, versions: list[int]) -> None:
    with pytest.raises(ReferenceNotFound):
        promote(registry, 9, None, ANN, WHY)
    assert champion(registry) is None and history(registry) == []


@pytest.mark.timeout(count(900, 7200))
def test_of_many_promoters_at_once_one_wins_and_the_others_are_told(
    registry: Registry, run_id: str, several: list[Path]
) -> None:
    """As if from many machines: each has a registry of its own and they share nothing but the server."""
    versions, many = [registry.register(folder, run_id, {}, "") for folder in several], 20
    promote(registry, 1, None, ANN, WHY)
    for round_ in range(count(1, 100)):
        now = champion(registry)
        outcomes: list[ModelRef | StaleChampion] = []

        def one(
            number: int, now: int | None = now, outcomes: list[ModelRef | StaleChampion] = outcomes
        ) -> None:
            own = Registry(registry.url, registry.model_name)
            others = [version for version in versions if version != now]
            try:
                outcomes.append(promote(own, others[number % len(others)], now, f"promoter {number}", WHY))
            except StaleChampion as error:
                outcomes.append(error)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(many)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = history(registry)
        assert len(entries) == 1 + many * (round_ + 1) and breaks(entries) == []
        fresh = [entry.after.outcome for entry in entries[-many:] if entry.after]
        winners = {outcome.version for outcome in outcomes if isinstance(outcome, ModelRef)}
        assert len(outcomes) == many and winners == {champion(registry)} and fresh.count("done") == 1
        assert fresh.count("stale") == sum(isinstance(outcome, StaleChampion) for outcome in outcomes) >= 1


def test_killed_at_every_call_the_champion_is_one_of_the_two_and_the_next_goes_through(
    registry: Registry, versions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "EXPIRY_SECONDS", 0.3)
    monkeypatch.setattr(journal, "POLL_SECONDS", 0.05)
    promote(registry, 1, None, ANN, WHY)
    at, wanted = 0, 2
    while True:
        now = champion(registry)
        try:
            with dying(monkeypatch, at):
                promote(registry, wanted, now, ANN, WHY)
        except Killed:
            assert champion(registry) in (now, wanted)
        else:
            break
        # The next promoter closes what was left open, and goes through if the champion still is the one it
        # knows.
        promote(registry, wanted, champion(registry), "bob", WHY)
        assert champion(registry) == wanted and breaks(history(registry)) == []
        at, wanted = at + count(2, 1), 3 - wanted
    assert at > 8
    left = [entry for entry in history(registry) if entry.after and entry.after.outcome == "abandoned"]
    assert any(entry.changed for entry in left) and any(not entry.changed for entry in left)


def test_who_is_slow_and_given_up_writes_nothing(registry: Registry, versions: list[int]) -> None:
    promote(registry, 1, None, ANN, WHY)
    with registry.client() as client:
        book = journal.Journal(client, registry.model_name, lambda: 1)
        with pytest.raises(ServiceError, match="another one closed it"), book.turn(_asked(2, 1)) as turn:
            book._close(turn.entry, "abandoned")
            turn.confirm()
    assert told(registry)[-1] == ("promote", 2, "abandoned", 1)


def test_rollback_goes_back_the_way_and_not_to_what_was_rolled_away(
    registry: Registry, versions: list[int], several: list[Path]
) -> None:
    for version, before in ((1, None), (2, 1), (3, 2)):
        promote(registry, version, before, ANN, WHY)
    for expected, target in ((3, 2), (2, 1)):
        previous = rollback_target(registry)
        assert previous.version == target
        back = rollback(registry, target, expected, ANN, "it sees nothing")
        assert (back.version, back.bundle) == (target, bundle_hash(several[target - 1]))
    with pytest.raises(ReferenceNotFound, match="No earlier champion"):
        rollback_target(registry)
    assert rollback_target(registry, 3).version == 3
    with pytest.raises(StaleChampion, match="rollback to version 3 was asked against version 2"):
        rollback(registry, 3, 2, ANN, WHY)
    assert breaks(history(registry)) == []


def test_rollback_where_the_champion_was_deleted(registry: Registry, versions: list[int]) -> None:
    for version, before in ((1, None), (2, 1), (3, 2)):
        promote(registry, version, before, ANN, WHY)
    with registry.client() as client:
        client.delete_model_version(registry.model_name, "3")
    assert champion(registry) is None
    target = rollback_target(registry)
    assert target.version == 2
    assert rollback(registry, 2, None, ANN, "version 3 is gone").aliases == ("champion", "previous")


def test_only_what_served_is_rolled_back_to(registry: Registry, versions: list[int]) -> None:
    promote(registry, 1, None, ANN, WHY)
    with pytest.raises(ReferenceNotFound, match="Version 2 never was champion; promote it"):
        rollback_target(registry, 2)


def test_what_was_changed_removed_or_swapped_in_the_journal_shows(
    registry: Registry, versions: list[int]
) -> None:
    for version, before in ((1, None), (2, 1), (3, 2), (1, 3)):
        promote(registry, version, before, ANN, WHY)
    name = journal_name(registry.model_name)
    with registry.client() as client:
        tags = client.get_model_version(name, "2").tags
        client.set_model_version_tag(name, "2", journal.ASKED, tags[journal.ASKED].replace(ANN, "eve"))
        assert breaks(history(registry)) == [
            "Entry 3 doesn't follow from the one before it: one of the two was changed."
        ]
        client.set_model_version_tag(name, "2", journal.ASKED, tags[journal.ASKED])
        assert breaks(history(registry)) == []
        client.delete_model_version(name, "2")
        assert breaks(history(registry)) == ["Entry 2 is missing."]
        promote(registry, 2, 1, ANN, "the journal goes on")
        client.create_model_version(name, "skumatch:///x", await_creation_for=0)
        with pytest.raises(ServiceError, match="no entry of a journal"):
            history(registry)


def test_the_last_entry_can_neither_be_changed_nor_cut_off_unseen(
    registry: Registry, versions: list[int]
) -> None:
    """No later entry vouches for the last one: the tag of the version that it promoted does."""
    for version, before in ((1, None), (2, 1)):
        promote(registry, version, before, ANN, WHY)
    rollback(registry, 1, 2, ANN, "it sees nothing")
    entries, name = history(registry), journal_name(registry.model_name)
    assert heads(registry) == {1: head_of(entries[2]), 2: head_of(entries[1])}
    assert breaks(entries) == unheaded(entries, heads(registry)) == []
    with registry.client() as client:
        tags = client.get_model_version(name, "3").tags
        for tag, old, new in (
            (journal.ASKED, ANN, "eve"),
            (journal.ASKED, "it sees", "it saw"),
            (journal.AFTER, '"at":"2', '"at":"1'),
        ):
            client.set_model_version_tag(name, "3", tag, tags[tag].replace(old, new))
            assert breaks(history(registry)) == []
            (sentence,) = unheaded(history(registry), heads(registry))
            assert sentence == "Version 1 names entry 3 of the journal, which was changed or removed since."
            client.set_model_version_tag(name, "3", tag, tags[tag])
        for number in ("3", "2"):
            client.delete_model_version(name, number)
        assert breaks(history(registry)) == [] and len(unheaded(history(registry), heads(registry))) == 2


def test_an_entry_that_moved_nothing_is_held_as_well_and_a_later_head_stays(
    registry: Registry, versions: list[int]
) -> None:
    with pytest.raises(StaleChampion):
        promote(registry, 1, 7, ANN, WHY)
    assert heads(registry) == {1: head_of(history(registry)[0])}, (
        "without a champion the version asked for names it"
    )
    promote(registry, 1, None, ANN, WHY)
    with pytest.raises(StaleChampion):
        promote(registry, 2, None, ANN, WHY)
    assert heads(registry) == {1: head_of(history(registry)[2])}
    with registry.client() as client:
        promotion._record_head(registry, client, history(registry)[1])
        assert heads(registry) == {1: head_of(history(registry)[2])}
        client.delete_model_version_tag(registry.model_name, "1", HEAD)
    assert unheaded(history(registry), heads(registry)) == []


def test_a_champion_that_was_moved_outside_the_journal_shows(registry: Registry, versions: list[int]) -> None:
    promote(registry, 1, None, ANN, WHY)
    with registry.client() as client:
        client.set_registered_model_alias(registry.model_name, "champion", "3")
    promote(registry, 2, 3, ANN, WHY)
    assert breaks(history(registry)) == [
        "After entry 1 the champion was version 1, before the next it was version 3: "
        "it was moved outside the journal; `skumatch audit acknowledge` records why."
    ]
    entries = history(registry)
    assert entries[0].after
    late = entries[0].after.model_copy(update={"outcome": "abandoned"})
    first = entries[0].model_copy(update={"after": late})
    assert entries[1].before
    second = entries[1].model_copy(
        update={"before": entries[1].before.model_copy(update={"previous": first.hash})}
    )
    assert breaks([first, second]) == [], "who was given up may have moved it late"


def test_a_server_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    away = Registry(f"http://someone:hunter2@127.0.0.1:{free_port()}", "skumatch", tmp_path)
    for call in (
        lambda: promote(away, 1, None, ANN, WHY),
        lambda: rollback_target(away),
        lambda: history(away),
    ):
        with pytest.raises(RegistryUnavailable, match="doesn't answer") as caught:
            call()
        assert "hunter2" not in str(caught.value)


def _asked(version: int, expected: int | None, action: str = "promote") -> MoveRequest:
    return MoveRequest.model_validate(
        {"action": action, "version": version, "expected": expected, "who": ANN, "why": WHY}
    )


def _closed(number: int, question: MoveRequest, before: int | None, after: int | None) -> Entry:
    now = journal._now()
    return Entry(
        number=number,
        asked=question,
        before=Before(previous="", champion=before, at=now),
        after=After(outcome="done", champion=after, at=now),
    )


@given(st.lists(st.one_of(st.none(), st.integers(1, 6)), max_size=25))
def test_rolling_back_undoes_promotions_in_turn(steps: list[int | None]) -> None:
    """None is a rollback. A stack of champions is the model: promotion pushes, rollback pops."""
    entries: list[Entry] = []
    stack: list[int] = []
    for step in steps:
        now = stack[-1] if stack else None
        if step is not None and step not in stack:
            stack.append(step)
            entries.append(_closed(len(entries) + 1, _asked(step, now), now, step))
        elif step is None and len(stack) > 1:
            stack.pop()
            entries.append(_closed(len(entries) + 1, _asked(stack[-1], now, "rollback"), now, stack[-1]))
        assert predecessors(entries) == stack[-2::-1]
