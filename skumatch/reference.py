"""Model references: a registered version, a bundle's folder, a published tower, or Hugging Face's CLIP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skumatch.bundle import MANIFEST, verify_bundle
from skumatch.config import PARAMS, Settings, expanded, load_params, params_or_defaults
from skumatch.errors import ReferenceNotFound
from skumatch.files import read_json
from skumatch.params import EncoderParams, Params
from skumatch.pipeline.pull import fetch_base_weights, open_registry

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

FROZEN, HUGGING_FACE = "frozen:", "hf:"


def find_bundle(reference: str, settings: Settings) -> Path:
    """Return the verified folder of a model's bundle, downloaded if need be.

    Args:
        reference: An alias, a version, or a bundle's folder.
        settings: Project and registry.

    Raises:
        ReferenceNotFound: The reference names no bundle.
        BundleError: The bundle is incomplete or changed.
        RegistryUnavailable: MLflow doesn't answer.
    """
    folder = expanded(reference)
    if (folder / MANIFEST).is_file():
        verify_bundle(folder)
        return folder
    if folder.exists() or "/" in reference or reference.startswith((FROZEN, HUGGING_FACE)):
        raise ReferenceNotFound(
            f"'{reference}' is no bundle: {_why(reference)}; "
            "give champion, challenger, a version or a bundle's folder."
        )
    registry = open_registry(settings, load_params(settings.project / PARAMS))
    version = registry.resolve(reference)
    return registry.download_bundle(version, settings.home_dir / "bundles" / version.bundle)


def _why(reference: str) -> str:
    if reference.startswith(FROZEN):
        return "a frozen tower has no gallery"
    if reference.startswith(HUGGING_FACE):
        return "a Hugging Face folder has no gallery"
    if reference.endswith(".safetensors"):
        return f"weights alone don't tell their model (frozen:NAME@{reference} does)"
    return "it has no bundle.json"


def find_encoder(reference: str, settings: Settings) -> tuple[Encoder, str]:
    """Load the encoder that a reference names.

    Args:
        reference: `frozen:NAME` is NAME untrained: with the weights and canvas of params.yaml if that has
            this model, else as published. `frozen:NAME@WEIGHTS` has other weights. `hf:PATH`, or a folder
            with a config.json, is a CLIP folder in Hugging Face's form. Anything else is as in `find_bundle`.
        settings: Project and registry.

    Returns:
        The encoder and the SHA-256 of its weights.
    """
    from skumatch.model.encoder import build, load
    from skumatch.model.fetched import fetched_weights
    from skumatch.model.hf import load_clip
    from skumatch.model.hf_forms import CONFIG

    if reference.startswith(FROZEN):
        params = _frozen(params_or_defaults(settings), reference.removeprefix(FROZEN))
        with _home(settings) as here:
            folder = fetch_base_weights(here, params)
            digest = str(read_json(folder / "weights.json").get("sha256", "none"))
            return build(params.encoder, fetched_weights(folder)).eval(), digest
    local = expanded(reference.removeprefix(HUGGING_FACE))
    if reference.startswith(HUGGING_FACE) or (
        (local / CONFIG).is_file() and not (local / MANIFEST).is_file()
    ):
        return load_clip(local)
    folder = find_bundle(reference, settings) / "encoder"
    return load(folder), str(read_json(folder / "encoder.json")["sha256"])


@contextmanager
def _home(settings: Settings) -> Iterator[Settings]:
    """Yield settings with a home for weights: a temporary one outside a project without SKUMATCH_HOME."""
    if settings.home or (settings.project / PARAMS).is_file():
        yield settings
        return
    with tempfile.TemporaryDirectory() as folder:
        yield settings.model_copy(update={"home": Path(folder)})


def _frozen(params: Params, name: str) -> Params:
    from skumatch.model.encoder import published

    model, _, weights = name.partition("@")
    if weights.endswith(".safetensors"):  # params.yaml's lie in the project, typed ones in the current folder
        weights = str(expanded(weights).absolute())
    tree = (
        params.encoder.model_dump() | {"model": model, "dim": 0} | ({"weights": weights} if weights else {})
    )
    spec = EncoderParams.model_validate(tree)
    return params.model_copy(update={"encoder": spec if model == params.encoder.model else published(spec)})
