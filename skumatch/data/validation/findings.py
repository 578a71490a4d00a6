"""Findings: the results of expectations, and the texts made of them for errors and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skumatch.data.validation.expectations import Rule
from skumatch.errors import ValidationFailed
from skumatch.params import ValidateParams
from skumatch.texts import agreeing, counted

NAMED, WARNED = 3, 5


@dataclass(frozen=True)
class ExpectationResult:
    """The result of one expectation.

    Attributes:
        rule: the expectation.
        passed: True if it holds.
        observed: the observation in words.
        broken: number of rows that break it.
        offenders: names of the worst of those rows, at most SHOWN.
        notes: a note on each offender.
        result: Great Expectations' own result, cut to the offenders.
    """

    rule: Rule
    passed: bool
    observed: str
    broken: int
    offenders: list[str]
    notes: list[str]
    result: Any

    def record(self) -> dict[str, Any]:
        """Return the finding as a JSON object; the same data gives the same object."""
        rule = {"name": self.rule.name, "frame": self.rule.frame, "sentence": self.rule.sentence}
        outcome = {"passed": self.passed, "observed": self.observed, "broken": self.broken}
        return rule | outcome | {"offenders": self.offenders, "notes": self.notes}


def require(findings: Sequence[ExpectationResult], where: str = "") -> None:
    """Check that all expectations hold.

    Args:
        findings: of all expectations.
        where: the page that shows the failed ones, for the error's sentence; empty for none.

    Raises:
        ValidationFailed: with the failed expectations and their worst offenders.
    """
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        failures = "; ".join(_failure(finding) for finding in failed[:NAMED])
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        see = f" {where} shows them." if where else ""
        cure = "Correct the data, or the bound under `validate` in params.yaml."
        broken = f"{len(failed)} of {counted(len(findings), 'expectation')}"
        raise ValidationFailed(f"The data broke {broken}: {failures}{more}.{see} {cure}")


def _failure(finding: ExpectationResult) -> str:
    offenders = [
        f"{name} ({note})" if note else name
        for name, note in zip(finding.offenders, finding.notes, strict=True)
    ]
    worst = f"; worst: {', '.join(offenders[:NAMED])}" if offenders else ""
    return f"{finding.rule.sentence} ({finding.observed}{worst})"


def warnings_of(findings: Sequence[ExpectationResult], params: ValidateParams) -> list[str]:
    """Return the warnings of the report, one sentence each, with the worst SKUs and images.

    Six expectations, on SKUs, labels and drift, give a warning as soon as one row breaks them, even if they
    pass.
    """
    shown = ((finding, _warning(finding.rule.name, finding.broken, params)) for finding in findings)
    return [f"{warning}: {_some(finding)}." for finding, warning in shown if finding.broken and warning]


def _warning(rule: str, broken: int, params: ValidateParams) -> str | None:
    """Return the warning of rows that break a rule; None where the rule gives no warning."""
    skus, images = counted(broken, "SKU"), counted(broken, "image")
    are, have, their = (
        agreeing(broken, *forms) for forms in (("is", "are"), ("has", "have"), ("its", "their"))
    )
    few = counted(params.min_images_per_sku, "gallery image")
    return {
        "sparse": f"{skus} {have} fewer than {few}, so a match rests on very few pictures",
        "no-gallery": f"{skus} {have} no gallery image, so {their} queries are reported apart",
        "no-query": f"{skus} {have} no query, so nothing is known of {their} accuracy",
        "conflicts": f"{images} {have} the pixels of another SKU's, so one of the labels is wrong",
        "drift-added": f"{skus} {are} new since the version before",
        "drift-removed": f"{skus} of the version before {are} gone",
    }.get(rule)


def _some(finding: ExpectationResult) -> str:
    more = finding.broken - WARNED
    return ", ".join(finding.offenders[:WARNED]) + (f" and {more:,} more" if more > 0 else "")
