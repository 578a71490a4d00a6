"""What a refreshed gallery would change for who asks it: products, held-back ones, answers, and photos lost to new products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from skumatch.data.validation.thumbnails import thumbnail
from skumatch.release.gate import Decision
from skumatch.report.mistakes import SMALL, Picture, Some
from skumatch.retrieval.answers import Share

LISTED = 24


class Product(NamedTuple):
    """A product, a picture of it (a data URI) if today's gallery has any, and a sentence about it."""

    name: str
    picture: str | None
    about: str = ""


class Lost(NamedTuple):
    """An old product, the new one that took some of its photos, and how many."""

    old: Product
    new: Product
    photos: int


class PictureLoss(NamedTuple):
    """What an old product lost of its gallery pictures, as after new packaging, and what that does to its photos.

    gone, kept: gallery pictures that serve and are not, or are, in today's gallery. photos: asked. before, after:
    how many of them are answered right by what serves, and by today's gallery.
    """

    sku: str
    gone: int
    kept: int
    photos: int
    before: int
    after: int


class Thinned(NamedTuple):
    """An old product that lost gallery pictures."""

    product: Product
    loss: PictureLoss


class GalleryChanges(NamedTuple):
    """new, retired: products in today's gallery only, and in the served one only. held: new ones that are not released.

    thinned: old products that lost gallery pictures. answers: candidate -> `all`, `old`, `new` -> what it
    answers as it serves. thresholds: which pictures they were fitted on, in words.
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
    """Lay out what the decision says of the refreshed gallery; None where there is no champion.

    Args:
        decision: the gate's.
        served: the products that what serves can name.
        answers: as `answers.shares` summed them up.
        first_of: product -> id of the first of its pictures in today's gallery, held-back ones included.
        picture: opens a picture by its id.
        thinned: of old products that lost gallery pictures, in order.
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
