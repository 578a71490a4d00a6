"""Names come back as they were meant, and a sound name is never taken for a garbled one."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skumatch.data.delivery.archives import open_source
from skumatch.data.delivery.names import ESCAPES, MOJIBAKE, repair, unescape, unsafe
from tests.conftest import ROOT
from tests.data.zips import mojibake, picture, write_zip

RP2K = ROOT.parent / "shared/data/rp2k_class_names.txt"
SAMPLE = [
    "555（冰炫）",
    "万宝路（硬红2.0）",
    "100% 果汁",
    "可口可乐 & 雪碧",
    "A+B 牛奶.",
    "三得利啤酒9度纯生500_6罐",
    "ガリガリ君",
    "café",
    "Ω水",
    "others",
]
chinese = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1)


def names() -> list[str]:
    return RP2K.read_text("utf-8").splitlines()


def garbled(name: str) -> str:
    return name.encode("utf-8").decode("cp437")


def escaped(name: str) -> str:
    """As Info-ZIP's unzip writes a name in a locale without its characters."""
    return "".join(
        c if c.isascii() else f"#U{ord(c):04x}" if ord(c) < 0x10000 else f"#L{ord(c):06x}" for c in name
    )


@pytest.fixture(params=["sample", "rp2k"])
def given_names(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "rp2k" and not RP2K.is_file():
        pytest.skip(f"there is no {RP2K}")
    return names() if request.param == "rp2k" else SAMPLE


def entries(skus: list[str]) -> list[tuple[str, bytes]]:
    data = picture()
    return [
        (f"rp2k/all/{side}/{sku}/{sku[:10]} - 副本 (2).png", data)
        for sku in skus
        for side in ("train", "test")
    ]


def imported(path: Path) -> tuple[set[str], set[str], set[str]]:
    with open_source(path) as source:
        return {item.sku for item in source.items}, {item.name for item in source.items}, source.repaired


def test_a_zip_without_the_utf8_flag(given_names: list[str], tmp_path: Path) -> None:
    skus, files, repaired = imported(mojibake(tmp_path / "d.zip", entries(given_names)))
    assert skus == set(given_names) and repaired == {MOJIBAKE}
    assert files == {f"{sku[:10]} - 副本 (2).png" for sku in given_names}


def test_a_zip_of_escapes(given_names: list[str], tmp_path: Path) -> None:
    skus, _, repaired = imported(
        write_zip(tmp_path / "d.zip", ((escaped(name), data) for name, data in entries(given_names)))
    )
    assert skus == set(given_names) and repaired == {ESCAPES}


def test_a_folder_with_decomposed_names(given_names: list[str], tmp_path: Path) -> None:
    for name, data in entries(given_names):
        path = tmp_path / "d" / unicodedata.normalize("NFD", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert imported(tmp_path / "d")[0] == set(given_names)


def test_a_folder_that_was_unpacked_as_mojibake(given_names: list[str], tmp_path: Path) -> None:
    for name, data in entries(given_names):
        path = tmp_path / "d" / garbled(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert imported(tmp_path / "d")[::2] == (set(given_names), {MOJIBAKE})


@given(st.lists(chinese, min_size=1))
def test_any_chinese_names_come_back(wanted: list[str]) -> None:
    assert repair([garbled(name) for name in wanted], [False] * len(wanted))[0] == wanted
    assert repair([escaped(name) for name in wanted], [True] * len(wanted))[0] == wanted


@given(st.lists(st.text(min_size=1)))
def test_names_of_known_encoding_stay_but_for_nfc(wanted: list[str]) -> None:
    sound = ["可口可乐", *wanted]  # one name that is no mojibake: then the others are none either
    assert repair(sound, [True] * len(sound)) == (
        [unicodedata.normalize("NFC", name) for name in sound],
        set(),
    )


@pytest.mark.parametrize("name", ["├⌐", "café", "Süßöl", "naïve Ω", "100 % µ"])
def test_a_lone_sound_name_of_cp437_letters_stays(name: str) -> None:
    assert repair([name, "plain"], [True, True]) == ([name, "plain"], set())


def test_names_in_cp437_stay_even_if_one_looks_garbled() -> None:
    wanted = ["é.png", "ü.png", "├⌐.png"]
    assert repair(wanted, [False] * 3) == (wanted, set())


def test_a_name_that_the_zip_declares_is_not_touched_by_what_is_undeclared() -> None:
    assert repair([garbled("可乐"), "├⌐", "茶"], [False, True, True])[0] == ["可乐", "├⌐", "茶"]


def test_escapes_stay_where_names_can_be_written_without() -> None:
    assert repair(["可乐", "No #U2019"], [True, True]) == (["可乐", "No #U2019"], set())


@pytest.mark.parametrize("name", ["#U002e#U002e", "#U002f", "#Ud800", "#Uzzzz", "#U53EF", "#L110000"])
def test_an_escape_that_is_no_character_beyond_ascii_stays(name: str) -> None:
    assert unescape(name) == name


@pytest.mark.parametrize(
    "name", ["../a", "a/../b", "/a", "C:/a", "c:a", "a\\b", "a\x00b", "a\nb", "a\udcff", "//a"]
)
def test_unsafe(name: str) -> None:
    assert unsafe(name)


@pytest.mark.parametrize("name", ["a/b", "a..b/c", "…", "100%: gut/x", "a b/ c", "（a）"])
def test_safe(name: str) -> None:
    assert not unsafe(name)
