"""evaluate: make the figures of each candidate: `served`, `refreshed` and `challenger`.

`served` is the champion's bundle exactly as it serves. `refreshed` is the champion's encoder on today's
gallery, with thresholds fitted anew. `challenger` is the encoder that this run trained; in a refresh there is
none.

The protocols compare encoders, so they search the whole gallery of today. Answers and thresholds are those of
the bundle that would be released: without the products that are held back, which are determined for each
encoder by its own answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import pandas as pd

from skumatch.bundle.manifest import ENCODER, GALLERY, THRESHOLDS
from skumatch.bundle.matcher import read_thresholds
from skumatch.bundle.parts import read_gallery
from skumatch.data.validation.drift import read_baseline
from skumatch.files import sha256
from skumatch.gate.fitness import hold_back
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval import answers
from skumatch.retrieval.answers import ServedGallery
from skumatch.retrieval.calibration import Embedded, fit_thresholds
from skumatch.retrieval.evaluate import Protocol, per_sku
from skumatch.retrieval.figures import NearDuplicateFree
from skumatch.retrieval.hits import hits_table
from skumatch.retrieval.openset import OpenSet
from skumatch.retrieval.protocols import ProtocolAnswers, ask, hits_without_duplicates, without_duplicates
from skumatch.retrieval.search import Vectors
from skumatch.retrieval.thresholds import Thresholds
from skumatch.retrieval.unknowns import open_set
from skumatch.stages import artefacts
from skumatch.stages.artefacts import VECTORS_OF

GUARDED = ("unseen", "k5")  # protocols whose hits the gate compares, besides `full` and its slices
Hits = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Scored:
    """One candidate's embeddings of all items, to be scored under each protocol.

    Attributes:
        root: The stage's workspace.
        params: The run's parameters.
        items: Rows of artefacts.ITEMS, in the order of `vectors`.
        vectors: [items, d].
        model: `challenger` or `refreshed`.
        encoder: SHA-256 of the encoder's weights.
        device: torch's name of the device to search on.
    """

    root: Path
    params: Params
    items: pd.DataFrame
    vectors: Vectors
    model: str
    encoder: str
    device: str

    def ask(self, protocol: Protocol) -> ProtocolAnswers:
        """Rank the gallery for each query of a protocol."""
        lists = artefacts.PROTOCOL.read(self.root, protocol=protocol)
        lists = lists[~lists["id"].isin(self.items.loc[self.items["role"].eq(answers.HELD), "id"])]
        return ask(
            protocol,
            lists,
            self.items,
            self.vectors,
            backend=self.params.search.backend,
            device=self.device,
            voters=self.params.evaluate.voters,
        )

    def write(
        self, ranked: ProtocolAnswers, free: NearDuplicateFree | None = None, unknown: OpenSet | None = None
    ) -> None:
        """Write the evaluation of a protocol.

        Args:
            ranked: The ranked lists under the protocol.
            free: Top-1 without near-duplicates; `full` only.
            unknown: Figures of unknown products; `full` only.
        """
        evaluation = ranked.evaluate(self.params.evaluate, self.params.seed, self.encoder)
        whole = evaluation.model_copy(update={"near_duplicate_free": free, "unknown": unknown})
        if ranked.protocol == "full":
            artefacts.EVALUATION.write(self.root, whole, candidate=self.model)
        else:
            names = {"candidate": self.model, "protocol": ranked.protocol}
            artefacts.PROTOCOL_EVALUATION.write(self.root, whole, **names)

    def embedded(self, *models: str) -> Embedded:
        """Return the items and their vectors; `trained` marks items that any of `models` was trained on."""
        trained = self.items[[f"trained_{VECTORS_OF[model]}" for model in models]].any(axis=1)
        return Embedded(
            self.items.assign(trained=trained), self.vectors, self.params.search.backend, self.device
        )

    @cached_property
    def thresholds(self) -> Thresholds:
        """Thresholds for unknown products, fitted on today's gallery; they depend on this encoder alone."""
        return fit_thresholds(self.embedded(self.model), self.params.evaluate.unknown_rate)

    @property
    def gallery(self) -> ServedGallery:
        """Today's gallery as it would serve."""
        rows = self.items[self.items["role"].eq("gallery")]
        return ServedGallery(
            skus=rows["sku"].tolist(),
            vectors=self.vectors[rows.index.to_numpy()],
            thresholds=self.thresholds,
            backend=self.params.search.backend,
            device=self.device,
            pictures=self.vectors,
        )

    def without(self, held: dict[str, str]) -> Scored:
        """Return the same candidate with the products `held` taken out of its gallery."""
        if not held:
            return self
        back = self.items["role"].eq("gallery") & self.items["sku"].isin(list(held))
        return replace(self, items=self.items.assign(role=self.items["role"].mask(back, answers.HELD)))


def run(root: Path, params: Params) -> None:
    """Write out/evaluate: figures, hits, thresholds and answers of all candidates, and held.json."""
    items, device = _items(root), str(prepare(params.runtime))
    encoders = {name: encoder for name, encoder in artefacts.ENCODERS.read(root).encoders.items() if encoder}
    vectors = {name: artefacts.VECTORS.read(root, encoder=name) for name in encoders}
    scored = {
        model: Scored(root, params, items, vectors[name], model, encoders[name], device)
        for model, name in VECTORS_OF.items()
        if name in vectors
    }
    held = _answers_as_served(root, params, scored) if "refreshed" in scored else {}
    artefacts.HELD_BACK.write(root, held)
    for name, candidate in scored.items():
        hits = _full(candidate, candidate.without(held.get(name, {}))) | _others(candidate)
        artefacts.HITS.write(root, hits_table(hits), candidate=name)


def _items(root: Path) -> pd.DataFrame:
    """Return the embedded items; `new` tells whether a SKU is new, where there was a data version before."""
    items = artefacts.ITEMS.read(root)
    before = read_baseline(artefacts.BASELINE.at(root))
    if before is None or before.rendered:
        return items
    return items.assign(new=~items["sku"].isin(list(before.skus)))


def _answers_as_served(root: Path, params: Params, scored: dict[str, Scored]) -> dict[str, dict[str, str]]:
    """Write the answers of all candidates as they would serve.

    Returns:
        Candidate -> products that it holds back -> the reason.
    """
    before = _released_galleries(root, scored["refreshed"])
    tables, held = {}, {}
    for name, candidate in scored.items():
        tables[name], held[name] = _held_back(candidate, before)
    table = tables["refreshed"]
    if "challenger" in tables:
        table = answers.beside(table, tables["challenger"], "challenger")
    artefacts.ANSWERS.write(root, table)
    artefacts.SHARES.write(root, answers.shares(table, params.evaluate, params.seed))
    return held


def _held_back(candidate: Scored, before: dict[str, ServedGallery]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Take new products out of a candidate's gallery until none of the others is to be held back.

    Returns:
        The answers of the rest, and the products that were taken out with the reasons.
    """
    held: dict[str, str] = {}
    while True:
        part = candidate.without(held)
        table = answers.ask(part.embedded(part.model), before | {part.model: part.gallery}, part.model)
        more = hold_back(table, part.params.refresh, part.model)
        if not more:
            return table, held
        held |= more


def _released_galleries(root: Path, refreshed: Scored) -> dict[str, ServedGallery]:
    """Return the galleries that the champion's encoder serves with and was first released with.

    One that is missing, or was released with another encoder, is left out.
    """
    champion, vectors, galleries = artefacts.CHAMPION.at(root), refreshed.vectors, {}
    for name, folder in (("served", champion), ("released", artefacts.RELEASED.at(root))):
        if (folder / GALLERY).is_file() and sha256(folder / ENCODER) == sha256(champion / ENCODER):
            rows = read_gallery(folder / GALLERY, vectors.shape[1])
            galleries[name] = ServedGallery(
                skus=rows.skus,
                vectors=rows.embeddings,
                thresholds=read_thresholds(folder / THRESHOLDS),
                backend=refreshed.params.search.backend,
                device=refreshed.device,
                pictures=vectors,
            )
    return galleries


def _full(scored: Scored, released: Scored) -> Hits:
    """Write ranked lists, figures and thresholds under the protocol `full`; return the hits of its slices.

    Args:
        scored: A candidate with today's whole gallery.
        released: The same without the products that it holds back.
    """
    full, params = scored.ask("full"), scored.params
    free = hits_without_duplicates(full, scored.items, scored.vectors, params.search.backend, scored.device)
    root, candidate = scored.root, scored.model
    artefacts.THRESHOLDS.write(root, released.thresholds, candidate=candidate)
    unknown = _unknown(released, full if released is scored else released.ask("full"))
    scored.write(full, without_duplicates(free, full, params.evaluate, params.seed), unknown)
    artefacts.RANKING.write(root, full.ranking.to_frame(), candidate=candidate)
    figures = per_sku(full.ranking, full.partners).to_dict("records")
    artefacts.SKU_FIGURES.write(root, figures, candidate=candidate)
    hits = full.hits()
    few_images = full.facts["gallery_images"].le(params.evaluate.tail_images)
    return {"full": hits, "tail": hits[few_images[hits.index]], "near_duplicate_free": free}


def _unknown(scored: Scored, full: ProtocolAnswers) -> OpenSet | None:
    """Test the thresholds on pictures that no encoder of the run was trained on."""
    embedded = scored.embedded(*VECTORS_OF)
    return open_set(embedded, full, scored.thresholds, scored.params.evaluate, scored.params.seed)


def _others(scored: Scored) -> Hits:
    """Write the figures under every other protocol that has queries and a gallery here.

    Returns:
        The hits of the protocols that the gate guards, by protocol.
    """
    hits = {}
    for protocol in get_args(Protocol):
        if protocol == "full" or not artefacts.PROTOCOL.exists(scored.root, protocol=protocol):
            continue
        lists = scored.ask(protocol)
        if lists.answerable:
            scored.write(lists)
            hits[protocol] = lists.hits()
    return {name: hits[name] for name in GUARDED if name in hits}
