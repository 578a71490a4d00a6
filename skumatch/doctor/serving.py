"""Check that the serving version can name the products of today's data."""

from __future__ import annotations

import json

from skumatch.data.manifest import read_manifest
from skumatch.data.products import read_products, retired
from skumatch.doctor.finding import Place, Problem
from skumatch.doctor.storage import pointed
from skumatch.errors import ServiceError
from skumatch.pipeline.pull import open_registry
from skumatch.registry.labels import nameable
from skumatch.registry.registry import Registry
from skumatch.registry.tracking import DATA_TAG
from skumatch.stages import artefacts
from skumatch.texts import agreeing, counted


def products(place: Place) -> str:
    """Check that the champion's gallery has every product of the data that is checked out here."""
    registry = open_registry(place.settings, place.params)
    champion = registry.champion()
    if champion is None:
        state = registry.champion_state()
        if state.kind == "never":
            return state.sentence
        raise Problem(state.sentence, f"{state.cure}.", "skipped")
    folder = place.settings.project / "data"
    if not (folder / "manifest.parquet").is_file():
        raise Problem(
            "data/ is not checked out here, so its products are not known",
            "Run `dvc pull data.dvc`.",
            "skipped",
        )
    manifest, params = read_manifest(folder), place.params.data
    sides = ["train", "catalogue"] if params.serve_catalogue else ["train"]
    gallery = manifest[manifest["side"].isin(sides) & ~manifest["sku"].isin(params.others)]
    today, served = set(gallery["sku"]) - retired(read_products(folder)), nameable(registry, champion)
    lacking = today - served
    if lacking:
        raise _lacking(lacking, lacking & _held_back(registry, str(pointed(place).get("md5", ""))))
    return f"version {champion.version} can name all {counted(len(today), 'product')} of today's data"


def _lacking(lacking: set[str], held: set[str]) -> Problem:
    """Return the problem of products that can't be named, some of which (`held`) the last run held back."""
    sentence = f"{counted(len(lacking), 'product')} of today's data can't be named by what serves"
    if held == lacking:
        sentence = f"{sentence}: the last run held {agreeing(len(held), 'it', 'them')} back"
        fix = "Its report says why; correct the data, or accept them by name (refresh.accept)."
        return Problem(sentence, fix, "warning")
    sentence = f"{sentence}, {len(held):,} of them held back by the last run" if held else sentence
    pronoun = "it" if len(lacking) == 1 else "the others" if held else "them"
    return Problem(sentence, f"`skumatch refresh` puts {pronoun} into the gallery.", "warning")


def _held_back(registry: Registry, data: str) -> set[str]:
    """Return the products that a candidate of the last finished run held back.

    The set is empty if that run used another data version than `data` (an MD5).
    """
    last = registry.last_finished()
    if last is None or last.tags.get(DATA_TAG) != data:
        return set()
    try:
        return set().union(*json.loads(registry.artifact(last.run_id, artefacts.HELD_BACK.logged())).values())
    except ServiceError:  # a run from before gallery releases
        return set()
