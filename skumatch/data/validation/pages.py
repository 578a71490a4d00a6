"""Two pages for a person: why a data version was refused, with its worst pictures, and the data docs of one that passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skumatch.data.images import MAX_BYTES
from skumatch.data.manifest import images
from skumatch.data.quarantine import set_aside
from skumatch.data.validation.data_docs import rendered
from skumatch.data.validation.findings import Finding
from skumatch.data.validation.thumbnails import thumbnail
from skumatch.errors import ImageError, StorageError

PICTURED = {
    "images": "id",
    "bytes": "id",
    "skus": "sku",
    "drift_skus": "sku",
}  # frames whose rows have a picture, by this column
PLAIN = r"[^/\\]+"
Show = Callable[[Finding, str], str | None]


class Offender(NamedTuple):
    """What breaks an expectation. name: a SKU or whatever it is.

    File: an image's side and file name; picture: a data URI.
    """

    name: str
    file: str
    note: str
    picture: str | None


def failure_page(findings: Sequence[Finding], facts: Mapping[str, Any], show: Show) -> str:
    """One HTML file with everything in it: each failed expectation with its worst offenders, and the list of all."""
    failed = [finding for finding in findings if not finding.passed]
    offenders = {finding.rule.name: _offenders(finding, show) for finding in failed}
    return _page("failure.html.jinja", findings=findings, failed=failed, offenders=offenders, facts=facts)


def _offenders(finding: Finding, show: Show) -> list[Offender]:
    told = zip(finding.offenders, finding.notes, strict=True)
    return [Offender(*_parts(finding, name), note, show(finding, name)) for name, note in told]


def _parts(finding: Finding, name: str) -> tuple[str, str]:
    """An image's SKU, and its side with its file name; anything else as it is."""
    parts = name.split("/") if PICTURED.get(finding.rule.frame) == "id" else []
    return ("/".join(parts[1:-1]), f"{parts[0]} / {parts[-1]}") if len(parts) > 2 else (name, "")


def docs_page(findings: Sequence[Finding], facts: Mapping[str, Any]) -> str:
    """The data docs: what was asked and found, in our words and as Great Expectations shows it.

    Readable offline.
    """
    sections = {title: Markup(html) for title, html in rendered(findings).items()}  # noqa: S704 escaped there
    return _page("docs.html.jinja", findings=findings, facts=facts, sections=sections)


def facts_of(manifest: pd.DataFrame, summary: Mapping[str, Any], compared: bool) -> dict[str, Any]:
    """images, skus, aside (by reason, the most first), compared (with an earlier version): for the pages."""
    return {
        "images": len(manifest),
        "skus": int(manifest["sku"].nunique()) if "sku" in manifest else 0,
        "aside": set_aside(summary["quarantined"]),
        "compared": compared,
    }


def pictures(root: Path, manifest: pd.DataFrame) -> Show:
    """A function that shows what breaks an expectation: the image itself, or the first image of a SKU.

    None where there is none.
    """
    if not {"id", "sku", "shard", "offset", "length"} <= set(manifest.columns):
        return lambda *_: None
    offset, length = (pd.to_numeric(manifest[name], errors="coerce") for name in ("offset", "length"))
    plain = (
        manifest["shard"].astype(str).str.fullmatch(PLAIN)
    )  # the manifest is what may be wrong: no reading outside of the shards
    rows = manifest[plain & offset.ge(0) & length.between(1, MAX_BYTES)]

    def show(finding: Finding, name: str) -> str | None:
        column = PICTURED.get(finding.rule.frame)
        found = rows[rows[column] == name].head(1) if column else rows.head(0)
        return None if found.empty else _picture(root, found)

    return show


def _picture(root: Path, row: pd.DataFrame) -> str | None:
    try:
        return thumbnail(images(root, row)[0])
    except (
        ImageError,
        StorageError,
    ):  # broken bytes may be what the page is about; it says that there is no picture
        return None


def _page(name: str, **context: Any) -> str:
    return _environment().get_template(name).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("skumatch.data.validation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = "{:,}".format
    return environment
