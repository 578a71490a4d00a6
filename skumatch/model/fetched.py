"""Look-up of base weights that were fetched before. It doesn't import torch, which would take seconds."""

from __future__ import annotations

from pathlib import Path

from skumatch.errors import WeightsError
from skumatch.files import read_json, sha256


def fetched_weights(folder: Path) -> Path | None:
    """Return the file that `fetch_weights` wrote, or None if the run uses random weights.

    Raises:
        WeightsError: The file is missing or was changed since.
    """
    facts_path, path = folder / "weights.json", folder / "weights.safetensors"
    if not facts_path.is_file():
        raise WeightsError(
            f"There are no encoder weights in {folder}; start the run again so that they are fetched."
        )
    expected = read_json(facts_path)
    if expected["name"] == "none":
        return None
    if not path.is_file() or sha256(path) != expected["sha256"]:
        problem = f"{path} is missing or was changed since it was fetched"
        raise WeightsError(f"{problem}; start the run again so that it is fetched anew.")
    return path
