"""evaluate: ranked lists of both models under the protocol `full`, their figures under each protocol, and their hits query by query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from skumatch.data.manifest import write_parquet
from skumatch.data.validation.drift import read_baseline
from skumatch.files import read_json, write_json
from skumatch.model.runtime import prepare
from skumatch.params import Params
from skumatch.retrieval.calibration import Embedded, fit_thresholds
from skumatch.retrieval.evaluate import RANKING_SCHEMA, Protocol, per_sku
from skumatch.retrieval.figures import NearDuplicateFree
from skumatch.retrieval.hits import HITS_SCHEMA, hits_table
from skumatch.retrieval.openset import OpenSet
from skumatch.retrieval.protocols import Asked, ask, hits_without_duplicates, without_duplicates
from skumatch.retrieval.search import Vectors
from skumatch.retrieval.unknowns import open_set

GUARDED = ("unseen", "k5")  # protocols whose hits the gate compares, besides `full` and its slices
Hits = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Scored:
    """One model's embeddings of all items, to be asked under each protocol."""

    root: Path
    params: Params
    items: pd.DataFrame
    vectors: Vectors
    model: str
    encoder: str
    device: str

    def ask(self, protocol: Protocol) -> Asked:
        lists = pq.read_table(self.root / f"out/split/protocols/{protocol}.parquet").to_pandas()
        return ask(protocol, lists, self.items, self.vectors, self.params.search.backend, self.device, self.params.evaluate.voters)

    def write(self, asked: Asked, free: NearDuplicateFree | None = None, unknown: OpenSet | None = None) -> None:
        evaluation = asked.evaluate(self.params.evaluate, self.params.seed, self.encoder)
        name = self.model if asked.protocol == "full" else f"{self.model}-{asked.protocol}"
        whole = evaluation.model_copy(update={"near_duplicate_free": free, "unknown": unknown})
        write_json(self.path(f"{name}.json"), whole.model_dump(mode="json"))

    def embedded(self, *models: str) -> Embedded:
        """The items and their vectors; `trained` is what any of `models` was trained on."""
        trained = self.items[[f"trained_{model}" for model in models]].any(axis=1)
        return Embedded(self.items.assign(trained=trained), self.vectors, self.params.search.backend, self.device)

    def path(self, name: str) -> Path:
        return self.root / "out/evaluate" / name


def run(root: Path, params: Params) -> None:
    items = _items(root)
    device = str(prepare(params.runtime))
    for model, encoder in read_json(root / "out/embed/embed.json")["encoders"].items():
        if encoder is not None:
            vectors = load_file(root / f"out/embed/{model}.safetensors")["embeddings"]
            scored = Scored(root, params, items, vectors, model, encoder, device)
            hits = _full(scored) | _others(scored)
            write_parquet(scored.path(f"{model}-hits.parquet"), hits_table(hits), HITS_SCHEMA)


def _items(root: Path) -> pd.DataFrame:
    """What was embedded; with `new`, whether an item's SKU is new in this data version, where there was one before."""
    items: pd.DataFrame = pq.read_table(root / "out/embed/items.parquet").to_pandas()
    before = read_baseline(root / "inputs/baseline.json")
    return items if before is None or before.rendered else items.assign(new=~items["sku"].isin(list(before.skus)))


def _full(scored: Scored) -> Hits:
    """Ranked lists and figures of the protocol `full`; returns the hits of its slices."""
    asked, params = scored.ask("full"), scored.params
    free = hits_without_duplicates(asked, scored.items, scored.vectors, params.search.backend, scored.device)
    scored.write(asked, without_duplicates(free, asked, params.evaluate, params.seed), _unknown(scored, asked))
    write_parquet(scored.path(f"{scored.model}.parquet"), asked.ranking.to_frame(), RANKING_SCHEMA)
    write_json(scored.path(f"{scored.model}-skus.json"), per_sku(asked.ranking, asked.partners).to_dict("records"))
    hits = asked.hits()
    few = asked.facts["gallery_images"].le(params.evaluate.tail_images)
    return {"full": hits, "tail": hits[few[hits.index]], "near_duplicate_free": free}


def _unknown(scored: Scored, asked: Asked) -> OpenSet | None:
    """Fit the thresholds for unknown products and keep them: they depend on this model alone. Test them on what neither model knows."""
    own, either = scored.embedded(scored.model), scored.embedded("challenger", "champion")
    thresholds = fit_thresholds(own, scored.params.evaluate.unknown_rate)
    write_json(scored.path(f"{scored.model}-thresholds.json"), thresholds.model_dump(mode="json"))
    return open_set(either, asked, thresholds, scored.params.evaluate, scored.params.seed)


def _others(scored: Scored) -> Hits:
    """Figures under every other protocol that has queries and a gallery here; returns the hits of those that the gate guards."""
    hits = {}
    for protocol in get_args(Protocol):
        if protocol == "full" or not (scored.root / f"out/split/protocols/{protocol}.parquet").is_file():
            continue
        asked = scored.ask(protocol)
        if asked.answerable:
            scored.write(asked)
            hits[protocol] = asked.hits()
    return {name: hits[name] for name in GUARDED if name in hits}
