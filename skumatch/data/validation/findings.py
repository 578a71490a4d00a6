"""What came of the expectations, and what is said of it: the sentence of a failure, the warnings of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skumatch.data.validation.expectations import Rule
from skumatch.errors import ValidationFailed
from skumatch.params import ValidateParams

NAMED, WARNED = 3, 5


@dataclass(frozen=True)
class Finding:
    """What came of one expectation. observed: in words. offenders: the worst rows' names, up to SHOWN of `broken` in all, and what
    `notes` say of each.

    result: Great Expectations' own, cut to the offenders shown.
    """

    rule: Rule
    passed: bool
    observed: str
    broken: int
    offenders: list[str]
    notes: list[str]
    result: Any

    def record(self) -> dict[str, Any]:
        """The finding as JSON, the same for the same data."""
        about = {"name": self.rule.name, "frame": self.rule.frame, "sentence": self.rule.sentence}
        found = {"passed": self.passed, "observed": self.observed, "broken": self.broken}
        return about | found | {"offenders": self.offenders, "notes": self.notes}


def require(findings: Sequence[Finding], where: str = "") -> None:
    """Raise ValidationFailed with the failed expectations and their worst offenders, if there are any.

    `where` they are shown.
    """
    failed = [finding for finding in findings if not finding.passed]
    if failed:
        what = "; ".join(_failure(finding) for finding in failed[:NAMED])
        more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        see = f" {where} shows them." if where else ""
        cure = "Correct the data, or the bound under `validate` in params.yaml."
        raise ValidationFailed(
            f"The data broke {len(failed)} of {len(findings)} expectations: {what}{more}.{see} {cure}"
        )


def _failure(finding: Finding) -> str:
    said = [
        f"{name} ({note})" if note else name
        for name, note in zip(finding.offenders, finding.notes, strict=True)
    ]
    worst = f"; worst: {', '.join(said[:NAMED])}" if said else ""
    return f"{finding.rule.sentence} ({finding.observed}{worst})"


def warnings_of(findings: Sequence[Finding], params: ValidateParams) -> list[str]:
    """What doesn't stop the run but belongs in the report, one sentence each, naming the worst SKUs and images."""
    told = {
        "sparse": f"SKUs have fewer than {params.min_images_per_sku} gallery images, so a match rests on very few pictures",
        "no-gallery": "SKUs have no gallery image, so their queries are reported apart",
        "no-query": "SKUs have no query, so nothing is known of their accuracy",
        "conflicts": "images have the pixels of another SKU's, so one of the labels is wrong",
        "drift-added": "SKUs are new since the last version that passed",
        "drift-removed": "SKUs of the last version that passed are gone",
    }
    broken = [finding for finding in findings if finding.broken and finding.rule.name in told]
    return [f"{finding.broken:,} {told[finding.rule.name]}: {_some(finding)}." for finding in broken]


def _some(finding: Finding) -> str:
    more = finding.broken - WARNED
    return ", ".join(finding.offenders[:WARNED]) + (f" and {more:,} more" if more > 0 else "")
