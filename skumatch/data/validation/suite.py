"""The suite of expectations that a data version must pass.

Every expectation looks at one column, or a pair of columns, of one frame of `frames` and `drift`. The columns
are chosen so that one defect breaks one expectation: a column leaves out the rows that another expectation
reports already.
"""

from __future__ import annotations

from functools import partial

from skumatch.data.manifest import COLUMNS
from skumatch.data.validation.expectations import (
    Rule,
    between,
    columns_are,
    empty,
    equal,
    like,
    one_of,
    percent,
    unique,
)
from skumatch.params import ValidateParams
from skumatch.texts import agreeing, counted

SIDES = ["train", "test", "catalogue"]
SHA256 = "^[0-9a-f]{64}$"
SHARD = r"^[^/\\\x00]+\.tar$"


def schema_rules() -> list[Rule]:
    """Return the rules on the manifest's columns and types, which all other rules depend on."""
    columns = columns_are(COLUMNS, "The manifest has its columns, in their order")
    return [
        Rule("columns", "manifest", columns),
        Rule(
            "types",
            "columns",
            equal("type", "wanted", "Every column holds values of its type"),
            note="{type} instead of {wanted}",
        ),
    ]


def rules(p: ValidateParams) -> list[Rule]:
    """Return the rules that need no other data version."""
    return [
        *_name_rules(),
        *_picture_rules(p),
        *_place_rules(),
        *_copy_rules(p),
        *_sku_rules(p),
        *_whole_rules(p),
    ]


def _name_rules() -> list[Rule]:
    rule = partial(Rule, frame="images")
    sides = "Every image is on the train, test or catalogue side"
    return [
        rule("missing", expectation=between("missing", "No value is missing", high=0), worst=("-missing",)),
        rule("id", expectation=unique("id", "Every image has an id of its own")),
        rule(
            "id-parts",
            expectation=equal("id", "expected_id", "Every id is made of side, SKU and name"),
            note="wanted: {expected_id}",
        ),
        rule("sku", expectation=like("sku", r"\S", "Every image has a SKU")),
        rule(
            "sku-written",
            expectation=equal(
                "sku", "composed", "SKUs are written in composed Unicode (NFC), without blanks around them"
            ),
        ),
        rule(
            "name", expectation=like("name", r"^[^/\x00]+$", "Every image has a file name, without a folder")
        ),
        rule("side", expectation=one_of("side", SIDES, sides), note="side: {side}"),
    ]


def _picture_rules(p: ValidateParams) -> list[Rule]:
    rule = partial(Rule, frame="images")
    few = f"At most {percent(p.max_slim_share)} of images are over"
    slim = f"{few} {p.max_aspect:g} times as long as they are short"
    long = f"{few} {p.max_long_side:,} px on their longer side"
    short = between(
        "short_side", f"No image is under {p.min_short_side} px on its shorter side", low=p.min_short_side
    )
    return [
        rule(
            "format",
            expectation=one_of("format", p.formats, "Every image is of an allowed format"),
            note="{format}",
        ),
        rule(
            "mode",
            expectation=one_of("mode", p.modes, "Every image has an allowed pixel mode"),
            note="{mode}",
        ),
        rule("short-side", expectation=short, worst=("short_side",), note="{width} x {height} px"),
        rule(
            "long-side",
            expectation=between("long_side", long, high=p.max_long_side, missed=p.max_slim_share),
            worst=("-long_side",),
            note="{width} x {height} px",
        ),
        rule(
            "aspect",
            expectation=between("aspect", slim, high=p.max_aspect, missed=p.max_slim_share),
            worst=("-aspect",),
            note="{width} x {height} px",
        ),
    ]


def _place_rules() -> list[Rule]:
    rule = partial(Rule, frame="images")
    overlap = "No image's bytes overlap those of another"
    return [
        rule(
            "sha256",
            expectation=like("sha256", SHA256, "Every hash of an image's bytes is a SHA-256"),
            note="{sha256}",
        ),
        rule(
            "pixels",
            expectation=like("pixels", SHA256, "Every hash of an image's pixels is a SHA-256"),
            note="{pixels}",
        ),
        rule(
            "shard",
            expectation=like("shard", SHARD, "Every shard is a .tar file, named without a folder"),
            note="{shard}",
        ),
        rule(
            "offset",
            expectation=between("offset", "Every image lies inside its shard", low=0),
            worst=("offset",),
            note="byte {offset:,} of {shard}",
        ),
        rule(
            "length",
            expectation=between("length", "Every image has bytes", low=1),
            worst=("length",),
            note="{length:byte}",
        ),
        rule(
            "place",
            expectation=between("contents", "Images at one place of a shard have the same bytes", high=1),
            worst=("shard", "offset"),
            note="byte {offset:,} of {shard}",
        ),
        rule(
            "overlap",
            expectation=between("room", overlap, low=0),
            worst=("room",),
            note="{length:byte} from byte {offset:,} of {shard}",
        ),
    ]


def _copy_rules(p: ValidateParams) -> list[Rule]:
    rule = partial(Rule, frame="images")
    copies = f"At most {percent(p.max_duplicate_share)} of images have the pixels of another before them"
    conflict = (
        f"At most {percent(p.max_conflict_share)} of images carry two SKUs (the same pixels under another)"
    )
    leaked = f"At most {percent(p.max_leaked_share)} of queries have the pixels of a gallery image"
    return [
        rule(
            "duplicates",
            expectation=between("repeated", copies, high=0, missed=p.max_duplicate_share),
            worst=("-copies", "pixels"),
            note="{copies:image} with these pixels",
        ),
        rule(
            "conflicts",
            expectation=between("labels", conflict, high=1, missed=p.max_conflict_share),
            worst=("-labels", "pixels"),
            note="{labels:SKU} with these pixels",
        ),
        rule(
            "leaked",
            expectation=between("leaked", leaked, high=0, missed=p.max_leaked_share),
            worst=("-copies", "pixels"),
        ),
    ]


def _sku_rules(p: ValidateParams) -> list[Rule]:
    rule = partial(Rule, frame="skus")
    few, least = counted(p.min_images_per_sku, "gallery image"), percent(p.max_sparse_share)
    sparse = f"At most {least} of SKUs with gallery images, new ones aside, have fewer than {few}"
    no_gallery = f"At most {percent(p.max_without_gallery_share)} of SKUs are without gallery images"
    no_query = f"At most {percent(p.max_without_query_share)} of SKUs are without queries"
    return [
        rule(
            "sparse",
            expectation=between("gallery", sparse, low=p.min_images_per_sku, missed=p.max_sparse_share),
            worst=("train", "-test"),
            note="{train:gallery image}",
        ),
        rule(
            "no-gallery",
            expectation=between("train", no_gallery, low=1, missed=p.max_without_gallery_share),
            worst=("-test",),
            note="{test:query|queries}",
        ),
        rule(
            "no-query",
            expectation=between("test", no_query, low=1, missed=p.max_without_query_share),
            worst=("-train",),
            note="{train:gallery image}",
        ),
    ]


def _whole_rules(p: ValidateParams) -> list[Rule]:
    aside = empty(
        "reason",
        f"At most {percent(p.max_quarantined_share)} of delivered images were set aside",
        p.max_quarantined_share,
    )
    have = f"{counted(p.min_skus, 'SKU')} {agreeing(p.min_skus, 'has', 'have')}"
    enough = between("gallery_skus", f"At least {have} gallery images", low=p.min_skus)
    return [
        Rule("quarantine", "delivered", aside, worst=("reason",)),
        Rule("skus", "whole", enough, figure="{gallery_skus:SKU}"),
        Rule(
            "count",
            "whole",
            equal("images", "imported", "The manifest has as many images as were imported"),
            figure="{images:,} of {imported:,}",
        ),
    ]


def drift_rules(p: ValidateParams) -> list[Rule]:
    """Return the rules on the difference to the version before."""
    rule = partial(Rule, frame="drift_skus")
    gone = f"At most {percent(p.max_removed_share)} of the SKUs of the last version are gone"
    new = f"At most {percent(p.max_added_share)} of SKUs are new since the last version"
    factor = f"{p.max_sku_ratio:g}"
    changed = (
        f"At most {percent(p.max_changed_share)} of SKUs have over {factor} times the images "
        f"of the last version, or under 1/{factor}"
    )
    counts = (
        f"There are {p.min_images_ratio:g} to {p.max_images_ratio:g} times as many images "
        "as in the last version, in all and on each side"
    )
    size = (
        f"Pictures are by a factor of at most {p.max_size_ratio:g} larger or smaller than in the last version"
    )
    aspect = (
        f"Pictures are by a factor of at most {p.max_aspect_ratio:g} wider or narrower in shape "
        "than in the last version"
    )
    return [
        rule(
            "drift-removed",
            expectation=between("kept", gone, low=1, missed=p.max_removed_share),
            worst=("-before",),
            note="{before:image} then",
        ),
        rule(
            "drift-added",
            expectation=between("known", new, low=1, missed=p.max_added_share),
            worst=("-now",),
            note="{now:image} now",
        ),
        rule(
            "drift-skus",
            expectation=between("change", changed, high=p.max_sku_ratio, missed=p.max_changed_share),
            worst=("-change",),
            note="{before:image} then, {now:,} now",
        ),
        Rule(
            "drift-images",
            "drift_sides",
            between("ratio", counts, low=p.min_images_ratio, high=p.max_images_ratio),
            worst=("ratio",),
            note="{before:image} then, {now:,} now",
        ),
        Rule(
            "drift-size",
            "drift",
            between("size_shift", size, high=p.max_size_ratio),
            figure="a factor of {size_shift:.2f}",
        ),
        Rule(
            "drift-aspect",
            "drift",
            between("aspect_shift", aspect, high=p.max_aspect_ratio),
            figure="a factor of {aspect_shift:.2f}",
        ),
    ]


def byte_rules() -> list[Rule]:
    """Return the rule on the bytes in the shards, which takes reading all of them."""
    return [
        Rule(
            "bytes",
            "bytes",
            equal("sha256", "stored", "The bytes of every image are those that were imported"),
        )
    ]
