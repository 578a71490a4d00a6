from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from skumatch.config import Settings, load_params
from skumatch.errors import ParameterError
from skumatch.params import Params
from tests.conftest import ROOT

FILE = ROOT / "params.yaml"


def names(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = [names(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"] for name, value in tree.items()]
    return [name for some in found for name in some]


def test_params_yaml_lists_every_parameter() -> None:
    assert sorted(names(yaml.safe_load(FILE.read_text("utf-8")))) == sorted(names(Params().model_dump(mode="json", by_alias=True)))


def test_an_ingredient_that_params_yaml_leaves_out_is_off() -> None:
    train = Params().train
    off = [train.probe.epochs, train.fix.epochs, train.patience, train.sampling.per_sku, train.optimizer.clip, train.average.ema]
    off += [getattr(train.augment, name) for name in ("ratio", "rotate", "perspective", "flip", "blur", "jpeg", "occlude")]
    off += [train.tower.freeze, train.tower.lora_rank, train.tower.patch_dropout, train.tower.compile, Params().encoder.dim]
    assert not any(off) and train.average.wise == train.loss.dims == () and train.optimizer.layer_decay == train.sampling.power == 1


def test_every_parameter_has_a_comment_or_a_name_that_says_it() -> None:
    uncommented = [line for line in FILE.read_text("utf-8").splitlines() if line.startswith("  ") and "#" not in line]
    assert len(uncommented) <= 20  # learning rates and batches need none


def test_an_override_replaces_one_value_and_leaves_the_rest() -> None:
    changed = load_params(FILE, ["train.epochs=3", "seed=11", "data.others=[others, rest]", "runtime.device=cpu"])
    assert (changed.train.epochs, changed.seed, changed.data.others, changed.runtime.device) == (3, 11, ("others", "rest"), "cpu")
    assert changed.encoder == load_params(FILE).encoder


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", "There is no parameter 'train.epoch'"),
        ("training.epochs=3", "There is no parameter 'training.epochs'"),
        ("train.epochs.more=3", "There is no parameter 'train.epochs.more'"),
        ("train.epochs", "is no override"),
        ("train.epochs=-1", "Parameter train.epochs is -1"),
        ("train.epochs=many", "Parameter train.epochs is 'many'"),
        ("split.val_share=1.0", "Parameter split.val_share is 1.0"),
        ("encoder.resize=stretch", "Parameter encoder.resize is 'stretch'"),
        ("train={epochs: 3, x: 1}", "There is no parameter 'train.x'"),
        ("runtime.execution=docker", "'runtime.execution' can't be changed for one run"),
        ("runtime.queues.train=cpu", "'runtime.queues.train' can't be changed for one run"),
    ],
)
def test_a_wrong_override_is_refused_in_a_sentence_with_its_name(override: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words.replace("'", ".").replace("(", ".")):
        load_params(FILE, [override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["train.loss.kind=supcon", "train.sampling.per_sku=1"],
            "Parameters train: loss.kind supcon compares .*per_sku to 2",
        ),
        (
            ["train.loss.kind=supcon", "train.sampling.per_sku=4", "train.probe.epochs=2"],
            "a probe with loss.kind supcon fits a projection, and nothing else; set encoder.dim",
        ),
        (["train.patience=3", "train.epochs=0"], "Parameters train: patience is for fine-tuning; raise epochs"),
        (["train.patience=3", "train.fix.epochs=2"], "Parameters train: patience would end the training before the fix; set"),
        (["train.patience=2", "train.validate_every=4"], "Parameters train: patience would end before the next validation; raise it"),
        (["train.average.wise=[0.5]", "train.epochs=0"], "Parameters train: average.wise is for fine-tuning; raise epochs"),
        (
            ["train.patience=3", "split.val_share=0"],
            "^train.patience and train.average.wise need .*raise split.val_share",
        ),
        (["train.average.wise=[0.5]", "split.val_share=0"], "^train.patience and train.average.wise need pictures"),
        (["train.probe.epochs=2", "train.epochs=0"], "^a probe alone trains a projection; set encoder.dim"),
        (["gate.false_promotions_a_year=50"], "Parameters gate: false_promotions_a_year should be less than half of retrains_a_year"),
    ],
)
def test_values_that_dont_fit_together_are_refused_by_their_names(overrides: list[str], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as refused:
        load_params(FILE, overrides)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ("{polish: gpu}", "Parameters runtime.queues: there is no stage 'polish'; the stages are validate, "),
        ("{train: ''}", "runtime.queues.train"),
    ],
)
def test_a_queue_of_a_stage_that_does_not_exist_or_without_a_name(tmp_path: Path, queues: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(f"runtime: {{queues: {queues}}}")
    with pytest.raises(ParameterError, match=words):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_missing_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="There is no"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("train: [1")
    with pytest.raises(ParameterError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


def test_people_open_mlflow_where_they_are_told_and_never_see_a_password() -> None:
    worker = Settings(mlflow="http://user:secret@mlflow:5000/")
    assert worker.mlflow_shown == "http://mlflow:5000"
    assert worker.model_copy(update={"mlflow_page": "https://user:secret@mlflow.example.org/"}).mlflow_shown == "https://mlflow.example.org"
