"""validate: the shards' bytes against the manifest, then Great Expectations over it."""

from __future__ import annotations

from pathlib import Path

from skumatch.config import Params
from skumatch.data.manifest import read_manifest
from skumatch.data.validate import check_bytes, require, validate, warnings_of
from skumatch.files import read_json, write_json


def run(root: Path, params: Params) -> None:
    data = root / "data"
    manifest, summary = read_manifest(data), read_json(data / "import.json")
    check_bytes(data, manifest)
    results = validate(manifest, summary, params.validation, params.data)
    require(results)
    warnings = warnings_of(manifest, summary, params.validation, params.data)
    found = {"expectations": results, "warnings": warnings, "quarantined": summary["quarantined"]}
    write_json(root / "out/validate/validation.json", found)
