"""Against a real MLflow server: SQLite, artifacts through its proxy."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skumatch.bundle import bundle_hash, verify_bundle
from skumatch.errors import BundleError, ParameterError, ReferenceNotFound, RegistryUnavailable, ServiceError
from skumatch.registry.mlflow_model import upload
from skumatch.registry.registry import CHALLENGER, HERE, Registry
from tests.conftest import free_port
from tests.killing import Killed

Picture = Callable[[int], Image.Image]
pytestmark = pytest.mark.live


def test_a_run_is_logged_once_and_added_to(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "one.lock").write_text("stages: {}\n")
    (tmp_path / "report").write_text("<html>")
    metrics: dict[str, float | Sequence[float]] = {"challenger.top1": 0.91, "train.loss": [3.0, 2.0, 1.5]}
    first = registry.log_run(
        "run-1",
        {"train.epochs": 5},
        metrics,
        {"skumatch.data": "d1"},
        {"dvc.lock": tmp_path / "one.lock"},
        "RUNNING",
    )
    again = registry.log_run(
        "run-1",
        {"train.epochs": 5},
        metrics,
        {"skumatch.verdict": "keep"},
        {"report/index.html": tmp_path / "report"},
    )
    assert first == again
    with registry.client() as client:
        run = client.get_run(first)
        assert run.info.status == "FINISHED" and run.info.run_name == "run-1"
        assert run.data.params == {"train.epochs": "5"} and run.data.metrics == {
            "challenger.top1": 0.91,
            "train.loss": 1.5,
        }
        assert [point.value for point in client.get_metric_history(first, "train.loss")] == [3.0, 2.0, 1.5]
        assert (
            run.data.tags.items()
            >= {"skumatch.run": "run-1", "skumatch.data": "d1", "skumatch.verdict": "keep"}.items()
        )
        assert [item.path for item in client.list_artifacts(first, "report")] == ["report/index.html"]


def test_a_run_has_its_own_times_not_those_of_its_record(registry: Registry) -> None:
    """It is recorded at its end, and a second call, after a kill, leaves its start."""
    started, ended = datetime(2026, 5, 4, 15, 31, tzinfo=UTC), datetime(2026, 5, 4, 16, 9, tzinfo=UTC)
    for start in (started, started + timedelta(minutes=5)):
        run_id = registry.log_run("long", {}, {}, {}, {}, started=start, ended=ended)
    run = registry.run(run_id)
    assert (run.info.start_time, run.info.end_time) == tuple(
        1000 * moment.timestamp() for moment in (started, ended)
    )


def test_the_experiment_opens_as_model_training(registry: Registry, run_id: str) -> None:
    """An experiment made before the tag gets it with the next run; a person's description stays."""
    with registry.client() as client:
        experiment = client.get_experiment_by_name("skumatch")
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
        assert "retrains the model" in experiment.tags["mlflow.note.content"]
        client.delete_experiment_tag(experiment.experiment_id, "mlflow.experimentKind")
        client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "Ask Ann.")
    registry.log_run("next", {}, {}, {}, {})
    with registry.client() as client:
        tags = client.get_experiment_by_name("skumatch").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.note.content"] == "Ask Ann."
    page = registry.run_page(run_id, "http://mlflow.example.org")
    runs, view = f"#/experiments/{experiment.experiment_id}/runs", "?workflowType=machine_learning"
    assert page == f"http://mlflow.example.org/{runs}/{run_id}{view}"
    assert registry.runs_page("http://127.0.0.1:5000") == f"http://127.0.0.1:5000/{runs}{view}"


def test_the_next_run_starts_from_the_last_that_ended_well(registry: Registry, tmp_path: Path) -> None:
    for run, data, status in (
        ("good", "data-a", "FINISHED"),
        ("other", "data-b", "FINISHED"),
        ("broken", "data-a", "FAILED"),
    ):
        (tmp_path / "dvc.lock").write_text(f"# {run}\n")
        registry.log_run(run, {}, {}, {"skumatch.data": data}, {"dvc.lock": tmp_path / "dvc.lock"}, status)  # type: ignore[arg-type]
        time.sleep(0.01)  # MLflow orders runs by milliseconds
    last = registry.last_finished()
    assert last is not None and (last.lock, last.tags["skumatch.run"]) == ("# other\n", "other")
    assert registry.last_finished(plain=True) is None
    registry.log_run("good", {}, {}, {"skumatch.plain": "true"}, {})
    registry.log_run("other", {}, {}, {"skumatch.plain": "false"}, {})
    last = registry.last_finished(plain=True)
    assert last is not None and last.lock == "# good\n"


def test_credentials_never_reach_a_tag(registry: Registry) -> None:
    run_id = registry.log_run(
        "secret", {}, {}, {"skumatch.source": "https://me:hunter2@example.org/x.git"}, {}
    )
    with registry.client() as client:
        assert client.get_run(run_id).data.tags["skumatch.source"] == "https://example.org/x.git"


def test_the_data_version_is_listed_as_a_runs_datasets(registry: Registry, run_id: str) -> None:
    version = "0123456789abcdef0123456789abcdef.dir"
    for _ in range(2):
        registry.log_data(run_id, version, "s3://me:hunter2@bucket/skumatch")
    with registry.client() as client:
        datasets = [
            (dataset_input.dataset, {tag.key: tag.value for tag in dataset_input.tags})
            for dataset_input in client.get_run(run_id).inputs.dataset_inputs
        ]
        experiment = client.get_run(run_id).info.experiment_id
        (run,) = client.search_runs(
            [experiment], f"dataset.digest = '{version}' and dataset.context = 'training'"
        )
    assert {tags["mlflow.data.context"] for _, tags in datasets} == {"training", "test"} and len(
        datasets
    ) == 2
    for dataset, _ in datasets:
        assert dataset.name.startswith("skumatch data version") and dataset.digest == version
        assert (dataset.source_type, json.loads(dataset.source)) == ("s3", {"uri": "s3://bucket/skumatch"})
    assert run.info.run_id == run_id


def test_an_empty_registry_has_no_champion(registry: Registry) -> None:
    assert registry.champion() is None and registry.versions() == []
    with pytest.raises(ReferenceNotFound, match="has no champion"):
        registry.resolve("champion")
    with pytest.raises(ReferenceNotFound, match="has no version 1"):
        registry.resolve("1")


def test_registering_a_bundle_twice_gives_one_version(registry: Registry, run_id: str, made: Path) -> None:
    tags = {"skumatch.top1": "0.917", "skumatch.data": "d1"}
    assert (
        registry.register(made, run_id, tags, "Accepted.")
        == registry.register(made, run_id, tags, "Accepted.")
        == 1
    )
    [version] = registry.versions()
    assert (version.version, version.bundle, version.run_id) == (1, bundle_hash(made), run_id)
    assert (version.top1, version.data, version.aliases) == (0.917, "d1", ())
    with registry.client() as client:
        assert client.get_model_version(registry.model_name, "1").description == "Accepted."


def test_the_model_card_lies_beside_the_bundle(
    registry: Registry, run_id: str, made: Path, mlflow_home: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Shelves\n")
    registry.register(made, run_id, {}, "", card=card)
    with registry.client() as client:
        where = client.get_model_version_download_uri(registry.model_name, "1").removeprefix(
            "mlflow-artifacts:/"
        )
    assert (mlflow_home / "artifacts" / where / "README.md").read_text() == "# Shelves\n"


def test_the_model_says_what_it_is_and_where_its_journal_lies(
    registry: Registry, run_id: str, several: list[Path]
) -> None:
    registry.register(several[0], run_id, {}, "")
    with registry.client() as client:
        description = client.get_registered_model(registry.model_name).description
        assert (
            "which product (SKU)" in description
            and f"[{registry.model_name}-journal](#/models/{registry.model_name}-journal)" in description
        )
        client.update_registered_model(registry.model_name, "Ask Ann.")
        registry.register(several[1], run_id, {}, "")
        assert client.get_registered_model(registry.model_name).description == "Ask Ann.", (
            "a person's words stay"
        )


def at_once(
    registry: Registry, run_id: str, folder: Path, locks: Path, patch: pytest.MonkeyPatch
) -> list[int | None]:
    """Register a bundle from two machines, which share nothing but the server.

    Each looked for it before the other made its version.

    None stands for a machine that was killed.
    """
    from mlflow import MlflowClient

    with registry.client() as client:
        upload(client, run_id, folder, bundle_hash(folder), HERE)
    both, create = threading.Barrier(2, timeout=60), MlflowClient.create_model_version

    def together(*words: Any, **named: Any) -> Any:
        both.wait()
        return create(*words, **named)

    def one(name: str) -> int | None:
        try:
            return Registry(registry.url, registry.model_name, locks / name).register(folder, run_id, {}, "")
        except Killed:
            return None

    with patch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(MlflowClient, "create_model_version", together)
        return list(pool.map(one, ("a", "b")))


def test_two_machines_that_register_one_bundle_at_once_make_one_version(
    registry: Registry, run_id: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert at_once(registry, run_id, made, tmp_path, monkeypatch) == [1, 1]
    assert [(ref.version, ref.bundle) for ref in registry.versions()] == [(1, bundle_hash(made))]


@pytest.mark.parametrize("alias", [None, CHALLENGER])
def test_what_a_killed_machine_left_is_deleted_by_the_next_call(
    registry: Registry,
    run_id: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alias: str | None,
) -> None:
    from mlflow import MlflowClient

    def killed(*_words: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "delete_model_version", killed)
        assert None in at_once(registry, run_id, made, tmp_path, monkeypatch), (
            "who sees the other's version would delete it"
        )
    assert [ref.version for ref in registry.versions()] == [2, 1]
    if alias:
        registry.set_alias(alias, 2)
    assert registry.register(made, run_id, {}, "") == 1
    assert [ref.version for ref in registry.versions()] == ([2, 1] if alias else [1]), (
        "what an alias names stays"
    )


def test_a_registration_cut_off_before_the_version_uploads_nothing_again(
    registry: Registry, run_id: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.client() as client:
        kind = type(client)
    with monkeypatch.context() as patch:
        patch.setattr(
            kind, "create_model_version", lambda *_args, **_kwargs: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            registry.register(made, run_id, {}, "")
    assert registry.versions() == []
    monkeypatch.setattr(kind, "log_model_artifact", lambda *_args, **_kwargs: pytest.fail("uploaded twice"))
    assert registry.register(made, run_id, {}, "") == 1


def test_a_spoilt_bundle_is_never_registered(registry: Registry, run_id: str, bundle: Path) -> None:
    (bundle / "labels.json").write_text("{}")
    with pytest.raises(BundleError, match="changed"):
        registry.register(bundle, run_id, {}, "")
    assert registry.versions() == []


def test_names_that_are_not_there_or_reserved(registry: Registry, run_id: str, made: Path) -> None:
    registry.register(made, run_id, {}, "")
    for alias in ("latest", "v3", "3", "Latest"):
        with pytest.raises(ParameterError, match="keeps the alias"):
            registry.set_alias(alias, 1)
    with pytest.raises(ReferenceNotFound):
        registry.set_alias(CHALLENGER, 9)
    assert registry.champion() is None


def test_a_bundle_comes_back_as_it_went(registry: Registry, run_id: str, made: Path, tmp_path: Path) -> None:
    version = registry.resolve(str(registry.register(made, run_id, {}, "")))
    folder = registry.download_bundle(version, tmp_path / "in" / "champion")
    assert bundle_hash(folder) == bundle_hash(made) and verify_bundle(folder)
    stamp = (folder / "gallery.parquet").stat().st_ino
    registry.download_bundle(version, folder)
    assert (folder / "gallery.parquet").stat().st_ino == stamp, "not fetched again"
    assert [path.name for path in folder.parent.iterdir()] == ["champion"]
    (folder / "labels.json").unlink()
    registry.download_bundle(version, folder)
    assert verify_bundle(folder), "a damaged one is replaced"


def test_a_bundle_changed_in_the_store_is_refused(
    registry: Registry, run_id: str, made: Path, mlflow_home: Path, tmp_path: Path
) -> None:
    version = registry.resolve(str(registry.register(made, run_id, {}, "")))
    with registry.client() as client:
        where = client.get_model_version_download_uri(registry.model_name, "1").removeprefix(
            "mlflow-artifacts:/"
        )
    (mlflow_home / "artifacts" / where / "artifacts" / "bundle" / "labels.json").write_text("{}")
    with pytest.raises(BundleError, match=r"labels\.json.*changed"):
        registry.download_bundle(version, tmp_path / "champion")
    assert not (tmp_path / "champion").exists()
    shutil.rmtree(mlflow_home / "artifacts" / where / "artifacts" / "bundle")
    with pytest.raises(BundleError, match=r"has no files of version 1 of .* any more; restore"):
        registry.download_bundle(version, tmp_path / "champion")


def test_a_folder_of_other_things_is_not_overwritten(
    registry: Registry, run_id: str, made: Path, tmp_path: Path
) -> None:
    version = registry.resolve(str(registry.register(made, run_id, {}, "")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="holds other files"):
        registry.download_bundle(version, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


CLEAN = """
import base64, json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
pictures = [open(path, "rb").read() for path in sys.argv[3:]]
encoded = [base64.b64encode(picture).decode() for picture in pictures]
frames = [pandas.DataFrame({"image": images}) for images in (pictures, encoded)]
first, second = (model.predict(frame, params={"top_k": 2}).to_dict("list") for frame in frames)
assert first == second
import skumatch
print(json.dumps([first, skumatch.__file__, str(model.predict(frames[0])["skus"][0])]))
"""


def test_the_model_matches_in_a_clean_process(
    registry: Registry, run_id: str, made: Path, picture: Picture, mlflow_url: str, tmp_path: Path
) -> None:
    """Nothing but MLflow and the model's own files: another folder, and the code that came with the model."""
    registry.register(made, run_id, {}, "")
    paths = [tmp_path / "known.png", tmp_path / "stranger.png"]
    for path, seed in zip(paths, (5, 99), strict=True):
        picture(seed).save(path)
    uri = f"models:/{registry.model_name}/1"
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, mlflow_url, uri, *map(str, paths)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, code, by_default = json.loads(done.stdout.splitlines()[-1])
    assert rows["skus"][0][0] == "sku 1" and len(rows["skus"][0]) == 2 and by_default.count("sku") == 4
    assert rows["gallery_ids"][0][0] == "train/05" and rows["similarities"][0][0] == pytest.approx(
        1, abs=1e-5
    )
    assert rows["unknown"] == [False, True]
    assert Path(code).parent.parent.name == "code", "the package comes from the model"


def test_the_stored_model_holds_no_pickle_and_no_place_of_ours(
    registry: Registry, run_id: str, made: Path, mlflow_home: Path
) -> None:
    registry.register(made, run_id, {}, "")
    with registry.client() as client:
        where = client.get_model_version_download_uri(registry.model_name, "1").removeprefix(
            "mlflow-artifacts:/"
        )
    stored = mlflow_home / "artifacts" / where
    assert not [
        path for path in stored.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth", ".pt", ".joblib")
    ]
    text = (stored / "MLmodel").read_text() + (stored / "requirements.txt").read_text()
    assert str(made.parent) not in text and str(Path(__file__).parents[2]) not in text
    assert "+cpu" not in text and "torch==" in text and "mlflow==" in text


def test_a_server_that_is_away_is_one_sentence(tmp_path: Path, made: Path) -> None:
    away = Registry(f"http://someone:hunter2@127.0.0.1:{free_port()}", "skumatch", tmp_path)
    calls: list[Callable[[], object]] = [
        away.champion,
        away.versions,
        away.last_finished,
        lambda: away.resolve("champion"),
        lambda: away.register(made, "r", {}, ""),
        lambda: away.log_run("r", {}, {}, {}, {}),
    ]
    for call in calls:
        with pytest.raises(
            RegistryUnavailable, match=r"MLflow at http://127.*doesn't answer.*skumatch up"
        ) as caught:
            call()
        assert "hunter2" not in str(caught.value)


def test_a_server_that_breaks_in_the_middle_is_unavailable(
    registry: Registry, run_id: str, made: Path, mlflow_home: Path
) -> None:
    """While the store refuses writes, registration stops with a sentence; afterwards it succeeds."""
    with sqlite3.connect(mlflow_home / "mlflow.db", isolation_level=None) as database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON model_versions "
            "BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        try:
            with pytest.raises((RegistryUnavailable, ServiceError), match="MLflow at"):
                registry.register(made, run_id, {}, "")
        finally:
            database.execute("DROP TRIGGER refuse")
    assert registry.champion() is None
    assert registry.register(made, run_id, {}, "") == 1


def test_an_address_that_is_no_server_is_refused() -> None:
    with pytest.raises(ParameterError, match="SKUMATCH_MLFLOW"):
        Registry("sqlite:///mlflow.db")
