"""Where this machine's cache and the remote hold pictures: data versions, stages' results, bundles, vectors.

Data versions and results are known by their listings (DVC's .dir objects), so those that nobody refers to any
more are seen, too. Nothing here writes.
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

from skumatch.config import Settings
from skumatch.data.version import SUMMARY
from skumatch.errors import CleaningRefused
from skumatch.files import store_errors
from skumatch.pipeline.cleanup import own_place
from skumatch.pipeline.references import Objects, path_of
from skumatch.pipeline.retention import RESULT, VECTORS, digest_of
from skumatch.pipeline.stores import File, Store
from skumatch.release.bundle.manifest import GALLERY, MANIFEST

TABLE, SHARDS = "manifest.parquet", "shards/"
KNOWN = ["id", "sku", "sha256", "pixels", "shard"]
ITEMS, REPORT = "items.parquet", "report.html"  # of the stages embed and report
MEMBER = re.compile(rb"[0-9a-f]{64}\.[a-z]{1,8}\0")  # how a shard begins: the name of its first picture


@dataclass(frozen=True, eq=False)
class DataVersion:
    """A data version: its MD5, the manifest's rows (columns of KNOWN), and shard -> MD5."""

    md5: str
    rows: pd.DataFrame
    shards: dict[str, str]

    def having(self, pictures: Collection[str]) -> pd.DataFrame:
        """The rows of pictures that are named by their SHA-256."""
        return self.rows[self.rows["sha256"].isin(pictures)]

    def shards_of(self, pictures: Collection[str]) -> list[str]:
        """MD5s of the shards that hold any of the pictures."""
        return sorted({self.shards[name] for name in self.having(pictures)["shard"] if name in self.shards})


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a cache and a remote hold, looked at once.

    stores: the cache, then the remote. files: of each, as Store.files. listings: MD5 of a folder -> path ->
    MD5.
    """

    stores: tuple[Store, Store]
    files: tuple[dict[str, File], dict[str, File]]
    listings: dict[str, dict[str, str]]
    _objects: Objects = field(repr=False)

    @property
    def digests(self) -> set[str]:
        """Every object that either of the stores has."""
        return {digest for files in self.files for name in files if (digest := digest_of(name))}

    def object(self, digest: str) -> bytes | None:
        """An object's bytes; None where neither of the stores has it. It may be large and is not kept."""
        for store in self.stores:
            for data in store.read([path_of(digest)]).values():
                return data
        return None

    def small(self, digests: Iterable[str]) -> Mapping[str, bytes]:
        """Objects that are there, verified and kept for the next question."""
        return self._objects.read(digests)

    def results(self, store: Store, files: Mapping[str, File]) -> dict[str, bytes]:
        """The entries of a store's run cache."""
        return store.read(name for name in files if RESULT.fullmatch(name))

    def data_versions(self) -> list[DataVersion]:
        """Every data version of which anything is here.

        Raises:
            CleaningRefused: for one whose shards are here and whose manifest isn't.
        """
        folders = [md5 for md5, names in self.listings.items() if {TABLE, SUMMARY} <= names.keys()]
        versions = [self._data_version(md5, self.listings[md5]) for md5 in sorted(folders)]
        return [version for version in versions if version]

    def _data_version(self, md5: str, listing: dict[str, str]) -> DataVersion | None:
        shards = {name[len(SHARDS) :]: digest for name, digest in listing.items() if name.startswith(SHARDS)}
        data = self.object(listing[TABLE])
        if data is None:
            if not self.digests & set(shards.values()):
                return None
            refusal = f"Data version {md5[:12]} is here without its manifest, so its pictures aren't known"
            cure = "restore it, or let `skumatch gc --delete` remove it if nobody needs it"
            raise CleaningRefused(f"{refusal}; {cure}. Nothing was deleted.")
        return DataVersion(md5, pq.read_table(io.BytesIO(data), columns=KNOWN).to_pandas(), shards)

    def vectors(self, pictures: Collection[str]) -> list[str]:
        """Files of the vector store's parts that hold a picture, and of parts without a sound index.

        Of a part its index comes first.
        """
        names = [name for name in self.files[1] if VECTORS.fullmatch(name) and "/used-" not in name]
        indexes = {name for name in names if name.endswith(".json")}
        texts = self.stores[1].read(indexes)
        clean = {name.removesuffix(".json") for name, text in texts.items() if not _lists_any(text, pictures)}
        left = [name for name in names if name.partition(".")[0] not in clean or name.endswith(".part")]
        return sorted(left, key=lambda name: (not name.endswith(".json"), name))


def _lists_any(index: bytes, pictures: Collection[str]) -> bool:
    try:
        return not set(pictures).isdisjoint(json.loads(index)["pictures"])
    except (ValueError, KeyError, TypeError):
        return True


def look(settings: Settings) -> Contents:
    """Look through cache and remote. Raises StorageError, and CleaningRefused for a damaged listing."""
    cache, remote = Store(str(own_place(settings, "cache"))), Store(settings.remote_url)
    if settings.remote is None:
        own_place(settings, "remote")
    files = cache.files(), remote.files()
    objects = Objects((cache, remote))
    digests = {digest_of(name) for listed in files for name in listed}
    folders = {digest for digest in digests if digest and digest.endswith(".dir")}
    listings = {digest: _listing(data) for digest, data in objects.read(folders).items()}
    return Contents((cache, remote), files, listings, objects)


def _listing(data: bytes) -> dict[str, str]:
    """Path -> MD5 of a folder's files."""
    return {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(data)}


@dataclass(frozen=True)
class Made:
    """Which data versions results are made of, by a folder's MD5 and by a bundle's hash."""

    by_folder: dict[str, set[str]]
    by_bundle: dict[str, set[str]]

    def of_bundle(self, folder: str, manifest: bytes | None) -> set[str] | None:
        """The data versions of a bundle in a folder; None where nobody knows."""
        named = hashlib.sha256(manifest).hexdigest() if manifest else ""
        return self.by_folder.get(folder) or self.by_bundle.get(named)


def made_of(contents: Contents, locks: Iterable[str], bundles: Mapping[str, set[str]]) -> Made:
    """Where results come from, by the run caches and by locks.

    Args:
        contents: of cache and remote.
        locks: texts of dvc.lock.
        bundles: hash -> data versions, of the bundles that MLflow knows.
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
    """Of a stage that read the data itself: each out with the data version."""
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
    """MD5s of stages' results, folders and their files, with vectors or small copies of any of the pictures.

    Args:
        contents: of cache and remote.
        made: where results come from; a folder of which that isn't known may come from any data version.
        pictures: SHA-256.
        ids: data version -> ids of the pictures in it, for each that has any.
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
    """The vectors of the stage `embed`, if its table has one of the pictures."""
    items = contents.object(listing[ITEMS])
    if items is not None:
        embedded = pq.read_table(io.BytesIO(items), columns=["sha256"])["sha256"].to_pylist()
        if set(pictures).isdisjoint(embedded):
            return set()
    return {
        folder,
        listing[ITEMS],
        *(digest for name, digest in listing.items() if name.endswith(".safetensors")),
    }


def _bundled(
    contents: Contents,
    made: Made,
    folder: str,
    listing: Mapping[str, str],
    ids: Mapping[str, Collection[str]],
) -> set[str]:
    """The folder and its galleries that have a vector of one of the pictures."""
    held: set[str] = set()
    for name, digest in listing.items():
        if name.rpartition("/")[2] != GALLERY:
            continue
        manifest = listing.get(f"{name.removesuffix(GALLERY)}{MANIFEST}")
        versions = made.of_bundle(folder, contents.small([manifest]).get(manifest) if manifest else None)
        known = ids.keys() if versions is None else versions & ids.keys()
        wanted = {image for version in known for image in ids[version]}
        data = contents.object(digest) if wanted else None
        if data and not wanted.isdisjoint(pq.read_table(io.BytesIO(data), columns=["id"])["id"].to_pylist()):
            held |= {folder, digest}
    return held


def stray_shards(contents: Contents, pictures: Collection[str]) -> set[str]:
    """MD5s of shards with any of the pictures that no data version lists, as a killed import leaves them."""
    listed = {digest for listing in contents.listings.values() for digest in listing.values()}
    held: set[str] = set()
    for store, files in zip(contents.stores, contents.files, strict=True):
        for name in files:
            digest = digest_of(name)
            alone = digest and not digest.endswith(".dir") and digest not in listed
            if digest and alone and _holds_any(store, name, pictures):
                held.add(digest)
    return held


def _holds_any(store: Store, name: str, pictures: Collection[str]) -> bool:
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
