"""The validation of a data version with Great Expectations, before anything is learnt from it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.manifest import COLUMNS, images
from skumatch.data.validation import suite
from skumatch.data.validation.drift import Profile, drift_frames, profile_of
from skumatch.data.validation.expectations import SHOWN, Rule, library, percent
from skumatch.data.validation.findings import ExpectationResult
from skumatch.data.validation.frames import (
    Frames,
    column_frame,
    delivered_frame,
    image_frame,
    sku_frame,
    whole_frame,
)
from skumatch.params import DataParams, ValidateParams
from skumatch.progress import track
from skumatch.texts import counted, filled

NOTE_LETTERS = 90
KEYS = {
    "columns": "column",
    "images": "id",
    "bytes": "id",
    "delivered": "image",
    "skus": "sku",
    "drift_skus": "sku",
    "drift_sides": "side",
}


def validate(
    manifest: pd.DataFrame,
    summary: dict[str, Any],
    params: ValidateParams,
    data: DataParams,
    baseline: Profile | None = None,
    gone: Collection[str] = (),
) -> list[ExpectationResult]:
    """Check all expectations on a manifest; if the schema fails, only those on the schema.

    Data that fails raises nothing here: see `require`.

    Args:
        manifest: all rows.
        summary: the import's import.json.
        params: the bounds, section `validate` of params.yaml.
        data: the section `data`.
        baseline: the profile that drift is measured against; None for none.
        gone: retired products; they count in no figure by SKU, and as gone in the drift.

    Returns:
        One finding for each expectation, in the suite's order.
    """
    schema = judge({"manifest": manifest, "columns": column_frame(manifest)}, suite.schema_rules())
    if not all(finding.passed for finding in schema):
        return schema
    manifest = manifest.reset_index(drop=True)
    sold = manifest[~manifest["sku"].isin(gone)]
    skus = sku_frame(sold, data, None if baseline is None else baseline.skus)
    frames = {
        "images": image_frame(manifest),
        "delivered": delivered_frame(manifest, summary),
        "skus": skus,
        "whole": whole_frame(manifest, skus, summary),
    }
    drift = drift_frames(profile_of(sold, data), baseline)
    return [
        *schema,
        *judge(frames, suite.rules(params)),
        *(judge(drift, suite.drift_rules(params)) if drift else []),
    ]


def validate_bytes(root: Path, manifest: pd.DataFrame) -> list[ExpectationResult]:
    """Hash every image's bytes in the shards below `root`, and compare them with a manifest that passed.

    Raises:
        StorageError: for a missing shard.
    """
    pictures = images(root, manifest)
    stored = []
    with track("validate", len(pictures)) as advance:
        for index in range(len(pictures)):
            stored.append(hashlib.sha256(pictures.read_bytes(index)).hexdigest())
            advance()
    return judge({"bytes": manifest[["id", "sha256"]].assign(stored=stored)}, suite.byte_rules())


def judge(frames: Frames, rules: Sequence[Rule]) -> list[ExpectationResult]:
    """Check each rule on its frame; return one finding a rule, in the order of `rules`."""
    results: dict[str, Any] = {}
    for name, frame in frames.items():
        results |= _run(name, frame, [rule for rule in rules if rule.frame == name])
    return [_finding(rule, frames[rule.frame], results[rule.name]) for rule in rules]


def _run(name: str, frame: pd.DataFrame, rules: Sequence[Rule]) -> dict[str, Any]:
    gx, _ = library()
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas(name)
    batch = (
        source.add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    # One suite for each frame, since Great Expectations hashes the whole frame with each call.
    expectation_suite = gx.ExpectationSuite(name=name, expectations=[rule.expectation for rule in rules])
    by_sentence = {
        result.expectation_config.description: result
        for result in batch.validate(expectation_suite, result_format="COMPLETE").results
    }
    return {rule.name: by_sentence[rule.sentence] for rule in rules}


def _finding(rule: Rule, frame: pd.DataFrame, result: Any) -> ExpectationResult:
    details = result.result
    broken = details.get("unexpected_index_list") or []
    rows = _worst_first(frame.loc[broken], rule.worst).head(SHOWN)
    key = KEYS.get(rule.frame)
    names = [str(name) for name in rows[key]] if key else []
    notes = [filled(rule.note, row)[:NOTE_LETTERS] for row in rows.to_dict("records")] if key else []
    values = dict(zip(broken, details.get("unexpected_list") or [], strict=False))
    result.result = _cut(details, [str(values.get(place)) for place in rows.index], names)
    return ExpectationResult(
        rule, bool(result.success), _observed(rule, frame, details), len(broken), names, notes, result
    )


def _worst_first(rows: pd.DataFrame, worst: tuple[str, ...]) -> pd.DataFrame:
    if not worst:
        return rows
    columns = [name.removeprefix("-") for name in worst]
    return rows.sort_values(columns, ascending=[not name.startswith("-") for name in worst], kind="stable")


def _observed(rule: Rule, frame: pd.DataFrame, details: dict[str, Any]) -> str:
    if rule.name == "columns":
        return _columns(list(frame.columns))
    if rule.figure:
        return filled(rule.figure, frame.iloc[0].to_dict())
    if "unexpected_count" not in details:
        return "could not be computed"
    count, total = details["unexpected_count"], details["element_count"]
    if rule.frame != "delivered":  # in that frame the rows without a value are the good ones
        total -= details["missing_count"]
    return f"{count:,} of {total:,}" + (f", {percent(count / total)}" if count else "")


def _columns(columns: list[str]) -> str:
    missing = [name for name in COLUMNS if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    faults = [
        f"{kind}: {', '.join(names)}" for kind, names in (("missing", missing), ("unknown", unknown)) if names
    ]
    right = counted(len(columns), "column") if columns == COLUMNS else "in another order"
    return "; ".join(faults) or right


def _cut(details: dict[str, Any], values: list[str], names: list[str]) -> dict[str, Any]:
    """Return a result's details for Data Docs, with only the worst of the broken rows, by name."""
    shown = {name: value for name, value in details.items() if "_list" not in name and "_index_" not in name}
    if not values:
        return shown
    counts = [{"value": value, "count": values.count(value)} for value in dict.fromkeys(values)]
    lists = {
        "unexpected_list": values,
        "partial_unexpected_list": values,
        "unexpected_index_list": names or values,
    }
    return shown | lists | {"partial_unexpected_counts": counts}
