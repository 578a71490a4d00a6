"""`.dvc/config.local`: DVC reads the intended values, and the user's own settings stay."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from dvc.config import Config
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from skumatch import files
from skumatch.config import Settings
from skumatch.errors import ParameterError, StorageError
from skumatch.pipeline.dvc_config import configure
from tests.proving import count

# Latin composed and decomposed, Cyrillic, CJK, Arabic, an emoji of two code points, and what programs quote.
LETTERS = "aøéu\N{COMBINING DIAERESIS}Жд店رف👍🏽" + " \t~#,;=&+:%$@!?*()[]{}'\"\\\n\u2028s"
NAMES = st.text(st.sampled_from(LETTERS), min_size=1, max_size=30)
THEIRS = """# of this machine
[Core]
    Remote = theirs
    autostage = true  # as in the handbook
['remote "søren"']
    url = s3://bucket/søren
    region = "nørd, # west"
[ remote "shared" ]
    url = /old
    jobs = 3
"""


def read(folder: Path) -> dict[str, Any]:
    return dict(Config(str(folder / ".dvc"), validate=True))


def place(root: Path, home: str = "home", remote: str = "remote") -> Settings:
    return Settings(project=root, home=root / home, remote=str(root / remote))


def given_text(folder: Path, text: str | bytes, name: str = "config.local") -> Path:
    path = folder / ".dvc" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@given(home=NAMES, remote=NAMES)
@example('it\'s "one" #1, two', "'''")
@example("%(x)s", "b")
@example("%(x) 100% %20", " ~ ")
@hypothesis(max_examples=count(40, 3000))
def test_dvc_reads_every_path_as_it_is_or_it_is_refused(home: str, remote: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        try:
            configure(root, place(root, home, remote))
        except ParameterError:
            assert not list(root.iterdir())
            return
        config = read(root)
        assert config["cache"]["dir"] == f"{root}/{home}/cache"
        assert config["core"]["site_cache_dir"] == f"{root}/{home}/dvc"
        assert config["remote"]["shared"]["url"] == f"{root}/{remote}"


PLAIN = [
    "søren",
    "donne\u0301es",
    "données",
    "Ижевск",
    "商品データ",
    "صور",
    "👍🏽",
    "a\u00a0b",
    " a  b ",
    "~",
]
QUOTED = ["#1", "a,b", "a;b=c&d+e", "a:b", "a::b", "[x]", "it's", 'say "x"', 'it\'s "x"', "@!", "a\\b", "a?*"]
FILLED = ["100%", "%20", "%s", "%(x)d", "%(x", "US$ 5", "$"]


@pytest.mark.parametrize("name", [*PLAIN, *QUOTED, *FILLED])
def test_names_of_every_script_are_taken(tmp_path: Path, name: str) -> None:
    configure(tmp_path, place(tmp_path, home=name, remote=name))
    assert read(tmp_path)["remote"]["shared"]["url"] == f"{tmp_path}/{name}"
    assert read(tmp_path)["cache"]["dir"] == f"{tmp_path}/{name}/cache"


def test_what_is_the_users_is_kept(tmp_path: Path) -> None:
    local = given_text(tmp_path, THEIRS)
    configure(tmp_path, place(tmp_path, home="hø me"))
    config, text = read(tmp_path), local.read_text("utf-8")
    assert config["core"]["remote"] == "shared" and config["core"]["autostage"] is True
    assert config["remote"]["søren"]["url"] == "s3://bucket/søren"
    assert config["remote"]["søren"]["region"] == "nørd, # west"
    shared = config["remote"]["shared"]
    assert shared["url"] == f"{tmp_path}/remote" and shared["jobs"] == 3
    assert "# of this machine" in text and "# as in the handbook" in text
    assert local.stat().st_mode & 0o777 == 0o600


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    local = given_text(tmp_path, THEIRS)
    configure(tmp_path, place(tmp_path))
    before = local.stat().st_ino
    local.chmod(0o644)
    configure(tmp_path, place(tmp_path))
    assert local.stat().st_ino == before and local.stat().st_mode & 0o777 == 0o600


def test_a_fault_in_the_middle_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = given_text(tmp_path, THEIRS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="config.local"):
        configure(tmp_path, place(tmp_path))
    assert local.read_text("utf-8") == THEIRS
    assert sorted(path.name for path in local.parent.iterdir()) == ["config", "config.local"]


@pytest.mark.parametrize("name", ["config", "config.local"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[core]\n    remote = søren\n".encode("latin-1"), "byte 21 isn't UTF-8"),
        ("[core]\n".encode("utf-16"), "byte 0 isn't UTF-8"),
        (b"[core]\nremote\n", "at line 2"),
        (b"[core]\n[core]\n", "Duplicate section name at line 2"),
    ],
)
def test_unreadable_settings_are_named_and_left(tmp_path: Path, name: str, text: bytes, reason: str) -> None:
    path = given_text(tmp_path, text, name)
    with pytest.raises(ParameterError, match=reason) as refused:
        configure(tmp_path, place(tmp_path))
    assert str(path) in str(refused.value) and path.read_bytes() == text


def test_a_key_where_a_section_belongs_is_refused(tmp_path: Path) -> None:
    path = given_text(tmp_path, "core = shared\n")
    with pytest.raises(ParameterError, match="'core' is no section"):
        configure(tmp_path, place(tmp_path))
    assert path.read_text() == "core = shared\n"


def test_a_byte_order_mark_is_no_letter_of_the_first_line(tmp_path: Path) -> None:
    given_text(tmp_path, THEIRS.encode("utf-8-sig"))
    configure(tmp_path, place(tmp_path))
    assert read(tmp_path)["core"]["autostage"] is True


def test_a_link_to_the_settings_stays_a_link(tmp_path: Path) -> None:
    target = given_text(tmp_path, THEIRS, "mine")
    (local := target.with_name("config.local")).symlink_to(target)
    configure(tmp_path, place(tmp_path))
    assert local.is_symlink() and f"{tmp_path}/remote" in target.read_text("utf-8")


def test_dvc_makes_no_folder_that_everybody_may_write_into(tmp_path: Path) -> None:
    configure(tmp_path, place(tmp_path))
    assert (tmp_path / "home").stat().st_mode & 0o022 == 0
