"""Deltas: any sequence of them equals one import of its result, and a refused one changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from skumatch.data import deltas, shards
from skumatch.data.delivery import examine
from skumatch.data.delivery.additions import add
from skumatch.data.delivery.importer import import_data
from skumatch.data.duplicates.census import find_duplicates
from skumatch.data.images import pixel_hash
from skumatch.data.manifest import images, read_manifest
from skumatch.data.products import no_products, retired
from skumatch.data.split import GALLERY_ROLES, split
from skumatch.data.version import Make, Version, VersionStep, content_hash, read_version, step
from skumatch.errors import DataError
from skumatch.files import read_json, write_json
from skumatch.model.embed import embed
from skumatch.model.encoder import Encoder, build
from skumatch.params import DataParams, EncoderParams, RuntimeParams, SplitParams
from skumatch.texts import alike, composed
from tests.conftest import draw
from tests.data.manifests import made as manifest_of
from tests.data.manifests import named, typed
from tests.data.shop import SKUS, Customer, Pool, Shop, restore
from tests.data.test_importer import hashes
from tests.data.zips import picture, write_zip
from tests.proving import count

STEPS = 8
FIRST = (("train", "0.png"), ("train", "1.png"), ("test", "0.png"))
LEAST = 32
SMOKE = EncoderParams(model="smoke", weights="none", height=32, width=32)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(tmp_path_factory.mktemp("pictures"))


def stock(pool: Pool, skus: Sequence[str], root: Path) -> Shop:
    """Import a shop that has two gallery pictures and a test photo of each product."""
    shop = Shop()
    places = [(side, sku, name) for sku in skus for side, name in FIRST]
    for place, digest in zip(places, pool.digests, strict=False):
        shop.put(place, digest)
    import_data(shop.deliver(root.with_name("first"), pool), root)
    return shop


def random_change(customer: Customer, shop: Shop, folder: Path) -> Make:
    """One change, made in the model at once, and the delta that is to do the same."""
    choice, skus = customer.choice, shop.skus
    kind = choice.choice(["add", "add", "retire", "back", "relabel", "rename", "remove", "erase"])
    if kind == "back" and shop.retired():
        names = customer.some(shop.retired())
        shop.bring_back(names)
        return lambda version, _: deltas.bring_back(version, dict.fromkeys(names, "a list"))
    if kind == "retire":
        names, until = customer.some(skus), choice.choice(["", "2026-11-30"])
        shop.retire(names, until)
        spelt = {f" {name.upper()}": "a list" for name in names}
        return lambda version, _: deltas.retire(version, spelt, until)
    if kind == "relabel":
        rows, moves = customer.labels(shop)
        shop.relabel(moves)
        return relabelled(*rows)
    if kind == "rename":
        old = choice.choice(skus)
        free = [sku for sku in SKUS if sku not in shop.retired() or old in shop.retired()]
        new = choice.choice([sku for sku in free if sku != old])
        shop.rename(old, new)
        return lambda version, _: deltas.rename(version, old, new, merge=True)
    if kind in ("erase", "remove"):
        return fewer_pictures(kind, customer, shop)
    delivery, side = customer.pictures(shop, folder)
    return lambda version, store: add(version, delivery, store, side, LEAST)


def fewer_pictures(kind: str, customer: Customer, shop: Shop) -> Make:
    """An erasure removes all rows of a picture; a removal keeps the last gallery picture of a product."""
    if kind == "erase":
        digests = set(customer.some(sorted(set(shop.rows.values()))))
        shop.rows = {picture: digest for picture, digest in shop.rows.items() if digest not in digests}
        return lambda version, _: deltas.erase(version, digests)
    chosen = []
    for row in customer.choice.sample(sorted(shop.rows), customer.choice.randint(1, min(3, len(shop.rows)))):
        last = sum(other[:2] == row[:2] for other in shop.rows) == 1
        if row[0] == "train" and last and row[1] not in shop.retired():
            continue  # that is refused, see below
        del shop.rows[row]
        chosen.append(row)
    return lambda version, _: deltas.remove(version, ["/".join(row) for row in chosen])


def live(seed: int, pool: Pool, place: Path) -> Shop:
    """A sequence of changes of the version at `place`/data, and of the model of it, which it returns."""
    root, customer, before = place / "data", Customer(seed, pool), list[Shop]()
    shop = stock(pool, SKUS[:2], root)
    for number in range(STEPS):
        if before and customer.choice.random() < 0.15:
            restore(place / f"version {len(before) - 1}", root)
            shutil.rmtree(place / f"version {len(before) - 1}")
            shop = before.pop()
            continue
        changed = shop.copy()
        make = random_change(customer, changed, place / f"delivery {number}")
        changed.settle()
        shutil.copytree(root, place / f"version {len(before)}")
        if not changed.usable():
            files = hashes(root)
            with pytest.raises(DataError, match="Of the products that are sold|No product that is sold"):
                step(root, make, ())
            assert hashes(root) == files
            shutil.rmtree(place / f"version {len(before)}")
            continue
        made = step(root, make, ())
        assert (made is None) is (changed == shop)
        before.append(shop)
        shop = changed
    return shop


def members(root: Path) -> list[str]:
    """The SHA-256s that name the pictures in all shards."""
    names = []
    for path in (root / "shards").iterdir():
        with tarfile.open(path) as tar:
            names += [name.split(".")[0] for name in tar.getnames()]
    return sorted(names)


@pytest.mark.parametrize("seed", range(count(25, 500)))
def test_deltas_come_to_one_import_of_their_result(seed: int, pool: Pool, tmp_path: Path) -> None:
    shop = live(seed, pool, tmp_path)
    root, fresh = tmp_path / "data", tmp_path / "fresh"
    import_data(shop.deliver(tmp_path / "result", pool), fresh)
    version, whole = read_version(root), read_version(fresh)
    assert content_hash(version) == content_hash(whole)
    assert version.products.equals(whole.products)
    columns = [name for name in version.manifest.columns if name not in ("shard", "offset")]
    pd.testing.assert_frame_equal(version.manifest[columns], whole.manifest[columns])
    assert {name: version.summary[name] for name in shop.counts()} == shop.counts()
    assert {name: whole.summary[name] for name in shop.counts()} == shop.counts()
    rows = version.manifest
    stored = images(root, rows)
    for place, (side, sku, name) in enumerate(zip(rows["side"], rows["sku"], rows["name"], strict=True)):
        assert stored.read_bytes(place) == pool.data[shop.rows[side, sku, name]]
    assert members(root) == sorted(set(shop.rows.values())), "no shard holds anything that is not wanted"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build(SMOKE, None)


def gallery(encoder: Encoder, root: Path) -> tuple[pd.DataFrame, NDArray[np.float32], pd.DataFrame]:
    """The gallery's rows with their vectors, and the rows of all roles."""
    version = read_version(root)
    census = find_duplicates(version.manifest, images(root, version.manifest), SplitParams().max_difference)
    rows = version.manifest.assign(group=census.groups)
    roles = split(rows, SplitParams(unseen_share=0.0), DataParams(), 7, version.products)
    chosen = rows[roles["role"].isin(GALLERY_ROLES)]
    vectors = embed(encoder, images(root, chosen), 16, RuntimeParams())
    return chosen, vectors, rows.assign(role=roles["role"])


@pytest.mark.parametrize("seed", range(count(4, 50)))
def test_a_gallery_after_deltas_has_the_vectors_of_one_import(
    seed: int,
    encoder: Encoder,
    pool: Pool,
    tmp_path: Path,
) -> None:
    """Product by product; and photos of a retired product are never answered with its name."""
    shop = live(1000 + seed, pool, tmp_path)
    import_data(shop.deliver(tmp_path / "result", pool), tmp_path / "fresh")
    rows, vectors, everything = gallery(encoder, tmp_path / "data")
    whole, expected, _ = gallery(encoder, tmp_path / "fresh")
    assert rows["id"].tolist() == whole["id"].tolist() and rows["sku"].nunique() > 1
    for sku in rows["sku"].unique():
        assert np.array_equal(vectors[rows["sku"].eq(sku)], expected[whole["sku"].eq(sku)])
    gone = everything[everything["role"].eq("retired")]
    shelf = {sku for side, sku, _ in shop.rows if side != "catalogue"}
    assert set(gone["sku"]) == shelf & set(shop.retired())
    if len(gone):
        photos = embed(encoder, images(tmp_path / "data", gone), 16, RuntimeParams())
        answers = rows["sku"].to_numpy()[(photos @ vectors.T).argmax(axis=1)]
        assert not set(answers) & set(shop.retired())


@pytest.fixture
def root(pool: Pool, tmp_path: Path) -> Path:
    """Cola, Tea and Café crème, each with two gallery pictures and a test photo."""
    stock(pool, SKUS[:3], tmp_path / "data")
    return tmp_path / "data"


def changed(root: Path, make: Make) -> VersionStep:
    made = step(root, make, ("others",))
    assert made is not None
    return made


def new_ids(made: VersionStep) -> set[str]:
    return set(made.new.manifest["id"]) - set(made.old.manifest["id"])


def refuses(root: Path, make: Make, words: str) -> None:
    """One sentence, and nothing changed."""
    files = hashes(root.parent)
    with pytest.raises(DataError, match=words) as refusal:
        step(root, make, ("others",))
    assert str(refusal.value).endswith((".", ".)")) and "\n" not in str(refusal.value)
    assert hashes(root.parent) == files


def retired_as(*names: str, until: str = "") -> Make:
    return lambda version, _: deltas.retire(version, dict.fromkeys(names, "the command"), until)


def back(*names: str) -> Make:
    return lambda version, _: deltas.bring_back(version, dict.fromkeys(names, "the command"))


def renamed(old: str, new: str, merge: bool = False) -> Make:
    return lambda version, _: deltas.rename(version, old, new, merge)


def relabelled(*rows: tuple[str, str]) -> Make:
    table = pd.DataFrame(rows, columns=["image", "sku"])
    return lambda version, _: deltas.relabel(version, table, "labels.csv")


def added(path: Path, side: str = "train", catalogue: Path | None = None) -> Make:
    return lambda version, store: add(version, path, store, side, LEAST, catalogue)


def pictures(folder: Path, *names: str) -> Path:
    """A delivery of new pictures."""
    for name in names:
        draw(folder / name, f"{folder.name} {name}")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Colla", r"^Did you mean 'Cola'\? There is no product 'Colla', which the command names; correct"),
        ("cafe creme", r"^Did you mean 'Café crème'\? There is no product 'cafe creme'"),
        ("Bread", "^There is no product 'Bread', which the command names; correct the name"),
        ("", "^There is no product '', which the command names"),
    ],
)
def test_a_product_that_is_not_there_is_refused(root: Path, name: str, words: str) -> None:
    for make in (retired_as(name), back(name), renamed(name, "Juice")):
        refuses(root, make, words)


@pytest.mark.parametrize("name", ["COLA", " cola ", "Cola\u200b", normalize("NFD", "café  CRÈME")])
def test_a_product_is_known_in_any_spelling(root: Path, name: str) -> None:
    made = changed(root, retired_as(name))
    assert retired(made.new.products) in ({"Cola"}, {"Café crème"})


def test_too_few_products_on_sale_are_refused(root: Path) -> None:
    refuses(root, retired_as("Cola", "Tea"), "sold, 1 would have gallery photos, and matching needs two")
    refuses(root, retired_as("Cola", "Tea", "Café crème"), " 0 would have gallery photos")
    refuses(root, relabelled(("train/Cola/0.png", "others"), ("train/Cola/1.png", "others"), *(
        (f"train/Tea/{number}.png", "others") for number in (0, 1)
    )), "1 would have gallery photos")  # fmt: skip
    tests = [f"test/{sku}/0.png" for sku in SKUS[:3]]
    none = "No product that is sold would have a test photo"
    refuses(root, lambda version, _: deltas.remove(version, tests), none)
    refuses(root, relabelled(*((name, "others") for name in tests)), none)


def test_a_product_on_sale_keeps_a_gallery_picture(root: Path) -> None:
    """One that is retired need not."""
    cola = ["train/Cola/0.png", "train/Cola/1.png"]
    words = "'Cola' would have no gallery picture left; retire it, or keep one"
    refuses(root, lambda version, _: deltas.remove(version, cola), words)
    changed(root, retired_as("Cola"))
    assert not set(cola) & set(
        changed(root, lambda version, _: deltas.remove(version, cola)).new.manifest["id"]
    )


@pytest.mark.parametrize("until", ["30.11.2026", "2026-13-01", "soon"])
def test_a_day_that_is_none_is_refused(root: Path, until: str) -> None:
    refuses(root, retired_as("Cola", until=until), "--until is .*, which is no day; write it as 2026-11-30")


def test_the_last_day_of_sale_stays_until_a_product_is_back(root: Path) -> None:
    changed(root, retired_as("Cola", until="20261130"))
    assert step(root, retired_as("Cola"), ()) is None, "retired as it was"
    products = read_version(root).products
    assert products[["state", "until"]].to_numpy().tolist() == [["retired", "2026-11-30"]]
    files = hashes(root)
    refuses(root, back("Tea"), "'Tea' isn't retired")
    made = changed(root, back("Cola"))
    assert not len(made.new.products) and not (root / "products.parquet").exists()
    assert hashes(root).keys() == files.keys() - {"products.parquet"}


def test_pictures_of_a_retired_product_are_refused(root: Path, tmp_path: Path) -> None:
    changed(root, retired_as("Cola"))
    cure = "`skumatch data retire --back`"
    new = pictures(tmp_path / "new", "Cola/9.png", "Juice/0.png")
    refuses(root, added(new), f"has pictures of 'Cola', which is retired; .*{cure}")
    relabel = relabelled(("train/Tea/0.png", "Cola"))
    refuses(root, relabel, f"'Cola' is retired, and labels.csv has pictures of it; .*{cure}")
    refuses(root, renamed("Tea", "Cola", merge=True), f"'Cola' is retired and 'Tea' is sold, .*{cure}")


def test_a_retired_product_may_be_renamed_or_joined_to_another(root: Path) -> None:
    changed(root, retired_as("Cola", until="2026-11-30"))
    made = changed(root, renamed("Cola", "Coke"))
    assert retired(made.new.products) == {"Coke"} and made.new.products["until"].tolist() == ["2026-11-30"]
    made = changed(root, renamed("Coke", "Tea", merge=True))
    assert retired(made.new.products) == set() and made.new.skus == {"Tea", "Café crème"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cola", r"Did you mean 'Cola'\? 'cola', which .* differs from it only in case, blanks or invisible"),
        ("Cola\u200b", r"Did you mean 'Cola'\? 'Cola.u200b'"),
        ("CAFÉ  CRÈME", r"Did you mean 'Café crème'\?"),
    ],
)
def test_another_spelling_of_a_product_is_refused(root: Path, tmp_path: Path, name: str, words: str) -> None:
    refuses(root, added(pictures(tmp_path / "new", f"{name}/9.png")), words)
    refuses(root, relabelled(("train/Tea/0.png", name)), words)
    refuses(root, renamed("Tea", name, merge=True), words)


def test_a_decomposed_name_is_the_composed_one(root: Path, tmp_path: Path) -> None:
    name = normalize("NFD", "Café crème")
    made = changed(root, added(pictures(tmp_path / "new", f"{name}/9.png")))
    assert made.new.skus == set(SKUS[:3])
    made = changed(root, relabelled(("train/Tea/0.png", f" {name} ")))
    assert made.new.skus == set(SKUS[:3])


def test_a_products_own_spelling_may_be_changed(root: Path) -> None:
    made = changed(root, renamed("Cola", "COLA"))
    assert made.new.skus == {"COLA", "Tea", "Café crème"}
    assert step(root, renamed("cola", "COLA"), ()) is None


def test_two_new_spellings_of_a_name_are_refused(root: Path, tmp_path: Path) -> None:
    spellings = "differ only in case, blanks or invisible characters"
    refuses(root, added(pictures(tmp_path / "new", "Juice/0.png", "juice/1.png")), spellings)
    relabel = relabelled(("train/Tea/0.png", "Juice"), ("train/Cola/0.png", "JUICE"))
    refuses(root, relabel, f"labels.csv has .*{spellings}")
    (tmp_path / "catalogue").mkdir()
    draw(tmp_path / "catalogue/JUICE.png", "juice")
    new = pictures(tmp_path / "week", "Juice/0.png")
    refuses(root, added(new, catalogue=tmp_path / "catalogue"), spellings)


UNUSABLE = ["", " ", "a/b", "..", ".", "a\\b", "C:cola", "a\nb", ".cola", "__MACOSX", "x" * 256, "\u200b"]


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_name_that_can_name_no_folder_is_refused(root: Path, name: str) -> None:
    words = "can't be a product's name; give one that can name a folder"
    refuses(root, renamed("Tea", name), words)
    refuses(root, relabelled(("train/Tea/0.png", name)), words)


def test_a_table_of_labels_that_cannot_be_used_is_refused(root: Path) -> None:
    gone = "labels.csv names the picture 'train/Tea/9.png', which isn't in the data; give ids or SHA-256"
    refuses(root, relabelled(("train/Tea/9.png", "Cola")), gone)
    refuses(root, relabelled(("0" * 64, "Cola")), "isn't in the data")
    two = "labels.csv gives 'train/Tea/0.png' two SKUs, 'Cola' and 'Juice'; leave one"
    refuses(root, relabelled(("train/Tea/0.png", "Cola"), ("train/Tea/0.png", "Juice")), two)
    digest = read_manifest(root).set_index("id").loc["train/Tea/0.png", "sha256"]
    refuses(root, relabelled(("train/Tea/0.png", "Cola"), (digest, "Juice")), "two SKUs, 'Cola' and 'Juice'")


def test_labels_that_are_right_already_change_nothing(root: Path) -> None:
    files = hashes(root)
    assert step(root, relabelled(("train/Tea/0.png", "Tea"), ("train/Tea/0.png", " Tea ")), ()) is None
    assert step(root, relabelled(), ()) is None
    assert hashes(root) == files


def test_a_hash_in_a_table_means_every_copy(root: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "first/all/train/Tea", tmp_path / "copies/Tea again")
    changed(root, added(tmp_path / "copies"))
    digest = read_manifest(root).set_index("id").loc["train/Tea/0.png", "sha256"]
    made = changed(root, relabelled((digest.upper(), "Cola")))
    moved = made.new.manifest[made.new.manifest["sha256"].eq(digest)]
    assert moved["id"].tolist() == [f"train/Cola/0-{digest[:8]}.png"], "two of one name and bytes are one"


def test_an_existing_name_needs_merge(root: Path) -> None:
    refuses(root, renamed("Tea", "Cola"), "'Cola' is there already; say --merge to join 'Tea' to it")
    made = changed(root, renamed("Tea", "Cola", merge=True))
    assert made.new.skus == {"Cola", "Café crème"} and len(made.new.manifest) == 9


def test_a_rename_takes_the_group_along(root: Path, tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups/classes.csv").write_text("sku,group\nJuice,drinks\nBread,food\n")
    changed(root, added(pictures(tmp_path / "groups", "Juice/0.png", "Bread/0.png")))
    made = changed(root, renamed("Juice", "Apple juice"))
    assert read_version(root).summary["groups"] == {"Apple juice": "drinks", "Bread": "food"}
    made = changed(root, renamed("Apple juice", "Bread", merge=True))
    assert made.new.skus == {"Cola", "Tea", "Café crème", "Bread"}
    assert read_version(root).summary["groups"] == {"Bread": "food"}


# Deliveries.


def test_a_delivery_in_either_layout_as_folder_or_zip(root: Path, tmp_path: Path) -> None:
    names = {"train/Juice/0.png", "test/Juice/0.png", "catalogue/Juice/0.png"}
    whole = pictures(tmp_path / "whole", *(f"all/{name}" for name in names))
    assert new_ids(changed(root, added(whole, side="test"))) == names
    entries = [("week 48/Juice/7.png", picture(7)), ("week 48/Bread/8.png", picture(8))]
    flat = write_zip(tmp_path / "flat.zip", entries)
    assert new_ids(changed(root, added(flat, side="test"))) == {"test/Juice/7.png", "test/Bread/8.png"}
    inside = write_zip(tmp_path / "whole.zip", [("x/all/train/Bread/1.png", picture(9))])
    assert new_ids(changed(root, added(inside))) == {"train/Bread/1.png"}


def test_a_folder_named_as_a_side_says_where_its_pictures_go(root: Path, tmp_path: Path) -> None:
    """Test photos without all/ above them would be matched against otherwise."""
    names = {"train/Juice/0.png", "test/Juice/0.png", "catalogue/Juice/0.png"}
    new = pictures(tmp_path / "new", *names, "Bread/0.png")
    assert new_ids(changed(root, added(new))) == names | {"train/Bread/0.png"}


def test_a_delivery_that_cannot_be_used_is_refused(root: Path, tmp_path: Path) -> None:
    refuses(root, added(tmp_path / "nowhere"), "There is no .*nowhere")
    (tmp_path / "empty").mkdir()
    refuses(root, added(tmp_path / "empty"), "is empty")
    refuses(root, added(pictures(tmp_path / "flat", "0.png")), "is not in RP2K's layout .1 other file found")
    (tmp_path / "no.zip").write_text("no zip")
    refuses(root, added(tmp_path / "no.zip"), "is neither a folder nor a zip")
    two = write_zip(tmp_path / "two.zip", [("a/Juice/0.png", picture(1)), ("b/Juice/0.png", picture(2))])
    refuses(root, added(two), "both named train/Juice/0.png; rename one")


def test_bad_pictures_alone_are_set_aside_and_stay_so_once(root: Path, tmp_path: Path) -> None:
    """A page shows those that can be opened, until they are used."""
    broken, tiny = tmp_path / "bad/Juice/0.png", tmp_path / "bad/Juice/1.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(picture(1)[:60])
    Image.new("RGB", (8, 8)).save(tiny)
    made, ids = changed(root, added(tmp_path / "bad")), ["train/Juice/0.png", "train/Juice/1.png"]
    assert made.new.skus == set(SKUS[:3]) and len(made.new.manifest) == 9
    version = read_version(root)
    assert [entry["id"] for entry in version.summary["quarantined"]] == ids
    assert set(version.pictures) == {ids[1]}
    assert step(root, added(tmp_path / "bad"), ()) is None
    for number, path in enumerate((broken, tiny)):
        path.write_bytes(picture(1 + number))
    made = changed(root, added(tmp_path / "bad"))
    assert read_version(root).summary["quarantined"] == [] and read_version(root).pictures == {}
    assert "Juice" in made.new.skus


def test_an_erased_picture_is_left_out_and_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    new = pictures(tmp_path / "new", "Juice/0.png", "Juice/1.png")
    erased = hashlib.sha256((new / "Juice/0.png").read_bytes()).hexdigest()
    made = changed(root, lambda version, store: add(version, new, store, "train", 32, erased=[erased]))
    assert new_ids(made) == {"train/Juice/1.png"}
    assert made.new.summary["junk"] == {"erased": 1} and made.new.summary["quarantined"] == []
    assert (
        step(root, lambda version, store: add(version, new, store, "train", 32, erased=[erased]), ()) is None
    )

    shutil.copytree(tmp_path / "first/all", tmp_path / "whole/all")
    shutil.copytree(new / "Juice", tmp_path / "whole/all/train/Juice")
    import_data(tmp_path / "whole", tmp_path / "data", erased=[erased])
    whole = read_version(tmp_path / "data")
    assert whole.summary["junk"] == {"erased": 1} and erased not in set(whole.manifest["sha256"])
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert (new / "Juice/0.png").read_bytes() not in held


def test_an_erased_picture_is_known_by_its_pixels(root: Path, tmp_path: Path) -> None:
    new = pictures(tmp_path / "new", "Juice/0.png", "Juice/1.png")
    with Image.open(new / "Juice/0.png") as opened:
        pixels = pixel_hash(opened.convert("RGB"))
        opened.save(tmp_path / "copy.png", compress_level=1)
    assert (tmp_path / "copy.png").read_bytes() != (new / "Juice/0.png").read_bytes()
    shutil.move(tmp_path / "copy.png", new / "Juice/0.png")
    made = changed(root, lambda version, store: add(version, new, store, "train", 32, erased=[pixels]))
    assert new_ids(made) == {"train/Juice/1.png"} and made.new.summary["junk"] == {"erased": 1}


def test_a_renamed_product_takes_along_what_was_set_aside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "small/Cola").mkdir(parents=True)
    Image.new("RGB", (LEAST // 2, LEAST)).save(tmp_path / "small/Cola/7.png")
    changed(root, added(tmp_path / "small"))
    before = read_version(root)
    assert [*before.pictures] == ["train/Cola/7.png"]
    changed(root, lambda version, _: deltas.rename(version, "Cola", "Cola Classic"))
    version = read_version(root)
    assert [entry["id"] for entry in version.summary["quarantined"]] == ["train/Cola Classic/7.png"]
    assert version.pictures == {"train/Cola Classic/7.png": before.pictures["train/Cola/7.png"]}


def test_the_parts_of_a_retired_product_are_retired(root: Path) -> None:
    changed(root, lambda version, _: deltas.retire(version, {"Tea": "a test"}))
    ids = ["train/Tea/0.png", "train/Tea/1.png", "train/Cola/0.png"]
    labels = pd.DataFrame({"image": ids, "sku": ["Tea mint", "Mixed", "Mixed"]})
    changed(root, lambda version, _: deltas.relabel(version, labels, "labels.csv"))
    assert retired(read_version(root).products) == {"Tea", "Tea mint"}


def test_a_delivery_without_anything_new_changes_nothing(root: Path, tmp_path: Path) -> None:
    files = hashes(root)
    assert step(root, added(tmp_path / "first"), ()) is None
    assert hashes(root) == files
    new = pictures(tmp_path / "new", "Juice/0.png", "Cola/0.png")
    changed(root, added(new))
    files = hashes(root)
    assert step(root, added(new), ()) is None
    assert hashes(root) == files


def test_names_that_recur_week_after_week_are_kept_apart(root: Path, tmp_path: Path) -> None:
    for week in range(3):
        changed(root, added(pictures(tmp_path / f"week {week}", "Juice/IMG_1.png", "Cola/0.png")))
    ids = read_manifest(root)["id"]
    juices = sorted(name for name in ids if "Juice" in name)
    assert len(juices) == 3 and juices[-1] == "train/Juice/IMG_1.png"
    assert all(len(name) == len("train/Juice/IMG_1-01234567.png") for name in juices[:2])
    assert sum("train/Cola/0" in name for name in ids) == 4 and ids.is_unique


def test_hashes_of_64_bits_stay_whole(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas joins uint64 and int64 as floats, which lose their last bits."""
    columns = ["id", "phash", "phash95", "phash90"]
    before = read_manifest(root)[columns]
    monkeypatch.setattr(examine, "fingerprint", lambda _: (5, 6, 7))
    changed(root, added(pictures(tmp_path / "new", "Juice/0.png")))
    after = read_manifest(root)[columns].set_index("id")
    assert after.loc["train/Juice/0.png"].tolist() == [5, 6, 7]
    assert after.loc[before["id"]].equals(before.set_index("id")) and (before["phash"] >= 2**63).any()


def test_unchanged_shards_are_neither_read_nor_written(root: Path, tmp_path: Path) -> None:
    """They may even be missing here."""
    before = read_manifest(root)
    shutil.rmtree(root / "shards")
    made = changed(root, added(pictures(tmp_path / "new", "Juice/0.png")))
    changed(root, retired_as("Tea"))
    changed(root, relabelled(("train/Cola/0.png", "Juice")))
    changed(root, back("Tea"))
    after = read_manifest(root)
    assert set(before["shard"]) < set(after["shard"]) and made.rewritten == []
    assert {path.name for path in (root / "shards").iterdir()} == set(after["shard"]) - set(before["shard"])


def test_a_removed_picture_is_fetched_out_of_its_shard_alone(root: Path) -> None:
    rows = read_manifest(root)
    shard = rows.set_index("id").loc["train/Tea/0.png", "shard"]
    assert rows["shard"].eq(shard).sum() > 1
    shutil.copytree(root / "shards", root.with_name("remote"))
    shutil.rmtree(root / "shards")
    (root / "shards").mkdir()
    wanted = []

    def fetch(names: list[str]) -> None:
        wanted.extend(names)
        for name in names:
            shutil.copyfile(root.with_name("remote") / name, root / "shards" / name)

    made = step(root, lambda version, _: deltas.remove(version, ["train/Tea/0.png"]), (), fetch)
    assert made and wanted == [shard] == made.rewritten
    digest = rows.set_index("id").loc["train/Tea/0.png", "sha256"]
    assert digest not in members(root)


def test_a_version_of_an_older_release_can_be_changed(root: Path, tmp_path: Path) -> None:
    """Its import.json has no groups, and it has no quarantine.json."""
    summary = read_json(root / "import.json")
    del summary["groups"]
    write_json(root / "import.json", summary)
    (root / "quarantine.json").unlink()
    assert step(root, added(tmp_path / "first"), ()) is None
    changed(root, renamed("Tea", "Green tea"))
    made = changed(root, added(pictures(tmp_path / "new", "Juice/0.png")))
    assert made.new.skus == {"Cola", "Green tea", "Café crème", "Juice"}
    assert read_json(root / "import.json")["groups"] == {} and read_json(root / "quarantine.json") == {}


# What a delivery says of products.


def said(folder: Path, text: str) -> Path:
    (folder / "products.csv").write_text(text)
    return folder


def test_a_table_of_products_is_taken_over(root: Path, tmp_path: Path) -> None:
    new = pictures(tmp_path / "new", "Juice/0.png")
    text = "SKU,state,since,until\nCOLA,Retired,,20261130\njuice,,2026-11-01,\nBread,retired,,\n"
    made = changed(root, added(said(new, text)))
    table = made.new.products.set_index("sku")
    assert table.index.tolist() == ["Cola", "Juice"]
    assert table.loc["Cola", ["state", "until"]].tolist() == ["retired", "2026-11-30"]
    assert table.loc["Juice", ["state", "since"]].tolist() == ["sold", "2026-11-01"]


def test_a_table_that_says_no_state_brings_nothing_back(root: Path, tmp_path: Path) -> None:
    changed(root, retired_as("Cola"))
    new = said(pictures(tmp_path / "new", "Juice/0.png"), "sku,since\nCola,2020-01-01\n")
    made = changed(root, added(new))
    assert retired(made.new.products) == {"Cola"} and made.new.products["since"].tolist() == ["2020-01-01"]
    import_data(said(tmp_path / "first", "sku,since\nCola,2020-01-01\n"), tmp_path / "fresh")
    assert read_version(tmp_path / "fresh").products["state"].tolist() == ["sold"]


def test_an_empty_table_of_products_says_nothing(root: Path, tmp_path: Path) -> None:
    import_data(said(tmp_path / "first", "sku,state\n"), tmp_path / "fresh")
    assert content_hash(read_version(tmp_path / "fresh")) == content_hash(read_version(root))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,state\nCola,sold\n", "products.csv lacks a column sku; correct or remove it"),
        ("sku,state\nCola,gone\n", "gives 'Cola' the state 'gone'; write sold or retired"),
        ("sku,since\nCola,1.1.2026\n", "since of 'Cola' is '1.1.2026', which is no day"),
        ("sku,until\nCola,2026-02-30\n", "until of 'Cola' is '2026-02-30', which is no day"),
        ("sku\nCola\nCola\n", "lists 'Cola' twice; leave one line"),
        ("sku,state\nCola,sold\ncola,retired\n", "lists 'cola' twice; leave one line"),
    ],
)
def test_a_bad_table_of_products_is_refused(root: Path, tmp_path: Path, text: str, words: str) -> None:
    new = said(pictures(tmp_path / "new", "Juice/0.png"), text)
    refuses(root, added(new), words)
    with pytest.raises(DataError, match=words):
        import_data(said(tmp_path / "first", text), tmp_path / "fresh")


# What is never trained on.

names = st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=8).map(composed)
names = names.filter(lambda name: name not in DataParams().others)
SHARES = st.sampled_from([0.1, 0.3, 0.5])
FEW = settings(max_examples=count(25, 500))


def held_out(version: Version, unseen_share: float) -> dict[str, bool]:
    """Product -> whether it is kept from training."""
    rows = version.manifest.assign(group=version.manifest["pixels"])
    more = pd.DataFrame({"sku": [f"kept {number}" for number in range(40)], "side": "train"})
    more = more.assign(id=more["side"] + "/" + more["sku"] + "/0", group=more["sku"])
    params = SplitParams(unseen_share=unseen_share)
    roles = split(pd.concat([rows, more], ignore_index=True), params, DataParams(), 7, version.products)
    return dict(zip(roles["sku"], roles["unseen"], strict=True))


def of_skus(*skus: str) -> Version:
    """A version of products with two gallery pictures and a test photo each."""
    frame = manifest_of(len(skus), 2, 1)
    frame["sku"] = frame["sku"].map(dict(zip(frame["sku"].unique(), skus, strict=True)))
    return Version(typed(named(frame)), no_products(), {"groups": {}, "quarantined": []}, {})


@FEW
@given(st.lists(names, min_size=3, max_size=5, unique_by=alike), SHARES)
def test_a_renamed_product_stays_in_or_out_of_training(chain: list[str], unseen_share: float) -> None:
    other, old, *more = chain
    version = of_skus(other, old)
    before = held_out(version, unseen_share)
    for new in more:
        version = deltas.rename(version, old, new)
        after = held_out(version, unseen_share)
        assert after[new] == before[chain[1]] and after[other] == before[other]
        old = new
    version = deltas.rename(version, old, chain[1])
    assert not len(version.products), "by its own name again"


@FEW
@given(st.lists(names, min_size=4, max_size=4, unique_by=alike), SHARES, st.booleans())
def test_of_two_joined_the_held_out_one_decides(skus: list[str], unseen_share: float, swap: bool) -> None:
    other, first, second, third = skus
    version = of_skus(other, first, second)
    before = held_out(version, unseen_share)
    version = deltas.rename(version, first, third)
    pair = (third, second) if swap else (second, third)
    after = held_out(deltas.rename(version, *pair, merge=True), unseen_share)
    assert after[pair[1]] == (before[first] or before[second]) and after[other] == before[other]


@FEW
@given(st.lists(names, min_size=5, max_size=5, unique_by=alike), SHARES)
def test_the_parts_of_a_split_product_stay_in_or_out(skus: list[str], unseen_share: float) -> None:
    other, old, first, second, mixed = skus
    version = of_skus(other, old)
    before = held_out(version, unseen_share)
    ids = version.manifest.loc[version.manifest["sku"].eq(old), "id"].tolist()
    labels = pd.DataFrame({"image": ids, "sku": [first, second, second]})
    version = deltas.relabel(version, labels, "labels.csv")
    after = held_out(version, unseen_share)
    assert (after[first], after[second]) == (before[old], before[old])
    both = [version.manifest.loc[version.manifest["sku"].eq(sku), "id"].iloc[0] for sku in (other, second)]
    version = deltas.relabel(version, pd.DataFrame({"image": both, "sku": [mixed, mixed]}), "labels.csv")
    assert held_out(version, unseen_share)[mixed] == (before[old] or before[other])
