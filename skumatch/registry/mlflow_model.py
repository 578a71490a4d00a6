"""Package a bundle as an MLflow model that matches by itself.

The model holds the bundle, the package's code and the exact requirements. Nothing is pickled.
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

from skumatch.bundle.assortment import EVERY_SKU
from skumatch.registry.tracking import upload_files

BUNDLE_TAG = "skumatch.bundle"
MODEL_PACKAGES = (
    "mlflow", "numpy", "open-clip-torch", "pandas", "pillow", "pyarrow", "pydantic", "pydantic-settings",
    "pyyaml", "rich", "safetensors", "simplejpeg", "timm", "torch", "torchvision",
)  # fmt: skip
ABOUT = (
    "Says which product (SKU) a cropped shelf photo shows.\n"
    "\n"
    "Each version is one bundle: image encoder, preprocessing, labelled gallery and thresholds, "
    "under one SHA-256 (tag `skumatch.bundle`).\n"
    "Alias `champion` serves, `previous` was champion before. "
    "`challenger` is the newest version with a new encoder that\n"
    "passed the gate, `refreshed` the newest that keeps the champion's encoder and brings a new gallery.\n"
    "`skumatch promote` and `skumatch rollback` move them and say so in the journal; "
    "a change made here does not.\n"
    "\n"
    "A version's top-1 is of its own run's gallery and queries, so it can't be compared with another's. "
    "Its description has\n"
    "the gain over the champion of that time, both measured on the same queries.\n"
    "\n"
    "Who was champion when, and who said so: the registered model [{journal}]({page}), "
    "or `skumatch models --history`.\n"
)


def about(journal: str) -> str:
    """Return the registered model's description, for readers of MLflow's web interface at any address."""
    return ABOUT.format(journal=journal, page=f"#/models/{quote(journal, safe='')}")


def uploaded(client: Any, run_id: str, digest: str) -> str | None:
    """Return the id of the model that an interrupted call had uploaded completely; None if there is none.

    Args:
        client: MLflow's client.
        run_id: the MLflow run that made the bundle.
        digest: the bundle's hash.
    """
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment], filter_string=f"tags.`{BUNDLE_TAG}` = '{digest}'")
    for model in models:
        if model.source_run_id == run_id and model.status.value == "READY":
            return str(model.model_id)
    return None


def upload(
    client: Any, run_id: str, folder: Path, digest: str, package: Path, card: Path | None = None
) -> str:
    """Upload the bundle in `folder` as an MLflow model, and return the model's id.

    Args:
        client: MLflow's client.
        run_id: the MLflow run that made the bundle.
        folder: folder of the bundle.
        digest: the bundle's hash.
        package: folder of the package skumatch that the model carries.
        card: file of the model card, uploaded as README.md.
    """
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
    """Write the MLflow model with the bundle, the package's code and the exact requirements.

    Nothing is inferred by MLflow, and nothing is pickled.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow warns of its own type hints when imported
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    # MLflow records the paths that it is given. A copy keeps this machine's folders out of the record.
    shutil.copytree(folder, staged / "bundle")
    code = _carried(package, staged)
    shutil.copyfile(package / "registry" / "pyfunc.py", staged / "pyfunc.py")
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
        warnings.simplefilter("ignore", UserWarning)  # MLflow asks for an input example, which isn't needed
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
    """Copy the modules that matching imports, at once or later, and the encoders' configurations.

    Other files are left out, since each file costs a request.

    Returns:
        The folder of the copied package in `staged`.
    """
    finder = ModuleFinder(path=[str(package.parent)])
    finder.run_script(str(package / "registry" / "pyfunc.py"))
    files = [vars(module)["__file__"] for module in finder.modules.values()]
    modules = [Path(name) for name in files if name]
    for path in (*modules, *sorted((package / "model" / "configs").iterdir())):
        target = staged / path.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return staged / package.name
