"""Lists behind the page's pictures: confused pairs, new products, and quarantined pictures."""

from __future__ import annotations

import numpy as np

from skumatch.data.validation.drift import Profile
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.report.confusions import Confused, confused_pairs
from skumatch.report.data_changes import Count, changes_of
from skumatch.report.mistakes import SMALL
from skumatch.report.quarantined import by_reason, set_aside
from tests.report.reports import SKUS, first_of, picture, ranking


def test_both_directions_of_a_pair_count_together_the_worse_one_first() -> None:
    answers = [
        ("apple", "banana"),
        ("banana", "apple"),
        ("banana", "apple"),
        ("banana", "banana"),
        ("cherry", "apple"),
        ("cherry", "cherry"),
    ]
    pairs = confused_pairs(ranking(answers), first_of(SKUS), picture)
    assert pairs.total == 2
    first, other = pairs.shown[0]
    assert first == Confused("banana", thumbnail(picture("g-banana")), 2, 3)
    assert other == Confused("apple", thumbnail(picture("g-apple")), 1, 1)
    assert [(side.sku, side.taken, side.n) for side in pairs.shown[1]] == [("cherry", 1, 2), ("apple", 0, 1)]
    assert confused_pairs(ranking(answers), first_of(SKUS), picture, limit=1).more == 1


def test_the_typical_picture_is_the_one_that_is_matched_most_often() -> None:
    answers = ranking([("apple", "banana"), ("apple", "banana"), ("apple", "apple")])
    answers.gallery_ids[:2, 0] = ["g-often", "g-often"]
    (pair,) = confused_pairs(answers, first_of(SKUS), picture).shown
    assert [side.picture for side in pair] == [thumbnail(picture("g-apple")), thumbnail(picture("g-often"))]


def test_queries_without_a_gallery_picture_are_confused_with_nothing() -> None:
    assert confused_pairs(ranking([("durian", "apple")]), first_of(SKUS), picture) == ([], 0)


def profile(size: float, **skus: tuple[int, int]) -> Profile:
    sides = tuple(np.full(101, size))
    return Profile(skus=skus, short_sides=sides, aspects=tuple(np.full(101, 0.5)))


def test_changes_name_what_is_new_gone_and_grown_with_pictures_of_what_is_new() -> None:
    before, now = (
        profile(100, apple=(4, 1), banana=(4, 1), gone=(3, 2)),
        profile(150, apple=(9, 1), banana=(4, 1), cherry=(5, 2)),
    )
    changes = changes_of(now, before, first_of(SKUS), picture)
    assert changes and changes.any
    assert changes.new.shown == [Count("cherry", 0, 7, thumbnail(picture("g-cherry"), SMALL))]
    assert (changes.gone.shown, changes.changed.shown) == ([Count("gone", 5, 0)], [Count("apple", 5, 10)])
    assert (Count("all", 15, 22) in changes.sides, round(changes.size_shift, 3), changes.aspect_shift) == (
        True,
        1.5,
        1.0,
    )
    assert changes_of(now, None, first_of(SKUS), picture) is None


def test_of_what_was_set_aside_the_reasons_take_turns_those_with_a_picture_first() -> None:
    entries = [
        {"id": f"train/sku {n}/{n}.jpg", "reason": reason, "sentence": f"Sentence {n}."}
        for n, reason in enumerate(["empty"] * 4 + ["tiny"])
    ]
    shown = set_aside(entries, {"train/sku 2/2.jpg": "data:x"}, limit=3)
    assert [(aside.file, aside.reason, aside.picture) for aside in shown.shown] == [
        ("train / 2.jpg", "empty", "data:x"),
        ("train / 4.jpg", "tiny", None),
        ("train / 0.jpg", "empty", None),
    ]
    assert (shown.more, shown.shown[1].sku, shown.shown[1].sentence) == (2, "sku 4", "Sentence 4.")
    assert by_reason(entries) == {"empty": 4, "tiny": 1}
