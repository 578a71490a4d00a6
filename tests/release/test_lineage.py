from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from skumatch.errors import DataError
from skumatch.files import write_json
from skumatch.lineage.documents import bill, events
from skumatch.lineage.lineage import CodeRecord, Inputs, Lineage, Results, lineage, record_hash, stages_of

LOCK = """\
schema: '2.0'
stages:
  train:
    cmd: python -m skumatch stage train
    deps:
    - path: data
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 900
      nfiles: 3
    - path: out/split
      hash: md5
      md5: 11111111111111111111111111111111.dir
    params:
      params.yaml:
        seed: 7
        train:
          epochs: 5
    outs:
    - path: out/train
      hash: md5
      md5: 22222222222222222222222222222222.dir
  split:
    cmd: python -m skumatch stage split
    outs:
    - path: out/split
      md5: 11111111111111111111111111111111.dir
"""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def facts() -> dict[str, Any]:
    return {
        "run": "run-1",
        "started": "2026-11-23T15:31:00Z",
        "ended": "2026-11-23T16:09:00Z",
        "code": {"commit": "c" * 40, "dirty": False, "files": digest("files")},
        "inputs": {
            "kind": "retrain",
            "released": digest("released"),
            "trained": None,
            "data": "md5:0123.dir",
            "archive": "md5:0123",
            "champion": digest("champion"),
            "champion_version": 3,
            "weights": "package",
            "weights_sha256": digest("weights"),
            "params": digest("params"),
            "overrides": ["train.epochs=3"],
            "environment": digest("constraints"),
        },
        "lock": LOCK,
        "results": {
            "challenger": digest("challenger"),
            "champion": digest("old"),
            "answers": digest("answers"),
            "decision": digest("decision"),
            "verdict": "promote",
            "bundle": digest("bundle"),
        },
    }


def record(tree: dict[str, Any]) -> dict[str, Any]:
    return lineage(
        tree["run"],
        tree["started"],
        tree["ended"],
        CodeRecord(**tree["code"]),
        Inputs(**tree["inputs"]),
        tree["lock"],
        Results(**tree["results"]),
    )


def test_the_record_names_every_stage_with_the_hashes_of_its_files() -> None:
    made = record(facts())
    assert made["schema"] == "skumatch-lineage-3" and list(made["stages"]) == ["split", "train"]
    train = made["stages"]["train"]
    assert train["deps"] == {
        "data": "md5:0123456789abcdef0123456789abcdef.dir",
        "out/split": "md5:11111111111111111111111111111111.dir",
    }
    assert train["outs"] == {"out/train": "md5:22222222222222222222222222222222.dir"}
    assert train["params"] == {"params.yaml": {"seed": 7, "train": {"epochs": 5}}}


def test_the_hash_of_the_record_is_that_of_its_file(tmp_path: Path) -> None:
    made = record(facts())
    write_json(tmp_path / "lineage.json", made)
    assert record_hash(made) == hashlib.sha256((tmp_path / "lineage.json").read_bytes()).hexdigest()
    assert record_hash(json.loads((tmp_path / "lineage.json").read_text())) == record_hash(record(facts()))


CHANGES = {
    ("run",): "run-2",
    ("started",): "2026-11-23T15:32:00Z",
    ("ended",): "2026-11-23T16:08:00Z",
    ("code", "commit"): "d" * 40,
    ("code", "dirty"): True,
    ("code", "files"): digest("x"),
    ("inputs", "data"): "md5:4567.dir",
    ("inputs", "archive"): "md5:4567",
    ("inputs", "champion"): None,
    ("inputs", "champion_version"): 2,
    ("inputs", "weights"): "none",
    ("inputs", "weights_sha256"): digest("x"),
    ("inputs", "params"): digest("x"),
    ("inputs", "overrides"): [],
    ("inputs", "environment"): digest("x"),
    ("inputs", "kind"): "refresh",
    ("inputs", "released"): digest("x"),
    ("inputs", "trained"): digest("x"),
    ("results", "challenger"): None,
    ("results", "answers"): digest("x"),
    ("results", "champion"): None,
    ("results", "decision"): digest("x"),
    ("results", "verdict"): "keep",
    ("results", "bundle"): digest("x"),
    ("lock",): LOCK.replace("epochs: 5", "epochs: 6"),
}


def test_every_fact_is_tried_below() -> None:
    tree = facts()
    named = {
        (key,) if not isinstance(value, dict) else (key, inner)
        for key, value in tree.items()
        for inner in (value if isinstance(value, dict) else [key])
    }
    assert set(CHANGES) == named


@pytest.mark.parametrize("where", CHANGES, ids=".".join)
def test_changing_any_one_fact_changes_the_hash(where: tuple[str, ...]) -> None:
    changed = copy.deepcopy(facts())
    node = changed if len(where) == 1 else changed[where[0]]
    assert node[where[-1]] != CHANGES[where]
    node[where[-1]] = CHANGES[where]
    assert record_hash(record(changed)) != record_hash(record(facts()))


EDITS = [
    ("stage train", "stage split"),
    ("abcdef.dir", "abcdee.dir"),
    ("path: data", "path: date"),
    ("seed: 7", "seed: 8"),
    ("222.dir", "223.dir"),
]


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_changing_anything_in_the_lock_changes_the_hash(old: str, new: str) -> None:
    assert old in LOCK
    assert record_hash(record(facts() | {"lock": LOCK.replace(old, new, 1)})) != record_hash(record(facts()))


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "[]",
        "stages: {}",
        "stages: {train: {deps: []}}",
        "stages: {train: {cmd: x, outs: [{path: a}]}}",
        "a: [",
        LOCK[:24],
    ],
)
def test_a_lock_that_is_none_is_a_sentence(lock: str) -> None:
    with pytest.raises(DataError, match=r"dvc\.lock"):
        stages_of(lock)


def test_a_hash_that_is_none_is_a_bug() -> None:
    with pytest.raises(ValidationError):
        CodeRecord(commit=None, dirty=False, files="short")


@pytest.mark.parametrize("kind", ["retrain", "refresh"])
def test_the_events_name_the_dag_of_their_kind_and_the_runs_times(kind: str) -> None:
    tree = facts()
    tree["inputs"]["kind"] = kind
    record = Lineage.model_validate(lineage(**tree))
    start, complete = events(record, "d" * 64, "Kept.", "shelf", None)
    assert start.job.name == complete.job.name == f"skumatch_{kind}"
    assert start.run.runId == complete.run.runId
    times = {event.eventType.value: event.eventTime for event in (start, complete)}
    assert times == {"START": "2026-11-23T15:31:00+00:00", "COMPLETE": "2026-11-23T16:09:00+00:00"}


def test_the_bill_of_materials_says_when_the_run_was() -> None:
    tree = json.loads(bill(Lineage.model_validate(record(facts())), "numpy==2.0\n", "shelf"))
    properties = {entry["name"]: entry["value"] for entry in tree["metadata"]["component"]["properties"]}
    assert properties == {
        "skumatch:run": "run-1",
        "skumatch:started": "2026-11-23T15:31:00+00:00",
        "skumatch:ended": "2026-11-23T16:09:00+00:00",
    }
    assert tree["metadata"]["timestamp"] == "2026-11-23T16:09:00+00:00"
