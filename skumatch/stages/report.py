"""report: the page a person reads to trust the decision, and the model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow.parquet as pq
from PIL.Image import Image

from skumatch.data.quarantine import read_pictures
from skumatch.data.split import GALLERY_ROLES
from skumatch.data.validation.drift import Profile, read_baseline
from skumatch.files import read_json, write_text
from skumatch.params import Params
from skumatch.release.gate import Decision
from skumatch.report.confusions import confused_pairs
from skumatch.report.context import DataFacts, ReportContext, TrainingFacts
from skumatch.report.data_changes import Changes, changes_of
from skumatch.report.mistakes import find_mistakes, first_pictures, weak_skus
from skumatch.report.page import model_card, render_report
from skumatch.report.quarantined import by_reason, set_aside
from skumatch.retrieval.figures import Evaluation, Protocol
from skumatch.retrieval.ranking import Ranking
from skumatch.stages.selection import select

SETTINGS = ("epochs", "batch", "optimizer.lr_tower", "optimizer.lr_head", "loss.kind", "loss.margin", "loss.scale")


def run(root: Path, params: Params) -> None:
    context = context_of(root, params)
    write_text(root / "out/report/report.html", render_report(context))
    write_text(root / "out/report/card.md", model_card(context))


def context_of(root: Path, params: Params) -> ReportContext:
    """All that the page shows, from the workspace's outs."""
    evaluated = root / "out/evaluate"
    present = [who for who in ("challenger", "champion") if (evaluated / f"{who}.json").is_file()]
    evaluations = {who: _evaluation(evaluated / f"{who}.json") for who in present}
    ranking = Ranking.from_frame(pq.read_table(evaluated / "challenger.parquet").to_pandas())
    skus = {who: pd.DataFrame(read_json(evaluated / f"{who}-skus.json")) for who in evaluations}
    items = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    gallery = items[items["role"].eq("gallery")]
    first_of, picture = first_pictures(gallery["id"].tolist(), gallery["sku"].tolist()), pictures_by_id(root)
    decision = Decision.model_validate(read_json(root / "out/gate/decision.json"))
    return ReportContext(
        decision=decision,
        challenger=evaluations["challenger"],
        champion=evaluations.get("champion"),
        frozen=_evaluation(root / "out/frozen/frozen.json"),
        weak=weak_skus(ranking, skus["challenger"], skus.get("champion")),
        pairs=confused_pairs(ranking, first_of, picture),
        mistakes=find_mistakes(ranking, first_of, picture),
        data=_data(root, items, _changes(root, first_of, picture)),
        training=_training(root, params),
        hashes=evaluations["challenger"].hashes | decision.hashes,
        model_name=params.release.model_name,
        protocols=_protocols(evaluated),
    )


def _evaluation(path: Path) -> Evaluation:
    return Evaluation.model_validate(read_json(path))


def _protocols(evaluated: Path) -> list[tuple[Evaluation, Evaluation | None]]:
    """Figures under the protocols other than `full` that were asked."""
    paths = [(evaluated / f"challenger-{name}.json", evaluated / f"champion-{name}.json") for name in get_args(Protocol)]
    read = [[_evaluation(path) if path.is_file() else None for path in pair] for pair in paths]
    return [(ours, theirs) for ours, theirs in read if ours]


def pictures_by_id(root: Path) -> Callable[[str], Image]:
    """A function that opens a gallery's or query's picture by its id."""
    _, pictures = select(root, *GALLERY_ROLES, "query")
    place = {image_id: i for i, image_id in enumerate(pictures.ids)}
    return lambda image_id: pictures[place[image_id]]


def _changes(root: Path, first_of: Mapping[str, str], picture: Callable[[str], Image]) -> Changes | None:
    """What is new, gone and changed since the last data version that passed."""
    now = Profile.model_validate(read_json(root / "out/validate/profile.json"))
    return changes_of(now, read_baseline(root / "inputs/baseline.json"), first_of, picture)


def _data(root: Path, items: pd.DataFrame, changes: Changes | None) -> DataFacts:
    validation, split = read_json(root / "out/validate/validation.json"), read_json(root / "out/split/split.json")
    roles, asked = items["role"].value_counts(), validation["expectations"]
    return DataFacts(
        images=sum(split["images"].values()),
        skus=int(items["sku"].nunique()),
        gallery=int(roles["gallery"]),
        queries=int(roles["query"]),
        unseen_skus=len(split["unseen"]),
        warnings=validation["warnings"],
        set_aside=set_aside(validation["quarantined"], read_pictures(root / "data")),
        aside_by_reason=by_reason(validation["quarantined"]),
        duplicates=_duplicates(split),
        expectations=(sum(finding["passed"] for finding in asked), len(asked)),
        changes=changes,
    )


def _duplicates(split: dict[str, Any]) -> dict[str, str]:
    found, queries = split["duplicates"], split["queries_with_duplicate"]
    return {
        "Groups of equal images": f"{found['exact_groups']:,} ({found['exact_images']:,} images)",
        "Groups of near-duplicates": f"{found['near_groups']:,} ({found['near_images']:,} images)",
        "Groups of several products": f"{found['groups_of_several_skus']:,}",
        "Query photos with a duplicate in the gallery": f"{queries['gallery']:,}",
    }


def _training(root: Path, params: Params) -> TrainingFacts:
    facts, history = read_json(root / "out/train/training.json"), root / "out/train/history.jsonl"
    lines = [json.loads(line) for line in history.read_text("utf-8").splitlines()] if history.is_file() else []
    settings = {name.rpartition(".")[2]: str(attrgetter(name)(params.train)) for name in SETTINGS}
    canvas = {"canvas": f"{params.encoder.height} x {params.encoder.width} px, {params.encoder.resize}", "seed": str(params.seed)}
    return TrainingFacts(
        encoder=params.encoder.model,
        weights=facts["weights"]["name"],
        images=facts["images"],
        losses=[float(line["loss"]) for line in lines],
        rates=[float(line["lr"]) for line in lines],
        settings=settings | canvas,
    )
