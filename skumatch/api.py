"""Functions for a notebook: match pictures, score an encoder, compare encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skumatch.bundle import Bundle, Match
from skumatch.config import params_or_defaults
from skumatch.config import settings as current_settings
from skumatch.errors import ParameterError
from skumatch.retrieval.figures import Evaluation

if TYPE_CHECKING:
    from skumatch.comparing.comparison import Comparison
    from skumatch.model.preprocess import Picture


def load_bundle(model: str | Path = "champion") -> Bundle:
    """Load a model with its gallery and thresholds, ready to match; its hashes are checked first.

    Args:
        model: A bundle's folder; or an alias (`champion`, `challenger`, `refreshed`) or a version's number,
            which need the project's MLflow to run (`skumatch up`).

    Raises:
        ReferenceNotFound: It names no bundle.
        BundleError: The bundle is incomplete or changed.
        RegistryUnavailable: MLflow doesn't answer.
    """
    from skumatch.reference import find_bundle

    return Bundle.load(find_bundle(str(model), current_settings()))


def match(
    pictures: Sequence[str | Path | Picture],
    model: Bundle | str | Path = "champion",
    top_k: int = 5,
    skus: Iterable[str] | None = None,
) -> list[list[Match]]:
    """Name the products that pictures show.

    Args:
        pictures: Paths of images, or RGB images of Pillow, or arrays of uint8 [height, width, 3].
        model: What `load_bundle` returned, which is quicker the second time, or what it takes.
        top_k: Number of products for each picture.
        skus: Names of the products to search alone, such as those that a shop sells; None for all.

    Returns:
        For each picture its products, best first. `unknown` is True where the model's thresholds say that the
        picture shows none of them.

    Raises:
        ImageError: A file can't be read as a picture.
        ParameterError: `top_k` is not positive.
        ReferenceNotFound: The model has an unknown name.
        DataError: The model knows none of the products.
    """
    if top_k < 1:
        raise ParameterError(f"top_k is {top_k}; give 1 or more.")
    images = [_read(Path(item)) if isinstance(item, str | Path) else item for item in pictures]
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    assortment = None if skus is None else bundle.assortment(skus, "`skus`")
    return bundle.match(images, top_k, assortment)


def _read(path: Path) -> Picture:
    from skumatch.matching.pictures import list_pictures, open_pictures

    read = list(open_pictures(list_pictures([path]), Path()))
    if len(read) != 1:
        raise ParameterError(f"{path} is not one picture; give the paths of image files.")
    return read[0]


def evaluate(folder: str | Path, model: str | Path = "champion", protocol: str = "full") -> Evaluation:
    """Score an encoder on a folder of photos.

    Args:
        folder: A folder in RP2K's layout: the gallery is `all/train/<sku>/*`, queries are `all/test/<sku>/*`.
        model: As in `load_bundle`, or `frozen:NAME` for an encoder before any training.
        protocol: The rule that pairs queries and gallery (docs/evaluation.md).

    Returns:
        Top-1, top-3 and top-5 with their intervals, and further figures.

    Raises:
        DataError: The folder has another layout.
        ReferenceNotFound: The model's name is unknown.
    """
    return compare(folder, {"model": model}, protocol).models[0].evaluation


def compare(
    folder: str | Path, models: Mapping[str, str | Path] | Sequence[str], protocol: str = "full"
) -> Comparison:
    """Score encoders on the same photos, each paired with the first one.

    All encoders are loaded before the first one embeds, so that a wrong name is reported at once.

    Args:
        folder: As in `evaluate`.
        models: Names as in `evaluate`, or a mapping from the label to show to such a name.
        protocol: As in `evaluate`.

    Returns:
        The figures of each model, and for each but the first the difference in top-1 with its interval.

    Raises:
        DataError: The folder has another layout.
        ReferenceNotFound: A model's name is unknown.
    """
    from skumatch.comparing import comparison
    from skumatch.comparing.folder import list_folder, questions
    from skumatch.reference import find_encoder

    settings = current_settings()
    params = params_or_defaults(settings)
    named = models if isinstance(models, Mapping) else {name: name for name in models}
    listed = list_folder(Path(folder), protocol, params)
    entrants = [
        comparison.Entrant(str(model), label, *find_encoder(str(model), settings))
        for label, model in named.items()
    ]
    return comparison.compare(questions(listed, params), entrants, params)
