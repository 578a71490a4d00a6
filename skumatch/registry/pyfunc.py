"""The bundle as an MLflow model that this file defines (models from code); nothing is pickled or unpickled.

Input: a DataFrame with a column `image` of encoded pictures, as bytes or base64 text. Params: `top_k`, 5 by
default, and `skus`, the names of the products to search alone. Output: a row for each picture with the lists
`skus`, `similarities` and `gallery_ids` (best first, `top_k` of them) and `unknown`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from skumatch.bundle import Assortment, Bundle
from skumatch.bundle.assortment import EVERY_SKU
from skumatch.data.images import Pixels, decode_pixels
from skumatch.errors import ImageError

REMEMBERED = 1024  # warnings: the products that the gallery lacks are named once, not at each call
LOGGER = logging.getLogger(__name__)


class BundleModel(PythonModel):  # type: ignore[misc]  # MLflow isn't type-checked here
    """A model that loads the bundle stored with it, verified against its registered hash."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load and verify the bundle."""
        self.bundle = Bundle.load(Path(context.artifacts["bundle"]), context.model_config.get("bundle"))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 - MLflow's own
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Match the picture of each row.

        Args:
            context: MLflow's context; not used.
            model_input: a row for each picture, with the column `image`.
            params: `top_k` and `skus`, both optional.

        Returns:
            A row for each picture, as described at the top of this module.

        Raises:
            ImageError: a picture can't be decoded; the message names its row.
            DataError: `skus` has no product of the gallery.
        """
        options = params or {}
        assortment = self._assortment(options.get("skus"))
        images = [_picture(row, value) for row, value in enumerate(model_input["image"])]
        rows = self.bundle.match(images, int(options.get("top_k", 5)), assortment)
        return pd.DataFrame(
            {
                "skus": [[match.sku for match in row] for row in rows],
                "similarities": [[match.similarity for match in row] for row in rows],
                "gallery_ids": [[match.gallery_id for match in row] for row in rows],
                "unknown": [row[0].unknown for row in rows],
            },
            index=model_input.index,
        )

    def _assortment(self, skus: Any) -> Assortment | None:
        if skus is None or (isinstance(skus, list) and tuple(skus) == EVERY_SKU):
            return None
        assortment = self.bundle.assortment(skus, "`skus`")
        if assortment.warning:
            _log_once(assortment.warning)
        return assortment


@lru_cache(REMEMBERED)
def _log_once(sentence: str) -> None:
    LOGGER.warning(sentence)


def _picture(row: int, value: bytes | str) -> Pixels:
    try:
        return decode_pixels(
            base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        )
    except binascii.Error as error:
        raise ImageError(
            "unreadable", f"Row {row}: `image` is no base64; send the file's bytes in base64."
        ) from error
    except ImageError as error:
        raise ImageError(error.reason, f"Row {row}: {error}") from error


mlflow.models.set_model(BundleModel())
