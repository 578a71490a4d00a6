"""report: write the report, which lets a person check the decision, and the model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow.parquet as pq
import yaml
from PIL.Image import Image

from skumatch.bundle.manifest import GALLERY, LABELS
from skumatch.data.quarantine import read_pictures
from skumatch.data.split import GALLERY_ROLES
from skumatch.data.validation.drift import read_baseline
from skumatch.files import read_json
from skumatch.params import Params
from skumatch.report.confusions import confused_pairs
from skumatch.report.context import DataFacts, ReportContext, TrainingFacts
from skumatch.report.data_changes import DataComparison, changes_of
from skumatch.report.gallery import PictureLoss, gallery_changes
from skumatch.report.mistakes import find_mistakes, first_pictures, weak_skus
from skumatch.report.page import model_card, render_report
from skumatch.report.quarantined import by_reason, set_aside
from skumatch.retrieval.answers import PHOTO, Shares
from skumatch.retrieval.figures import Evaluation, Protocol
from skumatch.retrieval.ranking import Ranking
from skumatch.stages import artefacts
from skumatch.stages.artefacts import SplitFacts
from skumatch.stages.selection import select
from skumatch.texts import counted

SETTINGS = (
    "epochs",
    "batch",
    "optimizer.lr_tower",
    "optimizer.lr_head",
    "loss.kind",
    "loss.margin",
    "loss.scale",
)


def run(root: Path, params: Params) -> None:
    """Write out/report: report.html and card.md."""
    context = context_of(root, params)
    artefacts.REPORT.write(root, render_report(context))
    artefacts.CARD.write(root, model_card(context))


def context_of(root: Path, params: Params) -> ReportContext:
    """Read all that the report shows from the workspace's outs."""
    candidates = ("challenger", "refreshed")
    present = [model for model in candidates if artefacts.EVALUATION.exists(root, candidate=model)]
    evaluations = {model: artefacts.EVALUATION.read(root, candidate=model) for model in present}
    decision = artefacts.DECISION.read(root)
    main = "refreshed" if decision.verdict == "refresh" else present[0]  # the model that the report is about
    rival = (
        "refreshed" if main == "challenger" and "refreshed" in present else ""
    )  # the model to compare with
    ranking = Ranking.from_frame(artefacts.RANKING.read(root, candidate=main))
    skus = {model: pd.DataFrame(artefacts.SKU_FIGURES.read(root, candidate=model)) for model in evaluations}
    items = artefacts.ITEMS.read(root)
    gallery = items[items["role"].eq("gallery")]
    first_of, picture = first_pictures(gallery["id"].tolist(), gallery["sku"].tolist()), pictures_by_id(root)
    trained = main == "challenger" and artefacts.TRAINING.exists(root)
    return ReportContext(
        decision=decision,
        challenger=evaluations[main],
        champion=evaluations.get(rival),
        frozen=artefacts.FROZEN.read(root) if trained and artefacts.FROZEN.exists(root) else None,
        weak=weak_skus(ranking, skus[main], skus.get(rival)),
        pairs=confused_pairs(ranking, first_of, picture),
        mistakes=find_mistakes(ranking, first_of, picture),
        data=_data(root, items, _changes(root, first_of, picture)),
        training=_training(root, params) if trained else None,
        hashes=evaluations[main].hashes | decision.hashes,
        model_name=params.release.model_name,
        protocols=_protocols(root, main, rival),
        gallery=gallery_changes(
            decision, _served(root), _shares(root), first_of, picture, _thinned(root, gallery)
        ),
    )


def _thinned(root: Path, gallery: pd.DataFrame) -> list[PictureLoss]:
    """List old products that lost gallery pictures, those whose right answers changed most first.

    Args:
        root: The stage's workspace.
        gallery: Items of today's gallery.
    """
    path = artefacts.CHAMPION.at(root) / GALLERY
    if not path.is_file() or not artefacts.ANSWERS.exists(root):
        return []
    served = pq.read_table(path, columns=["id", "sku"]).to_pandas()
    served = served[served["sku"].isin(gallery["sku"])]
    gone = served.assign(gone=~served["id"].isin(gallery["id"])).groupby("sku")["gone"].agg(["sum", "size"])
    photos = artefacts.ANSWERS.read(root)
    photos = photos[photos["asked_as"].eq(PHOTO)]
    right = {
        name: photos[name].eq(photos["sku"]) & ~photos[f"{name}_unknown"].eq(True)
        for name in ("served", "refreshed")
    }
    counts = photos.assign(**right).groupby("sku").agg({"query": "size", "served": "sum", "refreshed": "sum"})
    counts = counts.reindex(gone.index, fill_value=0).astype(int)
    losses = []
    for sku, lost, size in gone[gone["sum"].gt(0)].itertuples():
        number, before, after = counts.loc[sku].tolist()
        losses.append(PictureLoss(str(sku), int(lost), int(size - lost), number, before, after))
    return sorted(losses, key=lambda loss: (-abs(loss.after - loss.before), loss.sku))


def _served(root: Path) -> set[str]:
    """Return the products of the champion's gallery; none where there is no champion."""
    path = artefacts.CHAMPION.at(root) / LABELS
    return set(read_json(path)["gallery_images"]) if path.is_file() else set()


def _shares(root: Path) -> Shares:
    return artefacts.SHARES.read(root) if artefacts.SHARES.exists(root) else {}


def _protocols(root: Path, main: str, rival: str) -> list[tuple[Evaluation, Evaluation | None]]:
    """Return the figures of `main` and `rival` under the protocols other than `full` that `main` has."""
    figures = artefacts.PROTOCOL_EVALUATION
    names = [name for name in get_args(Protocol) if figures.exists(root, candidate=main, protocol=name)]
    return [
        (
            figures.read(root, candidate=main, protocol=name),
            figures.read(root, candidate=rival, protocol=name)
            if figures.exists(root, candidate=rival, protocol=name)
            else None,
        )
        for name in names
    ]


def pictures_by_id(root: Path) -> Callable[[str], Image]:
    """Return a function that opens a gallery's or query's picture by its id."""
    _, pictures = select(root, *GALLERY_ROLES, "query")
    place = {image_id: i for i, image_id in enumerate(pictures.ids)}
    return lambda image_id: pictures[place[image_id]]


def _changes(
    root: Path, first_of: Mapping[str, str], picture: Callable[[str], Image]
) -> DataComparison | None:
    """Return the changes since the data version before; None without one."""
    baseline = read_baseline(artefacts.BASELINE.at(root))
    return changes_of(artefacts.PROFILE.read(root), baseline, first_of, picture)


def _data(root: Path, items: pd.DataFrame, changes: DataComparison | None) -> DataFacts:
    validation, split = artefacts.VALIDATION.read(root), artefacts.SPLIT.read(root)
    roles, expectations = items["role"].value_counts(), validation.expectations
    quarantined = [entry.model_dump() for entry in validation.quarantined]
    return DataFacts(
        version=_data_version(root),
        images=sum(split.images.values()),
        skus=int(items["sku"].nunique()),
        gallery=int(roles["gallery"]),
        queries=int(roles["query"]),
        unseen_skus=len(split.unseen),
        warnings=validation.warnings,
        set_aside=set_aside(quarantined, read_pictures(root / "data")),
        aside_by_reason=by_reason(quarantined),
        duplicates=_duplicates(split),
        expectations=(sum(finding.passed for finding in expectations), len(expectations)),
        changes=changes,
    )


def _data_version(root: Path) -> str:
    """Return the MD5 of the data version, as data.dvc names it; it changes with the dependency `data`."""
    return str(yaml.safe_load((root / "data.dvc").read_text("utf-8"))["outs"][0]["md5"])


def _duplicates(split: SplitFacts) -> dict[str, str]:
    counts = split.duplicates
    return {
        "Groups of equal images": f"{counts.exact_groups:,} ({counted(counts.exact_images, 'image')})",
        "Groups of near-duplicates": f"{counts.near_groups:,} ({counted(counts.near_images, 'image')})",
        "Groups of several products": f"{counts.groups_of_several_skus:,}",
        "Query photos with a duplicate in the gallery": f"{split.queries_with_duplicate['gallery']:,}",
    }


def _training(root: Path, params: Params) -> TrainingFacts:
    facts, history = artefacts.TRAINING.read(root), artefacts.HISTORY.at(root)
    lines = (
        [json.loads(line) for line in history.read_text("utf-8").splitlines()] if history.is_file() else []
    )
    settings = {name.rpartition(".")[2]: str(attrgetter(name)(params.train)) for name in SETTINGS}
    canvas = {
        "canvas": f"{params.encoder.height} x {params.encoder.width} px, {params.encoder.resize}",
        "seed": str(params.seed),
    }
    return TrainingFacts(
        encoder=params.encoder.model,
        weights=facts.weights["name"],
        images=facts.images,
        losses=[float(line["loss"]) for line in lines],
        rates=[float(line["lr"]) for line in lines],
        settings=settings | canvas,
    )
