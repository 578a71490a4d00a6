"""The split stage: its outputs for other stages; names of files change nothing but ids."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from skumatch.data.delivery.importer import import_data
from skumatch.files import read_json, sha256
from skumatch.params import DataParams, Params
from skumatch.stages import embed, split, validate
from skumatch.stages.selection import select
from tests.conftest import Delivery, draw


@pytest.fixture
def folder(delivery: Delivery) -> Path:
    """Four SKUs.

    A query and a gallery image are near-copies, two gallery images are equal, and two SKUs have catalogue
    pictures.
    """
    root = delivery()
    with Image.open(root / "all/train/sku 1/0.png") as picture:
        picture.save(root / "all/test/sku 1/copy.jpg", quality=90)
    shutil.copyfile(root / "all/train/sku 2/0.png", root / "all/train/sku 2/again.png")
    for sku in range(2):
        draw(root / f"all/catalogue/sku {sku}/front.png", f"front {sku}")
    return root


def workspace(folder: Path, root: Path) -> Path:
    import_data(folder, root / "data")
    split.run(root, Params())
    return root


def test_duplicates_and_protocols_are_recorded(folder: Path, tmp_path: Path) -> None:
    out = workspace(folder, tmp_path / "root") / "out/split"
    facts = read_json(out / "split.json")
    assert facts["images"]["query"] == 9 and facts["images"]["catalogue"] == 2
    duplicates = facts["duplicates"]
    assert (
        duplicates["exact_groups"],
        duplicates["exact_images"],
        duplicates["near_groups"],
        duplicates["near_images"],
    ) == (
        1,
        2,
        1,
        2,
    )
    assert facts["queries_with_duplicate"]["gallery"] == 1
    rows = pq.read_table(out / "split.parquet").to_pandas().set_index("id")
    assert rows.loc["test/sku 1/copy.jpg", "group"] == rows.loc["train/sku 1/0.png", "group"]
    assert (
        {path.stem for path in (out / "protocols").iterdir()}
        == set(facts["protocols"])
        >= {"full", "k5", "test_loo", "catalogue"}
    )
    for name, about in facts["protocols"].items():
        lists = pq.read_table(out / f"protocols/{name}.parquet").to_pandas()
        assert set(lists["id"]) <= set(rows.index) and lists["draw"].nunique() == about["draws"]
    assert (facts["protocols"]["catalogue"]["gallery"], facts["protocols"]["catalogue"]["queries"]) == (2, 9)


def test_other_file_names_leave_the_facts_and_the_same_files_the_bytes(folder: Path, tmp_path: Path) -> None:
    first = workspace(folder, tmp_path / "first")
    split.run(tmp_path / "first", Params())
    again = workspace(folder, tmp_path / "again")
    for path in sorted((first / "out").rglob("*.*")):
        assert sha256(path) == sha256(again / path.relative_to(first))
    for number, path in enumerate(sorted(folder.glob("all/*/*/*"))):
        path.rename(path.with_stem(f"{999 - number}"))
    renamed = workspace(folder, tmp_path / "renamed")
    assert read_json(first / "out/split/split.json") == read_json(renamed / "out/split/split.json")


def test_retired_products_and_a_served_catalogue_have_their_roles(folder: Path, tmp_path: Path) -> None:
    """In the form that stages read: products.parquet from data/, and the items that embed writes."""
    draw(folder / "all/catalogue/sku 9/front.png", "front 9")
    draw(folder / "all/test/sku 9/0.png", "asked 9")
    (folder / "products.csv").write_text("sku,state\nsku 1,retired\n")
    root = tmp_path / "root"
    import_data(folder, root / "data")
    params = Params(data=DataParams(serve_catalogue=True))
    split.run(root, params)
    roles = pq.read_table(root / "out/split/split.parquet").to_pandas().set_index("id")["role"]
    assert set(roles[roles.index.str.contains("/sku 1/")]) == {"retired", "idle"}
    assert roles["catalogue/sku 1/front.png"] == "idle" and roles["catalogue/sku 9/front.png"] == "gallery"
    rows, pictures = select(root, "train", "val", "gallery", "query", "catalogue", "other", "retired")
    trained = rows.assign(trained_challenger=False, trained_champion=False)
    items = embed._items(root, trained, pictures).set_index("id")
    only = items[items["catalogue_only"]]
    assert set(only.index) == {"catalogue/sku 9/front.png", "test/sku 9/0.png"}
    assert items.loc["catalogue/sku 9/front.png", "role"] == "gallery"
    assert (items["role"] == "retired").sum() == 7 and "catalogue/sku 1/front.png" not in items.index


def test_validate_counts_no_retired_product(folder: Path, tmp_path: Path) -> None:
    (folder / "products.csv").write_text("sku,state\nsku 1,retired\n")
    root = tmp_path / "root"
    import_data(folder, root / "data")
    validate.run(root, Params())
    profile = read_json(root / "out/validate/profile.json")
    assert "sku 1" not in profile["skus"] and "sku 2" in profile["skus"]
