"""Base weights that were fetched before; nothing here imports torch, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from skumatch.errors import WeightsError
from skumatch.files import read_json, sha256


def fetched_weights(folder: Path) -> Path | None:
    """The file that `fetch_weights` wrote, None for random weights.

    Raises WeightsError where it is missing or changed.
    """
    facts, path = folder / "weights.json", folder / "weights.safetensors"
    if not facts.is_file():
        raise WeightsError(
            f"There are no encoder weights in {folder}; start the run again so that they are fetched."
        )
    expected = read_json(facts)
    if expected["name"] == "none":
        return None
    if not path.is_file() or sha256(path) != expected["sha256"]:
        raise WeightsError(
            f"{path} is missing or was changed since it was fetched; start the run again so that it is fetched anew."
        )
    return path
