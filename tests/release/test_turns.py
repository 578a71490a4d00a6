"""Promotion, its journal and the registry against an MLflow in memory: each guard, without a server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST
from pydantic import ValidationError

from skumatch.bundle import bundle_hash, verify_bundle
from skumatch.errors import (
    BundleError,
    ParameterError,
    ReferenceNotFound,
    Refused,
    ServiceError,
    StaleChampion,
)
from skumatch.pipeline.pull import check_champion
from skumatch.promotion import promotion
from skumatch.promotion.promotion import (
    acknowledge,
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
    Acknowledgement,
    Entry,
    Journal,
    MoveRequest,
    breaks,
    faults,
    unheaded,
)
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import clean_tags
from tests.killing import Killed

WHO, WHY, BOOK = "ann", "a gain of 2 points", "shelf-journal"


class Client:
    """As much of MLflow's client as promotions and their journal use.

    writes: aliases as they were set. after_tag: called after each tag of a version is set.
    """

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.writes: list[str] = []
        self.after_tag: Callable[[str, str, str], None] = lambda *_: None
        self._lock = threading.Lock()

    def create_registered_model(self, name: str) -> None:
        if name in self.models:
            raise MlflowException("It is there.", error_code=RESOURCE_ALREADY_EXISTS)
        self.models[name] = SimpleNamespace(aliases={}, versions={}, count=0, description="")

    def get_registered_model(self, name: str) -> Any:
        if name not in self.models:
            raise MlflowException("There is none.", error_code=RESOURCE_DOES_NOT_EXIST)
        return self.models[name]

    def update_registered_model(self, name: str, description: str) -> None:
        self.models[name].description = description

    def create_model_version(
        self,
        name: str,
        source: str,
        tags: dict[str, str] | None = None,
        **_: Any,
    ) -> Any:
        with self._lock:
            model = self.models[name]
            model.count += 1
            made = SimpleNamespace(
                name=name,
                version=str(model.count),
                tags=dict(tags or {}),
                run_id="",
                creation_timestamp=0,
                source=source,
            )
            model.versions[made.version] = made
            return made

    def get_model_version(self, name: str, version: str) -> Any:
        if name not in self.models or version not in self.models[name].versions:
            raise MlflowException("There is none.", error_code=RESOURCE_DOES_NOT_EXIST)
        return self.models[name].versions[version]

    def search_model_versions(self, filter_string: str, **_: Any) -> list[Any]:
        model = self.models.get(filter_string.split("'")[1])
        return list(model.versions.values()) if model else []

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.get_model_version(name, version).tags[key] = value
        self.after_tag(name, version, key)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.writes.append(f"{alias}={version}")
        self.models[name].aliases[alias] = version

    def delete_model_version(self, name: str, version: str) -> None:
        model = self.models[name]
        del model.versions[version]
        model.aliases = {alias: target for alias, target in model.aliases.items() if target != version}

    def get_model_version_download_uri(self, name: str, version: str) -> str:
        return f"mlflow-artifacts:/{name}/{version}"


class InMemory(Registry):
    """A registry whose server is `server`."""

    def __init__(self, server: Client, locks: Path) -> None:
        super().__init__("http://127.0.0.1:9", "shelf", locks)
        self.server = server

    @contextmanager
    def client(self) -> Iterator[Any]:
        yield self.server


@pytest.fixture
def registry(tmp_path: Path) -> InMemory:
    """Three versions, none of them champion."""
    server = Client()
    server.create_registered_model("shelf")
    for number in range(1, 4):
        tags = {"skumatch.bundle": str(number), "skumatch.compared_with": "none"}
        server.create_model_version("shelf", "somewhere", tags)
    return InMemory(server, tmp_path / "locks")


def champion(registry: Registry) -> int | None:
    version = registry.champion()
    return version.version if version else None


def outcomes(registry: Registry) -> list[str]:
    return [entry.after.outcome if entry.after else "open" for entry in history(registry)]


def book_of(registry: InMemory) -> Journal:
    return Journal(registry.server, "shelf", lambda: champion(registry))


@pytest.mark.parametrize("move", [promote, rollback])
def test_a_promoter_whose_entry_was_closed_moves_nothing(registry: InMemory, move: Any) -> None:
    """It slept after its turn came, and the next promoter gave it up: it must see that before it writes."""
    promote(registry, 1, None, WHO, WHY)

    def give_up(name: str, version: str, key: str) -> None:
        if (name, version, key) == (BOOK, "2", journal.BEFORE):
            book = book_of(registry)
            book._close(book.read(2), "abandoned")

    registry.server.after_tag = give_up
    with pytest.raises(ServiceError, match="took so long that another one closed it"):
        move(registry, 2, 1, WHO, WHY)
    assert champion(registry) == 1 and registry.server.writes == ["champion=1"]
    assert outcomes(registry) == ["done", "abandoned"], "what the other one wrote stays"
    assert "moved the alias `champion`" in registry.server.models[BOOK].description


def test_a_stale_promotion_moves_nothing_and_is_journalled(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    for expected in (None, 2):
        with pytest.raises(StaleChampion, match="champion is now version 1, but version 3 was compared with"):
            promote(registry, 3, expected, WHO, WHY)
    assert champion(registry) == 1 and outcomes(registry) == ["done", "stale", "stale"]


def test_promoting_the_champion_again_writes_no_alias(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    promote(registry, 2, 1, WHO, WHY)
    assert promote(registry, 2, 1, WHO, "again, after a crash").version == 2
    assert registry.server.writes == ["champion=1", "champion=2", "previous=1"]
    assert outcomes(registry) == ["done", "done", "already"]


def test_a_promotion_cut_off_between_its_aliases_is_completed(
    registry: InMemory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(registry, 1, None, WHO, WHY)
    promote(registry, 2, 1, WHO, WHY)
    write = registry.server.set_registered_model_alias

    def cut_off(name: str, alias: str, version: str) -> None:
        if alias == promotion.PREVIOUS:
            raise Killed
        write(name, alias, version)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(registry.server, "set_registered_model_alias", cut_off)
        promote(registry, 3, 2, WHO, WHY)
    assert registry.server.models["shelf"].aliases == {"champion": "3", "previous": "1"}
    for _ in range(2):
        promote(registry, 3, 2, WHO, "again, after a crash")
    assert registry.server.models["shelf"].aliases == {"champion": "3", "previous": "2"}
    assert registry.server.writes[-2:] == ["champion=3", "previous=2"], "the second finds all done"
    registry.server.delete_model_version("shelf", "2")
    promote(registry, 3, 2, WHO, "the version before is gone")
    assert registry.server.models["shelf"].aliases == {"champion": "3"}


def test_a_version_that_is_not_there_leaves_no_entry(registry: InMemory) -> None:
    with pytest.raises(ReferenceNotFound):
        promote(registry, 9, None, WHO, WHY)
    assert BOOK not in registry.server.models


def test_what_is_proposed_was_compared_with_the_champion_of_now(registry: InMemory) -> None:
    assert proposed(registry, registry.resolve("2")) is None
    promote(registry, 1, None, WHO, WHY)
    with pytest.raises(StaleChampion, match="is now version 1, but version 2 was compared with none"):
        proposed(registry, registry.resolve("2"))
    del registry.server.models["shelf"].versions["3"].tags["skumatch.compared_with"]
    with pytest.raises(Refused, match="Nothing says which champion version 3 was compared with"):
        compared_with(registry.resolve("3"))


def test_only_what_served_and_is_there_is_rolled_back_to(registry: InMemory) -> None:
    for version, before in ((1, None), (2, 1), (3, 2)):
        promote(registry, version, before, WHO, WHY)
    registry.server.create_model_version("shelf", "somewhere")
    with pytest.raises(ReferenceNotFound, match="Version 4 never was champion"):
        rollback_target(registry, 4)
    registry.server.delete_model_version("shelf", "2")
    assert rollback_target(registry).version == 1
    registry.server.delete_model_version("shelf", "1")
    with pytest.raises(ReferenceNotFound, match="No earlier champion is left"):
        rollback_target(registry)


def test_a_head_recorded_later_stays(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    promote(registry, 1, None, WHO, "again")
    newest = heads(registry)
    promotion._record_head(registry, registry.server, history(registry)[0])
    assert heads(registry) == newest == {1: journal.head_of(history(registry)[1])}


def test_a_promoter_waits_for_the_one_before_it(registry: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until the other one ends or is given up; then it finds a champion that it doesn't expect."""
    monkeypatch.setattr(journal, "POLL_SECONDS", 0.01)
    refusals: list[StaleChampion] = []

    def second() -> None:
        try:
            promote(registry, 2, None, "bob", WHY)
        except StaleChampion as error:
            refusals.append(error)

    waiting = threading.Thread(target=second)
    with book_of(registry).turn(
        MoveRequest(action="promote", version=1, expected=None, who=WHO, why=WHY)
    ) as turn:
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and history(registry)[1].before is None
        turn.confirm()
        registry.server.set_registered_model_alias("shelf", "champion", "1")
        turn.outcome = "done"
    waiting.join(60)
    assert [str(error) for error in refusals] == [
        "The champion is now version 1, but version 2 was compared with none; retrain to compare again."
    ]
    assert champion(registry) == 1 and outcomes(registry) == ["done", "stale"]
    assert breaks(history(registry)) == []


def made_journal(registry: InMemory) -> list[Entry]:
    for version, before in ((1, None), (2, 1), (3, 2)):
        promote(registry, version, before, WHO, WHY)
    return history(registry)


def test_what_was_done_to_the_journal_shows(registry: InMemory) -> None:
    first, second, third = made_journal(registry)
    journal_heads = heads(registry)
    assert breaks([first, second, third]) == unheaded([first, second, third], journal_heads) == []
    assert breaks([first, third]) == ["Entry 2 is missing."]
    left_open = [entry.model_copy(update={"after": None}) for entry in (second, third)]
    assert breaks([first, left_open[0], third]) == ["Entry 2 was never closed, but others follow it."]
    assert breaks([first, second, left_open[1]]) == [], "it may be at work"
    forged = second.model_copy(update={"asked": second.asked.model_copy(update={"who": "eve"})})
    (sentence,) = breaks([first, forged, third])
    assert sentence == "Entry 3 doesn't follow from the one before it: one of the two was changed."
    gone = "Version {0} names entry {0} of the journal, which was changed or removed since."
    assert unheaded([first, forged, third], journal_heads) == [gone.format(2)]
    assert unheaded([first, second], journal_heads) == [gone.format(3)]


def test_a_champion_that_was_moved_outside_the_journal_shows(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    registry.server.set_registered_model_alias("shelf", "champion", "3")
    promote(registry, 2, 3, WHO, WHY)
    (sentence,) = breaks(history(registry))
    assert sentence.startswith("After entry 1 the champion was version 1, before the next it was version 3")


def by_hand(registry: InMemory, version: str | None) -> None:
    """Move or remove the champion's alias as a person does in MLflow."""
    aliases = registry.server.models["shelf"].aliases
    aliases.pop("champion", None)
    if version:
        aliases["champion"] = version


def judged(registry: InMemory) -> list[str]:
    return faults(history(registry), heads(registry), champion(registry))


def test_an_acknowledged_move_by_hand_no_longer_breaks_the_journal(registry: InMemory) -> None:
    """Removed, mended by a rollback, explained: the journal tells it all and holds."""
    promote(registry, 1, None, WHO, WHY)
    by_hand(registry, None)
    rollback(registry, 1, None, "bob", "the alias was gone")
    change = "After entry 1 the champion was version 1, before the next it was none"
    assert judged(registry) == [
        f"{change}: it was moved outside the journal; `skumatch audit acknowledge` records why."
    ]
    move = acknowledge(registry, None, WHO, "I cleaned up the wrong model")
    assert judged(registry) == [] and champion(registry) == 1
    told = f"{change}: it was moved outside the journal, acknowledged by ann in entry 3"
    assert move.sentence == f"{told}: I cleaned up the wrong model"
    assert outcomes(registry) == ["done", "done", "done"]
    assert heads(registry) == {1: journal.head_of(history(registry)[2])}, "its end is held as well"
    assert rollback_target(registry, 1).version == 1 and journal.predecessors(history(registry)) == []


def test_a_second_move_by_hand_needs_its_own_acknowledgement(registry: InMemory) -> None:
    """An acknowledgement explains one move, also where the next one leads the same way."""
    promote(registry, 1, None, WHO, WHY)
    by_hand(registry, "2")
    acknowledge(registry, None, WHO, "an emergency")
    assert judged(registry) == [] and champion(registry) == 2, "it moves nothing back"
    rollback(registry, 1, 2, WHO, WHY)
    by_hand(registry, "2")
    (now,) = judged(registry)
    assert now.startswith("After entry 3 the champion was version 1, now it is version 2")
    rollback(registry, 1, 2, WHO, WHY)
    by_hand(registry, None)
    assert len(judged(registry)) == 2
    with pytest.raises(ParameterError, match="name the entry before the move: 3, 4"):
        acknowledge(registry, None, WHO, "again")
    acknowledge(registry, 3, WHO, "again")
    (left,) = judged(registry)
    assert left.startswith("After entry 4 ")


def test_nothing_to_acknowledge_and_no_reason_are_refused(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    for entry in (None, 1):
        with pytest.raises(ReferenceNotFound, match="there is nothing to acknowledge"):
            acknowledge(registry, entry, WHO, "just in case")
    by_hand(registry, "3")
    for why in ("", " \n"):
        with pytest.raises(ParameterError, match="An explanation is needed"):
            acknowledge(registry, None, WHO, why)
    with pytest.raises(ReferenceNotFound, match="after entry 7 lacks an explanation"):
        acknowledge(registry, 7, WHO, "a wrong number")
    assert outcomes(registry) == ["done"], "what is refused leaves no entry"
    acknowledge(registry, 1, WHO, "a test")
    with pytest.raises(ReferenceNotFound, match="there is nothing to acknowledge"):
        acknowledge(registry, 1, WHO, "twice")


def test_a_move_while_it_is_acknowledged_is_not_covered(registry: InMemory) -> None:
    """Somebody moves the alias again before the entry's turn: the person explained another state."""
    promote(registry, 1, None, WHO, WHY)
    by_hand(registry, "2")
    create = registry.server.create_model_version

    def moved_again(*arguments: Any, **options: Any) -> Any:
        by_hand(registry, "3")
        return create(*arguments, **options)

    registry.server.create_model_version = moved_again  # type: ignore[method-assign]
    with pytest.raises(StaleChampion, match="explained or changed meanwhile"):
        acknowledge(registry, None, WHO, "from 1 to 2")
    (still,) = judged(registry)
    assert still.startswith("After entry 1 the champion was version 1, before the next it was version 3")
    assert outcomes(registry) == ["done", "stale"]


def test_a_forged_acknowledgement_shows(registry: InMemory) -> None:
    """One that explains no move, or one in advance, is a fault; a changed one breaks the chain."""
    promote(registry, 1, None, WHO, WHY)
    for entry, was, found in ((1, 1, 2), (3, 1, 2)):
        ahead = Acknowledgement(entry=entry, was=was, found=found, who="eve", why="in advance")
        with book_of(registry).turn(ahead) as turn:
            turn.outcome = "done"
    assert [fault for fault in breaks(history(registry)) if "acknowledges a move" in fault] == [
        f"Entry {number} acknowledges a move that the journal doesn't show." for number in (2, 3)
    ]
    by_hand(registry, "2")
    promote(registry, 3, 2, WHO, WHY)
    assert any("After entry 3" in fault for fault in breaks(history(registry)))
    with pytest.raises(ValidationError):
        Acknowledgement(entry=1, was=1, found=2, who="eve", why=" ")


def test_an_acknowledgement_without_a_champion_is_held_by_another_version(registry: InMemory) -> None:
    promote(registry, 1, None, WHO, WHY)
    registry.server.delete_model_version("shelf", "1")
    acknowledge(registry, None, WHO, "it was broken")
    assert heads(registry) == {3: journal.head_of(history(registry)[1])} and judged(registry) == []


def test_each_state_of_the_champion_has_its_own_words_and_mend(registry: InMemory) -> None:
    def state() -> tuple[str, str]:
        found = registry.champion_state()
        return found.sentence, found.cure

    assert state() == ("shelf has no champion yet", "`skumatch retrain` makes the first")
    registry.set_alias("challenger", 2)
    assert state()[1] == "`skumatch promote` makes version 2 the first"
    promote(registry, 1, None, WHO, WHY)
    promote(registry, 2, 1, WHO, WHY)
    assert state() == ("shelf has version 2 as champion", "")
    by_hand(registry, "3")
    assert state()[0] == "the champion of shelf was moved by hand, from version 2 to version 3"
    assert "`skumatch rollback 2` moves it back" in state()[1] and "audit acknowledge" in state()[1]
    by_hand(registry, None)
    removed = "shelf has no champion now: the alias of version 2 was removed in MLflow"
    assert state() == (removed, "`skumatch rollback` makes version 2 the champion again")
    with pytest.raises(ReferenceNotFound, match=removed):
        registry.resolve("champion")
    with pytest.raises(StaleChampion, match=f"{removed}, but version 3 was .*skumatch rollback"):
        promote(registry, 3, 2, WHO, WHY)
    registry.server.delete_model_version("shelf", "2")
    deleted = "shelf has no champion now: its version 2 was deleted in MLflow"
    assert state() == (deleted, "`skumatch rollback` makes version 1 the champion again")
    registry.server.delete_model_version("shelf", "1")
    assert state() == (deleted, "`skumatch retrain` makes a new one")
    with pytest.raises(ReferenceNotFound, match=f"No earlier champion is left to roll back to: {deleted}"):
        rollback_target(registry)


def test_a_run_needs_a_champion_that_a_rollback_can_bring_back(registry: InMemory) -> None:
    """Else a model would become champion by its floor alone, though there is one to compare with."""
    check_champion(registry, "retrain", None)
    with pytest.raises(ReferenceNotFound, match="no champion whose gallery .* no champion yet"):
        check_champion(registry, "refresh", None)
    promote(registry, 1, None, WHO, WHY)
    check_champion(registry, "refresh", registry.champion())
    by_hand(registry, None)
    for kind in ("retrain", "refresh"):
        with pytest.raises(ReferenceNotFound, match="alias of version 1 was removed .*skumatch rollback"):
            check_champion(registry, kind, None)  # type: ignore[arg-type]
    registry.server.delete_model_version("shelf", "1")
    check_champion(registry, "retrain", None)


@pytest.fixture
def stored(registry: InMemory, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> InMemory:
    """A registry that has the files of a bundle, which is version 1."""
    import mlflow.artifacts

    registry.server.models["shelf"].versions["1"].tags["skumatch.bundle"] = bundle_hash(bundle)

    def download(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        return str(shutil.copytree(bundle, Path(dst_path) / "bundle"))

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", lambda **_: ["bundle.json"])
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    return registry


def test_a_bundle_is_fetched_whole_or_not_at_all(stored: InMemory, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "champion"
    assert verify_bundle(stored.download_bundle(stored.resolve("1"), folder)).counts.gallery == 12
    shutil.rmtree(folder)
    (bundle / "labels.json").write_text("{}")
    with pytest.raises(BundleError, match=r"labels\.json .* was changed"):
        stored.download_bundle(stored.resolve("1"), folder)
    assert not folder.exists()
    with pytest.raises(BundleError, match="not 2"):
        stored.download_bundle(stored.resolve("2"), folder)


def test_a_folder_of_other_things_is_not_overwritten(stored: InMemory, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="holds other files"):
        stored.download_bundle(stored.resolve("1"), tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years"


def test_a_spoilt_bundle_is_never_registered(
    registry: InMemory,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bundle / "labels.json").write_text("{}")
    for name in ("uploaded", "upload"):
        monkeypatch.setattr(
            f"skumatch.registry.registry.{name}", lambda *_: pytest.fail("something was sent")
        )
    with pytest.raises(BundleError, match="was changed"):
        registry.register(bundle, "run", {}, "")


def test_credentials_never_reach_a_tag() -> None:
    tags = clean_tags({"skumatch.source": "https://me:hunter2@example.org/x.git"})
    assert tags == {"skumatch.source": "https://example.org/x.git"}
