"""Bad input: one sentence with a remedy, its own exit code, nothing half-written, and a rerun that works."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from skumatch.config import Settings
from skumatch.errors import ParameterError
from skumatch.pipeline.pull import RunRequest, pull
from skumatch.servers import services
from tests.cli import Cli
from tests.conftest import Delivery, draw, free_port

PARAMETER, DATA, IMAGE, VALIDATION, WEIGHTS, REFERENCE, CODE = 10, 11, 12, 13, 14, 17, 19
REGISTRY, STORAGE, PORT, SERVICE = 20, 21, 30, 31


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A project with data, which refused input must not change."""
    root = tmp_path_factory.mktemp("bad-input")
    cli = Cli.make(root)
    for sku in range(3):
        for side in ("train", "test"):
            draw(root / "good" / "all" / side / f"sku {sku}" / "0.png", f"{sku} {side}")
    assert cli("data", "import", root / "good").code == 0
    return cli


@pytest.fixture
def fresh(tmp_path: Path) -> Cli:
    """A project of the test's own, to change."""
    return Cli.make(tmp_path)


# Deliveries that can't be imported: how the good one is spoilt, and what is said.


def missing(root: Path) -> Path:
    shutil.rmtree(root)
    return root


def empty(root: Path) -> Path:
    shutil.rmtree(root / "all")
    return root


def other_layout(root: Path) -> Path:
    (root / "all" / "train").rename(root / "pictures")
    shutil.rmtree(root / "all")
    return root


def no_test_side(root: Path) -> Path:
    shutil.rmtree(root / "all" / "test")
    return root


def no_train_side(root: Path) -> Path:
    shutil.rmtree(root / "all" / "train")
    return root


def no_readable_query(root: Path) -> Path:
    for path in (root / "all" / "test").rglob("*.png"):
        path.write_text("no picture")
    return root


def neither_folder_nor_zip(root: Path) -> Path:
    path = root.with_name("delivery.zip")
    path.write_text("no zip")
    return path


SPOILT: tuple[tuple[Callable[[Path], Path], str], ...] = (
    (missing, "There is no"),
    (empty, "is empty"),
    (other_layout, "is not in RP2K's layout"),
    (no_test_side, "has no test side"),
    (no_train_side, "has no train side"),
    (no_readable_query, "has no usable test image"),
    (neither_folder_nor_zip, "is neither a folder nor a zip"),
)


@pytest.mark.parametrize(("spoil", "what"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_a_delivery_that_cannot_be_used(
    cli: Cli, delivery: Delivery, spoil: Callable[[Path], Path], what: str
) -> None:
    cli.refuses(DATA, what, "data", "import", spoil(delivery(skus=2, train=1, test=1)))


def test_the_corrected_delivery_is_imported(fresh: Cli, delivery: Delivery) -> None:
    root = delivery(skus=2, train=2, test=1)
    shutil.move(root / "all" / "test", root / "elsewhere")
    fresh.refuses(DATA, "has no test side", "data", "import", root)
    shutil.move(root / "elsewhere", root / "all" / "test")
    assert "6 images of 2 SKUs" in fresh("data", "import", root).out


def test_a_zip_damaged_inside_loses_that_image_only(fresh: Cli, delivery: Delivery, tmp_path: Path) -> None:
    path = tmp_path / "delivery.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((root := delivery(skus=2, train=3, test=1)).rglob("*.png")):
            archive.write(file, file.relative_to(root))
        damaged = archive.infolist()[0].header_offset + 100
    data = bytearray(path.read_bytes())
    data[damaged] ^= 0xFF
    path.write_bytes(data)
    ended = fresh("data", "import", path)
    assert (ended.code, ended.err) == (0, "")
    assert "7 images of 2 SKUs" in ended.out and "1 set aside" in ended.out


def test_an_unreadable_image_is_set_aside_and_named_and_too_many_stop_the_run(
    fresh: Cli, delivery: Delivery
) -> None:
    root = delivery(skus=3, train=3, test=1)
    broken = root / "all/train/sku 1/0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    ended = fresh("data", "import", root)
    assert ended.code == 0 and "11 images of 3 SKUs" in ended.out and "1 set aside" in ended.out
    assert "train/sku 1/0.png" in (shown := fresh("data", "inspect").out) and "truncated" in shown
    fresh.refuses(VALIDATION, "were set aside", "stage", "validate")
    assert not (fresh.project / "out/validate").exists()
    fresh.refuses(DATA, "sku 1/0.png", "evaluate", "--data", root, "--model", "frozen:smoke@none")
    fresh.refuses(IMAGE, "is damaged: its end is missing", "match", broken, "--model", "champion")


def test_a_sku_with_one_image_is_legal_and_named_and_too_many_stop_the_run(
    fresh: Cli, delivery: Delivery
) -> None:
    root = delivery(skus=4, train=2, test=1)
    (root / "all/train/sku 2/1.png").unlink()
    assert fresh("data", "import", root).code == 0
    fresh.refuses(VALIDATION, "sku 2", "stage", "validate")
    change(fresh, "validate", max_sparse_share=0.25)
    ended = fresh("stage", "validate")
    assert (ended.code, ended.err) == (0, "")
    warnings = json.loads((fresh.project / "out/validate/validation.json").read_text())["warnings"]
    assert [
        warning for warning in warnings if "fewer than 2 gallery images" in warning and "sku 2" in warning
    ]


# Parameters.


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("train.epoch=3", "There is no parameter 'train.epoch'"),
        ("nothing.epochs=3", "There is no parameter 'nothing.epochs'"),
        ("seed.value=3", "There is no parameter 'seed.value'"),
        ("train.epochs=-1", "Parameter train.epochs is -1"),
        ("train.epochs=many", "Parameter train.epochs is 'many'"),
        ("validate.min_skus=0", "Parameter validate.min_skus is 0"),
        ("encoder.resize=stretch", "Parameter encoder.resize is 'stretch'"),
        ("train.loss.scale=.inf", "Parameter train.loss.scale is .inf"),
        ("train=3", "'train' is a section; set its parameters one by one"),
        ("train.epochs", "'train.epochs' is no override"),
        ("train.epochs=[", "train.epochs=["),
    ],
)
def test_a_parameter_that_does_not_exist_or_is_out_of_range(cli: Cli, override: str, what: str) -> None:
    cli.refuses(PARAMETER, what, "retrain", "--set", override)


def test_run_refuses_a_wrong_parameter_before_it_renders_or_starts_anything(fresh: Cli) -> None:
    fresh.refuses(PARAMETER, "train.epoch", "run", "--set", "train.epoch=3", mlflow=None)
    assert not fresh.home.exists()


def test_a_wrong_parameter_file(fresh: Cli) -> None:
    change(fresh, "train", epoch=3)
    fresh.refuses(PARAMETER, "There is no parameter 'train.epoch'", "stage", "validate")
    (fresh.project / "params.yaml").write_text("train: [")
    fresh.refuses(PARAMETER, "is not valid YAML", "models")
    (fresh.project / "params.yaml").unlink()
    fresh.refuses(PARAMETER, "run skumatch in the project's folder", "models")


def change(cli: Cli, section: str, **values: object) -> None:
    path = cli.project / "params.yaml"
    tree = yaml.safe_load(path.read_text("utf-8"))
    tree[section] |= values
    path.write_text(yaml.safe_dump(tree), "utf-8")


# Disks and remotes that refuse a write.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system; `fill` uses up its space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free; return the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def test_a_full_disk_stops_an_import_and_the_rerun_works(
    small_disk: Path, delivery: Delivery, tmp_path: Path
) -> None:
    cli, root = Cli.make(small_disk), delivery(skus=2, train=3, test=1)
    assert cli("data", "import", root).code == 0
    draw(root / "all/train/sku 0/new.png", "new")
    filler = fill(small_disk)
    cli.refuses(STORAGE, "Could not write", "data", "import", root)
    filler.unlink()
    assert "9 images of 2 SKUs" in cli("data", "import", root).out


def test_a_full_disk_stops_a_stage_which_leaves_nothing_of_its_out(
    small_disk: Path, delivery: Delivery
) -> None:
    cli = Cli.make(small_disk)
    assert cli("data", "import", delivery(skus=4, train=3, test=1)).code == 0
    assert cli("stage", "validate").code == 0
    filler = fill(small_disk)
    ended = cli("stage", "split")
    assert (ended.code, ended.err.count("\n")) == (STORAGE, 1), ended
    assert "Could not write" in ended.err
    assert not (cli.project / "out/split").exists()
    filler.unlink()
    assert cli("stage", "split").code == 0


def test_a_full_remote_is_told_and_the_rerun_stores_the_data(
    small_disk: Path, fresh: Cli, delivery: Delivery
) -> None:
    root, remote = delivery(skus=2, train=3, test=1), small_disk / "remote"
    remote.mkdir()
    filler = fill(small_disk)
    ended = fresh("data", "import", root, remote=remote)
    assert (ended.code, ended.err.count("\n")) == (STORAGE, 1), ended
    assert "No space left on device" in ended.err
    filler.unlink()
    assert fresh("data", "import", root, remote=remote).code == 0
    assert len([path for path in remote.rglob("*") if path.is_file()]) >= 3


def test_a_remote_that_cannot_be_written_is_told(fresh: Cli, delivery: Delivery, tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("a file where a folder should be")
    ended = fresh("data", "import", delivery(skus=2, train=2, test=1), remote=tmp_path / "remote")
    assert (ended.code, ended.err.count("\n")) == (STORAGE, 1), ended
    assert "check the" in ended.err


# Servers.


@pytest.mark.parametrize("which", ["airflow", "mlflow"])
def test_a_port_in_use_starts_nothing(fresh: Cli, which: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = {"airflow_port": free_port(), "mlflow_port": free_port()} | {
            f"{which}_port": other.getsockname()[1]
        }
        fresh.refuses(PORT, f"SKUMATCH_{which.upper()}_PORT", "up", mlflow=None, **ports)
    assert services.running(Settings(project=fresh.project, home=fresh.home)) == set()


@pytest.mark.parametrize("words", [("run",), ("retrain",), ("refresh",), ("up",), ("pull",)])
def test_a_signing_key_that_cannot_sign_starts_nothing(cli: Cli, tmp_path: Path, words: tuple[str]) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN PUBLIC KEY-----")
    places = {"mlflow": None, "airflow_port": free_port(), "mlflow_port": free_port()}
    cli.refuses(PARAMETER, "it is a public key", *words, signing_key=key, **places)
    cli.refuses(PARAMETER, "there is no such file", *words, signing_key=tmp_path / "none.pem")
    assert services.running(Settings(project=cli.project, home=cli.home)) == set()


def test_a_runs_first_task_tries_the_signing_key(cli: Cli, tmp_path: Path) -> None:
    here = Settings(project=cli.project, home=tmp_path / "home", signing_key=tmp_path / "none.pem")
    with pytest.raises(ParameterError, match="SKUMATCH_SIGNING_KEY. can't be read"):
        pull(here, RunRequest(run="r1"))


def test_airflow_away_is_told_with_what_starts_it(cli: Cli) -> None:
    for word in ("retrain", "refresh"):
        cli.refuses(SERVICE, "skumatch up", word, airflow_port=free_port())


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (
            "train.epochs=3",
            "'train.epochs' can't be set for a refresh, which trains nothing and would not heed it",
        ),
        ("train={epochs: 3}", "'train.epochs' can't be set for a refresh"),
        ("encoder.height=224", "'encoder.height' can't be set for a refresh"),
        ("train.epoch=3", "did you mean train.epochs?"),
        ("schedule.refresh=none", "Airflow reads it with its DAGs"),
        ("seed", "is no override"),
    ],
)
def test_what_a_refresh_would_not_heed_is_refused(cli: Cli, override: str, what: str) -> None:
    """It is refused before any call of Airflow, which is down here."""
    cli.refuses(PARAMETER, what, "refresh", "--set", override, airflow_port=free_port())


def test_what_a_refresh_heeds_is_taken(cli: Cli) -> None:
    heeded = (
        "seed=3",
        "gate.margin=0.01",
        "embed.batch=8",
        "evaluate.voters=3",
        "release.model_name=x",
        "runtime.threads=1",
    )
    words = [word for override in heeded for word in ("--set", override)]
    cli.refuses(SERVICE, "skumatch up", "refresh", *words, airflow_port=free_port())


def test_a_refresh_of_a_ref_without_data_starts_nothing(cli: Cli) -> None:
    cli.refuses(DATA, "Git ref 'nowhere'", "refresh", "--data-ref", "nowhere", airflow_port=free_port())


def test_there_is_no_data_yet(fresh: Cli) -> None:
    fresh.refuses(DATA, "There is no data yet", "retrain")
    fresh.refuses(DATA, "There is no data yet", "refresh")
    fresh.refuses(DATA, "import data first", "data", "inspect")
    fresh.refuses(DATA, "There is no", "data", "import", "all", "--skus", "list.txt")


@pytest.mark.parametrize(
    "words", [("models",), ("pull",), ("evaluate", "--data", "DATA"), ("match", "PICTURE")]
)
def test_mlflow_away_is_told_with_what_starts_it(
    cli: Cli, delivery: Delivery, words: tuple[str, ...]
) -> None:
    cli.refuses(REGISTRY, "doesn't answer; start it", *with_places(words, delivery))


@pytest.mark.live
def test_no_champion_yet(fresh: Cli, delivery: Delivery, mlflow_url: str) -> None:
    change(fresh, "release", model_name="nobody")
    for words, sentence in (
        (("match", "PICTURE"), "nobody has no champion yet"),
        (("evaluate", "--data", "DATA", "--model", "champion"), "nobody has no champion yet"),
        (("match", "PICTURE", "--model", "3"), "The model 'nobody'"),
    ):
        fresh.refuses(REFERENCE, sentence, *with_places(words, delivery), mlflow=mlflow_url)
    assert "No model is registered yet" in fresh("models", mlflow=mlflow_url).out


def with_places(words: tuple[str, ...], delivery: Delivery) -> list[str]:
    places = {"DATA": (root := delivery(skus=2, train=1, test=1)), "PICTURE": root / "all/test/sku 0/0.png"}
    return [str(places.get(word, word)) for word in words]


@pytest.mark.parametrize(
    ("code", "what", "words"),
    [
        (DATA, "There is no nothing.png", ("match", "nothing.png")),
        (PARAMETER, "give --out matches.parquet", ("match", "skumatch")),
        (PARAMETER, "give --out matches.parquet", ("match", "PICTURE", "--html", "page.html")),
        (PARAMETER, "give one of them", ("match", "PICTURE", "--out", "m.parquet", "--json")),
        (REFERENCE, "has no bundle.json", ("match", "PICTURE", "--model", "./skumatch")),
        (REFERENCE, "a frozen tower has no gallery", ("match", "PICTURE", "--model", "frozen:smoke")),
        (DATA, "There is no", ("evaluate", "--data", "nowhere", "--model", "frozen:smoke@none")),
        (DATA, "There is no protocol", ("evaluate", "--data", "DATA", "--protocol", "half")),
        (
            PARAMETER,
            "There is no encoder 'no-such-model'",
            ("evaluate", "--data", "DATA", "--model", "frozen:no-such-model@none"),
        ),
        (
            WEIGHTS,
            "encoder.weights",
            ("evaluate", "--data", "DATA", "--model", "frozen:smoke@/nowhere.safetensors"),
        ),
        (PARAMETER, "There is no stage 'polish'", ("stage", "polish")),
    ],
)
def test_a_word_that_names_nothing(
    cli: Cli, delivery: Delivery, code: int, what: str, words: tuple[str, ...]
) -> None:
    cli.refuses(code, what, *with_places(words, delivery))


def test_every_kind_of_error_has_an_exit_code_of_its_own() -> None:
    from skumatch.errors import Relayed, RunFailed, SkumatchError

    kinds = [kind for kind in SkumatchError.__subclasses__() if kind not in (Relayed, RunFailed)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) and not {0, 1, 2, os.EX_OK} & set(codes)


# Code that git can't vouch for: refused before anything starts where git refuses, told where there is no git.


@pytest.mark.parametrize("command", ["run", "retrain", "retrain --data-ref HEAD", "refresh", "pull"])
def test_git_that_refuses_ends_a_run_first(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command.split()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    cli.refuses(CODE, "detected dubious ownership in repository", *words)
    monkeypatch.setenv("PATH", "/nowhere")
    cli.refuses(CODE, "there is no git here (on the PATH) to read it; install git.", *words)


def test_git_that_refuses_is_told_by_doctor_with_its_cure(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    output = " ".join(cli("doctor").out.split())
    assert "detected dubious ownership" in output and "no git commit" not in output


@pytest.mark.parametrize("command", ["retrain", "pull"])
def test_a_run_without_git_says_first_what_the_gate_will_say(fresh: Cli, command: str) -> None:
    shutil.rmtree(fresh.project / ".git")
    (fresh.project / "data.dvc").write_text("outs: []\n")
    ended = fresh(command)
    output = " ".join(ended.out.split())
    assert "The code is under no git commit: it is in no git repository (not a git repository" in output
    assert "The run works, but the gate will refuse its model. Clone the project with git" in output
    assert ended.code in (REGISTRY, SERVICE), "nothing is up, which a run finds next"


def test_uncommitted_code_is_named_as_it_is_called(fresh: Cli) -> None:
    for name in ("skumatch/[red]größe.py", "skumatch/\x1b[31mline\n.py"):
        (fresh.project / name).write_text("")
    output = " ".join(fresh("pull").out.split())
    names = "skumatch/\\x1b[31mline\\n.py, skumatch/[red]größe.py"
    assert f"has uncommitted changes ({names})" in output and "Commit them" in output


def test_code_that_a_run_cannot_take_along_is_refused(fresh: Cli) -> None:
    (fresh.project / "skumatch/link.py").symlink_to("errors.py")
    for words in (["retrain"], ["pull"]):
        (fresh.project / "data.dvc").write_text("outs: []\n")
        fresh.refuses(CODE, "skumatch/link.py is a symbolic link", *words)
