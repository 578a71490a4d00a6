"""Data Docs: Great Expectations' own rendering of its results, offline and the same for the same data.

The pages of Great Expectations 1.24 load styles, fonts and scripts from the web, have a time stamp, and print
values of the data unescaped. So only their sections are taken, rendered by its templates with escaped values,
for a page of skumatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import pass_context
from markupsafe import escape

from skumatch.data.validation.expectations import library
from skumatch.data.validation.findings import ExpectationResult

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
