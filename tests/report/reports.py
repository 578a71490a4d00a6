"""A report's context with everything in it, made of three SKUs and made-up figures."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.gate.gate import BundleFacts, decide
from skumatch.params import EvaluateParams, GateParams
from skumatch.report.confusions import confused_pairs
from skumatch.report.context import Aside, DataFacts, ReportContext, TrainingFacts
from skumatch.report.data_changes import Count, DataComparison
from skumatch.report.mistakes import Some, find_mistakes, weak_skus
from skumatch.retrieval.evaluate import evaluate, per_sku
from skumatch.retrieval.figures import Evaluation, PairedHits, Slice
from skumatch.retrieval.openset import Kind, OpenSet, Point, Rate
from skumatch.retrieval.ranking import Ranking
from skumatch.retrieval.thresholds import Thresholds

SKUS = ["apple", "banana", "cherry"]


def ranking(answers: list[tuple[str, str]], names: list[str] = SKUS) -> Ranking:
    """One query an answer (right SKU, first suggestion); the other SKUs follow in order."""
    lists = [[first, *(name for name in names if name != first)] for _, first in answers]
    shape = (len(answers), len(names))
    similarities = np.tile(np.linspace(0.9, 0.5, len(names), dtype=np.float32), (len(answers), 1))
    ids = np.array([f"q{i:02}" for i in range(len(answers))], dtype=object)
    skus = np.array(lists, dtype=object).reshape(shape)
    gallery = np.array([[f"g-{sku}" for sku in row] for row in lists], dtype=object).reshape(shape)
    positions = np.tile(np.arange(1, len(names) + 1), (len(answers), 1))
    return Ranking(
        ids, np.array([right for right, _ in answers], dtype=object), skus, similarities, gallery, positions
    )


def picture(image_id: str) -> Image.Image:
    return Image.new("RGB", (300, 600), (sum(image_id.encode()) % 256, 80, 160))


def first_of(names: list[str]) -> dict[str, str]:
    return {name: f"g-{name}" for name in names}


@cache
def context(
    one: str = "apple", two: str = "banana", three: str = "cherry", champion: bool = True
) -> ReportContext:
    names = [one, two, three]
    challenger_ranking = ranking([(one, one), (one, one), (two, two), (two, three), (three, three)], names)
    champion_ranking = ranking([(one, two), (one, one), (two, three), (two, three), (three, three)], names)
    params = EvaluateParams(resamples=100)
    challenger, before = (
        sliced(evaluate(ranked, names, "full", params, 7), one)
        for ranked in (challenger_ranking, champion_ranking)
    )
    facts = BundleFacts(
        challenger_bundle="a" * 64,
        champion_bundle="b" * 64 if champion else None,
        bundle_mb=1.5,
        blessed=True,
        p95_ms=40.0,
        dirty_code=False,
        commit="c" * 40,
    )
    hits = [ranked.skus[:, 0] == ranked.query_skus for ranked in (challenger_ranking, champion_ranking)]
    paired = {"full": PairedHits(challenger_ranking.query_skus, *hits)} if champion else None
    return ReportContext(
        decision=decide(challenger, before if champion else None, paired, facts, GateParams(), 7),
        challenger=challenger,
        champion=before if champion else None,
        weak=weak_skus(
            challenger_ranking,
            per_sku(challenger_ranking, names),
            per_sku(champion_ranking, names) if champion else None,
        ),
        mistakes=find_mistakes(challenger_ranking, first_of(names), picture),
        pairs=confused_pairs(challenger_ranking, first_of(names), picture),
        data=data(one),
        training=TrainingFacts(
            "smoke", "tiny weights", 1000, [3.0, 2.0, 1.0], [0.1, 0.3, 0.01], {"Batch": "32"}
        ),
        hashes={"Bundle": "a" * 64, "Champion's bundle": None},
        frozen=evaluate(champion_ranking, names, "full", params, 7),
    )


def sliced(evaluation: Evaluation, group: str) -> Evaluation:
    """The same with two slices of a third and one of a group, and figures of unknown products."""
    slices = (
        Slice(
            family="thirds",
            name="head",
            about="8 to 9 gallery images",
            n=3,
            skus=1,
            top1=0.9,
            interval=(0.7, 1.0),
        ),
        Slice(
            family="thirds",
            name="tail",
            about="1 to 2 gallery images",
            n=2,
            skus=2,
            top1=0.6,
            interval=(0.52, 0.8),
        ),
        Slice(family="group", name=group, n=5, skus=3, top1=0.8, interval=(0.6, 0.9)),
    )
    return evaluation.model_copy(update={"slices": slices, "unknown": open_set()})


def open_set() -> OpenSet:
    """Made-up figures of unknown products with a curve of twenty points."""
    thresholds = Thresholds(
        similarity=0.6, margin=0.01, target=0.05, fitted_on="validation", pictures=80, skus=12
    )
    points = tuple(
        Point(similarity=0.5, coverage=i / 20, risk=0.2 * i / 20, unknown=0.6 * (i / 20) ** 2)
        for i in range(20, 0, -1)
    )
    rate = Rate(share=0.0625, interval=(0.02, 0.1), n=80)
    return OpenSet(
        thresholds=thresholds,
        known=80,
        unknown=40,
        kinds=(Kind(name="held-out SKUs", n=40, auroc=0.875, found=0.7),),
        auroc=0.875,
        auroc_interval=(0.8, 0.95),
        fpr_at_95_tpr=0.4375,
        oscr=0.8125,
        oscr_interval=(0.7, 0.9),
        margin_auroc=0.75,
        called=rate,
        called_unseen=None,
        found=Rate(share=0.6875, interval=(0.5, 0.8), n=40),
        curve=points,
    )


def data(name: str) -> DataFacts:
    aside = [
        Aside(
            name,
            "train / cut.jpg",
            "truncated",
            "The picture is damaged: its end is missing.",
            thumbnail(picture("cut")),
        ),
        Aside(name, "train / page.jpg", "no-image", "The file is no picture of a known format.", None),
    ]
    changes = DataComparison(
        sides=(Count("all", 900, 1234), Count("train", 800, 1000), Count("test", 100, 234)),
        new=Some([Count(name, 0, 7, thumbnail(picture("new"))), Count("pear", 0, 2)], 14),
        gone=Some([Count(name, 6, 0)], 1),
        changed=Some([Count(name, 4, 9)], 1),
        size_shift=1.5,
        aspect_shift=1.0,
    )
    return DataFacts(
        version="0123456789abcdef0123456789abcdef.dir",
        images=1234,
        skus=3,
        gallery=1000,
        queries=5,
        warnings=[f"1 SKU has one image: {name}."],
        set_aside=Some(aside, 5),
        aside_by_reason={"truncated": 3, "no-image": 2},
        duplicates={"Groups of near-duplicates": "17 (40 images)"},
        expectations=(41, 41),
        changes=changes,
    )
