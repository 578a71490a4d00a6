"""Comparison of training loops: equal budget, outcomes kept on disk, folds that share no product."""

from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from benchmarks import recipe
from benchmarks.contests import Contest, ContestRequest, contests, held_out
from benchmarks.embed import flops
from benchmarks.ingredients import WITH, WITHOUT, variant
from benchmarks.looks import looks
from benchmarks.peers import PEERS, Trial, plain_spec
from benchmarks.recipe import LoopOutcome, bench_recipe, summary
from benchmarks.recipe_table import recipe_table
from benchmarks.training import Ours, bench_train
from skumatch.config import load_params
from skumatch.errors import DataError, ParameterError
from skumatch.params import EncoderParams, FixParams, Params, RuntimeParams, TowerParams
from skumatch.retrieval.statistics import change_interval
from tests.conftest import ROOT

COLOURS = {"cola": (200, 30, 30), "mint": (30, 190, 60), "milk": (40, 60, 200), "fig": (90, 30, 120)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 SKUs, 12 pictures of each to train on, 3 to ask."""
    root, rng = tmp_path_factory.mktemp("recipe"), np.random.default_rng(5)
    for sku, colour in COLOURS.items():
        for number in range(15):
            path = root / "all" / ("train" if number < 12 else "test") / sku / f"{sku}-{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(rng.normal(colour, 40, (50, 40, 3)), 0, 255).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def params() -> Params:
    loaded = load_params(ROOT / "params.yaml")
    spec = EncoderParams(model="smoke", weights="none", height=32, width=32)
    return loaded.model_copy(update={"encoder": spec, "runtime": RuntimeParams(device="cpu", threads=1)})


@pytest.fixture
def contest(folder: Path, params: Params) -> Contest:
    (full,) = contests(ContestRequest(folder, None, 2), None, params)
    return full


@pytest.mark.parametrize("loop", PEERS)
@pytest.mark.parametrize("contiguous", [True, False])
def test_each_peer_trains_the_tower_and_sees_what_the_budget_allows(
    contest: Contest, loop: str, contiguous: bool
) -> None:
    trial = Trial(contest.gallery, contest.params.encoder, None, epochs=2, seed=3, contiguous=contiguous)
    encoder, before = trial.encoder(), trial.encoder().state_dict()
    seen = list(PEERS[loop](encoder, trial))
    assert 0 < sum(seen) <= 2 * len(contest.gallery)
    moved = {name for name, tensor in encoder.state_dict().items() if not tensor.equal(before[name])}
    assert {name for name, _ in encoder.named_parameters()} <= moved
    assert all(tensor.isfinite().all() for tensor in encoder.state_dict().values())


def test_peers_squash_to_a_square_but_a_vit_keeps_its_canvas() -> None:
    tall = {"weights": "none", "height": 320, "width": 160, "resize": "pad", "dim": 64}
    plain = [plain_spec(EncoderParams(model=model, **tall)) for model in ("efficientnet-lite0", "ViT-B-16")]  # type: ignore[arg-type]
    assert [(spec.height, spec.width, spec.resize, spec.dim) for spec in plain] == [
        (256, 256, "squash", 0),
        (320, 160, "squash", 0),
    ]


def test_the_memory_format_changes_the_speed_alone(contest: Contest) -> None:
    trials = [
        Trial(contest.gallery, contest.params.encoder, None, 1, 3, contiguous=contiguous)
        for contiguous in (True, False)
    ]
    weights = []
    for trial in trials:
        encoder = trial.encoder()
        list(PEERS["plain"](encoder, trial))
        weights.append(torch.cat([tensor.flatten() for tensor in encoder.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-4)


def test_outcomes_are_kept_and_taken_up_again(
    contest: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops, seeds = ["frozen", "plain", "ours", "ours without cut-out"], [3, 4]
    outcomes = list(bench_recipe(contest, loops, seeds, tmp_path))
    assert [(training.loop, training.seed) for training in outcomes] == [
        (loop, seed) for loop in loops for seed in seeds
    ]
    assert all(len(training.hits) == len(contest.queries) for training in outcomes)
    assert {training.images for training in outcomes} == {0, 2 * len(contest.gallery)}
    monkeypatch.setattr(recipe, "_run", None)
    assert list(bench_recipe(contest, loops, seeds, tmp_path)) == outcomes, "nothing is trained twice"
    longer = replace(contest, epochs=3)
    with pytest.raises(TypeError):
        list(bench_recipe(longer, ["plain"], [3], tmp_path))
    monkeypatch.undo()
    assert next(iter(bench_recipe(longer, ["plain"], [3], tmp_path))).images == 3 * len(contest.gallery)
    monkeypatch.setattr(recipe, "_run", None)
    assert list(bench_recipe(contest, loops, seeds, tmp_path)) == outcomes, (
        "another contest's outcomes lie beside these"
    )


def test_what_was_asked_differently_is_trained_anew(contest: Contest) -> None:
    other = contest.params.model_copy(update={"train": contest.params.train.model_copy(update={"batch": 16})})
    assert replace(contest, params=other).key("ours", 3) != contest.key("ours", 3)
    assert replace(contest, params=other).key("plain", 3) == contest.key("plain", 3), (
        "our parameters aren't a peer's"
    )
    assert contest.key("plain", 3) != contest.key("plain", 4) != contest.key("softmax", 4)


def test_folds_have_no_product_in_common_and_miss_none(folder: Path, params: Params) -> None:
    queried: list[str] = []
    for contest in contests(ContestRequest(folder, None, 1, unseen=3), None, params):
        learnt, gallery, queries = contest.learnt, contest.gallery, contest.queries
        assert set(gallery.skus) == set(queries.skus) and not set(gallery.skus) & set(learnt.skus)
        assert set(gallery.skus) | set(learnt.skus) == set(COLOURS)
        queried += sorted(set(queries.skus))
    assert sorted(queried) == sorted(COLOURS)
    assert held_out(set(COLOURS), 0, 1) == set(COLOURS)


def test_held_out_looks_are_no_neighbours_and_each_is_asked_once(folder: Path, params: Params) -> None:
    queried: list[str] = []
    for contest in contests(ContestRequest(folder, None, 1, looks=3), None, params):
        assert contest.learnt is contest.gallery and not set(contest.gallery.ids) & set(contest.queries.ids)
        assert set(contest.gallery.skus) == set(COLOURS)
        queried += contest.queries.ids
    assert len(queried) == len(set(queried)) == 48, "all gallery pictures, and no query"


def test_folds_are_summed_up_as_one(folder: Path, params: Params) -> None:
    outcomes = []
    for number, contest in enumerate(contests(ContestRequest(folder, None, 1, unseen=2), None, params)):
        hits = {"frozen": (False,) * len(contest.queries), "ours": (number == 1,) * len(contest.queries)}
        outcomes.append(
            (
                contest,
                [
                    LoopOutcome(key="k", loop=loop, seed=1, images=8, seconds=1, hits=hits[loop])
                    for loop in hits
                ],
            )
        )
    frozen, tuned = summary(outcomes)
    assert (
        (frozen.top1.value, tuned.top1.value, tuned.seeds) == (0, 0.5, {1: 0.5})
        and tuned.gain is not None
        and tuned.gain.value == 0.5
    )
    screen = Console(file=io.StringIO(), width=120)
    screen.print(recipe_table([contest for contest, _ in outcomes], [frozen, tuned]))
    assert "protocol unseen, 2 folds" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_pictures_alike_are_in_one_fold() -> None:
    rng = np.random.default_rng(1)
    bursts = np.repeat(rng.normal(size=(6, 8)), 5, axis=0) + rng.normal(scale=0.01, size=(30, 8))
    skus = ["a"] * 15 + ["b"] * 15
    fold_of = looks(bursts.astype(np.float32), skus, 3, seed=0).reshape(6, 5)
    assert all(len(set(burst)) == 1 for burst in fold_of)
    assert sorted(fold_of[:3, 0]) == sorted(fold_of[3:, 0]) == [0, 1, 2]
    assert looks(bursts[:1].astype(np.float32), ["a"], 3, seed=0).tolist() in ([0], [1], [2]), (
        "one picture is in one fold"
    )


def test_one_kind_of_folds_at_a_time(folder: Path, params: Params) -> None:
    for unseen, alike in ((3, 3), (1, 0), (0, 1), (9, 0)):
        with pytest.raises(ParameterError, match="--unseen and --looks"):
            list(contests(ContestRequest(folder, None, 1, unseen, alike), None, params))


def test_only_some_skus(folder: Path, params: Params) -> None:
    (contest,) = contests(ContestRequest(folder, {"COLA": "line 1", "fig": "line 2"}, 1), None, params)
    assert set(contest.gallery.skus) == set(contest.queries.skus) == {"cola", "fig"}
    with pytest.raises(DataError, match="no SKU named 'tea', as line 2 says"):
        list(contests(ContestRequest(folder, {"fig": "line 1", "tea": "line 2"}, 1), None, params))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


EVERYTHING = [
    "train.optimizer.layer_decay=0.8",
    "train.average.ema=0.9",
    "train.probe.epochs=2",
    "train.fix.epochs=1",
    "train.optimizer.clip=1",
]


@pytest.mark.parametrize(
    ("verb", "ingredient"), [("without", name) for name in WITHOUT] + [("with", name) for name in WITH]
)
def test_an_ingredient_is_turned_off_or_on_alone(contest: Contest, verb: str, ingredient: str) -> None:
    params = load_params(ROOT / "params.yaml", EVERYTHING if verb == "without" else [])
    whole = replace(contest, params=params, epochs=6)
    base_contest, other = variant(whole, "ours"), variant(whole, f"ours {verb} {ingredient}")
    before, after = (leaves(each.params.model_dump(mode="json")) for each in (base_contest, other))
    overrides = (WITHOUT if verb == "without" else WITH)[ingredient]
    changed = {name for name in before if before[name] != after[name]}
    assert changed - {"train.epochs"} == {override.partition("=")[0] for override in overrides}
    for each in (base_contest, other):
        assert each.params.train.epochs + each.params.train.fix.epochs == 6, "at the same budget"
    assert variant(whole, "plain").params == params


def test_the_probe_alone_is_a_loop(contest: Contest, tmp_path: Path) -> None:
    probed, frozen = bench_recipe(contest, ["probe", "frozen"], [3], tmp_path)
    assert probed.images == contest.params.train.probe.views * len(contest.learnt) and frozen.images == 0
    assert recipe._trained(variant(contest, "probe"), "probe", 3).projection is not None
    chosen = variant(contest, "probe").params
    assert (
        (chosen.train.epochs, chosen.train.fix.epochs) == (0, 0)
        and chosen.encoder.dim
        and chosen.train.probe.epochs
    )


def test_what_would_be_ours_again_or_no_training_is_refused_before_any(
    contest: Contest, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="moving average. .--loops. is .ours. as the parameters are"):
        list(bench_recipe(contest, ["plain", "ours without moving average"], [3], tmp_path))
    assert not list(tmp_path.iterdir())
    fixed = contest.params.model_copy(
        update={"train": contest.params.train.model_copy(update={"fix": FixParams(epochs=2)})}
    )
    with pytest.raises(ParameterError, match=r"train\.fix\.epochs are the last"):
        variant(replace(contest, params=fixed), "ours")
    patient = contest.params.model_copy(
        update={"train": contest.params.train.model_copy(update={"patience": 3})}
    )
    with pytest.raises(ParameterError, match=r"none is left to validate on; set train\.patience=0"):
        variant(replace(contest, params=patient), "ours")


def test_a_loop_that_is_none(contest: Contest) -> None:
    for name in ("best", "ours without luck", "plain without cut-out"):
        with pytest.raises(ParameterError, match=f"There is no loop '{name}'"):
            variant(contest, name)


def test_gains_are_of_the_same_queries_and_averaged_over_seeds(contest: Contest) -> None:
    count = len(contest.queries)
    base, perfect = ((True, False) * count)[:count], (True,) * count
    trainings = [
        LoopOutcome(key="k", loop=loop, seed=seed, images=8, seconds=60 * seed, hits=hits)
        for loop, seed, hits in (
            ("frozen", 1, base),
            ("plain", 1, base),
            ("plain", 2, perfect),
            ("ours", 1, perfect),
            ("ours", 2, perfect),
        )
    ]
    frozen, plain, best = summary([(contest, trainings)])
    assert (
        plain.gain is None
        and plain.seeds == {1: 0.5, 2: 1.0}
        and plain.top1.value == 0.75
        and plain.seconds == 120
    )
    assert (
        best.gain is not None
        and best.gain.value == 0.25
        and frozen.gain is not None
        and frozen.gain.value == -0.25
    )
    skus = np.array(contest.queries.skus)
    assert best.gain == change_interval(
        np.array(perfect) - (np.array(perfect, float) + np.array(base, float)) / 2, skus, 0.95, 0
    )
    mean = best.top1.value - plain.top1.value
    assert [line.gain and line.gain.value for line in summary([(contest, trainings)], "ours")] == [
        -0.5,
        -mean,
        None,
    ]
    screen = Console(file=io.StringIO(), width=120)
    screen.print(recipe_table([contest], [frozen, plain, best]))
    output = screen.file.getvalue()  # type: ignore[attr-defined]
    assert (
        "50.0  100.0" in output
        and "+25.0" in output
        and "up to 48 pictures trained on" in output
        and "12 queries of 4 SKUs" in output
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_our_loop_is_timed_beside_the_plain_one(contest: Contest, workers: int) -> None:
    params = contest.params.model_copy(
        update={"runtime": RuntimeParams(device="cpu", threads=1, workers=workers)}
    )
    speed, waiting = bench_train(contest.gallery, params, None, steps=1, rounds=2)
    assert (
        speed.name == "training, ours / the plain loop"
        and speed.measured > 0
        and "the plain loop" in speed.parts
    )
    assert 0 <= waiting.measured < 100


def test_a_steps_operations_are_three_passes_less_what_is_frozen(contest: Contest) -> None:
    """Forward, backward to inputs and to weights.

    About that, since convolutions by channel are counted otherwise backwards.
    """
    passes = {share: _passes(contest, share) for share in (0.0, 0.3, 0.6)}
    assert 2 < passes[0.0] < 3.5 and 1 < passes[0.6] < passes[0.3] < passes[0.0]


def _passes(contest: Contest, share: float) -> float:
    """Operations of a training step, in forward passes, with this share of the layers frozen."""
    train = contest.params.train.model_copy(update={"tower": TowerParams(freeze=share)})
    params = contest.params.model_copy(
        update={"train": train, "runtime": RuntimeParams(device="cpu", threads=1, workers=0)}
    )
    with ExitStack() as stack:
        training = Ours(contest.gallery, params, None, stack)
        forward = flops(
            training.run.encoder,
            torch.zeros(2, 3, training.views.preprocess.height, training.views.preprocess.width),
        )
        kept = {name: tensor.clone() for name, tensor in training.run.learner.state_dict().items()}
        passes = training.operations() / forward
        assert all(tensor.equal(kept[name]) for name, tensor in training.run.learner.state_dict().items()), (
            "nothing is learnt by counting"
        )
        return passes
