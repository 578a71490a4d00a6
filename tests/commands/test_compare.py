"""`skumatch compare`: encoders side by side on one folder.

Figures, JSON, page and chart agree; bad input is one sentence.
"""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from skumatch.commands.compare import compare_folder, named
from skumatch.errors import DataError, ParameterError, ReferenceNotFound, SkumatchError, WeightsError
from skumatch.files import sha256
from skumatch.model import encoder as encoders
from skumatch.params import EncoderParams
from tests.cli import Cli
from tests.conftest import ROOT, make_shelf

SKUS, TRAIN, TEST = 5, 2, 2
PARAMETER, DATA, WEIGHTS = 10, 11, 14


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli.make(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"), SKUS, TRAIN, TEST)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two weights of the encoder `smoke`: random, and blind (all vectors are equal)."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tensors = {
        name: tensor.contiguous() for name, tensor in encoders.build(SMOKE, None).tower.state_dict().items()
    }
    save_file(tensors, folder / "random.safetensors")
    first = next(name for name in tensors if name.endswith("conv_stem.weight"))
    save_file(tensors | {first: torch.zeros_like(tensors[first])}, folder / "blind.safetensors")
    return folder


SMOKE = EncoderParams(model="smoke", weights="none", height=64, width=64)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face CLIP folder, tiny and random."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    folder = tmp_path_factory.mktemp("hub") / "tiny-clip"
    torch.manual_seed(1)
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = transformers.CLIPVisionConfig(projection_dim=16, **tower)
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def test_models_are_compared_on_the_same_queries(
    cli: Cli, shelf: Path, weights: Path, clip: Path, tmp_path: Path
) -> None:
    results = tmp_path / "found"
    frozen = f"blind=frozen:smoke@{weights}/blind.safetensors,frozen:smoke@{weights}/random.safetensors"
    models = f"{frozen},<b>=hf:{clip}"
    ended = cli(
        "compare",
        "--models",
        models,
        "--data",
        shelf,
        "--json",
        results / "a.json",
        "--html",
        results / "a.html",
    )
    assert (ended.code, ended.err) == (0, "")
    tree = json.loads((results / "a.json").read_text("utf-8"))
    blind, random, hub = tree["models"]
    assert tree["protocol"] == "full"
    assert [model["label"] for model in tree["models"]] == ["blind", "smoke@random", "<b>"]
    assert hub["model"] == f"hf:{clip}" and hub["evaluation"]["hashes"]["encoder"] == sha256(
        clip / "model.safetensors"
    )
    assert {model["evaluation"]["n"] for model in tree["models"]} == {SKUS * TEST}
    assert len({model["evaluation"]["hashes"]["queries"] for model in tree["models"]}) == 1
    assert blind["difference"] is None and blind["evaluation"]["top1"] == pytest.approx(
        1 / SKUS
    )  # always the smallest id
    for model in (random, hub):
        low, high = model["difference"]["interval"]
        assert model["difference"]["top1"] == pytest.approx(
            model["evaluation"]["top1"] - blind["evaluation"]["top1"]
        )
        assert low <= model["difference"]["top1"] <= high
    for model in tree["models"]:
        share = f"{100 * model['evaluation']['top1']:.1f} %"
        assert share in ended.out and share in (results / "a.html").read_text("utf-8")
    assert (
        f"{SKUS * TEST} queries of {SKUS} SKUs" in ended.out
        and "1 without a gallery image left out" in ended.out
    )


def test_one_model_has_the_figures_of_evaluate(cli: Cli, shelf: Path, weights: Path, tmp_path: Path) -> None:
    reference = f"frozen:smoke@{weights}/random.safetensors"
    words = ("--data", shelf, "--protocol", "k5", "--json")
    assert cli("compare", "--models", reference, *words, tmp_path / "compare.json").code == 0
    assert cli("evaluate", "--model", reference, *words, tmp_path / "evaluate.json").code == 0
    compared = json.loads((tmp_path / "compare.json").read_text("utf-8"))
    assert [model["evaluation"] for model in compared["models"]] == [
        json.loads((tmp_path / "evaluate.json").read_text("utf-8"))
    ]


def test_a_hugging_face_folder_needs_no_prefix(cli: Cli, shelf: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    assert cli("compare", "--models", f"{clip},again=hf:{clip}", "--data", shelf, "--json", path).code == 0
    first, second = json.loads(path.read_text("utf-8"))["models"]
    assert first["label"] == "tiny-clip" and first["evaluation"] == second["evaluation"]
    assert second["difference"] == {"top1": 0.0, "interval": [0.0, 0.0]}


class Seen(HTMLParser):
    """A page's text, tags and attributes as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", set[str](), set[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_and_chart_hold_all_they_need_and_no_markup_of_a_name(
    cli: Cli, shelf: Path, weights: Path, tmp_path: Path
) -> None:
    names = ["<script>alert(1)< script>", "\"'&<img onload>"]
    models = f"{names[0]}=frozen:smoke@{weights}/random.safetensors,{names[1]}=frozen:smoke@none"
    path, chart = tmp_path / "page.html", tmp_path / "chart.svg"
    assert cli("compare", "--models", models, "--data", shelf, "--html", path, "--chart", chart).code == 0
    text, drawn = path.read_text("utf-8"), chart.read_text("utf-8")
    page = Seen(text)
    assert not page.tags & {"script", "img", "link", "iframe", "object", "foreignobject"}
    assert not page.attributes & {"src", "href", "xlink:href", "onload", "onerror"}
    for name in names:
        assert page.text.count(name) >= 3 and name not in text
        assert name in "".join(ElementTree.fromstring(drawn).itertext())  # noqa: S314 - our own
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import", text + drawn)
    assert str(weights) not in text + drawn


def test_other_protocols_are_asked_of_all(cli: Cli, shelf: Path, weights: Path, tmp_path: Path) -> None:
    models, path = f"frozen:smoke@{weights}/random.safetensors,frozen:smoke@none", tmp_path / "one.json"
    assert (
        cli("compare", "--models", models, "--data", shelf, "--protocol", "test_loo", "--json", path).code
        == 0
    )
    assert json.loads(path.read_text("utf-8"))["protocol"] == "test_loo"


def test_a_refusal_is_one_sentence(cli: Cli, shelf: Path) -> None:
    cli.refuses(
        PARAMETER,
        "There is no encoder 'none'",
        "compare",
        "--models",
        "frozen:smoke@none,frozen:none@none",
        "--data",
        shelf,
    )


@pytest.mark.parametrize(
    ("kind", "what", "models", "data", "protocol"),
    [
        (
            ParameterError,
            "There is no encoder 'no-such-model'",
            "frozen:smoke@none,frozen:no-such-model@none",
            "SHELF",
            "full",
        ),
        (
            WeightsError,
            "No package has weights for ViT-B-32",
            "frozen:smoke@none,frozen:ViT-B-32",
            "SHELF",
            "full",
        ),
        (
            WeightsError,
            "open_clip knows no weights 'nowhere'",
            "frozen:smoke@none,frozen:ViT-B-32@nowhere",
            "SHELF",
            "full",
        ),
        (
            WeightsError,
            "does not fit the encoder smoke",
            "frozen:smoke@none,frozen:smoke@CLIP/model.safetensors",
            "SHELF",
            "full",
        ),
        (
            ReferenceNotFound,
            "frozen:NAME@CLIP/model.safetensors does",
            "frozen:smoke@none,CLIP/model.safetensors",
            "SHELF",
            "full",
        ),
        (ReferenceNotFound, "it has no bundle.json", "frozen:smoke@none,SHELF", "SHELF", "full"),
        (WeightsError, "There is no /nowhere/config.json", "frozen:smoke@none,hf:/nowhere", "SHELF", "full"),
        (WeightsError, "pytorch_model.bin, a pickle", "frozen:smoke@none,PICKLE", "SHELF", "full"),
        (WeightsError, "model_type is 'bert'", "frozen:smoke@none,hf:BERT", "SHELF", "full"),
        (DataError, "There is no nowhere", "frozen:smoke@none", "nowhere", "full"),
        (DataError, "no protocol 'k10'", "frozen:smoke@none", "SHELF", "k10"),
        (DataError, "all/catalogue", "frozen:smoke@none", "SHELF", "catalogue"),
    ],
)
def test_what_cant_be_compared_is_refused(
    shelf: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[SkumatchError],
    what: str,
    models: str,
    data: str,
    protocol: str,
) -> None:
    for name, moved in (("PICKLE", "model.safetensors"), ("BERT", "config.json")):
        shutil.copytree(clip, tmp_path / name)
        (tmp_path / name / moved).rename(tmp_path / name / "pytorch_model.bin")
    (tmp_path / "BERT/config.json").write_text('{"model_type": "bert"}', "utf-8")
    for name, value in (("PROJECT", ROOT), ("HOME", tmp_path / "home")):
        monkeypatch.setenv(f"SKUMATCH_{name}", str(value))

    def placed(text: str) -> str:
        places = {"CLIP": clip, "PICKLE": tmp_path / "PICKLE", "BERT": tmp_path / "BERT", "SHELF": shelf}
        return re.sub("CLIP|PICKLE|BERT|SHELF", lambda found: str(places[found[0]]), text)

    with pytest.raises(kind, match=re.escape(placed(what))):
        compare_folder(Path(placed(data)), named(placed(models)), protocol)


def test_a_model_that_is_not_there_is_found_out_before_any_picture_is_embedded(
    cli: Cli, shelf: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "shelf"
    shutil.copytree(shelf, broken)
    (broken / "all/train/sku 0/0.png").write_bytes(b"no picture")
    cli.refuses(DATA, "sku 0/0.png", "compare", "--models", "frozen:smoke@none", "--data", broken)
    cli.refuses(
        WEIGHTS, "There is no", "compare", "--models", "frozen:smoke@none,hf:/nowhere", "--data", broken
    )


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ("champion,3", {"champion": "champion", "3": "3"}),
        (" a , b=out/bundle/model ", {"a": "a", "b": "out/bundle/model"}),
        (
            "frozen:ViT-B-32@laion2b_s34b_b79k",
            {"ViT-B-32@laion2b_s34b_b79k": "frozen:ViT-B-32@laion2b_s34b_b79k"},
        ),
        ("frozen:vit@w/dino.safetensors", {"vit@dino": "frozen:vit@w/dino.safetensors"}),
        ("hf:models/fashion-clip/", {"fashion-clip": "hf:models/fashion-clip/"}),
        ("./out/a=b/model", {"model": "./out/a=b/model"}),
        ("hf:a=b/clip,DINOv2 S/14=out/a=b/model", {"clip": "hf:a=b/clip", "DINOv2 S/14": "out/a=b/model"}),
    ],
)
def test_models_get_names_to_show(models: str, expected: dict[str, str]) -> None:
    assert named(models) == expected


@pytest.mark.parametrize("models", ["a,,b", "", "=a", "a="])
def test_an_empty_name_is_refused(models: str) -> None:
    with pytest.raises(ParameterError, match="empty place"):
        named(models)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(
        ParameterError, match="Two models are named 'model'.*first=out/a/model,second=out/b/model"
    ):
        named("out/a/model,out/b/model")
