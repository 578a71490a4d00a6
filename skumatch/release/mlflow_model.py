"""A bundle as an MLflow model that matches by itself: the bundle, the package's code and the exact packages.

No pickle.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import warnings
from functools import partial
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any
from urllib.parse import quote

from skumatch.release.bundle.assortment import EVERY_SKU
from skumatch.release.tracking import upload_files

BUNDLE_TAG = "skumatch.bundle"
MODEL_PACKAGES = (
    "mlflow", "numpy", "open-clip-torch", "pandas", "pillow", "pyarrow", "pydantic", "pydantic-settings", "pyyaml", "rich", "safetensors",
    "simplejpeg", "timm", "torch", "torchvision",
)  # fmt: skip
ABOUT = """Says which product (SKU) a cropped shelf photo shows.

Each version is one bundle: image encoder, preprocessing, labelled gallery and thresholds, under one SHA-256 (tag `skumatch.bundle`).
Alias `champion` serves, `previous` was champion before. `challenger` is the newest version with a new encoder that
passed the gate, `refreshed` the newest that keeps the champion's encoder and brings a new gallery.
`skumatch promote` and `skumatch rollback` move them and say so in the journal; a change made here does not.

Who was champion when, and who said so: the registered model [{journal}]({page}), or `skumatch models --history`.
"""


def about(journal: str, url: str) -> str:
    """The registered model's description, for those who meet it in MLflow at `url`."""
    return ABOUT.format(journal=journal, page=f"{url}/#/models/{quote(journal, safe='')}")


def uploaded(client: Any, run_id: str, digest: str) -> str | None:
    """The model that an interrupted call had uploaded in full."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], filter_string=f"tags.`{BUNDLE_TAG}` = '{digest}'")
    return next(
        (
            str(model.model_id)
            for model in found
            if model.source_run_id == run_id and model.status.value == "READY"
        ),
        None,
    )


def upload(
    client: Any, run_id: str, folder: Path, digest: str, package: Path, card: Path | None = None
) -> str:
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, "bundle", run_id, tags={BUNDLE_TAG: digest})
    with tempfile.TemporaryDirectory() as staged:
        saved = _save_model(Path(staged), folder, digest, run_id, model.model_id, package)
        if card:
            shutil.copyfile(card, saved / "README.md")
        upload_files(partial(client.log_model_artifact, model.model_id), saved)
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def _save_model(staged: Path, folder: Path, digest: str, run_id: str, model_id: str, package: Path) -> Path:
    """Lay out the MLflow model: the bundle, the package's code and the exact packages.

    Nothing inferred, nothing pickled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow warns of its own type hints when imported
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    shutil.copytree(
        folder, staged / "bundle"
    )  # MLflow records the paths it is given: let them be none of this machine's homes
    code = _carried(package, staged)
    shutil.copyfile(package / "release" / "pyfunc.py", staged / "pyfunc.py")
    lists = [
        ColSpec(Array(DataType.string), "skus"),
        ColSpec(Array(DataType.double), "similarities"),
        ColSpec(Array(DataType.string), "gallery_ids"),
    ]
    top_k = ParamSpec("top_k", DataType.long, 5)
    skus = ParamSpec("skus", DataType.string, list(EVERY_SKU), (-1,))  # not None, which MLflow refuses here
    signature = ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema([*lists, ColSpec(DataType.boolean, "unknown")]),
        params=ParamSchema([top_k, skus]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # it wants an input example, would run it, and learn nothing
        mlflow.pyfunc.save_model(
            path=str(staged / "model"),
            python_model=str(staged / "pyfunc.py"),
            artifacts={"bundle": str(staged / "bundle")},
            code_paths=[str(code)],
            pip_requirements=[
                f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in MODEL_PACKAGES
            ],
            signature=signature,
            model_config={"bundle": digest},
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
    return staged / "model"


def _carried(package: Path, staged: Path) -> Path:
    """What matching imports of the package, at once or later, and the encoders' configurations, in `staged`: each file is a request."""
    finder = ModuleFinder(path=[str(package.parent)])
    finder.run_script(str(package / "release" / "pyfunc.py"))
    found = [vars(module)["__file__"] for module in finder.modules.values()]
    for path in (*(Path(name) for name in found if name), *sorted((package / "model" / "configs").iterdir())):
        target = staged / path.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return staged / package.name
