"""The two HTML pages of a validation: the failure page with the worst pictures, and the data docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, pass_context
from markupsafe import Markup, escape

from skumatch.data.images import MAX_BYTES
from skumatch.data.manifest import images
from skumatch.data.quarantine import set_aside
from skumatch.data.validation.expectations import library
from skumatch.data.validation.findings import ExpectationResult
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.errors import ImageError, StorageError
from skumatch.texts import page_environment

SECTIONS = "{% for section in sections %}{% set section_loop = loop %}{% include 'section.j2' %}{% endfor %}"
TITLES = {
    "manifest": "The manifest",
    "columns": "Its columns",
    "images": "Images",
    "delivered": "Delivered images",
    "skus": "SKUs",
    "whole": "The data as a whole",
    "drift_skus": "SKUs against the last version",
    "drift_sides": "Sides against the last version",
    "drift": "Pictures against the last version",
    "bytes": "Bytes in the shards",
}


def rendered(findings: Sequence[ExpectationResult]) -> dict[str, str]:
    """Render the sections of Great Expectations' validation page, with every value of the data escaped.

    Returns:
        Title of each frame -> HTML of its sections.
    """
    frames = dict.fromkeys(finding.rule.frame for finding in findings)
    return {
        TITLES[frame]: _sections([f.result for f in findings if f.rule.frame == frame]) for frame in frames
    }


def _sections(results: list[Any]) -> str:
    library()
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    meta = {"run_id": {"run_name": "validate", "run_time": "1970-01-01T00:00:00+00:00"}}
    suite = ExpectationSuiteValidationResult(
        success=all(result.success for result in results),
        results=results,
        suite_name="data",
        meta=meta,
        statistics=_statistics(results),
    )
    page = ValidationResultsPageRenderer().render(suite).to_json_dict()
    view = _view()
    # The overview has the time of the run.
    sections = [section for section in page["sections"] if section["section_name"] != "Overview"]
    return str(view.env.from_string(SECTIONS).render(page | {"sections": sections}))


def _statistics(results: list[Any]) -> dict[str, Any]:
    passed = sum(bool(result.success) for result in results)
    counts = {"evaluated_expectations": len(results), "successful_expectations": passed}
    return counts | {
        "unsuccessful_expectations": len(results) - passed,
        "success_percent": 100 * passed / max(len(results), 1),
    }


@cache
def _view() -> Any:
    from great_expectations.render.view import DefaultJinjaPageView

    class OfflineView(DefaultJinjaPageView):  # type: ignore[misc]  # the library has no types
        """Escapes values of the data in tables and lists, which the library's own view prints unescaped."""

        @pass_context
        def render_content_block(self, context: Any, block: Any, *rest: Any, **named: Any) -> Any:
            if isinstance(block, list):
                block = [part if isinstance(part, dict) else str(escape(part)) for part in block]
            elif block is not None and not isinstance(block, dict):
                block = str(escape(block))
            return super().render_content_block(context, block, *rest, **named)

        def generate_html_element_uuid(self, prefix: str = "") -> str:
            return f"{prefix}part"

    return OfflineView()


# Frames whose rows have a picture, and the column of the manifest by which to find it.
PICTURED = {"images": "id", "bytes": "id", "skus": "sku", "drift_skus": "sku"}
PLAIN = r"[^/\\]+"
Show = Callable[[ExpectationResult, str], str | None]


class Offender(NamedTuple):
    """A row that breaks an expectation.

    Attributes:
        name: the SKU of an image, or the name of any other row.
        file: side and file name of an image; empty for other rows.
        note: the row's values that break the expectation.
        picture: a data URI; None for no picture.
    """

    name: str
    file: str
    note: str
    picture: str | None


def failure_page(findings: Sequence[ExpectationResult], facts: Mapping[str, Any], show: Show) -> str:
    """Render a self-contained HTML page: the failed expectations with their worst rows, and the list of all.

    Args:
        findings: of all expectations.
        facts: as `facts_of` returns them.
        show: returns the picture of a finding's offender as a data URI, or None.
    """
    failed = [finding for finding in findings if not finding.passed]
    offenders = {finding.rule.name: _offenders(finding, show) for finding in failed}
    return _page("failure.html.jinja", findings=findings, failed=failed, offenders=offenders, facts=facts)


def _offenders(finding: ExpectationResult, show: Show) -> list[Offender]:
    rows = zip(finding.offenders, finding.notes, strict=True)
    return [Offender(*_parts(finding, name), note, show(finding, name)) for name, note in rows]


def _parts(finding: ExpectationResult, name: str) -> tuple[str, str]:
    """Split an image's id into its SKU, and its side with its file name; return other names as they are."""
    parts = name.split("/") if PICTURED.get(finding.rule.frame) == "id" else []
    return ("/".join(parts[1:-1]), f"{parts[0]} / {parts[-1]}") if len(parts) > 2 else (name, "")


def docs_page(findings: Sequence[ExpectationResult], facts: Mapping[str, Any]) -> str:
    """Render the data docs: the findings in sentences and as Great Expectations shows them.

    The page needs no network.
    """
    sections = {title: Markup(html) for title, html in rendered(findings).items()}  # noqa: S704 escaped there
    return _page("docs.html.jinja", findings=findings, facts=facts, sections=sections)


def facts_of(manifest: pd.DataFrame, summary: Mapping[str, Any], compared: bool) -> dict[str, Any]:
    """Return the facts that both pages show.

    Args:
        manifest: all rows.
        summary: the import's import.json.
        compared: True if drift was measured against an earlier version.

    Returns:
        images and skus (counts), aside (ids of quarantined images by reason, the most frequent first), and
        compared.
    """
    return {
        "images": len(manifest),
        "skus": int(manifest["sku"].nunique()) if "sku" in manifest else 0,
        "aside": set_aside(summary["quarantined"]),
        "compared": compared,
    }


def pictures(root: Path, manifest: pd.DataFrame) -> Show:
    """Return a function that shows an offender: the image itself, or the first image of a SKU.

    The function returns a data URI; None if there is no picture.
    """
    if not {"id", "sku", "shard", "offset", "length"} <= set(manifest.columns):
        return lambda *_: None
    offset, length = (pd.to_numeric(manifest[name], errors="coerce") for name in ("offset", "length"))
    # The manifest may be wrong, so nothing outside the shards is read.
    plain = manifest["shard"].astype(str).str.fullmatch(PLAIN)
    rows = manifest[plain & offset.ge(0) & length.between(1, MAX_BYTES)]

    def show(finding: ExpectationResult, name: str) -> str | None:
        column = PICTURED.get(finding.rule.frame)
        row = rows[rows[column] == name].head(1) if column else rows.head(0)
        return None if row.empty else _picture(root, row)

    return show


def _picture(root: Path, row: pd.DataFrame) -> str | None:
    try:
        return thumbnail(images(root, row)[0])
    # The page may be about broken bytes; it then says that there is no picture.
    except (ImageError, StorageError):
        return None


def _page(name: str, **context: Any) -> str:
    return _environment().get_template(name).render(context)


@cache
def _environment() -> Environment:
    return page_environment("skumatch.data.validation")
