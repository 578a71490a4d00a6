"""Findings: the results of expectations, and the texts made of them for errors and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skumatch.data.validation.expectations import Rule
from skumatch.errors import ValidationFailed
from skumatch.params import ValidateParams

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
        raise ValidationFailed(
            f"The data broke {len(failed)} of {len(findings)} expectations: {failures}{more}.{see} {cure}"
        )


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
    sentences = {
        "sparse": (
            f"SKUs have fewer than {params.min_images_per_sku} gallery images, "
            "so a match rests on very few pictures"
        ),
        "no-gallery": "SKUs have no gallery image, so their queries are reported apart",
        "no-query": "SKUs have no query, so nothing is known of their accuracy",
        "conflicts": "images have the pixels of another SKU's, so one of the labels is wrong",
        "drift-added": "SKUs are new since the version before",
        "drift-removed": "SKUs of the version before are gone",
    }
    broken = [finding for finding in findings if finding.broken and finding.rule.name in sentences]
    return [f"{finding.broken:,} {sentences[finding.rule.name]}: {_some(finding)}." for finding in broken]


def _some(finding: ExpectationResult) -> str:
    more = finding.broken - WARNED
    return ", ".join(finding.offenders[:WARNED]) + (f" and {more:,} more" if more > 0 else "")
