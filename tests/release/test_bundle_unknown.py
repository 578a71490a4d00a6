"""Unknown pictures: by the similarity, by the margin to the second product, or by neither."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from skumatch.bundle import Bundle, LabelledVectors, write_bundle
from skumatch.retrieval.thresholds import Thresholds
from tests.cli import Cli
from tests.release.forging import of_format_1

Picture = Callable[[int], Image.Image]


@pytest.fixture
def bundled(encoder_dir: Path, gallery: LabelledVectors, tmp_path: Path) -> Callable[..., Path]:
    def make(gallery: LabelledVectors = gallery, **thresholds: object) -> Path:
        write_bundle(tmp_path / "bundle", encoder_dir, gallery, thresholds, [])
        return tmp_path / "bundle"

    return make


def margins(bundle: Bundle, pictures: list[Image.Image]) -> list[float]:
    return [row[0].similarity - row[1].similarity for row in bundle.match(pictures, top_k=2)]


def test_a_picture_as_near_to_a_second_product_is_unknown(
    bundled: Callable[..., Path], picture: Picture
) -> None:
    pictures = [picture(i) for i in range(12)]
    margin_of = margins(Bundle.load(bundled()), pictures)
    middle = sorted(margin_of)[6]
    for top_k in (1, 2, 3):
        rows = Bundle.load(bundled(margin=middle)).match(pictures, top_k)
        assert [row[0].unknown for row in rows] == [margin < middle for margin in margin_of]
        assert all(len(row) == top_k and len({match.unknown for match in row}) == 1 for row in rows), (
            "of the picture, not of a match"
        )


def test_one_picture_may_be_near_and_yet_unknown_for_the_other_reason(
    bundled: Callable[..., Path], picture: Picture
) -> None:
    [row] = Bundle.load(bundled(similarity=0.9, margin=0.999)).match([picture(0)])
    assert row[0].similarity > 0.9 and row[0].unknown
    [row] = Bundle.load(bundled(similarity=0.9, margin=0.0)).match([picture(99)])
    assert row[0].unknown


def test_in_a_gallery_of_one_product_the_margin_is_to_no_other(
    bundled: Callable[..., Path], gallery: LabelledVectors, picture: Picture
) -> None:
    single = LabelledVectors(gallery.ids, ["only"] * 12, gallery.embeddings)
    [row] = Bundle.load(bundled(single, margin=1.5)).match([picture(0)])
    assert [match.sku for match in row] == ["only"] and not row[0].unknown


def test_a_bundle_written_before_there_were_margins_still_loads(
    bundled: Callable[..., Path], picture: Picture
) -> None:
    older = of_format_1(bundled(similarity=0.9))
    assert json.loads((older / "thresholds.json").read_text()) == {"similarity": 0.9}
    bundle = Bundle.load(older)
    assert (bundle.thresholds.similarity, bundle.thresholds.margin) == (0.9, None)
    assert [row[0].unknown for row in bundle.match([picture(0), picture(99)])] == [False, True]


def test_how_the_thresholds_were_fitted_travels_along(bundled: Callable[..., Path]) -> None:
    fitted = Thresholds(
        similarity=0.7,
        margin=0.1,
        target=0.05,
        fitted_on="these",
        pictures=200,
        skus=12,
        called=0.05,
        found=0.6,
    )
    assert Bundle.load(bundled(**fitted.model_dump())).thresholds == fitted


def test_match_says_so_in_table_and_json(
    bundled: Callable[..., Path], picture: Picture, tmp_path: Path
) -> None:
    cli = Cli.make(tmp_path)
    model = str(bundled(similarity=0.9))
    for number in (0, 99):
        picture(number).save(tmp_path / f"{number}.png")
    words = ["match", str(tmp_path / "0.png"), str(tmp_path / "99.png"), "--model", model, "--top-k", "1"]
    known, stranger = json.loads(cli(*words, "--json").out)
    assert not any(match["unknown"] for match in known) and all(match["unknown"] for match in stranger)
    table = "".join(cli(*words).out.split())  # titles are wrapped
    assert table.count("unknownproduct") == 1 and table.index("unknownproduct") > table.index("0.png")


@pytest.mark.filterwarnings("ignore:.*AnyType")  # MLflow's own, at its import
def test_the_model_in_mlflow_says_it_of_the_picture(
    bundled: Callable[..., Path], picture: Picture, tmp_path: Path
) -> None:
    from skumatch.registry.pyfunc import BundleModel

    images = []
    for number in (0, 99):
        picture(number).save(tmp_path / "picture.png")
        images.append((tmp_path / "picture.png").read_bytes())
    model = BundleModel()
    model.load_context(
        SimpleNamespace(artifacts={"bundle": str(bundled(similarity=0.9, margin=0.0))}, model_config={})
    )
    assert model.predict(None, pd.DataFrame({"image": images}), {"top_k": 1})["unknown"].tolist() == [
        False,
        True,
    ]
