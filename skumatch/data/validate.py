"""Great Expectations over the manifest: what must hold before anything is learnt from a data version."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.config import DataParams, ValidateParams
from skumatch.data.manifest import images
from skumatch.errors import ValidationFailed
from skumatch.progress import track

Expectations = list[tuple[str, Any]]
OFFENDERS = 5


def check_bytes(root: Path, manifest: pd.DataFrame) -> None:
    """Hash every image's bytes in the shards against the manifest. Raises ValidationFailed naming the first that differs."""
    pictures = images(root, manifest)
    with track("validate", len(pictures)) as advance:
        for index, wanted in enumerate(manifest["sha256"]):
            if hashlib.sha256(pictures.read_bytes(index)).hexdigest() != wanted:
                raise ValidationFailed(f"The bytes of {pictures.ids[index]} differ from the manifest's hash; import the data again.")
            advance()


def validate(manifest: pd.DataFrame, summary: dict[str, Any], params: ValidateParams, data: DataParams) -> list[dict[str, Any]]:
    """Run every expectation; return one record each: frame, sentence, passed, observed, offenders.

    `summary` is the import's import.json. Nothing is raised for data that fails: see `failures`.
    """
    skus = per_sku(manifest, data)
    facts = shares(manifest, skus, summary)
    return [
        *_run("images", manifest, _image_expectations(params)),
        *_run("skus", skus, _sku_expectations(params)),
        *_run("facts", facts, _fact_expectations(params)),
    ]


def require(results: list[dict[str, Any]]) -> None:
    """Raise ValidationFailed with the failed expectations and their worst offenders, if there are any."""
    failed = [result for result in results if not result["passed"]]
    if failed:
        what = "; ".join(_failure(result) for result in failed[:3])
        cure = "Correct the data, or the bound under `validate` in params.yaml."
        raise ValidationFailed(f"The data broke {len(failed)} of {len(results)} expectations: {what}. {cure}")


def _failure(result: dict[str, Any]) -> str:
    worst = f", worst: {', '.join(result['offenders'])}" if result["offenders"] else ""
    return f"{result['sentence']} ({result['observed']}{worst})"


def per_sku(manifest: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """sku, train, test: images on each side; catch-all classes left out, and images without a SKU."""
    known = manifest[~manifest["sku"].isin([*data.others, ""])]
    counts = known.groupby(["sku", "side"]).size().unstack(fill_value=0).reindex(columns=["train", "test"], fill_value=0)
    return counts.reset_index()


def shares(manifest: pd.DataFrame, skus: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """One row of shares of the whole delivery, each between 0 and 1, and the number of SKUs with gallery images."""
    labels = manifest.groupby("pixels")["sku"].nunique()
    conflicts = manifest["pixels"].isin(labels[labels > 1].index)
    quarantined = len(summary["quarantined"])
    return pd.DataFrame(
        {
            "gallery_skus": [int((skus["train"] > 0).sum())],
            "quarantined_share": [quarantined / (len(manifest) + quarantined)],
            "duplicate_share": [float(manifest["pixels"].duplicated().mean())],
            "conflict_share": [float(conflicts.mean())],
        }
    )


def warnings_of(manifest: pd.DataFrame, summary: dict[str, Any], params: ValidateParams, data: DataParams) -> list[str]:
    """What doesn't stop the run but belongs in the report, one sentence each, naming SKUs and images."""
    skus = per_sku(manifest, data)
    sparse = skus.loc[skus["train"].between(1, params.min_images_per_sku - 1), "sku"].tolist()
    lonely = skus.loc[skus["train"].eq(0), "sku"].tolist()
    untested = skus.loc[skus["test"].eq(0), "sku"].tolist()
    named = [
        (sparse, f"have fewer than {params.min_images_per_sku} gallery images, so a match rests on very few pictures"),
        (lonely, "have no gallery image, so their queries are reported apart"),
        (untested, "have no query, so nothing is known of their accuracy"),
    ]
    sentences = [f"{len(names)} SKUs {what}: {_some(names)}." for names, what in named if names]
    quarantined = summary["quarantined"]
    if quarantined:
        sentences.append(f"{len(quarantined)} images were set aside: " + _some([f"{q['id']} ({q['reason']})" for q in quarantined]) + ".")
    return sentences


def _some(names: list[str]) -> str:
    return ", ".join(names[:OFFENDERS]) + (f" and {len(names) - OFFENDERS} more" if len(names) > OFFENDERS else "")


def _run(frame_name: str, frame: pd.DataFrame, expectations: Expectations) -> list[dict[str, Any]]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the package is imported
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas(frame_name)
    batch = source.add_dataframe_asset(frame_name).add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    results = []
    for sentence, expectation in expectations:
        result = batch.validate(expectation, result_format="COMPLETE")
        results.append(_record(frame_name, frame, sentence, expectation, result))
    return results


def _record(frame_name: str, frame: pd.DataFrame, sentence: str, expectation: Any, result: Any) -> dict[str, Any]:
    details = result.result
    if frame_name == "facts":
        offenders, observed = [], f"{frame[expectation.column].iloc[0]:.4g}"
    else:
        key = {"images": "id", "skus": "sku"}[frame_name]
        offenders = [str(frame[key].iloc[i]) for i in details.get("unexpected_index_list", [])[:OFFENDERS]]
        observed = f"{details.get('unexpected_count', len(frame))} of {len(frame)}"
    if result.success is not True and not details:
        observed = "could not be computed"
    return {"frame": frame_name, "sentence": sentence, "passed": bool(result.success), "observed": observed, "offenders": offenders}


def _image_expectations(params: ValidateParams) -> Expectations:
    import great_expectations.expectations as gxe

    from skumatch.data.images import FORMATS
    from skumatch.data.manifest import COLUMNS

    side = params.min_short_side
    return [
        ("the manifest has its columns", gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS)),
        ("every image has an id of its own", gxe.ExpectColumnValuesToBeUnique(column="id")),
        ("every image has a SKU", gxe.ExpectColumnValueLengthsToBeBetween(column="sku", min_value=1)),
        ("every image is on the train or test side", gxe.ExpectColumnValuesToBeInSet(column="side", value_set=["train", "test"])),
        ("every image is of a known format", gxe.ExpectColumnValuesToBeInSet(column="format", value_set=list(FORMATS))),
        (f"no image is under {side} px wide", gxe.ExpectColumnValuesToBeBetween(column="width", min_value=side)),
        (f"no image is under {side} px high", gxe.ExpectColumnValuesToBeBetween(column="height", min_value=side)),
        ("every hash is a SHA-256", gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$")),
    ]


def _sku_expectations(params: ValidateParams) -> Expectations:
    import great_expectations.expectations as gxe

    enough = 1 - params.max_sparse_share
    return [
        (
            f"at least {enough:.0%} of SKUs have {params.min_images_per_sku} gallery images",
            gxe.ExpectColumnValuesToBeBetween(column="train", min_value=params.min_images_per_sku, mostly=enough),
        ),
        (
            f"at least {1 - params.max_without_gallery_share:.0%} of SKUs have a gallery image",
            gxe.ExpectColumnValuesToBeBetween(column="train", min_value=1, mostly=1 - params.max_without_gallery_share),
        ),
    ]


def _fact_expectations(p: ValidateParams) -> Expectations:
    import great_expectations.expectations as gxe

    def at_most(column: str, bound: float) -> Any:
        return gxe.ExpectColumnValuesToBeBetween(column=column, max_value=bound)

    return [
        (f"at least {p.min_skus} SKUs have gallery images", gxe.ExpectColumnValuesToBeBetween(column="gallery_skus", min_value=p.min_skus)),
        (f"at most {p.max_quarantined_share:.1%} of images were set aside", at_most("quarantined_share", p.max_quarantined_share)),
        (f"at most {p.max_duplicate_share:.0%} of images are exact duplicates", at_most("duplicate_share", p.max_duplicate_share)),
        (f"at most {p.max_conflict_share:.1%} of images carry two SKUs", at_most("conflict_share", p.max_conflict_share)),
    ]
