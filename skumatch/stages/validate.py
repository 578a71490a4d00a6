"""validate: check the manifest with Great Expectations, then the shards' bytes against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from skumatch.data.manifest import read_manifest
from skumatch.data.products import read_products, retired
from skumatch.data.validation.drift import profile_of, read_baseline
from skumatch.data.validation.findings import ExpectationResult, require, warnings_of
from skumatch.data.validation.pages import docs_page, facts_of, failure_page, pictures
from skumatch.data.validation.validate import validate, validate_bytes
from skumatch.files import read_json, write_text
from skumatch.params import Params
from skumatch.stages import artefacts
from skumatch.stages.artefacts import ValidationFacts
from skumatch.stages.runner import PAGES


def run(root: Path, params: Params) -> None:
    """Write out/validate: the findings, the data's profile and a page.

    Raises:
        ValidationFailed: The data failed a check.
    """
    data = root / "data"
    manifest, summary = read_manifest(data), read_json(data / "import.json")
    baseline = read_baseline(artefacts.BASELINE.at(root))
    retired_skus = retired(read_products(data))
    findings = validate(manifest, summary, params.validation, params.data, baseline, retired_skus)
    if all(finding.passed for finding in findings):
        findings += validate_bytes(data, manifest)
    facts = facts_of(manifest, summary, compared=any(finding.rule.frame == "drift" for finding in findings))
    _require(root, manifest, findings, facts)
    record = {
        "expectations": [finding.record() for finding in findings],
        "warnings": warnings_of(findings, params.validation),
        "quarantined": summary["quarantined"],
    }
    profile = profile_of(manifest[~manifest["sku"].isin(retired_skus)], params.data)
    assert profile, "data that passed has images on its shelf"
    artefacts.VALIDATION.write(root, ValidationFacts.model_validate(record))
    artefacts.PROFILE.write(root, profile)
    artefacts.DATA_DOCS.write(root, docs_page(findings, facts))


def _require(
    root: Path, manifest: pd.DataFrame, findings: Sequence[ExpectationResult], facts: dict[str, Any]
) -> None:
    """Raise ValidationFailed for data that failed, and write a page that shows why."""
    page = root / PAGES / "validation.html"
    if not all(finding.passed for finding in findings):
        write_text(page, failure_page(findings, facts, pictures(root / "data", manifest)))
        require(findings, str(page))
