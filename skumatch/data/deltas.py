"""Deltas: functions from one data version to the next, without reading unchanged pictures.

A delta changes manifest rows and the table of products. The content of a version is its pictures, its
manifest rows and its table of products; the shards in which the bytes lie don't belong to it. So any sequence
of deltas has the content hash of one import of its result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import pandas as pd

from skumatch.data import products as table
from skumatch.data.delivery.layout import kind_by_name
from skumatch.data.manifest import COLUMNS
from skumatch.data.products import RETIRED, SOLD, retired, with_product
from skumatch.data.split import share
from skumatch.data.version import Version
from skumatch.errors import DataError
from skumatch.texts import alike, composed, did_you_mean, visible

LONGEST = 255  # bytes of a folder's name


def retire(version: Version, skus: Mapping[str, str], until: str = "") -> Version:
    """Retire products: their photos leave the gallery and are tested as unknown products.

    Args:
        version: the version before.
        skus: names in any spelling, each with the place where it stands (a file and line, or the command).
        until: the last day of sale, YYYY-MM-DD; empty to keep the day that the table has.

    Raises:
        DataError: for a product that isn't there, or another form of day.
    """
    products = version.products
    last_day = {"until": table.day(until, "The day of --until")} if until else {}
    for sku in known_skus(version, skus):
        products = with_product(products, sku, state=RETIRED, **last_day)
    return version.with_rows(version.manifest, products)


def bring_back(version: Version, skus: Mapping[str, str], since: str = "") -> Version:
    """Sell retired products again.

    Args:
        version: the version before.
        skus: names in any spelling, each with the place where it stands.
        since: the first day of sale, YYYY-MM-DD; empty if it is unknown.

    Raises:
        DataError: for a product that isn't there, or isn't retired, or another form of day.
    """
    products = version.products
    for sku in known_skus(version, skus):
        if sku not in retired(version.products):
            raise DataError(
                f"'{visible(sku)}' isn't retired, so it can't be brought back; "
                "`skumatch data inspect` lists what is."
            )
        products = with_product(
            products, sku, state=SOLD, since=table.day(since, "The day of --since"), until=""
        )
    return version.with_rows(version.manifest, products)


def relabel(version: Version, labels: pd.DataFrame, where: str) -> Version:
    """Give pictures other SKUs.

    A new product is retired if all its pictures came from retired products.

    Args:
        version: the version before.
        labels: columns `image` (an id, or the SHA-256 of a picture's bytes) and `sku`, a row each.
        where: the table's name, for the sentence of an error.

    Raises:
        DataError: for a picture that isn't there, a picture with two new SKUs, a name that `new_skus`
            refuses, or a new SKU that is retired.
    """
    rows, names = version.manifest, dict[int, str]()
    new = new_skus(version, labels["sku"], where)
    by_id, by_hash = ({key: group.index for key, group in rows.groupby(name)} for name in ("id", "sha256"))
    for image, sku in zip(labels["image"].map(composed), labels["sku"].map(new), strict=True):
        places = by_id.get(image, by_hash.get(image.strip().lower()))
        if places is None:
            cure = "give ids or SHA-256 of manifest rows"
            raise DataError(f"{where} names the picture '{visible(image)}', which isn't in the data; {cure}.")
        for place in places:
            if names.setdefault(place, sku) != sku:
                pair = f"'{visible(names[place])}' and '{visible(sku)}'"
                raise DataError(f"{where} gives '{visible(image)}' two SKUs, {pair}; leave one.")
    moved = rows.loc[list(names)].assign(sku=pd.Series(names, dtype=str))
    moved = moved[moved["sku"].ne(rows.loc[moved.index, "sku"])]
    _check_sold(version, set(moved["sku"]), where)
    products = version.products
    for sku in sorted(set(moved["sku"]) - version.skus):
        sources = rows.loc[moved.index[moved["sku"].eq(sku)], "sku"].unique()
        state = RETIRED if set(sources) <= retired(version.products) else SOLD
        products = with_product(
            products, sku, state=state, drawn_as=_first_drawn([*sources], version.products)
        )
    return version.with_rows(beside(rows.drop(moved.index), moved), products)


def rename(version: Version, old: str, new: str, merge: bool = False) -> Version:
    """Give a product another name, or merge it into a product that is there.

    The product keeps the draw of its old name (`drawn_as`), so that it stays held out of training, or in it.
    Of two merged products, the one that is held out first decides, so that no held-out photo is trained on.

    Args:
        version: the version before.
        old: the product's name, in any spelling.
        new: the new name.
        merge: True to merge the product into the one that has the new name already.

    Raises:
        DataError: for a product that isn't there, a name that can't be a product's, a new name that another
            product has while `merge` is False, or a merge of a sold product into a retired one.
    """
    (old,) = known_skus(version, {old: "the command"})
    (new,) = new_skus(version, [new], "the command", but=old).values()
    if new == old:
        return version
    if new in version.skus:
        _check_merge(old, new, version.products, merge)
    rows, products = version.manifest, version.products
    of_old = rows["sku"].eq(old)
    of_state = products[products["sku"].eq(new if new in version.skus else old)]
    products = pd.concat(
        [products[~products["sku"].isin([old, new])], of_state.assign(sku=new)], ignore_index=True
    )
    drawn_as = _first_drawn([old, new] if new in version.skus else [old], version.products)
    products = with_product(products, new, drawn_as=drawn_as)
    groups = dict(version.summary["groups"])
    if old in groups:
        groups.setdefault(new, groups.pop(old))
    changed = _set_aside_as(replace(version, summary=version.summary | {"groups": groups}), old, new)
    return changed.with_rows(beside(rows[~of_old], rows[of_old].assign(sku=new)), products)


def _set_aside_as(version: Version, old: str, new: str) -> Version:
    """Return the version with the quarantined pictures of `old` renamed to `new`."""
    ids = [entry["id"] for entry in version.summary["quarantined"]]
    split = {name: name.split("/", 2) for name in ids}
    renamed = {
        name: f"{side}/{new if sku == old else sku}/{rest}" for name, (side, sku, rest) in split.items()
    }
    entries = {
        renamed[entry["id"]]: entry | {"id": renamed[entry["id"]]} for entry in version.summary["quarantined"]
    }
    pictures = {renamed.get(name, name): data for name, data in version.pictures.items()}
    quarantined = [entries[name] for name in sorted(entries)]
    return replace(version, summary=version.summary | {"quarantined": quarantined}, pictures=pictures)


def remove(version: Version, ids: Collection[str]) -> Version:
    """Take pictures out of the version; earlier versions keep them.

    Raises:
        DataError: for a product that is not retired and would have no gallery picture left.
    """
    rows = version.manifest[~version.manifest["id"].isin(ids)]
    gallery = version.manifest[version.manifest["side"].eq("train")]
    bare = set(gallery.loc[gallery["id"].isin(ids), "sku"]) - set(rows.loc[rows["side"].eq("train"), "sku"])
    for sku in sorted(bare - retired(version.products)):
        raise DataError(
            f"Then '{visible(sku)}' would have no gallery picture left; retire it, or keep one. "
            "Nothing was changed."
        )
    return version.with_rows(rows)


def erase(version: Version, pictures: Collection[str]) -> Version:
    """Take every row of these pictures out of the version, even a product's last gallery picture.

    Args:
        version: the version before.
        pictures: SHA-256 of their bytes.
    """
    return version.with_rows(version.manifest[~version.manifest["sha256"].isin(pictures)])


def ids_of(version: Version, images: Mapping[str, str]) -> list[str]:
    """Look up pictures by id or by the SHA-256 of their bytes.

    Args:
        version: the version that has them.
        images: each id or SHA-256 with the place where it stands.

    Returns:
        The pictures' ids, each once; all rows with a given SHA-256.

    Raises:
        DataError: for a picture that isn't there.
    """
    rows = version.manifest
    by_hash = rows.groupby("sha256")["id"].agg(list).to_dict()
    ids = set(rows["id"])
    chosen: list[str] = []
    for image, where in images.items():
        if image not in ids and image.lower() not in by_hash:
            cure = "give ids or SHA-256 of manifest rows"
            raise DataError(
                f"There is no picture '{visible(image)}' in the data, which {where} names; {cure}."
            )
        chosen += [image] if image in ids else by_hash[image.lower()]
    return list(dict.fromkeys(chosen))


def older_gallery(version: Version, skus: Mapping[str, str], before: Collection[str]) -> list[str]:
    """Return the ids of products' gallery pictures that an earlier version had already.

    Args:
        version: the version that has the pictures.
        skus: names in any spelling, each with the place where it stands.
        before: SHA-256 of the bytes of the earlier version's pictures.

    Raises:
        DataError: for a product that isn't there.
    """
    rows = version.manifest
    of_skus = rows["sku"].isin(known_skus(version, skus)) & rows["side"].eq("train")
    return rows.loc[of_skus & rows["sha256"].isin(before), "id"].tolist()


def beside(rows: pd.DataFrame, newcomers: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and behind them the newcomers, with ids made of their side, SKU and name.

    A newcomer with the id and the bytes of a row is left out. If a row has its id but other bytes, the first
    eight digits of the newcomer's hash are added to its name, since the pictures of two weeks often have the
    same names.
    """
    digests = dict(zip(rows["id"], rows["sha256"], strict=True))
    kept, names = [], []
    for place, side, sku, name, digest in newcomers[["side", "sku", "name", "sha256"]].itertuples():
        own = name
        if digests.get(f"{side}/{sku}/{own}", digest) != digest:
            own = f"{PurePosixPath(name).stem}-{digest[:8]}{PurePosixPath(name).suffix}"
        if digests.get(f"{side}/{sku}/{own}") is None:
            digests[f"{side}/{sku}/{own}"] = digest
            kept.append(place)
            names.append(own)
    fresh = newcomers.loc[kept].assign(name=pd.Series(names, kept, dtype=str))
    fresh = fresh.assign(id=fresh["side"] + "/" + fresh["sku"] + "/" + fresh["name"])
    whole: pd.DataFrame = pd.concat([rows, fresh], ignore_index=True)[COLUMNS]
    return whole


def known_skus(version: Version, names: Mapping[str, str]) -> list[str]:
    """Look up products by name, in any spelling that `alike` treats as equal.

    Args:
        version: the version that has them.
        names: each name with the place where it stands.

    Returns:
        The products' names as the version spells them, each once.

    Raises:
        DataError: for a name of no product; the error suggests the most similar one.
    """
    spelt = {alike(sku): sku for sku in version.skus}
    for name, where in names.items():
        if alike(name) not in spelt:
            problem = f"There is no product '{visible(name)}', which {where} names"
            raise DataError(f"{did_you_mean(name, version.skus)}{problem}; correct the name.")
    return list(dict.fromkeys(spelt[alike(name)] for name in names))


def new_skus(version: Version, names: Iterable[str], where: object, but: str = "") -> dict[str, str]:
    """Check names of products, which may be new or in the version already.

    Args:
        version: the version before.
        names: as they were given.
        where: the place where they stand, for the sentence of an error.
        but: a product whose spelling may be changed; empty for none.

    Returns:
        Each given name -> the name as it is stored: in composed Unicode, without blanks around it.

    Raises:
        DataError: for an empty name, a name that an import would refuse for a folder, another spelling of a
            product that is there, or two spellings of one name.
    """
    kept, spelt = dict[str, str](), {alike(sku): sku for sku in version.skus if sku != but}
    for name in dict.fromkeys(names):
        sku = composed(name) if composed(name) in version.skus else composed(name).strip()
        if sku not in version.skus:
            _check_name(sku, where)
        other = spelt.setdefault(alike(sku), sku)
        if other == sku:
            kept[name] = sku
        elif other in version.skus:
            question = f"Did you mean '{visible(other)}'? '{visible(sku)}', which {where} names,"
            difference = "differs from it only in case, blanks or invisible characters"
            raise DataError(f"{question} {difference}; write it as it is there.")
        else:
            pair = f"'{visible(other)}' and '{visible(sku)}'"
            difference = "which differ only in case, blanks or invisible characters"
            raise DataError(f"{where} has {pair}, {difference}; choose one.")
    return kept


def _check_name(sku: str, where: object) -> None:
    """Raise DataError for a name that can't name a folder, or whose folder an import would skip."""
    usable = alike(sku) and "/" not in sku and len(sku.encode("utf-8", "surrogatepass")) <= LONGEST
    if not usable or sku in (".", "..") or kind_by_name(f"{sku}/picture.jpg"):
        cure = "give one that can name a folder and doesn't begin with a dot"
        raise DataError(f"'{visible(sku)}', which {where} names, can't be a product's name; {cure}.")


def _check_merge(old: str, new: str, products: pd.DataFrame, merge: bool) -> None:
    if not merge:
        cure = f"say --merge to join '{visible(old)}' to it, or choose another name"
        raise DataError(f"'{visible(new)}' is there already; {cure}.")
    if new in retired(products) and old not in retired(products):
        pair = f"'{visible(new)}' is retired and '{visible(old)}' is sold"
        raise DataError(f"{pair}, so they can't be joined; `skumatch data retire --back` brings it back.")


def _check_sold(version: Version, skus: Collection[str], where: str) -> None:
    """Raise DataError for pictures that would go to a retired product."""
    for sku in sorted(retired(version.products) & set(skus)):
        back = "`skumatch data retire --back` brings it back"
        raise DataError(
            f"'{visible(sku)}' is retired, and {where} has pictures of it; leave them out, or {back}."
        )


def _first_drawn(skus: list[str], products: pd.DataFrame) -> str:
    """Return the draw name of the product that is held out of training first as `unseen_share` grows."""
    names = table.draw_names(products)
    return min((names.get(sku, sku) for sku in skus), key=lambda name: (share(f"unseen:{name}"), name))
