"""One reader for the texts that people bring, and one rule for when two spellings are one name."""

from __future__ import annotations

import codecs
import os
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skumatch import texts
from skumatch.errors import DataError, ParameterError
from skumatch.texts import alike, decode, did_you_mean, read_names, read_text, visible

letters = st.characters(exclude_characters="\0\ufeff", exclude_categories=("Cs",))
ENCODERS = {
    "utf-8": b"",
    "utf-8-sig": b"",  # writes its own mark
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@given(st.text(letters), st.sampled_from(sorted(ENCODERS)))
def test_text_comes_back_from_each_unicode_encoding(text: str, encoding: str) -> None:
    assume(not text.startswith(("PK\x03\x04", "PAR1")))
    assert decode(ENCODERS[encoding] + text.encode(encoding), "list.txt") == text


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("Apfel\nMüsli\n".encode("latin-1"), "byte 0xFC in line 2"),
        ("Apfel\r\nCafé".encode("cp1252"), "byte 0xE9 in line 2"),
        ("Apfel\rPreis 5 €".encode("cp1252"), "byte 0x80 in line 2"),
        ("可口可乐".encode("gbk"), "byte 0xBF in line 1"),
        ("a\nb\n紅茶".encode("big5"), "in line 3"),
        ("Müsli".encode()[:2], "byte 0xC3 in line 1"),
        (codecs.BOM_UTF16_LE + b"a\0\n\0b", "is not UTF-16-LE (byte 0x62 in line 2)"),
        ("a\nb".encode("utf-16-le"), "NUL character in line 1"),
        (b"a\nb\0c", "NUL character in line 2"),
        (b"PK\x03\x04...", "is a spreadsheet (.xlsx)"),
        (b"\xd0\xcf\x11\xe0...", "is an old Office file"),
        (b"\x1f\x8b...", "is a gzip file"),
        (b"PAR1...", "is a Parquet table"),
    ],
)
def test_bytes_that_could_be_misread_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(data, "skus.txt")
    sentence = str(caught.value)
    assert sentence.startswith("skus.txt ") and words in sentence and "save it as UTF-8" in sentence


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_alike_is_the_same_for_every_spelling(name: str) -> None:
    spellings = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    spellings += [f"\ufeff {name}\u200b\u00a0", name.replace(" ", "\u3000"), alike(name)]
    assert {alike(spelling) for spelling in spellings} == {alike(name)}


@pytest.mark.parametrize(
    ("first", "second"), [("cola 1", "cola 2"), ("cola1", "cola 1"), ("（a）", "(a)"), ("é", "e")]
)
def test_other_names_are_not_alike(first: str, second: str) -> None:
    assert alike(first) != alike(second)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_is_read_whatever_program_wrote_it(tmp_path: Path, end: str, encoding: str) -> None:
    lines = ["Cafe\u0301 1", "", "  可口可乐\u00a0 ", "\u200b", "Café 1", "\u00a0", "last"]
    path = tmp_path / "skus.txt"
    path.write_bytes(end.join(lines).encode(encoding))
    names = read_names(path)
    assert list(names) == ["Café 1", "可口可乐", "last"]
    assert names["可口可乐"] == f"line 3 of {path}"


@pytest.mark.parametrize("data", [b"", b"\n \n", codecs.BOM_UTF8, b"\xff\xfe", "\u200b\n\u3000\n".encode()])
def test_a_list_without_names_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "skus.txt").write_bytes(data)
    with pytest.raises(DataError, match="has no names in it; give a text file with one SKU a line"):
        read_names(tmp_path / "skus.txt")


def test_what_is_no_file_is_refused_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "gone", "There is no"),
        (Path("/dev/zero"), "has over"),
    ):
        with pytest.raises(ParameterError, match=f"{words}.*; give a list"):
            read_text(path, "a list", ParameterError)
    monkeypatch.setattr(
        texts.os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(DataError, match=r"can't be read \(Permission denied\)"):
        read_text(tmp_path / "closed", "a list")


def test_a_pipe_is_read_to_its_end_and_never_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, b"a\nb\n"), os.close(writing)))
    writer.start()
    assert list(read_names(Path(f"/dev/fd/{reading}"))) == ["a", "b"]
    writer.join()
    os.close(reading)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="has no names"):
        read_names(tmp_path / "fifo")


def test_a_name_in_a_sentence_shows_what_cannot_be_seen() -> None:
    assert visible("可\u200b口\t") == "可\\u200b口\\t"
    assert visible("größe 牛乳.py") == "größe 牛乳.py"
    assert [visible(name) for name in ("a\nb", "\x1b[31m", "\udce9")] == ["a\\nb", "\\x1b[31m", "\\udce9"]
    assert visible("x" * 1000) == "x" * 80 + "..."


@pytest.mark.parametrize(
    ("name", "hint"),
    [("champoin", "Did you mean 'champion'? "), ("CHAMPION ", "Did you mean 'champion'? "), ("tea", "")],
)
def test_the_most_similar_name_is_suggested(name: str, hint: str) -> None:
    assert did_you_mean(name, ["challenger", "champion"]) == hint


@given(st.lists(st.text("ab", min_size=1), max_size=9), st.integers(1, 9))
def test_a_long_list_says_how_many_names_it_leaves_out(names: list[str], shown: int) -> None:
    first, _, rest = texts.first_of(names, shown).partition(" and ")
    assert first == ", ".join(names[:shown])
    assert rest == (f"{len(names) - shown} more" if len(names) > shown else "")
