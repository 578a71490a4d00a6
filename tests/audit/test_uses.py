"""The roles in which a version was given pictures, without any run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO

import pandas as pd
import pytest

from skumatch.audit import uses
from skumatch.config import Settings
from skumatch.registry.registry import RELEASE_TAG, ModelRef, Registry
from skumatch.registry.tracking import KIND_TAG

ROLES = ["train", "val", "gallery", "query"]


@pytest.mark.parametrize(
    ("tags", "roles"),
    [
        ({}, ROLES),
        ({KIND_TAG: "retrain"}, ROLES),
        ({KIND_TAG: "retrain", RELEASE_TAG: "1"}, ["gallery", "gallery", "gallery", "query"]),
        ({KIND_TAG: "refresh", RELEASE_TAG: "1"}, ["gallery", "gallery", "gallery", "query"]),
        ({KIND_TAG: "refresh"}, ["gallery", "gallery", "gallery", "query"]),
    ],
)
def test_only_a_version_whose_run_trained_was_trained_on_pictures(
    monkeypatch: pytest.MonkeyPatch, tags: Mapping[str, str], roles: list[str]
) -> None:
    ids = [f"train/tea/{number}" for number in range(4)]
    split = BytesIO()
    pd.DataFrame({"id": ids, "role": ROLES}).to_parquet(split)
    manifest = pd.DataFrame({"id": ids, "sku": "tea", "sha256": "0", "pixels": "0"})
    monkeypatch.setattr(
        Registry, "versions", lambda _: [ModelRef(2, "b" * 64, "run", datetime.now(UTC), (), tags)]
    )
    monkeypatch.setattr(Registry, "artifact", lambda *_: split.getvalue())
    monkeypatch.setattr(uses, "_manifest", lambda *_: manifest)
    [use] = uses.uses(Settings(), Registry("http://127.0.0.1:9"), uses.Wanted(sku="Tea"))
    assert use.rows is not None and use.rows["role"].tolist() == roles
