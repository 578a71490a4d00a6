"""gate: decide by the policy, from evaluations, hits, served answers and the bundles' facts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from skumatch.bundle import bundle_hash
from skumatch.bundle.manifest import GALLERY, MANIFEST, THRESHOLDS
from skumatch.bundle.matcher import read_thresholds
from skumatch.bundle.parts import read_gallery
from skumatch.errors import DataError
from skumatch.files import read_json
from skumatch.gate.fitness import judge
from skumatch.gate.gate import BundleFacts, Products, Refreshed, decide, settle
from skumatch.gate.rules import Slices
from skumatch.params import Params
from skumatch.retrieval.figures import Evaluation
from skumatch.retrieval.hits import pair
from skumatch.retrieval.thresholds import Thresholds
from skumatch.stages import artefacts
from skumatch.stages.artefacts import CandidateBundle

SAME = 1e-5  # by which vectors and thresholds of one encoder may differ from one processor to another


def run(root: Path, params: Params) -> None:
    """Write out/gate/decision.json."""
    bundles, held = artefacts.BUNDLES.read(root), artefacts.HELD_BACK.read(root)
    champion = model = refreshed = None
    if artefacts.EVALUATION.exists(root, candidate="refreshed"):
        champion = artefacts.EVALUATION.read(root, candidate="refreshed")
    if bundle := bundles["challenger"]:
        challenger = artefacts.EVALUATION.read(root, candidate="challenger")
        slices = _paired(root) if champion else None
        model = decide(challenger, champion, slices, _facts(root, bundle), params.gate, params.seed)
    if champion and (bundle := bundles["refreshed"]):
        refreshed = _refreshed(root, params, champion, bundle, held["refreshed"])
    decision = settle(model, refreshed, params.gate, held.get("challenger", {}))
    artefacts.DECISION.write(root, decision)


def _paired(root: Path) -> Slices | None:
    """Return the hits of both encoders; None if their queries differ, which the gate refuses by a rule."""
    try:
        return pair(
            challenger=artefacts.HITS.read(root, candidate="challenger"),
            champion=artefacts.HITS.read(root, candidate="refreshed"),
        )
    except DataError as error:
        print(error, file=sys.stderr)
        return None


def _facts(root: Path, bundle: CandidateBundle) -> BundleFacts:
    """Return the facts of a candidate's bundle."""
    code, champion = artefacts.CODE.read(root), artefacts.CHAMPION.at(root)
    return BundleFacts(
        challenger_bundle=bundle.bundle,
        champion_bundle=None if (champion / artefacts.ABSENT).is_file() else bundle_hash(champion),
        bundle_mb=bundle.megabytes,
        blessed=bundle.blessed,
        p95_ms=bundle.p95_ms,
        dirty_code=code.dirty,
        commit=code.commit,
    )


def _refreshed(
    root: Path, params: Params, evaluation: Evaluation, bundle: CandidateBundle, held: dict[str, str]
) -> Refreshed:
    """Compare the refreshed gallery with the one that serves.

    Args:
        root: The stage's workspace.
        params: The run's parameters.
        evaluation: Figures of the champion's encoder on today's gallery.
        bundle: Facts of the refreshed bundle.
        held: New products that it holds back -> the reason.
    """
    folders = artefacts.CHAMPION.at(root), artefacts.BUNDLE["refreshed"].at(root)
    dim = read_json(folders[1] / MANIFEST)["dim"]
    served, today = (read_gallery(folder / GALLERY, dim) for folder in folders)
    before, after = (read_thresholds(folder / THRESHOLDS) for folder in folders)
    retired = set(served.skus) - set(today.skus)
    same = (served.ids, served.skus) == (today.ids, today.skus) and np.allclose(
        served.embeddings, today.embeddings, atol=SAME
    )
    fitted_after, fitted_before = after.fitted_on or "nothing", before.fitted_on or "nothing"
    note = f"thresholds fitted on {fitted_after}; what serves: on {fitted_before}"
    return Refreshed(
        evaluation=evaluation,
        facts=_facts(root, bundle),
        changed=not same or not _alike(before, after),
        fitness=judge(artefacts.ANSWERS.read(root), params.refresh, note, params.seed, retired),
        products=Products(
            new=len(set(today.skus) - set(served.skus)) + len(held), retired=len(retired), held=held
        ),
    )


def _alike(first: Thresholds, second: Thresholds) -> bool:
    """Return whether two pairs of thresholds are equal but for rounding."""
    pairs = ((first.similarity, second.similarity), (first.margin, second.margin))
    return all(
        left == right or (left is not None and right is not None and abs(left - right) <= SAME)
        for left, right in pairs
    )
