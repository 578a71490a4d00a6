"""`skumatch data`, as it reads in a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import Cli
from tests.data.zips import both_sides, mojibake, picture

COLA, TEA, NEW = "可口可乐（罐装330ml）", "冰红茶 500ml", "绿茶 100%"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli.make(tmp_path)


def test_a_mojibake_zip_then_the_next_delivery(cli: Cli, tmp_path: Path) -> None:
    junk = [("rp2k/.DS_Store", b"x"), (f"all/train/{COLA}/坏.jpg", b"<html>")]
    tea = [(f"all/train/{TEA}/3.png", picture(3)), (f"all/test/{TEA}/4.png", picture(4))]
    first = cli("data", "import", mojibake(tmp_path / "first.zip", [*both_sides(COLA), *tea, *junk]))
    assert first.code == 0, first.err
    assert "Edition: plain RP2K layout; names repaired: CP437 mojibake." in first.out
    assert "4 images of 2 SKUs" in first.out and "1 set aside, 1 other file left out" in first.out
    assert "Set aside: no-image 1" in first.out and "Left out: hidden 1." in first.out
    assert "Against" not in first.out

    (tmp_path / "iconic").mkdir()
    (tmp_path / "iconic" / f"{COLA}.png").write_bytes(picture(9))
    renamed = [(name.replace(TEA, NEW), data) for name, data in tea]
    second = mojibake(
        tmp_path / "second.zip", [*both_sides(COLA), *renamed, (f"all/train/{COLA}/new.png", picture(77))]
    )
    ended = cli("data", "import", second, "--catalogue", tmp_path / "iconic")
    assert f"images added: 2 (catalogue/{COLA}/{COLA}.png, train/{COLA}/new.png)" in ended.out
    assert f"images relabelled: 2 (test/{NEW}/4.png (was {TEA})" in ended.out
    assert f"SKUs added: 1 ({NEW})" in ended.out and f"SKUs removed: 1 ({TEA})" in ended.out
    assert "Catalogue pictures: 1." in ended.out
    again = cli("data", "import", second, "--catalogue", tmp_path / "iconic")
    assert ", unchanged: " in again.out and "no image changed" in again.out


def test_inspect_shows_every_side_and_every_image_set_aside(cli: Cli, tmp_path: Path) -> None:
    odd = [(f"all/train/{COLA}/坏 [bold].jpg", b"<html>"), (f"all/catalogue/{COLA}/1.png", picture(8))]
    assert cli("data", "import", mojibake(tmp_path / "d.zip", [*both_sides(COLA), *odd])).code == 0
    shown = cli("data", "inspect").out
    assert all(side in shown for side in ("train", "test", "catalogue")) and COLA in shown
    assert f"train/{COLA}/坏 [bold].jpg" in shown and "no-image" in shown


def test_a_catch_all_class_is_no_largest_sku(cli: Cli, tmp_path: Path) -> None:
    many = [(f"all/train/others/{number}.png", picture(50 + number)) for number in range(3)]
    alone = [("all/test/others/9.png", picture(90))]
    files = [*many, *alone, *both_sides(TEA)[:1]]
    assert cli("data", "import", mojibake(tmp_path / "d.zip", files)).code == 0
    shown = cli("data", "inspect").out
    assert TEA in shown and "others" not in shown and "1 / 1 / 1" in shown


def test_a_clone_without_its_data_is_told(cli: Cli, tmp_path: Path) -> None:
    path = mojibake(tmp_path / "d.zip", both_sides(COLA))
    cli("data", "import", path)
    (cli.project / "data").rename(tmp_path / "away")
    assert "`dvc pull data.dvc` first would add to it" in cli("data", "import", path).out


@pytest.mark.parametrize("option", ["--products", "--train", "--test"])
def test_every_option_of_the_sample_says_what_it_is(cli: Cli, option: str) -> None:
    line = next(line for line in cli("data", "sample", "--help").out.splitlines() if option in line)
    assert "photos of each product" in line or "Products to render" in line
