"""A refresh: the champion's encoder on today's data, from pull to register, with a real remote and MLflow."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from skumatch.bundle import bundle_hash, read_gallery, verify_bundle, write_bundle
from skumatch.config import apply_overrides
from skumatch.errors import ReferenceNotFound
from skumatch.files import read_json, write_json
from skumatch.promotion import waiting
from skumatch.promotion.promotion import history, promote
from skumatch.registry import journal
from skumatch.registry.mlflow_model import BUNDLE_TAG, upload
from skumatch.registry.registry import COMPARED_TAG, HERE, RELEASE_TAG, Registry
from skumatch.registry.tracking import RUN_TAG
from skumatch.stages.runner import STAGES
from tests.conftest import commit, draw, free_port, make_project, serving_mlflow
from tests.killing import dying, killed, moments
from tests.pipeline.home import CANVAS, SMOKE, Home, TaskFailed, marker
from tests.pipeline.registering import RELEASES, last_task
from tests.proving import IN_PROOF, PROVING, count

# Committed, so that runs are plain and commands know the model's name.
PARAMS = (*SMOKE, "release.model_name=shop")
OLD, NEW = tuple(f"sku {number}" for number in range(12)), ("new 1", "new 2")
TRAIN, TEST = 3, 3


def deliver(folder: Path, skus: tuple[str, ...], looks: dict[str, str] | None = None) -> Path:
    """Pictures of each product, of one look under different noise; `looks` gives some that of others."""
    for sku in skus:
        look = Image.open(draw(folder / "look.png", (looks or {}).get(sku, sku)))
        for number in range(TRAIN + TEST):
            noise = np.random.default_rng([number, *sku.encode()]).integers(0, 256, (6, 4, 3), dtype=np.uint8)
            blocks = Image.fromarray(noise).resize(look.size, Image.Resampling.NEAREST)
            path = folder / "all" / ("train" if number < TRAIN else "test") / sku / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.blend(look, blocks, 0.3).save(path)
    (folder / "look.png").unlink()
    return folder


@dataclass(frozen=True)
class Shop:
    """A shop whose champion knows the products OLD; `runs` are the answers of register by run name."""

    root: Path
    home: Home
    runs: dict[str, dict[str, Any]]

    @property
    def registry(self) -> Registry:
        return Registry(self.home.mlflow, "shop", self.root / "locks")

    def bring(self, name: str, skus: tuple[str, ...], looks: dict[str, str] | None = None) -> None:
        """Import a delivery as the new data version."""
        imported = self.home.command("data", "import", str(deliver(self.root / name, skus, looks)))
        assert imported.returncode == 0, imported.stderr

    def run(self, name: str, kind: str = "refresh", *overrides: str) -> dict[str, Any]:
        """A whole run up to the answer of register; one task does all stages, which is faster."""
        message = self.home.task({"run": name, "kind": kind, "overrides": overrides}, "pull")
        message = self.home.task(message, "stage", *STAGES)
        self.runs[name] = {"message": message, **self.home.task(message, "register")}
        return self.runs[name]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`skumatch WORDS`, which ends well."""
        done = self.home.command(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done


def project(folder: Path) -> Path:
    """A project whose committed parameters are PARAMS."""
    path = make_project(folder) / "params.yaml"
    path.write_text(yaml.safe_dump(apply_overrides(yaml.safe_load(path.read_text("utf-8")), PARAMS)), "utf-8")
    commit(folder, "Train the tiny encoder")
    return folder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("shop")
    with serving_mlflow(tmp_path_factory.mktemp("shop-mlflow"), free_port()) as url:
        shop = Shop(root, Home(project(root / "project"), root / "home", root / "remote", url), {})
        shop.bring("first", OLD)
        assert shop.run("first", "retrain")["decision"] == "first"
        shop.bring("second", (*OLD[:-1], *NEW))
        shop.run("refresh")
        yield shop


def test_a_refresh_releases_the_new_products(shop: Shop) -> None:
    refresh = shop.runs["refresh"]
    assert (refresh["decision"], refresh["version"], refresh["challenger"]) == ("refresh", 2, None)
    assert refresh["aliases"]["champion"] == 2
    assert (refresh["products"]["new"], refresh["products"]["retired"]) == (2, 1)
    assert refresh["answers"]["served"]["new"]["right"] == 0 < refresh["answers"]["refreshed"]["new"]["right"]


def test_a_gallery_release_is_audited_whole(shop: Shop, tmp_path: Path) -> None:
    """Every link holds, that of the base weights too, which a refresh has none of."""
    shop.command("audit", "2", "--verify", "--json", str(tmp_path / "chain.json"))
    links = json.loads((tmp_path / "chain.json").read_text("utf-8"))["links"]
    assert {link["name"]: link["reason"] for link in links if link["verdict"] != "holds"} == {}
    assert len(links) == 20
    (weights,) = (link for link in links if link["name"] == "weights")
    assert weights["said"] == {"name": "none: the champion's encoder"}


def test_an_audit_without_verify_tells_all_of_a_gallery_release(shop: Shop) -> None:
    ended = shop.command("audit", "2")
    assert "not readable" not in ended.stdout and "broken" not in ended.stdout


def test_a_gallery_release_is_reproduced_bit_by_bit(shop: Shop, tmp_path: Path) -> None:
    shop.command("reproduce", "2", "--json", str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text("utf-8"))
    assert again["equal"] and again["holds"] and again["environment"] and len(again["outs"]) == len(STAGES)
    assert again["recorded"] == again["found"] == shop.runs["refresh"]["refreshed"]["top1"]


def test_a_diff_says_that_the_encoder_stayed_and_which_products_came(shop: Shop, tmp_path: Path) -> None:
    ended = shop.command("audit", "diff", "1", "2", "--json", str(tmp_path / "diff.json"))
    tree = json.loads((tmp_path / "diff.json").read_text("utf-8"))
    assert tree["same_encoder"] and "encoder the same" in " ".join(ended.stdout.split())
    assert (tree["data"]["new_skus"], tree["data"]["gone_skus"]) == (sorted(NEW), [OLD[-1]])


def test_a_refresh_again_is_cached_throughout_and_registers_nothing(shop: Shop) -> None:
    """A repeated run that made the serving version has the same inputs, so the same results."""
    entries = len(history(shop.registry))
    again = shop.run("again")
    assert set(again["message"]["cached"]) == set(STAGES) and not again["seconds"]
    assert (again["decision"], again["version"], again["unfit"]) == ("keep", None, False)
    assert again["sentence"] == "Kept the champion's gallery: today's is the one that serves, version 2."
    assert again["aliases"]["champion"] == 2 and [ref.version for ref in shop.registry.versions()] == [2, 1]
    assert len(history(shop.registry)) == entries


def test_register_taken_up_again_after_its_promotion_says_the_same(shop: Shop) -> None:
    """A task that died after the promotion must not report that nothing happened."""
    released = shop.home.task(shop.runs["refresh"]["message"], "register")
    assert (released["decision"], released["version"]) == ("refresh", 2)


@IN_PROOF
def test_a_refresh_with_other_parameters_keeps_what_serves(shop: Shop) -> None:
    """Another run made the serving version since, so today's gallery is compared with the serving gallery."""
    other = shop.run("other", "refresh", "refresh.max_drop=0.02")
    assert {"validate", "split", "frozen", "train"} <= set(other["cached"]) and "gate" not in other["cached"]
    assert (other["decision"], other["version"], other["unfit"]) == ("keep", None, False)
    assert other["aliases"]["champion"] == 2 and "nothing to change" in other["sentence"]
    assert [ref.version for ref in shop.registry.versions()] == [2, 1]


def another_encoder(shop: Shop, root: Path) -> int:
    """Register version 1 with an encoder of other weights, as an overtaken training would."""
    import torch

    from skumatch.model import encoder as encoders
    from skumatch.params import EncoderParams

    ref = shop.registry.resolve("1")
    first = shop.registry.download_bundle(ref, root / "first")
    spec = EncoderParams.model_validate(apply_overrides({}, CANVAS)["encoder"])
    torch.manual_seed(5)
    encoders.save(encoders.build(spec, None).eval(), root / "encoder")
    gallery = read_gallery(first / "gallery.parquet", verify_bundle(first).dim)
    write_bundle(root / "bundle", root / "encoder", gallery, {"similarity": 0.1}, [])
    return shop.registry.register(root / "bundle", ref.run_id, {COMPARED_TAG: "1"}, "")


@pytest.fixture(scope="module")
def judged(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The message of a refresh that judges a trained encoder again by itself, up to its last task."""
    trained = another_encoder(shop, tmp_path_factory.mktemp("trained"))
    waiting.wait(shop.registry, trained, "judgement", "ann")
    message = shop.home.task({"run": "judged", "kind": "refresh", "scheduled": True}, "pull")
    return shop.home.task(message, "stage", *STAGES)


def test_a_trained_encoder_is_judged_again_without_a_training(shop: Shop, judged: dict[str, Any]) -> None:
    summary = shop.home.task(judged | {"dry_run": True}, "register")
    assert (judged["encoder"], judged["approved_by"], judged["by_itself"]) == (3, "ann", True)
    assert judged["pace"] == {}, "nothing was trained"
    assert {"challenger", "champion"} == set(judged["vectors"]), "both encoders embed today's data"
    assert summary["kind"] == "refresh" and summary["challenger"] and summary["refreshed"]
    assert summary["decision"] == "keep", "an encoder of random weights is no better"


def test_a_scheduled_refresh_brings_nothing_back_after_a_rollback(shop: Shop) -> None:
    listed = shop.command("models").stdout
    assert "champion" in listed and "refreshed" in listed
    shop.command("rollback", "1", "--why", "it takes tea for cola")
    champion, entry = shop.registry.champion(), history(shop.registry)[-1]
    assert champion and champion.version == 1 and entry.asked.action == "rollback"
    with pytest.raises(TaskFailed) as caught:
        shop.home.task({"run": "scheduled", "kind": "refresh", "scheduled": True}, "pull")
    assert caught.value.code == 99
    assert "A person rolled back from the gallery of this data" in caught.value.error["reason"]


@pytest.mark.timeout(count(900, 3600))
@pytest.mark.parametrize("kind", RELEASES if PROVING else ["gallery"])
def test_a_registration_killed_anywhere_is_taken_up_again(
    kind: str,
    shop: Shop,
    judged: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a crash at any MLflow call, the next try ends with one version, registered once."""
    monkeypatch.setattr(journal, "EXPIRY_SECONDS", 0.3)
    monkeypatch.setattr(journal, "POLL_SECONDS", 0.05)
    release, name = RELEASES[kind], f"killed-{kind.replace(' ', '-')}"
    message = judged if release.run == "judged" else shop.runs[release.run]["message"]
    with last_task(shop.home, message, release, monkeypatch) as task:
        registry = task.prepared(name)
        with dying(monkeypatch) as calls:
            summary = task.register(name)
        whole, made = task.left(registry), registry.resolve(str(release.version))
        outcome = release.version, release.judge_again
        assert (summary["version"], summary.get("judge_again")) == outcome and made.aliases == release.aliases
        assert {tag: made.tags.get(tag) for tag in release.tags} == release.tags
        assert (champion_of(registry), whole["status"]) == (release.champion, "FINISHED")
        places = moments(calls)[:: count(3, 1)]
        print(f"{kind}: killed before {len(places)} of {len(calls)} calls")
        for at in places:
            registry = task.prepared(f"{name}-{at}")
            with killed(monkeypatch, at):
                task.register(registry.model_name)
            assert champion_of(registry) in (release.champion_before, release.champion)
            again = task.register(registry.model_name)
            assert (again["version"], again.get("judge_again")) == outcome
            assert task.left(registry) == whole, f"killed before call {at}, {calls[at]}"


def champion_of(registry: Registry) -> int | None:
    champion = registry.champion()
    return champion.version if champion else None


# What can be wrong with what serves. These tests come last: they take versions of the shop away.


def test_a_refresh_without_a_champion_is_refused_at_once(shop: Shop) -> None:
    asked_for = {"run": "nobody", "kind": "refresh", "overrides": ["release.model_name=nobody"]}
    with pytest.raises(TaskFailed) as caught:
        shop.home.task(asked_for, "pull")
    assert (caught.value.code, caught.value.error["retry"]) == (17, False)
    assert "There is no champion whose gallery could be refreshed" in caught.value.error["sentence"]
    with pytest.raises(TaskFailed) as caught:
        shop.home.task(asked_for | {"scheduled": True}, "pull")
    assert caught.value.code == 99 and "There is no champion yet" in caught.value.error["reason"]


def of_a_newer_bundle(folder: Path) -> None:
    manifest = folder / "bundle.json"
    write_json(manifest, read_json(manifest) | {"format": "skumatch-bundle-9"})


def of_a_newer_encoder(folder: Path) -> None:
    rewritten(folder, format="skumatch-encoder-9")


def of_an_unknown_model(folder: Path) -> None:
    facts = read_json(folder / "encoder/encoder.json")
    rewritten(folder, spec=facts["spec"] | {"model": "net-of-2031"})


def rewritten(folder: Path, **facts: object) -> None:
    """Make the bundle again, in every part's words, with other facts of its encoder."""
    encoder = shutil.copytree(folder / "encoder", folder.with_name(f"{folder.name}-encoder"))
    write_json(encoder / "encoder.json", read_json(encoder / "encoder.json") | facts)
    gallery = read_gallery(folder / "gallery.parquet", verify_bundle(folder).dim)
    shutil.rmtree(folder)
    write_bundle(folder, encoder, gallery, {"similarity": 0.1}, [])


FOREIGN = {
    of_a_newer_bundle: (16, "pull", "has format skumatch-bundle-9, this skumatch reads"),
    of_a_newer_encoder: (14, "embed", "has format skumatch-encoder-9, this version reads"),
    of_an_unknown_model: (14, "embed", "names the model 'net-of-2031', which this skumatch doesn't have"),
}


@pytest.mark.parametrize(
    "change",
    FOREIGN if PROVING else [of_a_newer_bundle, of_an_unknown_model],
    ids=lambda change: change.__name__,
)
def test_a_champion_that_this_skumatch_cannot_read_stays(
    change: Callable[[Path], None],
    shop: Shop,
    tmp_path: Path,
) -> None:
    """It is from a newer skumatch: the refresh reports that in a sentence and leaves the champion alone."""
    code, where, sentence = FOREIGN[change]
    first, name = shop.registry.resolve("1"), change.__name__
    folder = shop.registry.download_bundle(first, tmp_path / "bundle")
    change(folder)
    foreign = Registry(shop.home.mlflow, name, tmp_path / "locks")
    digest = bundle_hash(folder)
    with foreign.client() as client:
        model_id = upload(client, first.run_id, folder, digest, HERE)
        client.create_registered_model(name)
        source, tags = f"models:/{model_id}", {BUNDLE_TAG: digest}
        client.create_model_version(
            name,
            source,
            first.run_id,
            tags=tags,
            await_creation_for=0,
            model_id=model_id,
        )
    promote(foreign, 1, None, "ann", "made by a newer skumatch")
    asked_for = {"run": name, "kind": "refresh", "overrides": [f"release.model_name={name}"]}
    message = shop.home.task(asked_for, "pull") if where == "embed" else asked_for
    words = ("stage", *STAGES[: STAGES.index("embed") + 1]) if where == "embed" else ("pull",)
    with pytest.raises(TaskFailed) as caught:
        shop.home.task(message, *words)
    assert (caught.value.code, caught.value.error["retry"]) == (code, False), caught.value
    assert sentence in caught.value.error["sentence"] and "Traceback" not in caught.value.output
    assert champion_of(foreign) == 1 and [ref.version for ref in foreign.versions()] == [1]


def test_a_champion_deleted_before_the_release_is_not_replaced(
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Someone deletes it in MLflow while the run works: nothing is registered, and the task names it."""
    release = RELEASES["gallery"]
    with last_task(shop.home, shop.runs["refresh"]["message"], release, monkeypatch) as task:
        registry = task.prepared("gone-champion")
        with registry.client() as client:
            client.delete_model_version("gone-champion", "2")
        with pytest.raises(ReferenceNotFound, match="has no version 2"):
            task.register("gone-champion")
    assert champion_of(registry) is None and [ref.version for ref in registry.versions()] == [1]


def test_data_that_validation_refuses_leaves_what_serves(shop: Shop) -> None:
    before = champion_of(shop.registry), len(history(shop.registry))
    with pytest.raises(TaskFailed) as caught:
        shop.run("refused", "refresh", "validate.min_skus=99")
    assert (caught.value.code, caught.value.error["kind"]) == (13, "ValidationFailed")
    assert (champion_of(shop.registry), len(history(shop.registry))) == before
    assert "refused" not in {ref.tags.get(RUN_TAG) for ref in shop.registry.versions()}


@IN_PROOF
def test_a_deleted_model_release_stops_no_refresh(shop: Shop) -> None:
    """Its number still names its encoder, whose galleries are compared with the serving gallery only."""
    promote(shop.registry, 2, champion_of(shop.registry), "ann", "the gallery of the second delivery")
    with shop.registry.client() as client:
        client.delete_model_version("shop", "1")
    shop.bring("third", (*OLD[:-1], *NEW, "new 3"))
    process = shop.home.start("pull")
    output, _ = process.communicate(json.dumps({"run": "fourth", "kind": "refresh"}))
    assert process.returncode == 0 and "is compared with what serves alone" in output, output
    result = shop.home.task(shop.home.task(marker(output, "result"), "stage", *STAGES), "register")
    assert (result["decision"], result["aliases"]["champion"]) == ("refresh", result["version"])
    assert shop.registry.resolve("champion").tags[RELEASE_TAG] == "1"
    assert set(result["answers"]) == {"served", "refreshed"}
    listed = " ".join(shop.command("models").stdout.split())
    assert "gallery of 1" in listed


def test_a_deleted_champion_is_rolled_back_from_and_refreshed_again(shop: Shop) -> None:
    if not PROVING:  # else the test before has made a third version champion
        promote(shop.registry, 2, champion_of(shop.registry), "ann", "the gallery of the second delivery")
    deleted = champion_of(shop.registry)
    assert deleted in (2, 3)
    with shop.registry.client() as client:
        client.delete_model_version("shop", str(deleted))
    with pytest.raises(TaskFailed) as caught:
        shop.home.task({"run": "fifth", "kind": "refresh"}, "pull")
    assert (caught.value.code, caught.value.error["kind"]) == (17, "ReferenceNotFound")
    shop.command("rollback", "--why", "its version was deleted")
    assert champion_of(shop.registry) == deleted - 1
    message = shop.home.task({"run": "sixth", "kind": "refresh"}, "pull")
    assert message["champion"] == deleted - 1
