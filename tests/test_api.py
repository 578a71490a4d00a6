"""`import skumatch` in a notebook: its names, their help, and what they return and refuse."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import skumatch
from skumatch.bundle import LabelledVectors, write_bundle
from skumatch.data.images import Extent, Images
from skumatch.model import encoder as encoders
from skumatch.model.embed import embed
from skumatch.params import EncoderParams, RuntimeParams
from tests.conftest import ROOT, make_shelf

NAMES = {"Bundle", "Registry", "SkumatchError", "compare", "evaluate", "load_bundle", "load_params", "match"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and in the folder `champion` beside them a bundle whose gallery is their train side."""
    root = tmp_path_factory.mktemp("notebook")
    make_shelf(root / "photos", skus=3, train=2, test=2)
    torch.manual_seed(0)
    spec = EncoderParams(model="smoke", weights="none", height=64, width=64)
    encoders.save(encoders.build(spec, None).eval(), root / "encoder")
    paths = sorted((root / "photos/all/train").glob("*/*.png"))
    ids, skus = (
        [f"train/{path.parent.name}/{path.name}" for path in paths],
        [path.parent.name for path in paths],
    )
    images = Images(ids, skus, ids, [Extent(str(path)) for path in paths])
    runtime = RuntimeParams(device="cpu", threads=1)
    gallery = LabelledVectors(ids, skus, embed(encoders.load(root / "encoder"), images, 8, runtime))
    write_bundle(root / "champion", root / "encoder", gallery, {"similarity": 0.5}, ids)
    shutil.copyfile(root / "photos/all/test/sku 1/2.png", root / "photo.jpg")
    return root


@pytest.fixture(autouse=True)
def beside_photos(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    monkeypatch.delenv("SKUMATCH_PROJECT", raising=False)
    monkeypatch.delenv("SKUMATCH_HOME", raising=False)


def test_the_names_are_those_of_the_documentation() -> None:
    assert set(skumatch.__all__) == NAMES and set(dir(skumatch)) >= NAMES
    for name in NAMES:
        text = inspect.getdoc(getattr(skumatch, name))
        assert text and text.splitlines()[0].endswith("."), name


def test_no_module_hides_a_name() -> None:
    """`import skumatch.x` sets the attribute x, so a module of a function's name would replace it."""
    assert {module.name for module in pkgutil.iter_modules(skumatch.__path__)} & NAMES == set()


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'retrain'"):
        _ = skumatch.retrain  # type: ignore[attr-defined]


def test_importing_skumatch_loads_nothing_large() -> None:
    words = (
        "import sys, skumatch; print([name for name in ('torch', 'pandas', 'mlflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", words], capture_output=True, text=True).stdout == "[]\n"


def test_the_lines_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    exec(code, {})  # noqa: S102 - the project's own
    matches, top1, difference = capsys.readouterr().out.splitlines()
    assert matches.startswith("[('sku 1', 0.") and matches.count("sku") == 3
    assert 0 <= float(top1) <= 1
    assert difference.startswith("top1=")


def test_pictures_match_alike_from_files_and_from_memory(shelf: Path) -> None:
    path = shelf / "photo.jpg"
    with Image.open(path) as file:
        image = file.convert("RGB")
    from_file, from_pillow, from_array = skumatch.match([str(path), image, np.array(image)], "champion")
    assert from_file[0].sku == "sku 1" and len(from_file) == 3
    assert [match.sku for match in from_pillow] == [match.sku for match in from_array]
    assert from_file[0].similarity == pytest.approx(from_array[0].similarity)


def test_match_searches_a_shop_s_products_alone(shelf: Path) -> None:
    ((only,),) = skumatch.match([shelf / "photo.jpg"], shelf / "champion", skus=["sku 2"])
    assert only.sku == "sku 2"


@pytest.mark.parametrize(
    ("pictures", "options", "words"),
    [
        (["nothing.jpg"], {}, "nothing.jpg"),
        (["photos"], {}, "is not one picture"),
        (["champion/bundle.json"], {}, "champion/bundle.json"),
        (["photo.jpg"], {"top_k": 0}, "top_k is 0"),
        (["photo.jpg"], {"model": "no-such-folder/bundle"}, "no-such-folder/bundle"),
        (["photo.jpg"], {"skus": ["Cola"]}, "Cola"),
    ],
)
def test_what_can_not_be_matched_is_refused_in_words(
    pictures: list[str], options: dict[str, object], words: str
) -> None:
    with pytest.raises(skumatch.SkumatchError, match=re.escape(words)):
        skumatch.match(pictures, **({"model": "champion"} | options))  # type: ignore[arg-type]


def test_compare_takes_labels() -> None:
    comparison = skumatch.compare("photos", {"untrained": "frozen:smoke@none", "ours": "champion"})
    assert [model.label for model in comparison.models] == ["untrained", "ours"]
    assert comparison.models[1].difference is not None
