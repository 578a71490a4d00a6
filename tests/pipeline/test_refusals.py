"""A refusal of data: recorded once, for exactly the data, code and parameters that it rests on."""

from __future__ import annotations

import re
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from skumatch import errors
from skumatch.config import Settings
from skumatch.errors import NothingNew
from skumatch.files import write_json, write_text
from skumatch.params import Params
from skumatch.pipeline import refusals
from skumatch.pipeline.message import Message
from skumatch.promotion import waiting
from skumatch.registry.tracking import Tracking

pytestmark = pytest.mark.live
SENTENCE = "The data broke an expectation; correct it."


@pytest.fixture
def settings(mlflow_url: str, tmp_path: Path) -> Settings:
    return Settings(project=tmp_path, home=tmp_path / "home", mlflow=mlflow_url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace whose stage left a page."""
    write_json(tmp_path / "inputs/code.json", {"commit": "c0ffee", "dirty": False, "sha256": "5ha"})
    write_text(tmp_path / "params.yaml", "seed: 3\n")
    write_text(tmp_path / "pages/validation.html", "why")
    return tmp_path


def message(**more: Any) -> Message:
    """Of a run on a basis of its own."""
    own = {"run": f"run {token_hex(4)}", "basis": token_hex(8)}
    return Message(**{"kind": "refresh", "inputs": "0", "data": "d"} | own | more)


def refuse(
    settings: Settings,
    folder: Path,
    sent: Message,
    kind: str = "ValidationFailed",
    stage: str = "validate",
) -> None:
    error = errors.Relayed(SENTENCE, kind, 13, retry=False)
    refusals.record(settings, sent, stage, error, folder, folder / "pages")


def refused(settings: Settings, sent: Message) -> bool:
    try:
        refusals.check_not_refused(settings, Tracking(settings.mlflow_url), sent.kind, sent.basis)
    except NothingNew:
        return True
    return False


def test_a_refusal_names_what_it_rests_on_and_has_its_page(settings: Settings, folder: Path) -> None:
    sent, tracking = message(), Tracking(settings.mlflow_url)
    refuse(settings, folder, sent)
    refusal = tracking.last_refused(sent.basis)
    assert refusal is not None and tracking.artifact(refusal.run_id, "validate/validation.html") == b"why"
    names = ("kind", "data", "stage", "code", "commit")
    assert [refusal.tags[f"skumatch.{name}"] for name in names] == [
        "refresh",
        "d",
        "validate",
        "5ha",
        "c0ffee",
    ]
    assert (refusal.tags["skumatch.run"], refusal.tags["skumatch.decision"]) == (sent.run, SENTENCE)
    assert len(refusal.tags["skumatch.params"]) == 64
    page = re.escape(tracking.run_page(refusal.run_id, settings.mlflow_shown))
    words = rf"stage validate refused this data .* in the run {sent.run} \({page}\); `skumatch refresh` tries"
    with pytest.raises(NothingNew, match=words):
        refusals.check_not_refused(settings, tracking, "refresh", sent.basis)


@pytest.mark.parametrize("kind", sorted(refusals.REPEATED))
def test_what_the_same_data_repeats_is_recorded(settings: Settings, folder: Path, kind: str) -> None:
    sent = message()
    refuse(settings, folder, sent, kind)
    assert refused(settings, sent)


MACHINES = ("StageFailed", "StorageError", "ParameterError", "WeightsError", "LatencyExceeded", "Fenced")


@pytest.mark.parametrize("kind", MACHINES)
def test_what_may_be_the_machines_is_tried_again(settings: Settings, folder: Path, kind: str) -> None:
    sent = message()
    refuse(settings, folder, sent, kind)
    assert not refused(settings, sent)


def test_a_dry_run_records_no_refusal(settings: Settings, folder: Path) -> None:
    sent = message(dry_run=True)
    refuse(settings, folder, sent)
    assert not refused(settings, sent)


def test_a_run_that_went_on_after_all_is_no_refusal(settings: Settings, folder: Path) -> None:
    """As after its task was cleared, on another machine or with another package."""
    sent = message()
    refuse(settings, folder, sent)
    Tracking(settings.mlflow_url).log_run(sent.run, {}, {}, {}, {}, "FINISHED")
    assert not refused(settings, sent)


def test_a_refusal_that_is_not_recorded_is_only_met_again(
    settings: Settings,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sent = message()
    refuse(settings.model_copy(update={"mlflow": "http://127.0.0.1:9"}), folder, sent)
    assert "could not be recorded, so the next run meets it again: MLflow" in capsys.readouterr().out
    assert not refused(settings, sent)


def test_data_and_not_the_encoder_that_is_judged_again_is_refused(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder then waits for other data; a later failure may be the encoder's fault."""
    waits: list[Any] = []
    monkeypatch.setattr(waiting, "wait", lambda registry, *words: waits.append(words))
    early, late = (message(encoder=4, approved_by="ann") for _ in range(2))
    refuse(settings, folder, early, "DataError", "split")
    refuse(settings, folder, late, "DataError", "embed")
    assert (refused(settings, early), refused(settings, late)) == (True, False)
    assert waits == [(4, "judgement", "ann")]


def test_the_basis_is_another_one_for_other_data_code_or_parameters() -> None:
    others, changed = {"champion": "b"}, {"champion": "a"}
    given: dict[str, Any] = {"kind": "refresh", "data": "d", "code": "c"}
    given |= {"params": Params(), "others": others}
    changes = {"kind": "retrain", "data": "e", "code": "f", "params": Params(seed=4), "others": changed}
    bases = {refusals.basis_of(**given | {name: value}) for name, value in changes.items()}
    assert len(bases | {refusals.basis_of(**given)}) == 6
    assert refusals.basis_of(**given) == refusals.basis_of(**given)
