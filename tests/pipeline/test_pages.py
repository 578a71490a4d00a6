"""A failed stage's pages outlive its workspace; a finished run's pages lie together and find each other."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from skumatch.config import Settings
from skumatch.files import write_json, write_text
from skumatch.pipeline.data_record import DataChange, DataRecord
from skumatch.pipeline.message import Message
from skumatch.pipeline.register import artifacts, keep_report
from skumatch.pipeline.worker import keep_pages, own_error
from skumatch.report.page import DATA_DOCS, RUN_FACTS
from skumatch.stages.runner import ERROR, PAGES

MESSAGE = Message(run="scheduled__2026-05-04T03:00:00+00:00", inputs="0" * 32)
RUN = "scheduled__2026-05-04T03-00-00+00-00"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(project=tmp_path, home=tmp_path / "home")


def test_the_error_of_a_failed_stage_names_its_page_where_it_is_kept(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "workspace"
    page = folder / PAGES / "validation.html"
    write_text(page, "why")
    error = {
        "kind": "ValidationFailed",
        "sentence": f"The data broke. See {page}",
        "exit_code": 13,
        "retry": False,
    }
    write_json(folder / ERROR, error)
    kept = keep_pages(settings, MESSAGE, "validate", folder)
    relayed = own_error(folder, kept)
    assert (
        kept == settings.home_dir / "reports" / RUN / "validate"
        and (kept / "validation.html").read_text() == "why"
    )
    assert relayed and relayed.as_dict() == error | {
        "sentence": f"The data broke. See {kept / 'validation.html'}"
    }


def test_a_stage_without_pages_keeps_none(settings: Settings, tmp_path: Path) -> None:
    assert keep_pages(settings, MESSAGE, "train", tmp_path) is None
    assert own_error(tmp_path) is None
    assert not (settings.home_dir / "reports").exists()


def test_the_kept_report_links_to_the_data_docs_beside_it(settings: Settings, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    write_text(
        root / "out/report/report.html", f'<a href="{DATA_DOCS}">Data docs</a> and the SKU {DATA_DOCS}'
    )
    write_text(root / "out/validate/docs.html", "asked and found")
    report = Path(keep_report(settings, MESSAGE, root))
    assert report == settings.home_dir / "reports" / f"{RUN}.html"
    link = report.read_text().split('"')[1]
    assert (report.parent / link).read_text() == "asked and found"
    assert (
        (root / "out/report" / DATA_DOCS).resolve().is_file()
    )  # in a workspace, and among MLflow's artifacts, as it was made


def test_the_kept_report_says_when_the_run_was_and_where_its_data_comes_from(
    settings: Settings, tmp_path: Path
) -> None:
    """The stage's result holds neither, since the same inputs have to give the same bytes."""
    root, data = tmp_path / "workspace", 32 * "a" + ".dir"
    write_text(root / "out/report/report.html", f"Data version a.{RUN_FACTS} {RUN_FACTS}")
    write_text(root / "out/validate/docs.html", "asked and found")
    change = DataChange(
        action="import",
        after=data,
        before=None,
        pointer="",
        who="<ann>",
        when=datetime(2026, 5, 1, tzinfo=UTC),
        why="",
        summary="55 images of 1 SKU",
    )
    DataRecord(settings).write(change)
    times = {"started": "2026-05-04T03:00:00Z", "ended": "2026-05-04T03:38:00Z"}
    message = Message.model_validate(MESSAGE.model_dump() | {"data": data} | times)
    text = Path(keep_report(settings, message, root)).read_text()
    assert text.startswith(
        "Data version a. It is number 1 on record: import of 2026-05-01 by &lt;ann&gt; (55 images of 1 SKU). "
        "The run began at 2026-05-04 03:00 and ended at 2026-05-04 03:38 UTC. "
    )
    assert "<!--" in (root / "out/report/report.html").read_text()


def test_the_artifacts_have_the_docs_where_the_report_looks_for_them(tmp_path: Path) -> None:
    made = ("split/split.json", "frozen/frozen.json", "evaluate/x.json", "gate/x.json", "report/report.html")
    for name in (*made, "validate/docs.html", "validate/profile.json"):
        write_text(tmp_path / "out" / name, "x")
    assert {"report/report.html", "validate/docs.html", "validate/profile.json"} <= set(artifacts(tmp_path))
