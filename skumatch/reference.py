"""What a model reference names: champion, challenger, a version, a bundle's folder, or `frozen:NAME` (a tower as published)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skumatch.config import EncoderParams, Params, Settings, load_params
from skumatch.errors import ReferenceNotFound
from skumatch.files import read_json
from skumatch.pipeline.pull import fetch_base_weights, open_registry
from skumatch.release.bundle import MANIFEST, verify_bundle

if TYPE_CHECKING:
    from skumatch.model.encoder import Encoder

FROZEN = "frozen:"


def find_bundle(reference: str, settings: Settings) -> Path:
    """The verified folder of the bundle that `reference` names. Raises ReferenceNotFound, BundleError, RegistryUnavailable."""
    folder = Path(reference)
    if (folder / MANIFEST).is_file():
        verify_bundle(folder)
        return folder
    if folder.exists() or "/" in reference or reference.startswith(FROZEN):
        what = "a frozen tower has no gallery" if reference.startswith(FROZEN) else "it has no bundle.json"
        raise ReferenceNotFound(f"'{reference}' is no bundle: {what}; give champion, challenger, a version or a bundle's folder.")
    registry = open_registry(settings, load_params(settings.project / "params.yaml"))
    found = registry.resolve(reference)
    return registry.download_bundle(found, settings.home_dir / "bundles" / found.bundle)


def find_encoder(reference: str, settings: Settings) -> tuple[Encoder, str]:
    """The encoder that `reference` names, and the SHA-256 of its weights.

    `frozen:NAME` is NAME with its base weights and params.yaml's canvas, untrained; `frozen:NAME@WEIGHTS` has other weights.
    """
    from skumatch.model.encoder import build, load
    from skumatch.model.weights import fetched_weights

    if not reference.startswith(FROZEN):
        folder = find_bundle(reference, settings) / "encoder"
        return load(folder), str(read_json(folder / "encoder.json")["sha256"])
    params = _frozen(load_params(settings.project / "params.yaml"), reference.removeprefix(FROZEN))
    folder = fetch_base_weights(settings, params)
    return build(params.encoder, fetched_weights(folder)).eval(), str(read_json(folder / "weights.json").get("sha256", "none"))


def _frozen(params: Params, name: str) -> Params:
    model, _, weights = name.partition("@")
    tree = params.encoder.model_dump() | {"model": model} | ({"weights": weights} if weights else {})
    return params.model_copy(update={"encoder": EncoderParams.model_validate(tree)})
