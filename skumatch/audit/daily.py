"""The scheduled audit: verify the champion and one older version, which is picked at random."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from skumatch.audit.chain import links
from skumatch.audit.collect import collect
from skumatch.audit.link import Link, Verdict, count_verdicts
from skumatch.audit.page import lineage_page
from skumatch.config import Settings, load_params
from skumatch.errors import AuditFailed, NothingNew, ReferenceNotFound
from skumatch.files import write_text
from skumatch.pipeline.pull import open_registry
from skumatch.registry.registry import ModelRef, Registry
from skumatch.texts import agreeing, counted

SAID: tuple[Verdict, ...] = ("holds", "unchecked")


class AuditRequest(BaseModel):
    """The parameters of a scheduled audit.

    Attributes:
        run: Id of the DAG run; its hash picks the older version.
        pictures: Fetch and hash the data's pictures as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    pictures: bool = True


def audit(settings: Settings, request: AuditRequest) -> dict[str, Any]:
    """Verify the champion and an older version; write a lineage page of each to this machine's reports.

    Args:
        settings: Addresses of the stores, and the project's folder.
        request: The parameters of the audit.

    Returns:
        The champion's version, the decision and a sentence for the DAG run, and for `holds` and `unchecked`
        a map of version -> number of links.

    Raises:
        AuditFailed: Links are broken; the message names all of them.
        NothingNew: There is no champion yet.
        ReferenceNotFound: The champion's alias or version was removed in MLflow.
    """
    registry = open_registry(settings, load_params(settings.project / "params.yaml"))
    champion = registry.champion()
    if champion is None:
        state = registry.champion_state()
        if state.kind == "never":
            raise NothingNew("There is no champion yet, so there is nothing to audit.")
        raise ReferenceNotFound(f"Nothing serves that could be audited: {state.sentence}; {state.cure}.")
    chosen = [champion, *_older(registry, champion, request.run)]
    chains = {ref.version: _verified(settings, registry, ref, request.pictures) for ref in chosen}
    judged = [(version, link) for version, chain in chains.items() for link in chain]
    broken = [
        f"version {version}: {link.name} ({link.reason})"
        for version, link in judged
        if link.verdict == "broken"
    ]
    if broken:
        raise AuditFailed(f"The chain of lineage is broken: {'; '.join(broken)}.")
    counts = {str(version): count_verdicts(chain) for version, chain in chains.items()}
    sentence = " ".join(_sentence(version, chain) for version, chain in chains.items())
    print(sentence)
    return {"version": champion.version, "decision": "audited", "sentence": sentence} | {
        name: _each(counts, name) for name in SAID
    }


def _each(counts: dict[str, dict[Verdict, int]], name: Verdict) -> dict[str, int]:
    return {version: count[name] for version, count in counts.items()}


def _sentence(version: int, chain: list[Link]) -> str:
    """Return a sentence on a chain without broken links; it names the unchecked ones as not proved."""
    counts = count_verdicts(chain)
    left = ", ".join(link.name for link in chain if link.verdict == "unchecked")
    more = f", {counts['unchecked']} can't be checked ({left})" if left else ""
    holds = agreeing(counts["holds"], "holds", "hold")
    return f"Version {version}: {counts['holds']} of {counted(len(chain), 'link')} {holds}{more}."


def _older(registry: Registry, champion: ModelRef, run: str) -> list[ModelRef]:
    others = [ref for ref in registry.versions() if ref.version != champion.version]
    number = int(hashlib.sha256(run.encode()).hexdigest(), 16)
    return [others[number % len(others)]] if others else []


def _verified(settings: Settings, registry: Registry, ref: ModelRef, pictures: bool) -> list[Link]:
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audit-", dir=settings.home_dir) as folder:
        dossier = collect(settings, registry, ref, Path(folder), pictures)
        chain = links(dossier, verify=True)
        write_text(
            settings.home_dir / "reports" / f"lineage-{registry.model_name}-{ref.version}.html",
            lineage_page(dossier.facts, chain),
        )
    return chain
