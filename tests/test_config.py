from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.utils.validation import _validate_model_name

from skumatch import progress
from skumatch.cli import _command
from skumatch.config import Settings, check_approval, expanded, load_params, settings
from skumatch.errors import ParameterError, WeightsError
from skumatch.params import Params
from skumatch.pipeline.pull import fetch_base_weights
from tests.conftest import ROOT

FILE = ROOT / "params.yaml"


def names(tree: dict[str, Any], prefix: str = "") -> list[str]:
    nested = [
        names(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
        for name, value in tree.items()
    ]
    return [name for some in nested for name in some]


def test_params_yaml_lists_every_parameter() -> None:
    assert sorted(names(yaml.safe_load(FILE.read_text("utf-8")))) == sorted(
        names(Params().model_dump(mode="json", by_alias=True))
    )


def test_params_yaml_is_the_defaults() -> None:
    assert load_params(FILE) == Params()


def test_every_parameter_has_a_comment_or_a_name_that_says_it() -> None:
    uncommented = [
        line for line in FILE.read_text("utf-8").splitlines() if line.startswith("  ") and "#" not in line
    ]
    assert len(uncommented) <= 20  # learning rates and batches need none


def test_an_override_replaces_one_value_and_leaves_the_rest() -> None:
    changed = load_params(
        FILE, ["train.epochs=3", "seed=11", "data.others=[others, rest]", "runtime.device=cpu"]
    )
    assert (changed.train.epochs, changed.seed, changed.data.others, changed.runtime.device) == (
        3,
        11,
        ("others", "rest"),
        "cpu",
    )
    assert changed.encoder == load_params(FILE).encoder


def test_a_section_of_values_sets_each_of_them_and_leaves_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train: {batch: 64, probe: {views: 2}}")
    train = load_params(file, ["train={epochs: 3, probe: {epochs: 5}}"]).train
    assert (train.epochs, train.batch, train.probe.epochs, train.probe.views) == (3, 64, 5, 2)


def test_the_last_of_two_overrides_for_one_name_counts() -> None:
    assert load_params(FILE, ["seed=x", "train={epochs: 2}", "seed=2", "train.epochs=3"]).seed == 2
    assert load_params(FILE, ["train.epochs=3", "train={epochs: 2}"]).train.epochs == 2
    with pytest.raises(ParameterError, match="Parameter seed is .x. .set for this run."):
        load_params(FILE, ["seed=2", "seed=x"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", "There is no parameter 'train.epoch'; did you mean train.epochs?"),
        ("training.epochs=3", "There is no parameter 'training.epochs'"),
        ("validation.min_skus=3", "There is no parameter 'validation.min_skus'"),
        ("train.epochs.more=3", "There is no parameter 'train.epochs.more'"),
        ("data.others.0=x", "There is no parameter 'data.others.0'"),
        ("train.epochs", "is no override"),
        ("=3", "is no override"),
        ("train.epochs=", "is no override"),
        ("train.epochs= ", "is no override"),
        ("train.epochs =3", "is no override"),
        ("Train.epochs=3", "is no override"),
        ("data.others[0]=x", "is no override"),
        ("train.epochs=3\nseed=4", "is no override"),
        ("train.epochs=-1", "Parameter train.epochs is -1"),
        ("train.epochs=many", "Parameter train.epochs is 'many'"),
        ("split.val_share=1.0", "Parameter split.val_share is 1.0"),
        (
            "encoder.resize=stretch",
            "Parameter encoder.resize is 'stretch' .set for this run.; write squash, pad or crop",
        ),
        ("train={epochs: 3, x: 1}", "There is no parameter 'train.x'"),
        ("train=3", "'train' is a section; set its parameters one by one"),
        ("train={}", "'train' is a section"),
        ("train.loss=null", "'train.loss' is a section"),
        (
            "encoder.weights=/weights #2.safetensors",
            "ends before its #, which begins a comment; write it in quotes",
        ),
        ("encoder.weights=@x", "is not valid YAML, line 1: .*; correct it, or write a text in quotes"),
        ("encoder.weights=*x", "stands for another value; write that value, or quotes around a text"),
        ("runtime.execution=docker", "'runtime.execution' can't be changed for one run"),
        ("runtime.queues.train=cpu", "'runtime.queues.train' can't be changed for one run"),
        ("runtime.queues={train: cpu}", "'runtime.queues' can't be changed for one run"),
        ("runtime.parallel_runs=2", "'runtime.parallel_runs' can't be changed for one run"),
        ("release.approval_hours=1", "'release.approval_hours' can't be changed for one run"),
        (
            "release={approval: required, approval_hours: 1}",
            "'release.approval_hours' can't be changed for one run",
        ),
        ("runtime={device: cpu, queues: {train: cpu}}", "'runtime.queues' can't be changed for one run"),
        (
            "runtime.executionx=docker",
            "There is no parameter 'runtime.executionx'; did you mean runtime.execution?",
        ),
        ("runtime.queuesx={}", "There is no parameter 'runtime.queuesx'"),
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
        (
            ["train.patience=3", "train.epochs=0"],
            "Parameters train: patience is for fine-tuning; raise epochs",
        ),
        (
            ["train.patience=3", "train.fix.epochs=2"],
            "Parameters train: patience would end the training before the fix; set",
        ),
        (
            ["train.patience=2", "train.validate_every=4"],
            "Parameters train: patience would end before the next validation; raise it",
        ),
        (
            ["train.average.wise=[0.5]", "train.epochs=0"],
            "Parameters train: average.wise is for fine-tuning; raise epochs",
        ),
        (
            ["train.patience=3", "split.val_share=0"],
            "^train.patience and train.average.wise need .*raise split.val_share",
        ),
        (
            ["train.average.wise=[0.5]", "split.val_share=0"],
            "^train.patience and train.average.wise need pictures",
        ),
        (["train.probe.epochs=2", "train.epochs=0"], "^a probe alone trains a projection; set encoder.dim"),
        (
            ["gate.false_promotions_a_year=50"],
            "Parameters gate: false_promotions_a_year should be less than half of retrains_a_year",
        ),
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
def test_a_queue_of_a_stage_that_does_not_exist_or_without_a_name(
    tmp_path: Path, queues: str, words: str
) -> None:
    (tmp_path / "params.yaml").write_text(f"runtime: {{queues: {queues}}}")
    with pytest.raises(ParameterError, match=words):
        load_params(tmp_path / "params.yaml")


def test_a_queue_that_is_left_out_keeps_its_default(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("runtime: {queues: {train: a100, split: default}}")
    queues = load_params(tmp_path / "params.yaml").runtime.queues
    assert queues == {"frozen": "gpu", "train": "a100", "embed": "gpu", "split": "default"}


@pytest.mark.parametrize(
    "text", ["", "# nothing", "train:", "train:\nruntime: ~\nvalidate: {}", "\ufeffseed: 7"]
)
def test_what_params_yaml_leaves_empty_has_its_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text, "utf-8")
    assert load_params(tmp_path / "params.yaml") == Params()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"train: [1", "not valid YAML, line 1"),
        (b"train: {epochs: 1, epochs: 2}", "line 1: epochs stands twice in one section"),
        (b"- train", "holds no sections, but - train; write each"),
        (b"7", "holds no sections, but 7"),
        ("seed: 7".encode("utf-16"), "is not UTF-8"),
        ("data: {others: [søren]}".encode("latin-1"), "is not UTF-8"),
        (b"train: 3", "'train' is a section, but is 3 .in params.yaml.; write its parameters below it"),
        (b"train: [epochs]", "'train' is a section, but is \\[epochs\\]"),
        (b"trian: {epochs: 3}", "There is no parameter 'trian' .in params.yaml."),
        (
            b"train: {epochs: }",
            "Parameter train.epochs is empty .in params.yaml.; write a whole number, .*, or leave it out",
        ),
        (
            b"train: {epochs: 010}",
            "Parameter train.epochs is 010 .in params.yaml., which some readers of YAML turn into",
        ),
        (
            b"data: {others: [1_0]}",
            "is .1_0. .in params.yaml., which .* such as .others.; quotes make it a text: '1_0'",
        ),
        (b"release: {model_name: 7}", "is 7 .in params.yaml.; write a text; quotes make it a text: '7'"),
        (
            b"release: {model_name: 2026-01-01}",
            "which some readers .* write a text; quotes make it a text: '2026-01-01'",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(ParameterError, match=words.replace("'", ".")):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ParameterError, match=words.replace("'", ".")):
        load_params(tmp_path / "params.yaml", ["seed=1"])


def test_a_file_that_is_missing() -> None:
    with pytest.raises(
        ParameterError, match="There is no .*nowhere.params.yaml; run skumatch in the project's folder"
    ):
        load_params(Path("nowhere/params.yaml"))


@pytest.mark.parametrize(
    "name",
    ["a/b", "a:b", "a'b", 'a"b', "", " ", " a", "a ", ".", "..", "..a", "a\u200bb", "a-journal", "é" * 101],
)
def test_a_name_that_mlflow_or_its_filters_refuse_is_refused_at_once(name: str) -> None:
    with pytest.raises(
        ParameterError, match="^Parameter release.model_name is .* .set for this run.: "
    ) as refused:
        load_params(FILE, [f"release.model_name={json.dumps(name)}"])
    for character in set(name) & set("/:'\""):
        assert f"can't hold {character};" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["skumatch", "a b", "a.b_c-d", "søren", "模型", "a%20b", "a\\b", "journal", "é" * 100]
)
def test_a_name_that_mlflow_takes_is_taken(name: str) -> None:
    _validate_model_name(name)
    assert load_params(FILE, [f"release.model_name={json.dumps(name)}"]).release.model_name == name


def test_a_byte_order_mark_is_read_over_and_names_are_composed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data:\n  others: [autre\u0301]\n", "utf-8-sig")
    assert load_params(path).data.others == ("autr\u00e9",)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_a_file_that_dvc_could_not_read_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("seed: 1\n# \u00e9t\u00e9\n".encode(encoding))
    with pytest.raises(
        ParameterError, match=r"params.yaml (is not UTF-8 \(byte|has a NUL).*; save it as UTF-8"
    ):
        load_params(path)


def test_people_open_mlflow_where_they_are_told_and_never_see_a_password() -> None:
    worker = Settings(mlflow="http://user:secret@mlflow:5000/")
    assert worker.mlflow_shown == "http://mlflow:5000"
    assert (
        worker.model_copy(update={"mlflow_page": "https://user:secret@mlflow.example.org/"}).mlflow_shown
        == "https://mlflow.example.org"
    )
    assert worker.models_page == "http://mlflow:5000/#/models"


# The environment. What the DAGs read of it is tested in tests/dags.

SETTINGS = {
    "project": "/p", "home": "/h", "remote": "s3://dvc", "mlflow": "http://a", "mlflow_page": "http://b",
    "airflow": "http://c", "airflow_port": "8081", "mlflow_port": "5001", "airflow_users": "ann:op",
    "signing_key": "/k", "openlineage": "http://d", "vectors": "off",
}  # fmt: skip
PATHS = ("project", "home", "remote", "signing_key", "openlineage")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home folder, no variable of ours, and another current folder."""
    for name in os.environ:
        if name.startswith("SKUMATCH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def test_the_table_of_settings_is_whole() -> None:
    assert set(SETTINGS) == set(Settings.model_fields)


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_blank_variable_is_unset(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    blank: str,
) -> None:
    unset = settings()
    monkeypatch.setenv(f"SKUMATCH_{name.upper()}", SETTINGS[name])
    assert settings() != unset
    monkeypatch.setenv(f"SKUMATCH_{name.upper()}", blank)
    assert settings() == unset


@pytest.mark.parametrize("blank", ["", " "])
def test_blank_events_are_no_follower(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("SKUMATCH_EVENTS", blank)
    assert not progress.followed()


def where(loaded: Settings) -> dict[str, str]:
    """Where the settings' paths lead."""
    return {
        "project": str(loaded.project.resolve()),
        "home": str(loaded.home_dir),
        "remote": loaded.remote_url,
        "signing_key": str(loaded.signing_key_file),
        "openlineage": str(loaded.openlineage_target),
    }


@pytest.mark.parametrize("name", PATHS)
def test_a_path_may_begin_with_a_tilde(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"SKUMATCH_{name.upper()}", "~/ein Ort")
    assert where(settings())[name] == f"{home}/ein Ort"


@pytest.mark.parametrize("name", PATHS)
def test_a_relative_path_lies_in_the_project(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And the project in the current folder, wherever that is."""
    monkeypatch.setenv("SKUMATCH_PROJECT", "project")
    if name != "project":
        monkeypatch.setenv(f"SKUMATCH_{name.upper()}", "a/place")
    project = home / "elsewhere/project"
    assert where(settings())[name] == str(project if name == "project" else project / "a/place")


@pytest.mark.parametrize("name", PATHS)
def test_a_home_of_nobody_is_refused_by_name(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"SKUMATCH_{name.upper()}", "~nobody-of-that-name/x")
    sentence = rf"^SKUMATCH_{name.upper()} is '~nobody-of-that-name/x': there is no such user"
    with pytest.raises(ParameterError, match=sentence):
        settings()


@pytest.mark.parametrize("name", ["mlflow", "mlflow_page", "airflow", "openlineage", "remote"])
@pytest.mark.parametrize("url", ["http://[bad", "http://ann:hush@host:port"])
def test_what_is_no_url_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(f"SKUMATCH_{name.upper()}", url)
    sentence = rf"^SKUMATCH_{name.upper()} is 'http://.*': it is no URL"
    with pytest.raises(ParameterError, match=sentence) as refused:
        settings()
    assert "hush" not in str(refused.value)


def test_every_path_of_a_command_may_begin_with_a_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, an option of a command and of one below another."""
    seen: list[Any] = []
    monkeypatch.setattr("skumatch.commands.match._print", lambda paths, *_: seen.extend(paths))
    monkeypatch.setattr("skumatch.commands.data.import_and_store", lambda *paths: seen.extend(paths))
    (home / "a.png").write_text("")
    _command("match").main(["~/a.png"], standalone_mode=False)
    words = ["import", "~/photos", "--skus=~/skus.txt", "--catalogue", "~/c"]
    _command("data").main(words, standalone_mode=False)
    assert seen == [home / name for name in ("a.png", "photos", "skus.txt", "c")]


@pytest.mark.parametrize("name", ["~name-of-nobody", "./~", "a~b", "~~"])
def test_a_file_with_a_tilde_in_its_name_is_itself(name: str) -> None:
    assert expanded(name) == Path(name)


@pytest.mark.parametrize("weights", ["weights.safetensors", "~/elsewhere/project/weights.safetensors"])
def test_weights_of_params_yaml_lie_in_the_project(home: Path, weights: str) -> None:
    chosen = {"model": "smoke", "height": 32, "width": 32, "weights": weights}
    spec = Params().encoder.model_copy(update=chosen)
    here = Settings(project=home / "elsewhere/project", home=home / "home")
    with pytest.raises(WeightsError, match=rf"There is no file {home}/elsewhere/project/weights.safetensors"):
        fetch_base_weights(here, Params().model_copy(update={"encoder": spec}))


@pytest.mark.parametrize("name", ["release.approval", "release.approval_refresh"])
def test_an_approval_needs_people_whom_airflow_knows(name: str) -> None:
    params = load_params(ROOT / "params.yaml", [f"{name}=required"])
    with pytest.raises(ParameterError, match=f"^{name} is required.*or {name}=none"):
        check_approval(Settings(airflow_users=None, airflow=None), params)
    check_approval(Settings(airflow_users="ann:admin", airflow=None), params)
