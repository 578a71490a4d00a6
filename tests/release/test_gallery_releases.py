"""Releases of models and of galleries against a real MLflow: stale promotions and stale galleries."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skumatch.bundle import LabelledVectors, bundle_hash, write_bundle
from skumatch.config import Settings
from skumatch.errors import NothingNew, ReferenceNotFound, StaleChampion
from skumatch.files import read_json
from skumatch.params import Params, ReleaseParams
from skumatch.pipeline import pull, register, releases
from skumatch.pipeline.message import Message
from skumatch.promotion import waiting
from skumatch.promotion.promotion import gallery_moved, heads, history, promote, rollback, withdrawn
from skumatch.registry import journal
from skumatch.registry.journal import breaks, unheaded
from skumatch.registry.mlflow_model import BUNDLE_TAG, upload
from skumatch.registry.registry import HERE, Registry, model_release
from tests.cli import Cli
from tests.conftest import ROOT
from tests.killing import dying, killed, moments
from tests.proving import PROVING

pytestmark = pytest.mark.live
ENCODER, RELEASE, COMPARED = "skumatch.encoder", "skumatch.model_release", "skumatch.compared_with"


@pytest.fixture(scope="module")
def run_id(mlflow_url: str) -> str:
    """The run of all versions, so that each bundle is uploaded once for all tests."""
    return Registry(mlflow_url).log_run("galleries", {}, {}, {}, {})


@pytest.fixture(scope="module")
def bundles(
    encoder_dir: Path, gallery: LabelledVectors, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Bundles of one encoder that differ in their threshold."""
    folders = [tmp_path_factory.mktemp("galleries") / f"bundle-{number}" for number in range(5)]
    for number, folder in enumerate(folders):
        write_bundle(folder, encoder_dir, gallery, {"similarity": number / 10}, [])
    return folders


@pytest.fixture
def shop(registry: Registry, run_id: str, bundles: list[Path]) -> Registry:
    """Version 1 brought encoder A; 2 is its refreshed gallery, the champion.

    3 (encoder B) and 4 (another gallery of A) were compared with 1, 5 (encoder C) with 2.
    """
    tags: list[dict[str, str]] = [
        {ENCODER: "a", COMPARED: "none"},
        {ENCODER: "a", RELEASE: "1", COMPARED: "1"},
        {ENCODER: "b", COMPARED: "1"},
        {ENCODER: "a", RELEASE: "1", COMPARED: "1"},
        {ENCODER: "c", COMPARED: "2"},
    ]
    for folder, tag in zip(bundles, tags, strict=True):
        registry.register(folder, run_id, tag, "")
    promote(registry, 1, None, "run first", "")
    promote(registry, 2, 1, "run refresh", "")
    return registry


def test_a_model_is_no_staler_for_a_refreshed_gallery(shop: Registry) -> None:
    assert gallery_moved(shop, 3, 1), "the champion's encoder is still the one it was compared with"
    assert not gallery_moved(shop, 4, 1), "a gallery of older data would take the newer one's place"
    assert (
        not gallery_moved(shop, 3, None) and not gallery_moved(shop, 3, 2) and not gallery_moved(shop, 3, 99)
    )
    promote(shop, 3, 2, "run later", "")
    assert not gallery_moved(shop, 4, 2) and not gallery_moved(shop, 3, 1)
    assert not gallery_moved(shop, 5, 2), "another encoder serves now"


def test_a_gallery_release_names_the_model_release_of_its_encoder(shop: Registry) -> None:
    refs = {number: shop.resolve(str(number)) for number in (1, 2)}
    brought = model_release(shop, refs[2])
    assert brought is not None and brought.version == 1
    assert model_release(shop, refs[1]) is None and model_release(shop, None) is None
    with shop.client() as client:
        client.delete_model_version(shop.model_name, "1")
    with pytest.raises(ReferenceNotFound, match="has no version 1"):
        model_release(shop, refs[2])


def test_a_deleted_model_release_stops_no_run(
    shop: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, champion = Settings(project=tmp_path, home=tmp_path / "home"), shop.champion()
    folder = pull.fetch_released(settings, shop, champion)
    assert folder is not None and read_json(folder / "thresholds.json")["similarity"] == 0
    with shop.client() as client:
        client.delete_model_version(shop.model_name, "1")
    assert pull.fetch_released(settings, shop, champion) is None
    assert "is compared with what serves alone" in capsys.readouterr().out


def test_the_encoder_of_an_older_version_is_read_from_its_bundle(
    registry: Registry, run_id: str, bundles: list[Path]
) -> None:
    registry.register(bundles[0], run_id, {}, "")
    assert (
        registry.encoder(1)
        == read_json(bundles[0] / "bundle.json")["parts"]["encoder/encoder.safetensors"]["sha256"]
    )
    assert registry.encoder(7) is None and registry.encoder(None) is None


@pytest.fixture
def settings(shop: Registry, tmp_path: Path) -> Settings:
    text = (ROOT / "params.yaml").read_text("utf-8")
    (tmp_path / "params.yaml").write_text(
        text.replace("model_name: skumatch ", f"model_name: {shop.model_name} "), "utf-8"
    )
    return Settings(project=tmp_path, home=tmp_path / "home", mlflow=shop.url, airflow_users="ann:admin")


def proposal(version: int, expected: int) -> Any:
    return releases.Proposal(version=version, expected=expected, bundle="", sentence="", page="")


def test_an_approval_that_waited_stands_for_its_encoder(shop: Registry, settings: Settings) -> None:
    """It stays valid although the gallery changed; the encoder is then judged again on its behalf."""
    assert releases.propose(settings, releases.Question(version=3)).expected == 1
    answer = releases.promote(settings, releases.Approved(proposal=proposal(3, 1), who="ann"))
    assert (answer["judge_again"], answer["approved_by"], answer["decision"]) == (3, "ann", "keep")
    champion = shop.champion()
    assert champion is not None and champion.version == 2, "nothing was promoted yet"
    assert waits_for(shop, 3) == ("judgement", "ann")


def test_an_approved_gallery_of_older_data_is_stale(shop: Registry, settings: Settings) -> None:
    with pytest.raises(StaleChampion):
        releases.propose(settings, releases.Question(version=4))
    with pytest.raises(StaleChampion):
        releases.promote(settings, releases.Approved(proposal=proposal(4, 1), who="ann"))


def test_a_promotion_by_hand_says_how_to_judge_the_encoder_again(
    shop: Registry, settings: Settings, tmp_path: Path
) -> None:
    cli = Cli.make(tmp_path / "cli")
    (cli.project / "params.yaml").write_text((tmp_path / "params.yaml").read_text("utf-8"), "utf-8")
    for words in (["promote", "3"], ["promote", "3", "--dry-run"]):
        cli.refuses(
            18,
            "`skumatch refresh --encoder 3` judges its encoder on the newest data",
            *words,
            mlflow=shop.url,
        )
    cli.refuses(18, "retrain to compare again", "promote", "4", mlflow=shop.url)


def released(shop: Registry, version: int, champion: int, gallery: bool, **message: Any) -> dict[str, Any]:
    """The answer of register for a version that passed, made on data `d` against `champion`."""
    sent = Message(run="late", inputs="0", champion=champion, **message)
    outcome: Any = SimpleNamespace(
        gallery_release=gallery, data="d", decision=SimpleNamespace(sentence="It passed.")
    )
    return register._release(shop, sent, Params(), outcome, version)


def waits_for(shop: Registry, version: int) -> tuple[str, str]:
    """The reason why a version waits, and the name of the person who approved it."""
    tags = shop.resolve(str(version)).tags
    return tags.get(waiting.WAITS_TAG, ""), tags.get(waiting.APPROVED_TAG, "")


def champion_of(shop: Registry) -> int | None:
    champion = shop.champion()
    return champion.version if champion else None


def test_a_training_that_a_refresh_overtook_ends_in_a_decision(shop: Registry) -> None:
    """Its model is judged again; if only its gallery would be released, the newer one stays."""
    assert released(shop, 3, 1, gallery=False) == {"judge_again": 3, "approved_by": ""}
    assert waits_for(shop, 3) == ("judgement", "")
    late = released(shop, 4, 1, gallery=True)
    assert (
        late["decision"] == "keep"
        and "a newer gallery, version 2, was released meanwhile" in late["sentence"]
    )
    assert champion_of(shop) == 2
    promote(shop, 3, 2, "run later", "")
    with pytest.raises(StaleChampion):
        released(shop, 4, 2, gallery=True)


def test_nothing_brings_back_by_itself_what_a_person_rolled_back(shop: Registry) -> None:
    with shop.client() as client:
        client.set_model_version_tag(shop.model_name, "2", "skumatch.data", "d")
    assert withdrawn(shop) == set()
    rollback(shop, 1, 2, "ann", "a supplier's mistake")
    assert withdrawn(shop) == {"d"}
    kept = released(shop, 4, 1, gallery=True, by_itself=True)
    assert (
        kept["decision"] == "keep" and "a person rolled back" in kept["sentence"] and champion_of(shop) == 1
    )
    assert released(shop, 4, 1, gallery=True) == {} and champion_of(shop) == 4, "by hand it comes back"
    assert withdrawn(shop) == set()


@pytest.mark.parametrize(
    ("verdict", "compared", "version", "skipped"),
    [
        ("keep", "2", None, True),
        ("refresh", "2", "3", True),  # waits for a person, who hasn't approved it
        ("refresh", "1", "2", True),
        ("promote", "1", "2", True),
        ("promote", "2", "3", False),  # waits for a person, and the gallery that serves is old
        ("refresh", "1", "3", False),  # a gallery that another champion overtook
        ("keep", "1", None, False),
    ],
)
def test_a_refresh_looks_at_data_whose_gallery_no_run_released(
    shop: Registry, verdict: str, compared: str, version: str | None, skipped: bool
) -> None:
    """With a challenger that waits for approval or a newer champion, the serving gallery is not judged."""
    tags = {"skumatch.data": "d", "skumatch.verdict": verdict, "skumatch.compared_with": compared}
    last = SimpleNamespace(tags=tags | ({"skumatch.version": version} if version else {}))
    assert champion_of(shop) == 2
    tracking: Any = SimpleNamespace(last_finished=lambda kind, plain: last)
    with pytest.raises(NothingNew) if skipped else nullcontext():
        pull._check_new(tracking, shop, "refresh", "d", shop.champion())
    with pytest.raises(NothingNew):
        pull._check_new(tracking, shop, "retrain", "d", shop.champion())


def test_an_approval_is_believed_only_where_the_journal_has_it(shop: Registry, settings: Settings) -> None:
    required = Params(release=ReleaseParams(approval="required"))
    outcome: Any = SimpleNamespace(
        gallery_release=False, data="d", decision=SimpleNamespace(sentence="It passed.")
    )
    sent = Message(run="again", inputs="0", champion=2, encoder=3, approved_by="ann")
    answer = register._release(shop, sent, required, outcome, 3)
    assert answer == {"waits": True}, "anyone can write so in MLflow"
    assert waits_for(shop, 3) == ("approval", "")
    releases.promote(settings, releases.Approved(proposal=proposal(3, 1), who="ann"))
    assert register._release(shop, sent, required, outcome, 3) == {} and champion_of(shop) == 3


def test_a_version_that_comes_out_again_says_what_it_was_compared_with_last(shop: Registry) -> None:
    newer = {COMPARED: "2", "skumatch.decision": "Refreshed."}
    shop.set_tags(4, newer)
    assert {name: shop.resolve("4").tags[name] for name in newer} == newer


def taken(shop: Registry, run: str, kind: Any = "refresh") -> tuple[int, str, bool] | None:
    """The version whose encoder a run takes up, the person who approved it, and whether others wait."""
    encoder = pull._take_encoder(shop, pull.RunRequest(run=run, kind=kind))
    return (encoder.ref.version, encoder.approved_by, encoder.others) if encoder else None


def test_every_encoder_that_waits_is_judged_by_one_run_the_oldest_first(shop: Registry) -> None:
    """Even if Airflow drops events; a task that is tried again goes on with its own encoder."""
    waiting.wait(shop, 5, "judgement")
    waiting.wait(shop, 3, "judgement", "ann")
    waiting.wait(shop, 4, "approval")
    assert taken(shop, "r1", "retrain") is None, "a retrain judges its own"
    assert taken(shop, "r1") == (3, "ann", True)
    assert taken(shop, "r1") == (3, "ann", True)
    assert taken(shop, "r2") == (5, "", False)
    assert taken(shop, "r3") is None


def test_an_encoder_is_not_judged_again_beside_another_one(shop: Registry) -> None:
    waiting.wait(shop, 5, "judgement")
    promote(shop, 3, 2, "run later", "")
    assert taken(shop, "r1") is None, "only a retrain compares it with the encoder that serves now"
    rollback(shop, 2, 3, "ann", "")
    assert taken(shop, "r2") == (5, "", False)


def asked(settings: Settings, run: str) -> tuple[int, str]:
    proposal = releases.propose(settings, releases.Question(run=run))
    return proposal.version, proposal.others_wait_for


def test_every_version_that_waits_is_asked_about_by_one_run(shop: Registry, settings: Settings) -> None:
    """A stale one between them holds no other up."""
    for version in (5, 4, 3):
        waiting.wait(shop, version, "approval")
    assert asked(settings, "r1") == (3, "approval")
    assert asked(settings, "r1") == (3, "approval"), "the task was tried again"
    assert asked(settings, "r2") == (5, "")
    assert waits_for(shop, 4) == ("nothing", "")
    with pytest.raises(NothingNew, match="No version waits for an approval"):
        asked(settings, "r3")
    waiting.wait(shop, 4, "approval")
    with pytest.raises(StaleChampion):
        asked(settings, "r4")


def test_a_version_asked_for_by_hand_is_asked_about_again(shop: Registry, settings: Settings) -> None:
    shop.set_alias("challenger", 5)
    waiting.wait(shop, 3, "approval")
    assert releases.propose(settings, releases.Question(version=3)).version == 3
    assert releases.propose(settings, releases.Question()).version == 5, "the challenger"
    assert waits_for(shop, 3) == ("approval", "")


# Kind of the release that a person approved -> tags of the versions, of which the last is the approved one
# and those
# before were champion in turn; the champion that it was compared with; and what is answered.
APPROVED: dict[str, tuple[list[dict[str, str]], int | None, str]] = {
    "first model": ([{ENCODER: "a"}], None, "first"),
    "model": ([{ENCODER: "a"}, {ENCODER: "b"}], 1, "promote"),
    "gallery": ([{ENCODER: "a"}, {ENCODER: "a", RELEASE: "1"}], 1, "refresh"),
    "overtaken model": ([{ENCODER: "a"}, {ENCODER: "a", RELEASE: "1"}, {ENCODER: "b"}], 1, "keep"),
}


@pytest.mark.parametrize("kind", APPROVED if PROVING else ["overtaken model"])
def test_an_approved_release_killed_anywhere_is_taken_up_again(
    kind: str,
    registry: Registry,
    run_id: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a crash at any MLflow call, the next try moves the champion once, or asks to judge again."""
    monkeypatch.setattr(journal, "EXPIRY_SECONDS", 0.3)
    monkeypatch.setattr(journal, "POLL_SECONDS", 0.05)
    tags, expected, decision = APPROVED[kind]
    wanted, before = len(tags), len(tags) - 1 or None
    after = before if decision == "keep" else wanted
    with registry.client() as client:
        model_id = upload(client, run_id, made, bundle_hash(made), HERE)

    def prepared(name: str) -> tuple[Registry, Settings]:
        """A registered model of its own, with the champion before."""
        fresh = Registry(registry.url, name, tmp_path / "locks")
        with fresh.client() as client:
            client.create_registered_model(name)
            for version_tags in tags:
                own = version_tags | {BUNDLE_TAG: bundle_hash(made)}
                client.create_model_version(name, f"models:/{model_id}", run_id, tags=own, model_id=model_id)
        for version in range(1, wanted):
            promote(fresh, version, version - 1 or None, "run before", "")
        text = (ROOT / "params.yaml").read_text("utf-8")
        named = text.replace("model_name: skumatch ", f"model_name: {name} ")
        (tmp_path / "params.yaml").write_text(named, "utf-8")
        places = {"project": tmp_path, "home": tmp_path / "home", "mlflow": registry.url}
        return fresh, Settings.model_validate(places | {"airflow_users": "ann:admin"})

    def approve(settings: Settings) -> dict[str, Any]:
        return releases.promote(settings, releases.Approved(proposal=proposal(wanted, expected), who="ann"))

    def checked(fresh: Registry, answer: dict[str, Any]) -> None:
        again = {"judge_again": wanted, "approved_by": "ann"} if decision == "keep" else {"who": "ann"}
        assert answer == {"version": wanted, "decision": decision} | again
        entries = history(fresh)
        assert champion_of(fresh) == after and breaks(entries) == unheaded(entries, heads(fresh)) == []
        moved = [entry.after.champion for entry in entries if entry.changed and entry.after]
        assert moved == list(range(1, (after or 0) + 1)), "each once, in turn"
        assert all(entry.after for entry in entries) and entries[-1].asked.who == "ann"
        assert {ref.version: dict(ref.tags).get(RELEASE) for ref in fresh.versions()} == {
            number: version_tags.get(RELEASE) for number, version_tags in enumerate(tags, 1)
        }

    fresh, settings = prepared(f"{registry.model_name}-whole")
    with dying(monkeypatch) as calls:
        answer = approve(settings)
    checked(fresh, answer)
    places = moments(calls)
    assert len(places) >= (4 if decision == "keep" else 5), calls
    for at in places:
        fresh, settings = prepared(f"{registry.model_name}-{at}")
        with killed(monkeypatch, at):
            approve(settings)
        assert champion_of(fresh) in (before, after)
        checked(fresh, approve(settings))
