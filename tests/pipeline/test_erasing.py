"""Erasures and their refusals, on small stores, with a stub for MLflow."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from skumatch.cleanup import erasing
from skumatch.cleanup.erase_choice import choose
from skumatch.cleanup.erasing import Losses, erase, plan
from skumatch.cleanup.references import path_of
from skumatch.cleanup.stores import ObjectStore
from skumatch.config import Settings
from skumatch.errors import BundleError, CleaningRefused, DataError, LossNotAccepted, ParameterError
from skumatch.pipeline.claims import at_work
from skumatch.pipeline.data_record import DataChange, DataRecord
from skumatch.pipeline.erasure_record import ErasureRecord, refuse_erased_data
from skumatch.pipeline.pull import champions_before
from skumatch.pipeline.repository import pointer
from skumatch.registry import erasable
from skumatch.registry.erasable import Artifact, KeptGallery, KnownRun, Release
from skumatch.registry.holdings import Holding
from skumatch.registry.registry import COMPARED_TAG, ERASED_TAG, ModelRef, Registry
from skumatch.registry.tracking import DATA_TAG

BAD, GOOD, COPY = (hashlib.sha256(name).hexdigest() for name in (b"bad", b"good", b"copy"))
BUNDLE = hashlib.sha256(b"bundle").hexdigest()
IMAGE = "train/tea/0.png"


def row(digest: str, name: str, pixels: str = "", sku: str = "tea", shard: str = "one.tar") -> dict[str, str]:
    return {
        "id": f"train/{sku}/{name}",
        "sku": sku,
        "sha256": digest,
        "pixels": pixels or digest,
        "shard": shard,
    }


class Place:
    """A home and a remote; the test states the contents of MLflow."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        places = {"project": root / "project", "home": root / "home"}
        self.settings = Settings(**places, remote=str(root / "remote"), mlflow="http://127.0.0.1:9")
        self.project, self.home, self.remote = root / "project", root / "home", root / "remote"
        self.project.mkdir()
        self.releases, self.runs = list[Release](), list[KnownRun]()
        self.galleries, self.pages = list[KeptGallery](), list[Artifact]()
        self.deleted, self.old = list[str](), ""
        self.held = [Holding("Run kept", self.put(b"inputs"), "")]
        patch.setattr(erasing, "holdings", lambda *_: self.held)
        patch.setattr(erasable, "releases", lambda _: self.releases)
        patch.setattr(erasable, "runs", lambda _: self.runs)
        patch.setattr(erasable, "galleries", lambda _, data: [g for g in self.galleries if g.data in data])
        patch.setattr(erasable, "pages", lambda _, data: self.pages if data else [])
        patch.setattr(erasable, "remove", lambda _, artifact: self.deleted.append(artifact.name))
        patch.setattr(
            erasable,
            "mark",
            lambda _, model, version, words: self.deleted.append(f"{model} {version}: {words}"),
        )

    def put(self, data: bytes, suffix: str = "", cache: bool = False) -> str:
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest() + suffix
        path = (self.home / "cache" if cache else self.remote) / path_of(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def folder(self, **files: str) -> str:
        """A folder in the remote of files by their MD5; `__` in a name is a slash, `_` a dot."""
        names = {name.replace("__", "/").replace("_", "."): digest for name, digest in files.items()}
        listing = [{"md5": digest, "relpath": name} for name, digest in names.items()]
        return self.put(json.dumps(listing).encode(), ".dir")

    def version(self, *rows: dict[str, str], shard: bytes = b"one", today: bool = False) -> str:
        """A data version of one shard."""
        manifest = self.put(parquet(pd.DataFrame(rows)))
        summary, tar_file = self.put(b"{}"), self.put(shard)
        made = self.folder(manifest_parquet=manifest, import_json=summary, shards__one_tar=tar_file)
        if today:
            (self.project / "data.dvc").write_text(pointer(made, "data"))
        return made

    def result(self, stage: str, data: str, out: str) -> str:
        """An entry of the run cache."""
        entry = {"deps": [{"path": "data", "md5": data}], "outs": [{"path": f"out/{stage}", "md5": out}]}
        key, value = (hashlib.sha256(text.encode()).hexdigest() for text in (out, stage))
        name = f"runs/{key[:2]}/{key}/{value}"
        (self.remote / name).parent.mkdir(parents=True, exist_ok=True)
        (self.remote / name).write_text(yaml.safe_dump(entry))
        return name

    def vectors(self, name: str, *pictures: str) -> list[str]:
        """A part of the vector store."""
        part = f"vectors/{64 * 'a'}/{hashlib.sha256(name.encode()).hexdigest()}"
        (self.remote / part).parent.mkdir(parents=True, exist_ok=True)
        (self.remote / f"{part}.json").write_text(json.dumps({"encoder": 64 * "a", "pictures": pictures}))
        (self.remote / f"{part}.safetensors").write_bytes(b"x")
        return [f"{part}.json", f"{part}.safetensors"]

    def erased(self, *pictures: str, why: str = "a request") -> None:
        facts = {
            "action": "erase",
            "after": 32 * "9" + ".dir",
            "before": 32 * "8" + ".dir",
            "pointer": "",
            "summary": "",
        }
        more = {"who": "ann", "when": "2026-11-30T08:00:00Z", "why": why, "erased": sorted(pictures)}
        DataRecord(self.settings).write(DataChange.model_validate(facts | more))

    def release(self, version: int, data: str, bundle: str = BUNDLE, inputs: str = "", **facts: bool) -> None:
        champion = facts.get("champion", False)
        self.releases.append(Release("shop", version, data, inputs, bundle, champion, erased=False))

    def gallery(self, data: str, *ids: str, bundle: str = BUNDLE) -> KeptGallery:
        artifact = Artifact("mlflow-artifacts:/1", f"artifacts/bundle/{bundle[:4]}.parquet", 1)
        made = KeptGallery(artifact, bundle, data, 32 * "7", frozenset(ids))
        self.galleries.append(made)
        return made

    def taken(self, kind: str = "remote") -> set[str]:
        (pile,) = (pile for pile in plan(self.settings, "bob").piles if pile.kind == kind)
        return {item.name for item in pile.items}

    def erase(self) -> dict[str, Any]:
        return erase(self.settings, "bob", plan(self.settings, "bob").losses)

    def has(self, digest: str) -> bool:
        return (self.remote / path_of(digest)).is_file()

    def files(self) -> list[str]:
        paths = (path for path in self.remote.rglob("*") if path.is_file())
        return sorted(str(path) for path in paths if path.parent.name != "claims")


def parquet(rows: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


def tar(*pictures: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for digest in pictures:
            made.addfile(tarfile.TarInfo(f"{digest}.png"), io.BytesIO())
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A data version with a picture that was erased, and today's without it."""
    made = Place(tmp_path, monkeypatch)
    made.old = made.version(row(BAD, "0.png"), row(GOOD, "1.png"), shard=b"both")
    made.version(row(GOOD, "1.png"), shard=b"good", today=True)
    made.erased(BAD)
    return made


SHARD = path_of(hashlib.md5(b"both", usedforsecurity=False).hexdigest())


def test_of_a_data_version_only_shards_with_the_picture_go(place: Place) -> None:
    assert place.taken() == {SHARD}
    place.erase()
    assert place.has(place.old) and not (place.remote / SHARD).exists()
    assert plan(place.settings, "bob").count == 0


def test_a_remote_on_s3_is_erased_the_same(place: Place, s3: Any) -> None:
    place.vectors("with", BAD, GOOD)
    place.result("embed", place.old, place.put(b"a result of the old version"))
    store = ObjectStore("s3://shop/remote")
    for name in place.files():
        store.fs.pipe_file(f"{store.root}/{Path(name).relative_to(place.remote)}", Path(name).read_bytes())
    on_s3 = place.settings.model_copy(update={"remote": "s3://shop/remote"})
    losses = plan(on_s3, "bob").losses
    assert losses == plan(place.settings, "bob").losses
    assert erase(on_s3, "bob", losses) == place.erase()
    names = {entry["Key"] for entry in s3.list_objects_v2(Bucket="shop")["Contents"]}
    kept = {f"remote/{Path(name).relative_to(place.remote)}" for name in place.files()}
    there = {name for name in names if "/claims/" not in name}
    erasures = {name for name in kept | there if "/erasures/" in name}  # each has its own name, by time
    assert there - erasures == kept - erasures and len(erasures) == 2
    assert SHARD not in {name.removeprefix("remote/") for name in names}
    assert plan(on_s3, "bob").count == 0 and ErasureRecord(on_s3).read().open is None


def test_without_an_erasure_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Place(tmp_path, monkeypatch)
    empty.version(row(GOOD, "1.png"), today=True)
    assert plan(empty.settings, "bob").erasure is None


def test_vectors_go_by_part_and_those_that_cannot_say(place: Place) -> None:
    bad, good = place.vectors("bad", GOOD, BAD), place.vectors("good", GOOD)
    half = f"{good[1]}.{32 * '0'}.part"
    (place.remote / half).write_bytes(b"x")
    assert place.taken("vectors") == {*bad, half}
    (place.remote / good[0]).unlink()
    assert place.taken("vectors") == {*bad, half, good[1]}


def test_an_index_goes_before_its_vectors_and_a_result_before_its_folder(place: Place) -> None:
    place.vectors("bad", BAD)
    items = place.put(parquet(pd.DataFrame({"sha256": [BAD]})))
    facts, vectors = place.put(b"e"), place.put(b"v")
    embedded = place.folder(items_parquet=items, embed_json=facts, champion_safetensors=vectors)
    result = place.result("embed", place.old, embedded)
    piles = {pile.kind: sorted(pile.items) for pile in plan(place.settings, "bob").piles}
    assert [item.name.rpartition(".")[2] for item in piles["vectors"]] == ["json", "safetensors"]
    names = [item.name for item in piles["remote"]]
    assert names[:2] == [result, path_of(embedded)]
    assert set(names[2:]) == {SHARD, path_of(items), path_of(place.put(b"v"))}


def test_vectors_of_a_stage_without_the_picture_stay(place: Place) -> None:
    items = place.put(parquet(pd.DataFrame({"sha256": [GOOD]})))
    place.folder(items_parquet=items, embed_json=place.put(b"e"), champion_safetensors=place.put(b"v"))
    assert place.taken() == {SHARD}


def test_a_report_goes_if_it_may_be_of_that_data(place: Place) -> None:
    names, card = ("of", "other", "stray"), place.put(b"c")
    reports = {name: place.folder(report_html=place.put(name.encode()), card_md=card) for name in names}
    place.result("report", place.old, reports["of"])
    place.runs.append(KnownRun("1", "other", "else.dir", lock("report", "else.dir", reports["other"])))
    files = {name: {path_of(reports[name]), path_of(place.put(name.encode()))} for name in names}
    assert files["of"] | files["stray"] <= place.taken() and not files["other"] & place.taken()


def lock(stage: str, data: str, out: str) -> str:
    entry = {"deps": [{"path": "data", "md5": data}], "outs": [{"path": f"out/{stage}", "md5": out}]}
    return yaml.safe_dump({"stages": {stage: entry}})


def test_a_gallery_goes_if_it_has_the_picture_of_its_own_data(place: Place) -> None:
    """An id alone doesn't decide: another version may have another picture with the same id."""
    held = place.put(parquet(pd.DataFrame({"id": [IMAGE]})))
    known = place.put(b"manifest")
    bundle = place.folder(bundle_json=known, gallery_parquet=held)
    assert {path_of(bundle), path_of(held)} <= place.taken(), "of unknown data"
    place.release(3, "else.dir", hashlib.sha256(b"manifest").hexdigest())
    assert place.taken() == {SHARD}
    place.releases.clear()
    place.release(3, place.old, hashlib.sha256(b"manifest").hexdigest())
    assert {path_of(bundle), path_of(held)} <= place.taken()


def test_a_gallery_without_the_picture_stays(place: Place) -> None:
    place.folder(
        bundle_json=place.put(b"m"),
        gallery_parquet=place.put(parquet(pd.DataFrame({"id": ["train/tea/1.png"]}))),
    )
    assert place.taken() == {SHARD}


def test_a_shard_that_no_version_lists_goes_if_it_has_the_picture(place: Place) -> None:
    stray, other = place.put(tar(GOOD, BAD)), place.put(tar(GOOD))
    assert place.taken() == {SHARD, path_of(stray)} and place.has(other)


def test_the_champion_s_gallery_refuses_all(place: Place) -> None:
    place.gallery(place.old, IMAGE)
    place.release(1, place.old, champion=True)
    with pytest.raises(CleaningRefused, match="`skumatch refresh` makes one without it first"):
        plan(place.settings, "bob")
    place.galleries.clear()
    place.gallery(place.old, "train/tea/1.png")
    assert {(loss.version, loss.gallery) for loss in plan(place.settings, "bob").losses.versions} == {
        (1, False)
    }


def test_today_s_data_refuses_all(place: Place) -> None:
    (place.project / "data.dvc").write_text(pointer(place.old, "data"))
    with pytest.raises(CleaningRefused, match="which has a picture that was erased"):
        plan(place.settings, "bob")


def test_a_version_without_its_manifest_refuses_all(place: Place) -> None:
    listing = json.loads((place.remote / path_of(place.old)).read_text())
    (manifest,) = (entry["md5"] for entry in listing if entry["relpath"] == "manifest.parquet")
    (place.remote / path_of(manifest)).unlink()
    with pytest.raises(CleaningRefused, match="is here without its manifest"):
        plan(place.settings, "bob")


def test_an_mlflow_that_knows_nothing_of_the_remote_is_not_believed(place: Place) -> None:
    place.held = []
    place.result("validate", place.old, place.folder(a=place.put(b"a")))
    with pytest.raises(CleaningRefused, match="knows of no run whose input set is in"):
        plan(place.settings, "bob")


def test_a_loss_has_to_be_accepted(place: Place) -> None:
    before = place.files()
    sentence = r"^Data version .* would lack shards; nothing was deleted\. Say --accept-loss"
    with pytest.raises(LossNotAccepted, match=sentence):
        erase(place.settings, "bob", Losses())
    assert place.files() == before and not place.deleted


def test_a_version_compared_with_a_gallery_that_goes_is_a_loss(place: Place) -> None:
    held = place.put(parquet(pd.DataFrame({"id": [IMAGE]})))
    bundle = place.folder(bundle_json=place.put(b"m"), gallery_parquet=held)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        info, text = tarfile.TarInfo("inputs/champion.dvc"), pointer(bundle, "champion").encode()
        info.size = len(text)
        made.addfile(info, io.BytesIO(text))
    place.release(2, "new.dir", bundle=64 * "2", champion=True, inputs=place.put(archive.getvalue()))
    assert {(loss.version, loss.gallery) for loss in plan(place.settings, "bob").losses.versions} == {
        (2, False)
    }


def test_while_a_task_works_nothing_is_deleted(place: Place) -> None:
    losses, before = plan(place.settings, "bob").losses, place.files()
    with (
        at_work(place.settings, "busy", "train"),
        pytest.raises(CleaningRefused, match="Run busy is at work"),
    ):
        erase(place.settings, "bob", losses)
    assert place.files() == before


def test_record_and_tags_come_before_deletions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.release(1, place.old)
    place.gallery(place.old, IMAGE)

    def killed(_: object, artifact: Artifact) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as deadly, pytest.raises(KeyboardInterrupt):
        deadly.setattr(erasable, "remove", killed)
        place.erase()
    assert place.deleted[0].startswith("shop 1: erased on ")
    assert place.deleted[0].endswith("by bob, because: a request")
    (begun,) = ErasureRecord(place.settings).read().by_name.values()
    assert begun.finished is None and begun.data.keys() == {place.old} and (place.remote / SHARD).is_file()
    (place.remote / SHARD).unlink()  # as if it had been killed later: only the record says what else is to go
    left = path_of(place.put(b"both", cache=True))
    gone = erase(place.settings, "bob", Losses())
    assert [item.name for item in gone["cache"]] == [left]
    (ended,) = ErasureRecord(place.settings).read().by_name.values()
    assert ended.finished and ended.begun == begun.begun and ended.versions == begun.versions


def test_another_machine_s_cache_is_cleared_by_the_record(place: Place) -> None:
    place.erase()
    place.put(b"both", cache=True)
    (place.remote / path_of(place.old)).unlink()
    assert place.taken("cache") == {SHARD}


def test_bundles_and_reports_of_this_machine_go(place: Place) -> None:
    place.gallery(place.old, IMAGE)
    for name in (BUNDLE, "other"):
        (place.home / "bundles" / name).mkdir(parents=True)
    place.runs += [KnownRun("1", "old", place.old, ""), KnownRun("2", "new", "new.dir", "")]
    reports = place.home / "reports"
    for name in (
        "old.html",
        "new.html",
        "dry.html",
        "old/validate/validation.html",
        "old/validate/docs.html",
    ):
        (reports / name).parent.mkdir(parents=True, exist_ok=True)
        (reports / name).write_text("x")
    assert place.taken("bundles") == {str(place.home / "bundles" / BUNDLE)}
    doomed = ("old.html", "dry.html", "old/validate/validation.html")
    assert place.taken("reports") == {str(reports / name) for name in doomed}


def test_results_of_stages_run_by_hand_go(place: Place) -> None:
    place.put(b"both", cache=True)
    for name, data in (("out/embed/a", b"both"), ("out/embed/b", b"x"), ("log/pages/p.html", b"x")):
        (place.project / name).parent.mkdir(parents=True, exist_ok=True)
        (place.project / name).write_bytes(data)
    doomed = ("out/embed/a", "log/pages/p.html")
    assert place.taken("project") == {str(place.project / name) for name in doomed}


def test_data_that_lacks_pictures_is_refused(place: Place) -> None:
    refuse_erased_data(place.settings, place.old)
    place.erase()
    with pytest.raises(DataError, match=r"were erased on .* by bob, because: a request; take a newer data"):
        refuse_erased_data(place.settings, place.old)


def test_pictures_with_equal_pixels_are_chosen_along(place: Place) -> None:
    place.version(row(COPY, "2.png", pixels=GOOD), shard=b"copy")
    chosen = choose(place.settings, [GOOD.upper()], [])
    assert (chosen.pictures, chosen.copies, len(chosen.versions)) == ({GOOD, COPY}, 1, 3)
    assert chosen.versions[0].md5 == chosen.current


def test_of_a_product_go_pictures_that_it_had_and_none_that_are_another_s_today(place: Place) -> None:
    place.version(row(GOOD, "1.png", sku="Cola"), row(COPY, "3.png", sku="Cola"), shard=b"older")
    assert choose(place.settings, [], ["cola"]).pictures == {COPY}


def test_what_nobody_has_or_was_erased_is_not_chosen(place: Place) -> None:
    with pytest.raises(DataError, match="No data version has the picture"):
        choose(place.settings, [64 * "0"], [])
    with pytest.raises(DataError, match="No data version has a product 'milk'"):
        choose(place.settings, [], ["milk"])
    with pytest.raises(ParameterError, match="is no SHA-256"):
        choose(place.settings, ["0.png"], [])
    with pytest.raises(DataError, match=r"erased already, on 2026-11-30 by ann; `skumatch gc --erase`"):
        choose(place.settings, [BAD], [])
    place.version(row(BAD, "0.png"), row(GOOD, "1.png"), shard=b"both", today=True)
    assert choose(place.settings, [BAD], []).pictures == {BAD}, "it came back"


def test_an_erasure_of_older_versions_alone_is_no_step_in_the_chain(place: Place) -> None:
    record, now = DataRecord(place.settings), 32 * "5" + ".dir"
    first = DataChange.model_validate(
        {
            "action": "import",
            "after": now,
            "before": None,
            "pointer": "",
            "who": "ann",
            "when": "2026-11-01T08:00:00Z",
            "why": "",
            "summary": "",
        }
    )
    record.write(first)
    record.write(first.model_copy(update={"action": "erase", "before": now, "erased": [BAD]}))
    assert [change.action for change in record.chain(now)] == ["erase", "import"]


def test_losses_are_told_in_words() -> None:
    words = erasing.in_words(Losses(data=frozenset({32 * "a"})))
    assert words == "Data version aaaaaaaaaaaa would lack shards"


def ref(version: int, **tags: str) -> ModelRef:
    return ModelRef(version, BUNDLE, "run", datetime.now(UTC), (), {DATA_TAG: "v2", **tags})


def test_a_version_that_lost_its_gallery_is_not_fetched(tmp_path: Path) -> None:
    """Not even from this machine's copies, so it serves nowhere and no rollback leads to it."""
    registry = Registry("http://127.0.0.1:9", "shop", tmp_path)
    with pytest.raises(
        BundleError, match="^Version 1 of 'shop' can't serve .* erased by ann; name another one"
    ):
        registry.download_bundle(ref(1, **{ERASED_TAG: "erased by ann"}), tmp_path / "bundle")


def test_a_refresh_again_passes_over_a_champion_that_lost_its_gallery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, now = Registry("http://127.0.0.1:9"), ref(2, **{COMPARED_TAG: "1"})
    for tags, versions in (({}, (1,)), ({ERASED_TAG: "erased by ann"}, ())):
        before = ref(1, **tags)
        monkeypatch.setattr(Registry, "versions", lambda _, listed=(now, before): list(listed))
        champions = champions_before(registry, "refresh", now, "v2")
        assert tuple(champion.version for champion in champions) == versions
