"""The effects of a refreshed gallery: products, held-back ones, answers, photos lost to new products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.gate.gate import Decision
from skumatch.report.mistakes import SMALL, Picture, Some
from skumatch.retrieval.answers import Share

LISTED = 24


class Product(NamedTuple):
    """A product on the page.

    Attributes:
        name: its SKU.
        picture: a picture as a data URI; None if today's gallery has none.
        about: a sentence about it.
    """

    name: str
    picture: str | None
    about: str = ""


class Lost(NamedTuple):
    """Photos of an old product that a new product takes.

    Attributes:
        old: the old product.
        new: the new product.
        photos: number of photos.
    """

    old: Product
    new: Product
    photos: int


class PictureLoss(NamedTuple):
    """The gallery pictures that an old product lost, as after new packaging, and the effect on its photos.

    Attributes:
        sku: the product.
        gone: number of served gallery pictures that today's gallery lacks.
        kept: number of served gallery pictures that today's gallery has.
        photos: number of its photos that were asked.
        before: number of these that the served bundle answers right.
        after: number of these that the bundle with today's gallery answers right.
    """

    sku: str
    gone: int
    kept: int
    photos: int
    before: int
    after: int


class Thinned(NamedTuple):
    """An old product that lost gallery pictures.

    Attributes:
        product: the product.
        loss: its numbers.
    """

    product: Product
    loss: PictureLoss


class GalleryChanges(NamedTuple):
    """The changes between the served gallery and today's.

    Attributes:
        new: products in today's gallery only.
        retired: products in the served gallery only.
        held: new products that are not released.
        losses: photos of old products that new products take.
        thinned: old products that lost gallery pictures.
        answers: shares of served answers by candidate and by `all`, `old` or `new` products.
        thresholds: the pictures that the thresholds were fitted on, in words.
    """

    new: Some[Product]
    retired: Some[Product]
    held: Some[Product]
    losses: Some[Lost]
    thinned: Some[Thinned]
    answers: Mapping[str, Mapping[str, Share]]
    thresholds: str


def gallery_changes(
    decision: Decision,
    served: set[str],
    answers: Mapping[str, Mapping[str, Share]],
    first_of: Mapping[str, str],
    picture: Picture,
    thinned: Sequence[PictureLoss] = (),
) -> GalleryChanges | None:
    """Collect the decision's facts about the refreshed gallery for the page.

    Args:
        decision: the gate's decision.
        served: the products that the served bundle can name.
        answers: shares of served answers, as `answers.shares` returns them.
        first_of: id of the first picture in today's gallery by product, held-back products included.
        picture: opens a picture by its id.
        thinned: old products that lost gallery pictures, in order.

    Returns:
        The changes; None where there is no champion.
    """
    if decision.fitness is None or decision.products is None:
        return None
    held = decision.products.held

    def product(name: str, about: str = "") -> Product:
        return Product(name, thumbnail(picture(first_of[name]), SMALL) if name in first_of else None, about)

    new, retired = sorted(first_of.keys() - served), sorted(served - first_of.keys())
    losses = decision.fitness.losses
    return GalleryChanges(
        new=Some([product(name) for name in new[:LISTED]], len(new)),
        retired=Some([Product(name, None) for name in retired[:LISTED]], len(retired)),
        held=Some([product(name, held[name]) for name in sorted(held)[:LISTED]], len(held)),
        losses=Some(
            [Lost(product(loss.old), product(loss.new), loss.photos) for loss in losses[:LISTED]], len(losses)
        ),
        thinned=Some([Thinned(product(loss.sku), loss) for loss in thinned[:LISTED]], len(thinned)),
        answers=answers,
        thresholds=decision.fitness.thresholds_note,
    )
