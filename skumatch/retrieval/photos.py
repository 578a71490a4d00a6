"""Size, sharpness and brightness of photos, by which slices are made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from PIL import Image

from skumatch.config import cores
from skumatch.data.images import Images
from skumatch.errors import DataError, ImageError
from skumatch.progress import track
from skumatch.retrieval.metrics import Floats
from skumatch.retrieval.slices import PHOTO

SIDE = 256  # pixels: sharpness is compared at one size
DIGITS = 3  # kept of a figure, so that it is written alike on every machine


def with_photos(rows: pd.DataFrame, images: Images) -> pd.DataFrame:
    """Add the columns of `measure` to `rows` (id, role, ...), for queries only; `images` are in their order.

    Raises as `measure` does.
    """
    queries = np.flatnonzero(rows["role"].eq("query"))
    measured = measure(images.take(queries.tolist())).set_index(rows.index[queries])
    joined: pd.DataFrame = rows.drop(columns=PHOTO, errors="ignore").join(measured)
    return joined


def measure(images: Images) -> pd.DataFrame:
    """Return width and height (pixels, upright), blur and brightness (0 to 255) of each picture, in order.

    Raises:
        DataError: A picture can't be decoded.
    """
    with ThreadPoolExecutor(cores(), "measure") as pool, track("measure photos", len(images)) as advance:
        rows = []
        for facts in pool.map(lambda i: _measured(images, i), range(len(images))):
            rows.append(facts)
            advance()
    return pd.DataFrame(rows, columns=PHOTO)


def _measured(images: Images, index: int) -> tuple[int, int, float, float]:
    try:
        picture = images[index]
    except ImageError as error:
        raise DataError(f"{images.ids[index]} can't be measured: {error}") from error
    grey = at_one_size(picture)
    return picture.width, picture.height, round(blur(grey), DIGITS), round(float(grey.mean()), DIGITS)


def at_one_size(picture: Image.Image) -> Floats:
    """Return the luma of the whole picture, resized to 256 x 256 px without keeping its aspect: [256, 256].

    Luma is that of ITU-R 601, from 0 to 255. Where the picture shrinks, pixels are averaged.
    """
    return np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)


def blur(grey: Floats) -> float:
    """Return the variance of the Laplacian of all pixels but the border's; it is small in a blurred picture.

    The Laplacian is the sum of the four neighbours less four times the pixel (Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy: a comparative study").
    """
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(edges.var())
