"""Pictures that must go from everywhere, with a real remote and a real MLflow: erase, refresh, `gc --erase`.

The tests follow one another, as a shop would go.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from skumatch.cleanup import erasing, leftovers
from skumatch.cleanup.erasing import Losses, erase, plan
from skumatch.cleanup.references import path_of
from skumatch.cleanup.stores import ObjectStore
from skumatch.config import Settings
from skumatch.data.manifest import read_manifest
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.errors import CleaningRefused, LossNotAccepted
from skumatch.files import sha256
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import DataRecord
from skumatch.pipeline.erasure_record import ErasureRecord
from skumatch.pipeline.repository import Repository, md5_of
from skumatch.pipeline.run_cache import RESULT
from skumatch.registry import erasable
from tests.conftest import commit, free_port, serving_mlflow
from tests.pipeline.home import Home
from tests.pipeline.test_refresh import OLD, Shop, project
from tests.pipeline.world import hashes, settings_of
from tests.proving import IN_PROOF

pytestmark = IN_PROOF  # tests/pipeline/test_erasing.py and tests/audit/test_erased.py are the daily ones
WHY = "the supplier's contract ended"
DELETE = ("gc", "--erase", "--delete")


@dataclass(frozen=True)
class Case:
    """A shop, and the traces of the picture to erase: its bytes, thumbnail and vector, and a copy's bytes."""

    shop: Shop
    artifacts: Path
    picture: Path
    traces: dict[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        return sha256(self.picture)

    @property
    def settings(self) -> Settings:
        return settings_of(self.shop.home)

    @property
    def places(self) -> list[Path]:
        home = self.shop.home
        return [home.remote, home.home, home.project / "data", home.project / "out", self.artifacts]

    def left(self) -> dict[str, list[str]]:
        """Kind of trace -> the files that have it."""
        places: dict[str, list[str]] = {kind: [] for kind in self.traces}
        for path in (path for place in self.places for path in place.rglob("*") if path.is_file()):
            data = path.read_bytes()
            for kind, trace in self.traces.items():
                places[kind] += [str(path)] if trace in data else []
        return places

    def files(self) -> dict[str, str]:
        listed = {place.name: hashes(place) for place in self.places}
        return {f"{place}/{name}": files[name] for place, files in listed.items() for name in files}

    def refused(self, code: int, words: str, *command: str) -> None:
        ended = self.shop.home.command(*command)
        assert ended.returncode == code and words in ended.stderr, ended.stdout + ended.stderr


def shown_in(report: str, delivery: Path) -> Path:
    """A gallery picture that a report shows."""
    pictures = sorted(delivery.glob("all/train/*/*.png"))
    return next(path for path in pictures if thumbnail(Image.open(path)) in report)


def vector_of(gallery: Path, image: str) -> bytes:
    rows = pq.read_table(gallery).to_pandas().set_index("id")
    return np.asarray(rows.loc[image, "embedding"], np.float32).tobytes()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    root, mlflow = tmp_path_factory.mktemp("erasure"), tmp_path_factory.mktemp("erasure-mlflow")
    with serving_mlflow(mlflow, free_port()) as url:
        shop = Shop(root, Home(project(root / "project"), root / "home", root / "remote", url), {})
        shop.bring("first", OLD)
        commit(shop.home.project, "First data")
        report = Path(shop.run("first", "retrain")["report"]).read_text("utf-8")
        picture = shown_in(report, root / "first")
        sku = picture.parent.name
        again = root / "again" / sku / "again.png"
        again.parent.mkdir(parents=True)
        with Image.open(picture) as opened:
            opened.save(again, optimize=True)
        assert again.read_bytes() != picture.read_bytes()
        shop.command("data", "add", str(root / "again"))
        bundle = shop.registry.download_bundle(shop.registry.resolve("1"), root / "bundle")
        traces = {
            "bytes": picture.read_bytes(),
            "copy": again.read_bytes(),
            "thumbnail": thumbnail(Image.open(picture)).encode(),
            "vector": vector_of(bundle / "gallery.parquet", f"train/{sku}/{picture.name}"),
        }
        yield Case(shop, mlflow / "artifacts", picture, traces)


def test_before_an_erasure_every_trace_is_there(case: Case) -> None:
    left = case.left()
    assert all(left.values())
    assert {"remote", "home", "artifacts"} <= {part for name in left["vector"] for part in Path(name).parts}
    assert "No picture was erased" in case.shop.command("gc", "--erase").stdout


def test_what_is_in_no_version_is_not_erased(case: Case) -> None:
    before = case.files()
    case.refused(11, "No data version has the picture", "data", "erase", "--image", 64 * "0")
    case.refused(10, "is no SHA-256", "data", "erase", "--image", "0.png")
    case.refused(11, "No data version has a product 'tea'", "data", "erase", "--sku", "tea")
    case.refused(10, "Name pictures with --image", "data", "erase")
    assert case.files() == before


def test_an_erase_tells_what_has_it_and_makes_the_version_without(case: Case) -> None:
    """The copy with equal pixels is erased, too, and the message says that the serving version has both."""
    rows = read_manifest(case.shop.home.project / "data")
    output = " ".join(case.shop.command("data", "erase", "--image", case.digest, "--why", WHY).stdout.split())
    assert "Pictures to erase: 2, 1 of them not named, but with equal pixels." in output
    assert "data version" in output and "today's" in output and "the remote" in output and "MLflow" in output
    assert "Commit data.dvc to keep this version. It can't be undone." in output
    assert "What serves, version 1, still has them in its gallery, until `skumatch refresh`" in output
    now = read_manifest(case.shop.home.project / "data")
    alike = rows["pixels"].isin(rows.loc[rows["sha256"].eq(case.digest), "pixels"])
    assert set(rows["id"]) - set(now["id"]) == set(rows.loc[alike, "id"])
    change = DataRecord(case.settings).erasures()[-1]
    assert case.digest in change.erased and len(change.erased) == 2
    assert change.pixels == list(rows.loc[rows["sha256"].eq(case.digest), "pixels"])
    assert (change.action, change.why) == ("erase", WHY)
    case.refused(11, "came of an erasure, which can't be undone", "data", "undo")
    assert "erase" in case.shop.command("data", "log").stdout


def test_an_encoder_that_learnt_from_it_is_named(case: Case) -> None:
    split = pq.read_table(next(case.artifacts.rglob("split/split.parquet"))).to_pandas().set_index("id")
    role = split.loc[f"train/{case.picture.parent.name}/{case.picture.name}", "role"]
    from skumatch.audit.uses import Wanted, uses
    from skumatch.commands.cleanup import _of_models

    given = list(uses(case.settings, case.shop.registry, Wanted(hashes=(case.digest,))))
    sentences = " ".join(_of_models(case.shop.registry, given))
    assert ("The encoder of version 1 learnt from them" in sentences) is (role == "train")


def test_an_erase_twice_changes_nothing(case: Case) -> None:
    before = case.files()
    case.refused(11, "erased already", "data", "erase", "--image", case.digest)
    assert case.files() == before


def test_a_copy_that_is_saved_anew_does_not_bring_it_back(case: Case) -> None:
    copy = case.shop.root / "once more" / "another product" / "renamed.png"
    copy.parent.mkdir(parents=True)
    with Image.open(case.picture) as opened:
        opened.save(copy, compress_level=1)
    assert copy.read_bytes() not in case.traces.values()
    before = read_manifest(case.shop.home.project / "data")
    shown = case.shop.command("data", "add", str(copy.parents[1])).stdout
    assert "Left out: erased 1." in shown and "nothing changed" in shown
    assert read_manifest(case.shop.home.project / "data").equals(before)


def test_while_what_serves_holds_it_nothing_is_deleted(case: Case) -> None:
    before = case.files()
    case.refused(42, "`skumatch refresh` makes one without it first", *DELETE, "--accept-loss")
    assert case.files() == before


def test_what_is_lost_is_told_before_and_has_to_be_accepted(case: Case) -> None:
    commit(case.shop.home.project, "Erased")
    refreshed = case.shop.run("refresh")
    assert (refreshed["decision"], refreshed["aliases"]["champion"]) == ("refresh", 2)
    before = case.files()
    shown = " ".join(case.shop.command("gc", "--erase").stdout.split())
    assert "shop 1" in shown and "no more" in shown and "skumatch gc --erase --delete --accept-loss" in shown
    case.refused(44, "Version 1 could serve no more; version 2 could not be made again", *DELETE)
    assert case.files() == before
    losses = plan(case.settings, "ann").losses
    assert {(lost.version, lost.gallery) for lost in losses.versions} == {(1, True), (2, False)}
    assert len(losses.data) == 2
    with pytest.raises(LossNotAccepted, match="nothing was deleted"):
        erase(case.settings, "ann", Losses(versions=losses.versions))
    assert case.files() == before


def test_today_s_data_must_not_have_it(case: Case) -> None:
    pointer = case.shop.home.project / "data.dvc"
    now = pointer.read_text("utf-8")
    pointer.write_text(DataRecord(case.settings).erasures()[-1].pointer, "utf-8")
    case.refused(42, "which has a picture that was erased", *DELETE, "--accept-loss")
    pointer.write_text(now, "utf-8")


def test_while_a_run_is_at_work_nothing_is_deleted(case: Case) -> None:
    before, losses = case.files(), plan(case.settings, "ann").losses
    with at_work(case.settings, "busy", "train"), pytest.raises(CleaningRefused, match="Run busy is at work"):
        erase(case.settings, "ann", losses)
    (case.shop.home.remote / "claims/busy.json").unlink()
    assert case.files() == before


def sound(case: Case) -> None:
    """No result names an absent out; no folder lacks a file, but data versions their erased shards."""
    erasures = ErasureRecord(case.settings).read().by_name.values()
    shards = {digest for erasure in erasures for digests in erasure.data.values() for digest in digests}
    remote = case.shop.home.remote
    for path in (remote / "files/md5").rglob("*.dir"):
        members = {part["md5"] for part in json.loads(path.read_text())} - shards
        assert all((remote / path_of(digest)).is_file() for digest in members), path
    for root in (remote, case.shop.home.home / "cache"):
        for path in (root / "runs").rglob("*"):
            if RESULT.fullmatch(path.relative_to(root).as_posix()):
                outs = yaml.safe_load(path.read_text())["outs"]
                assert all((root / path_of(out["md5"])).exists() for out in outs), path


def test_it_may_be_killed_at_any_deletion(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each in turn, it leaves sound stores, and the next one goes on without asking again."""
    gone, alive = list[str](), [True]
    kept = case.shop.registry.resolve("2")

    def deadly(call: Callable[..., None]) -> Callable[..., None]:
        def dropping(*words: Any) -> None:
            if alive.pop():  # others of the same step are asked for, too
                call(*words)
                gone.append(str(words[-1]))
            alive.append(False)
            raise KeyboardInterrupt

        return dropping

    for where, name in (
        (ObjectStore, "_drop"),
        (erasable, "remove"),
        (erasing, "_unlink"),
        (leftovers, "remove"),
    ):
        monkeypatch.setattr(where, name, deadly(getattr(where, name)))
    accepted, ended = plan(case.settings, "ann").losses, False
    while not ended:
        before, alive[:] = len(gone), [True]
        try:
            erase(case.settings, "ann", accepted)
            ended = True
        except KeyboardInterrupt:
            assert len(gone) == before + 1
        accepted = Losses()
        sound(case)
    assert len(gone) > 10 and ErasureRecord(case.settings).read().open is None
    shutil.rmtree(case.shop.root / "again-bundle", ignore_errors=True)
    case.shop.registry.download_bundle(kept, case.shop.root / "again-bundle")


def test_no_trace_is_left_and_all_else_is(case: Case) -> None:
    assert case.left() == {kind: [] for kind in case.traces}
    version = md5_of((case.shop.home.project / "data.dvc").read_text("utf-8"))
    assert Repository(case.shop.home.project, case.settings).lacking(version) == []
    shown = case.shop.command("gc", "--erase").stdout
    assert "Nothing here holds an erased picture." in shown
    photo = case.shop.root / "first/all/test/sku 0/4.png"
    assert "sku" in case.shop.command("match", str(photo), "--model", "champion").stdout


def test_the_record_says_what_was_deleted_by_whom_and_for_which_change(case: Case) -> None:
    (erasure,) = ErasureRecord(case.settings).read().by_name.values()
    assert erasure.who == "ann" and erasure.finished
    assert erasure.pictures == DataRecord(case.settings).erasures()[-1].erased
    assert [change.why for change in erasure.changes] == [WHY] and len(erasure.data) == 2
    assert {(lost.version, lost.gallery) for lost in erasure.versions} == {(1, True), (2, False)}
    assert erasure.vectors and erasure.artifacts and erasure.objects
    assert not any((case.shop.home.remote / path_of(digest)).exists() for digest in erasure.objects)


def test_what_lost_its_gallery_says_so_in_one_sentence(case: Case) -> None:
    photo = str(case.shop.root / "first/all/test/sku 0/4.png")
    why = f"because: {WHY}"
    shown = case.shop.command("models").stdout
    assert "Version 1 can't serve: its gallery held a picture that was erased on" in shown
    case.refused(16, why, "rollback", "1")
    case.refused(16, why, "match", photo, "--model", "1")
    case.refused(11, why, "reproduce", "1")
    case.refused(11, why, "reproduce", "2")


def audited(case: Case, version: str, folder: Path, code: int = 0) -> dict[str, tuple[str, str]]:
    """Link -> verdict and reason."""
    output = folder / f"{version}.json"
    ended = case.shop.home.command("audit", version, "--verify", "--json", str(output))
    assert ended.returncode == code, ended.stdout + ended.stderr
    links = json.loads(output.read_text("utf-8"))["links"]
    return {link["name"]: (link["verdict"], link["reason"]) for link in links}


def test_an_audit_says_what_was_erased(case: Case, tmp_path: Path) -> None:
    """Links that need it can't be checked, with the reason; all others hold."""
    first, second = audited(case, "1", tmp_path), audited(case, "2", tmp_path)
    for links in (first, second):
        unchecked = {name: reason for name, (verdict, reason) in links.items() if verdict != "holds"}
        assert all(WHY in reason for reason in unchecked.values()), unchecked
    assert {first[name][0] for name in ("data", "bundle", "index")} == {"unchecked"}
    assert {first[name][0] for name in ("journal", "version", "manifest", "commit", "code")} == {"holds"}
    assert second["champion"][0] == "unchecked"
    assert {second[name][0] for name in ("data", "bundle", "index", "split", "manifest")} == {"holds"}


def test_what_the_record_does_not_cover_stays_broken(case: Case, tmp_path: Path) -> None:
    records = case.shop.home.remote / "records/erasures"
    records.rename(tmp_path / "erasures")
    broken = audited(case, "1", tmp_path, code=41)
    (tmp_path / "erasures").rename(records)
    assert {broken[name][0] for name in ("data", "bundle", "index")} == {"broken"}


def test_a_run_on_data_that_lacks_it_is_refused(case: Case) -> None:
    from tests.pipeline.home import TaskFailed

    with pytest.raises(TaskFailed) as caught:
        case.shop.home.task({"run": "older", "data_ref": "HEAD~1"}, "pull")
    assert caught.value.error["kind"] == "DataError" and WHY in caught.value.error["sentence"]


def test_runs_go_on(case: Case) -> None:
    again = case.shop.run("again")
    assert again["decision"] == "keep" and again["aliases"]["champion"] == 2
    retrained = case.shop.run("retrained", "retrain")
    assert retrained["decision"] in ("keep", "promote", "refresh")
    assert case.left() == {kind: [] for kind in case.traces}
