"""No zip writes outside its folder; each entry becomes an image, counted junk, or a reason.

An unusable zip gives one sentence that names the fault.
"""

from __future__ import annotations

import io
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skumatch.data.delivery.archives import open_source
from skumatch.data.delivery.importer import import_data
from skumatch.data.manifest import read_manifest
from skumatch.errors import DataError
from tests.conftest import ROOT
from tests.data.zips import Raw, both_sides, entry, mojibake, picture, write_zip
from tests.proving import IN_PROOF

GOOD = both_sides()


def junk(path: Path) -> dict[str, int]:
    with open_source(path) as source:
        assert [item.id for item in source.items] == ["test/sku/2.png", "train/sku/1.png"]
        return dict(source.junk)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../all/train/sku/x.png", "unsafe-name"),
        ("all/train/../../x/all/train/sku/x.png", "unsafe-name"),
        ("all/train/../x.png", "unsafe-name"),
        ("/etc/all/train/sku/x.png", "unsafe-name"),
        ("//host/all/train/sku/x.png", "unsafe-name"),
        ("C:/all/train/sku/x.png", "unsafe-name"),
        ("C:\\all\\train\\sku\\x.png", "unsafe-name"),
        ("all/train/sku\\..\\..\\x.png", "unsafe-name"),
        ("all/train/sku/x\n.png", "unsafe-name"),
        ("all/train/sku/\x1b[31mx.png", "unsafe-name"),
        ("all/train/ /x.png", "outside-the-layout"),
        ("all/train/sku/deeper/x.png", "outside-the-layout"),
        ("all/train/x.png", "outside-the-layout"),
        ("all/train/sku/x.nef", "camera-raw"),
        ("all/train/sku/.x.png", "hidden"),
        ("all/train/sku/.x", "hidden"),
        ("__MACOSX/all/train/sku/._x.png", "__MACOSX"),
        ("__MACOSX/all/train/sku/x", "__MACOSX"),
        ("all/train/sku/Thumbs.db", "thumbs"),
    ],
)
def test_a_name_that_has_no_place_is_counted(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = write_zip(tmp_path / "in" / "d.zip", [*GOOD, (name, picture(3))])
    assert junk(path) == {kind: 1}
    import_data(path, tmp_path / "in" / "data")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in"]
    assert sorted(file.name for file in (tmp_path / "in").iterdir()) == ["d.zip", "data"]


@pytest.mark.parametrize(
    ("kind", "counted"),
    [
        (stat.S_IFLNK, "link"),
        (stat.S_IFCHR, "special"),
        (stat.S_IFBLK, "special"),
        (stat.S_IFIFO, "special"),
        (stat.S_IFSOCK, "special"),
    ],
)
def test_links_and_devices_are_counted(kind: int, counted: str, tmp_path: Path) -> None:
    assert junk(
        write_zip(tmp_path / "d.zip", [*GOOD, (entry("all/train/sku/x.png", kind), b"/etc/passwd")])
    ) == {counted: 1}


def test_a_nul_in_a_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/sku/x.png@.exe", picture(3))])
    path.write_bytes(path.read_bytes().replace(b"x.png@.exe", b"x.png\0.exe"))
    assert junk(path) == {"unsafe-name": 1}


def test_backslashes_throughout_are_separators(tmp_path: Path) -> None:
    assert junk(write_zip(tmp_path / "d.zip", [(name.replace("/", "\\"), data) for name, data in GOOD])) == {}


def test_two_names_for_one_place(tmp_path: Path) -> None:
    composed, decomposed = "all/train/café/1.png", "all/train/cafe\u0301/1.png"
    clash = [(composed, picture(3)), (decomposed, picture(4))]
    with pytest.raises(DataError, match="Two files of .* are both named train/café/1.png; rename one"):
        import_data(write_zip(tmp_path / "d.zip", [*GOOD, *clash]), tmp_path / "data")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = write_zip(tmp_path / "t.zip", [*GOOD, ("all/train/sku/1.png", picture(9))])
    with pytest.raises(DataError, match=r"both named train/sku/1\.png"):
        import_data(twice, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_two_names_for_one_place_with_the_same_bytes_are_one_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", [*GOOD, ("again/all/train/sku/1.png", picture(1))])
    assert junk(path) == {"copy": 1}


def test_skus_that_differ_only_in_case(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="differ only in case.*: 'SKU' and 'sku'; rename one"):
        import_data(
            write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/SKU/3.png", picture(3))]), tmp_path / "data"
        )


def test_file_names_that_differ_only_in_case_are_two_images(tmp_path: Path) -> None:
    imported = import_data(
        write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/sku/1.PNG", picture(3))]), tmp_path / "data"
    )
    assert imported.images == 3


def reasons(path: Path, root: Path) -> dict[str, str]:
    return {entry["id"]: entry["reason"] for entry in import_data(path, root).quarantined}


def test_an_entry_of_a_thousand_times_its_packed_size(tmp_path: Path) -> None:
    bomb = [
        ("all/train/sku/bomb.png", b"\0" * 60_000_000),
        ("all/train/sku/tail.png", picture() + b"\0" * 40_000_000),
    ]
    path = write_zip(tmp_path / "d.zip", [*GOOD, *bomb], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert reasons(path, tmp_path / "data") == {"train/sku/bomb.png": "too-large"}


def test_an_entry_that_lies_about_its_size(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "d.zip", [*GOOD, ("all/train/sku/z.png", b"\0" * 60_000_000)], zipfile.ZIP_DEFLATED
    )
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 60_000_000), struct.pack("<I", 1000)))
    assert reasons(path, tmp_path / "data") == {"train/sku/z.png": "damaged-entry"}


def spoilt(path: Path, field: int, value: bytes) -> Path:
    """Change a field of the last entry, in the list of files."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + field
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (8, b"\x01", "locked"),
        (10, b"\x63", "damaged-entry"),  # packed in a way that nobody knows
        (10, b"\x0c", "damaged-entry"),  # bzip2, which it is not
        (10, b"\x0e", "damaged-entry"),  # LZMA
        (16, b"\0\0\0\0", "damaged-entry"),  # checksum
        (24, b"\x20\0\0\0", "damaged-entry"),  # size
        (42, b"\xff\xff\xff\x7f", "damaged-entry"),  # place beyond the end
        (42, b"\x01\0\0\0", "damaged-entry"),  # place in the middle of another
        (46, b"X", "outside"),  # another name than at its place
    ],
)
def test_a_damaged_entry_loses_that_image_only(field: int, value: bytes, reason: str, tmp_path: Path) -> None:
    path = spoilt(write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/sku/9.png", picture(9))]), field, value)
    imported = import_data(path, tmp_path / "data")
    assert imported.images == 2
    assert (
        imported.junk == {"outside-the-layout": 1}
        if reason == "outside"
        else [e["reason"] for e in imported.quarantined] == [reason]
    )


@pytest.mark.parametrize(("field", "value"), [(8, b"\x01"), (10, b"\x63"), (42, b"\xff\xff\xff\x7f")])
def test_an_entry_that_cannot_be_looked_at_is_no_image(field: int, value: bytes, tmp_path: Path) -> None:
    path = spoilt(write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/sku/9", picture(9))]), field, value)
    assert junk(path) == {"not-an-image": 1}


def test_a_delivery_that_is_locked_as_a_whole_says_so(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", GOOD)
    data = bytearray(path.read_bytes())
    start = 0
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        data[start + 8] |= 1
        start += 4
    path.write_bytes(data)
    with pytest.raises(DataError, match="no usable train image .*locked 2"):
        import_data(path, tmp_path / "data")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2], "without its end"),
        (lambda data: data[:-1], "without its end|damaged zip"),
        (lambda data: data.replace(b"PK\x01\x02", b"PK\x09\x09", 1), "damaged zip"),
        (lambda data: data[: data.index(b"PK\x01\x02")] + data[data.index(b"PK\x05\x06") :], "damaged zip"),
        (
            lambda data: data.replace(b"PK\x01\x02\x14\x03\x14\x00", b"PK\x01\x02\x14\x03\xff\x00", 1),
            "damaged zip",
        ),
        (lambda data: b"Rar!" + data[:100], "neither a folder nor a zip"),
    ],
    ids=["half", "last byte", "signature", "no list", "version", "rar"],
)
def test_a_damaged_list_of_files_is_one_sentence(spoil, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write_zip(tmp_path / "d.zip", GOOD)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=words):
        import_data(path, tmp_path / "data")
    assert [file.name for file in tmp_path.iterdir()] == ["d.zip"]


def test_a_flagged_name_that_is_no_utf8_is_one_sentence(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", [*GOOD, ("all/train/sku/é.png", picture(3))])
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match="damaged zip"):
        import_data(path, tmp_path / "data")


def test_bytes_before_the_zip_do_not_matter(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "d.zip", GOOD)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    assert import_data(path, tmp_path / "data").images == 2


@pytest.mark.parametrize(
    "packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_every_way_of_packing(packed: int, tmp_path: Path) -> None:
    assert import_data(write_zip(tmp_path / "d.zip", GOOD, packed), tmp_path / "data").images == 2


def test_mojibake_clashes_with_the_sound_name(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "d.zip",
        [*GOOD, ("all/train/可乐/1.png", picture(3)), (Raw("all/train/可乐/1.png".encode()), picture(4))],
    )
    with pytest.raises(DataError, match="both named train/可乐/1.png"):
        import_data(path, tmp_path / "data")


def test_names_of_a_mojibake_zip_reach_the_manifest(tmp_path: Path) -> None:
    imported = import_data(
        mojibake(tmp_path / "d.zip", both_sides("可口可乐（罐装 100%）")), tmp_path / "data"
    )
    assert set(read_manifest(tmp_path / "data")["sku"]) == {
        "可口可乐（罐装 100%）"
    } and imported.repaired == ["CP437 mojibake"]


def test_a_folder_with_names_that_no_one_can_read(tmp_path: Path) -> None:
    for name, data in GOOD:
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(data)
    (tmp_path / "d/all/train/sku" / b"\xff.png".decode("utf-8", "surrogateescape")).write_bytes(picture(3))
    assert junk(tmp_path / "d") == {"unsafe-name": 1}


MANY = """
import re, sys
from pathlib import Path
from skumatch.data.delivery.archives import open_source
with open_source(Path(sys.argv[1])) as source:
    print(len(source.items), source.junk.total())
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@IN_PROOF
def test_a_million_entries_fit_into_memory(tmp_path: Path) -> None:
    names = [
        f"all/{side}/sku {n % 2000}/0514_{n}_0.99999917.jpg"
        for n in range(250_000)
        for side in ("train", "test")
    ]
    path = empty_entries(tmp_path / "d.zip", [*names, *(f"other/{n}.txt" for n in range(500_000))])
    words = [sys.executable, "-c", MANY, str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    count, left, kib = map(int, ended.stdout.split())
    assert (count, left) == (500_000, 500_000) and kib < 1024 * 1024, f"{kib / 1024:.0f} MiB"


def empty_entries(path: Path, names: list[str]) -> Path:
    """A zip of empty files, written quicker than zipfile does.

    More than 65,535 need the list's end of ZIP64.
    """
    body, listing = io.BytesIO(), io.BytesIO()
    for name in names:
        raw = name.encode()
        listing.write(
            struct.pack(
                "<IHHHHHHIIIHHHHHII",
                0x02014B50,
                45,
                45,
                0,
                0,
                0,
                33,
                0,
                0,
                0,
                len(raw),
                0,
                0,
                0,
                0,
                0,
                body.tell(),
            )
            + raw
        )
        body.write(struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 33, 0, 0, 0, len(raw), 0) + raw)
    start, size = body.tell(), listing.tell()
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(names), len(names), size, start)
    end += struct.pack("<IIQI", 0x07064B50, 0, start + size, 1)
    end += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(body.getvalue() + listing.getvalue() + end)
    return path
