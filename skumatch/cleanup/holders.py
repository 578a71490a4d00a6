"""Find the objects in this machine's cache and the remote that hold given pictures, for an erasure.

Pictures, vectors and small copies of them are in data versions, results of stages, bundles and the vector
store. Data versions and results are found by their listings (DVC's .dir objects), so those to which nothing
refers any more are found, too. Nothing here writes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd
import pyarrow.parquet as pq
import yaml

from skumatch.bundle.manifest import GALLERY, MANIFEST
from skumatch.cleanup.cleanup import own_place
from skumatch.cleanup.references import Objects, path_of
from skumatch.cleanup.retention import VECTORS, digest_of
from skumatch.cleanup.stores import File, ObjectStore
from skumatch.config import Settings
from skumatch.data.version import SUMMARY
from skumatch.errors import CleaningRefused
from skumatch.files import store_errors
from skumatch.pipeline.run_cache import RESULT

TABLE, SHARDS = "manifest.parquet", "shards/"
KNOWN = ["id", "sku", "sha256", "pixels", "shard"]
ITEMS, REPORT = "items.parquet", "report.html"  # of the stages embed and report
MEMBER = re.compile(rb"[0-9a-f]{64}\.[a-z]{1,8}\0")  # how a shard begins: the name of its first picture


@dataclass(frozen=True, eq=False)
class HeldVersion:
    """A data version in the cache or the remote.

    Attributes:
        md5: of its listing.
        rows: its manifest, one row a picture, with the columns of KNOWN.
        shards: file name of a shard -> MD5.
    """

    md5: str
    rows: pd.DataFrame
    shards: dict[str, str]

    def having(self, pictures: Collection[str]) -> pd.DataFrame:
        """Return the rows of the pictures with these SHA-256."""
        return self.rows[self.rows["sha256"].isin(pictures)]

    def shards_of(self, pictures: Collection[str]) -> list[str]:
        """Return the MD5s of the shards that hold any of the pictures (SHA-256)."""
        return sorted({self.shards[name] for name in self.having(pictures)["shard"] if name in self.shards})


@dataclass(frozen=True, eq=False)
class Contents:
    """The files of a cache and a remote, listed once.

    Attributes:
        stores: the cache and the remote.
        files: the files of the cache and of the remote, as `Store.files` lists them.
        listings: MD5 of a folder (.dir object) -> path of a file in it -> MD5 of the file.
    """

    stores: tuple[ObjectStore, ObjectStore]
    files: tuple[dict[str, File], dict[str, File]]
    listings: dict[str, dict[str, str]]
    _objects: Objects = field(repr=False)

    @property
    def digests(self) -> set[str]:
        """MD5s of all objects in either of the stores."""
        return {digest for files in self.files for name in files if (digest := digest_of(name))}

    def object(self, digest: str) -> bytes | None:
        """Return an object's bytes, which may be many and are not cached; None where neither store has it."""
        for store in self.stores:
            for data in store.read([path_of(digest)]).values():
                return data
        return None

    def small(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Return those of the objects that exist; they are verified, and cached for the next call."""
        return self._objects.read(digests)

    def results(self, store: ObjectStore, files: Mapping[str, File]) -> dict[str, bytes]:
        """Return the entries of a store's run cache: name -> content."""
        return store.read(name for name in files if RESULT.fullmatch(name))

    def data_versions(self) -> list[HeldVersion]:
        """Return every data version of which the stores have the manifest.

        Raises:
            CleaningRefused: the stores have shards of a version but not its manifest.
        """
        folders = [md5 for md5, names in self.listings.items() if {TABLE, SUMMARY} <= names.keys()]
        versions = [self._data_version(md5, self.listings[md5]) for md5 in sorted(folders)]
        return [version for version in versions if version]

    def _data_version(self, md5: str, listing: dict[str, str]) -> HeldVersion | None:
        shards = {name[len(SHARDS) :]: digest for name, digest in listing.items() if name.startswith(SHARDS)}
        data = self.object(listing[TABLE])
        if data is None:
            if not self.digests & set(shards.values()):
                return None
            refusal = f"Data version {md5[:12]} is here without its manifest, so its pictures aren't known"
            cure = "restore it, or let `skumatch gc --delete` remove it if nobody needs it"
            raise CleaningRefused(f"{refusal}; {cure}. Nothing was deleted.")
        return HeldVersion(md5, pq.read_table(io.BytesIO(data), columns=KNOWN).to_pandas(), shards)

    def vectors(self, pictures: Collection[str]) -> list[str]:
        """Return the remote's files of the vector store's parts that hold any of the pictures (SHA-256).

        Parts whose index is missing or damaged may hold any picture, so they are among them. So are files
        that are half written. Indexes (.json) come first.
        """
        names = [name for name in self.files[1] if VECTORS.fullmatch(name) and "/used-" not in name]
        indexes = {name for name in names if name.endswith(".json")}
        texts = self.stores[1].read(indexes)
        clean = {name.removesuffix(".json") for name, text in texts.items() if not _lists_any(text, pictures)}
        affected = [name for name in names if name.partition(".")[0] not in clean or name.endswith(".part")]
        return sorted(affected, key=lambda name: (not name.endswith(".json"), name))


def _lists_any(index: bytes, pictures: Collection[str]) -> bool:
    """Return whether a part's index has any of the pictures; true for a damaged index."""
    try:
        return not set(pictures).isdisjoint(json.loads(index)["pictures"])
    except (ValueError, KeyError, TypeError):
        return True


def look(settings: Settings) -> Contents:
    """List the files of cache and remote and read the listings of all folders among them.

    Raises:
        StorageError: a store can't be read.
        CleaningRefused: a listing is damaged.
    """
    cache, remote = ObjectStore(str(own_place(settings, "cache"))), ObjectStore(settings.remote_url)
    if settings.remote is None:
        own_place(settings, "remote")
    files = cache.files(), remote.files()
    objects = Objects((cache, remote))
    digests = {digest_of(name) for listed in files for name in listed}
    folders = {digest for digest in digests if digest and digest.endswith(".dir")}
    listings = {digest: _listing(data) for digest, data in objects.read(folders).items()}
    return Contents((cache, remote), files, listings, objects)


def _listing(data: bytes) -> dict[str, str]:
    """Return path -> MD5 of the files in a folder's listing."""
    return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}


@dataclass(frozen=True)
class Made:
    """The data versions from which results were made.

    Attributes:
        by_folder: MD5 of a result's folder -> MD5s of data versions.
        by_bundle: hash of a bundle -> MD5s of data versions.
    """

    by_folder: dict[str, set[str]]
    by_bundle: dict[str, set[str]]

    def of_bundle(self, folder: str, manifest: bytes | None) -> set[str] | None:
        """Return the data versions of a bundle in a folder; None where they aren't known.

        Args:
            folder: MD5 of the folder.
            manifest: the bundle's manifest, whose SHA-256 is the bundle's hash; None where it is missing.
        """
        bundle = hashlib.sha256(manifest).hexdigest() if manifest else ""
        return self.by_folder.get(folder) or self.by_bundle.get(bundle)


def made_of(contents: Contents, locks: Iterable[str], bundles: Mapping[str, set[str]]) -> Made:
    """Collect the data versions of results from the run caches and from locks.

    Args:
        contents: objects of cache and remote.
        locks: texts of dvc.lock.
        bundles: hash -> MD5s of data versions, of the bundles that MLflow knows.
    """
    entries: list[object] = []
    for store, files in zip(contents.stores, contents.files, strict=True):
        entries += [_yaml(data) for data in contents.results(store, files).values()]
    for lock in locks:
        tree = _yaml(lock.encode())
        entries += list((tree.get("stages") or {}).values()) if isinstance(tree, dict) else []
    by_folder: dict[str, set[str]] = {}
    for entry in entries:
        for out, data in _outs_and_data(entry):
            by_folder.setdefault(out, set()).add(data)
    return Made(by_folder, dict(bundles))


def _yaml(data: bytes) -> object:
    try:
        return yaml.load(data, yaml.CSafeLoader)  # in C: there are thousands of entries
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def _outs_and_data(entry: object) -> Iterator[tuple[str, str]]:
    """Yield each out of a stage with the data version that the stage read; nothing for other stages."""
    try:
        data = [str(dep["md5"]) for dep in entry["deps"] if dep["path"] == "data"]  # type: ignore[index]
        outs = [str(out["md5"]) for out in entry["outs"]]  # type: ignore[index]
    except (KeyError, TypeError):
        return
    yield from ((out, version) for out in outs for version in data)


def holding(
    contents: Contents,
    made: Made,
    pictures: Collection[str],
    ids: Mapping[str, Collection[str]],
) -> set[str]:
    """Return the MD5s of results (folders and files) with vectors or small copies of any of the pictures.

    Args:
        contents: objects of cache and remote.
        made: the data versions of results; a folder that it doesn't have may come from any data version.
        pictures: SHA-256 of the pictures.
        ids: MD5 of a data version -> ids of the pictures in it, for each version that has any.
    """
    held: set[str] = set()
    for folder, listing in contents.listings.items():
        if ITEMS in listing:
            held |= _embedded(contents, folder, listing, pictures)
        elif REPORT in listing and made.by_folder.get(folder, set(ids)) & ids.keys():
            held |= {folder, listing[REPORT]}
        else:
            held |= _bundled(contents, made, folder, listing, ids)
    return held


def _embedded(
    contents: Contents,
    folder: str,
    listing: Mapping[str, str],
    pictures: Collection[str],
) -> set[str]:
    """Return the MD5s of a folder of the stage `embed` and its files, if its table has any of the pictures.

    A folder whose table is missing may have any picture.
    """
    items = contents.object(listing[ITEMS])
    if items is not None:
        embedded = pq.read_table(io.BytesIO(items), columns=["sha256"])["sha256"].to_pylist()
        if set(pictures).isdisjoint(embedded):
            return set()
    vectors = (digest for name, digest in listing.items() if name.endswith(".safetensors"))
    return {folder, listing[ITEMS], *vectors}


def _bundled(
    contents: Contents,
    made: Made,
    folder: str,
    listing: Mapping[str, str],
    ids: Mapping[str, Collection[str]],
) -> set[str]:
    """Return the MD5s of a folder and of its galleries that have a vector of any of the pictures."""
    held: set[str] = set()
    for name, digest in listing.items():
        if name.rpartition("/")[2] != GALLERY:
            continue
        manifest = listing.get(f"{name.removesuffix(GALLERY)}{MANIFEST}")
        versions = made.of_bundle(folder, contents.small([manifest]).get(manifest) if manifest else None)
        known = ids.keys() if versions is None else versions & ids.keys()
        images = {image for version in known for image in ids[version]}
        data = contents.object(digest) if images else None
        if data and not images.isdisjoint(pq.read_table(io.BytesIO(data), columns=["id"])["id"].to_pylist()):
            held |= {folder, digest}
    return held


def stray_shards(contents: Contents, pictures: Collection[str]) -> set[str]:
    """Return the MD5s of shards that hold any of the pictures and that no listing names.

    A killed import leaves such shards.
    """
    listed = {digest for listing in contents.listings.values() for digest in listing.values()}
    held: set[str] = set()
    for store, files in zip(contents.stores, contents.files, strict=True):
        for name in files:
            digest = digest_of(name)
            unlisted = digest and not digest.endswith(".dir") and digest not in listed
            if digest and unlisted and _holds_any(store, name, pictures):
                held.add(digest)
    return held


def _holds_any(store: ObjectStore, name: str, pictures: Collection[str]) -> bool:
    """Return whether a file is a shard with any of the pictures.

    A damaged shard counts as one. A file that can't be read doesn't.
    """
    path = f"{store.root}/{name}"
    try:
        if not MEMBER.match(store.fs.cat_file(path, start=0, end=100)):
            return False
        with store.fs.open(path, "rb") as stream, tarfile.open(fileobj=stream) as tar:
            return any(member.name.partition(".")[0] in pictures for member in tar)
    except tarfile.TarError:
        return True
    except store_errors():
        return False
