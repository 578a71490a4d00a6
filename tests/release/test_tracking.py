from __future__ import annotations

import time
from pathlib import Path

import pytest

from skumatch.errors import RegistryUnavailable
from skumatch.registry.tracking import upload_files


def test_files_are_sent_each_once_with_their_folder(tmp_path: Path) -> None:
    for name in ("a.json", "deep/er/b.json", "deep/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    sent: list[tuple[str, str | None]] = []
    upload_files(lambda path, place: sent.append((Path(path).name, place)), tmp_path)
    assert sorted(sent) == [("a.json", None), ("b.json", "deep/er"), ("c.json", "deep")]


def test_no_more_files_are_sent_to_a_server_that_is_away(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.json").write_text("{}")
    tried: list[str] = []

    def refuse(path: str, _place: str | None) -> None:
        tried.append(path)
        time.sleep(0.02)  # as a server takes to answer
        raise RegistryUnavailable("MLflow is away.")

    with pytest.raises(RegistryUnavailable, match="away"):
        upload_files(refuse, tmp_path)
    assert len(tried) < 50
