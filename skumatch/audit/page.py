"""The lineage page: a version's chain as a picture, then each link with its hash, its facts and its verdict.

One static file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from skumatch.audit.dossier import Facts
from skumatch.audit.link import Link, Verdict, counted

BOX, GAP = (128, 52), (24, 26)  # a node's width and height, the space between nodes
# name -> column, row, and the word in the box. Columns run from the pictures to the promotion.
PLACES = {
    "data": (0, 0, "Pictures"),
    "manifest": (1, 0, "Manifest"),
    "validation": (2, 0, "Validation"),
    "split": (2, 1, "Split"),
    "commit": (0, 2, "Commit"),
    "tree": (0, 3, "Tree"),
    "code": (1, 2, "Code"),
    "environment": (1, 3, "Environment"),
    "parameters": (1, 4, "Parameters"),
    "weights": (2, 4, "Weights"),
    "inputs": (2, 3, "Input set"),
    "stages": (3, 1, "Stages"),
    "index": (4, 0, "Index"),
    "bundle": (5, 0, "Bundle"),
    "evaluation": (4, 2, "Evaluations"),
    "champion": (3, 3, "Champion"),
    "decision": (5, 2, "Decision"),
    "version": (6, 1, "Version"),
    "provenance": (6, 0, "Provenance"),
    "journal": (7, 1, "Promotions"),
}
EDGES = (
    ("data", "manifest"), ("manifest", "validation"), ("manifest", "split"), ("commit", "code"), ("tree", "code"), ("code", "inputs"),
    ("environment", "inputs"), ("parameters", "inputs"), ("weights", "inputs"), ("validation", "stages"), ("split", "stages"),
    ("inputs", "stages"), ("stages", "index"), ("stages", "evaluation"), ("champion", "evaluation"), ("index", "bundle"),
    ("evaluation", "decision"), ("bundle", "decision"), ("bundle", "version"), ("decision", "version"), ("version", "journal"),
    ("provenance", "version"),
)  # fmt: skip
WORDS = {"holds": "holds", "broken": "broken", "unchecked": "can't be checked", None: "not checked"}


@dataclass(frozen=True)
class Node:
    """A link's box, its top left corner in the picture's units."""

    link: Link
    short: str
    x: int
    y: int


def lineage_page(facts: Facts, links: list[Link]) -> str:
    """One HTML file with everything in it: no script, nothing from elsewhere.

    Every text of the dossier escaped.
    """
    nodes = {link.name: _node(link) for link in links}
    counts = counted(links)
    return _environment().get_template("lineage.html.jinja").render(
        registered=facts.registered, registry=facts.registry, collected=f"{facts.collected:%Y-%m-%d %H:%M} UTC", links=links,
        nodes=list(nodes.values()), edges=[_path(nodes[start], nodes[end]) for start, end in EDGES], box=BOX, words=WORDS,
        width=max(node.x for node in nodes.values()) + BOX[0] + 8, height=max(node.y for node in nodes.values()) + BOX[1] + 8,
        verified=all(link.verdict for link in links), **_verdict(links, counts),
    )  # fmt: skip


def _verdict(links: list[Link], counts: dict[Verdict, int]) -> dict[str, object]:
    broken = [link for link in links if link.verdict == "broken"]
    tiles = [(str(len(links)), "links from the promotion to the pictures")]
    tiles += [
        (str(count), {"holds": "hold", "broken": "broken", "unchecked": "can't be checked here"}[name])
        for name, count in counts.items()
    ]
    if broken:
        names = ", ".join(link.title.lower() for link in broken)
        return {
            "tone": "bad",
            "sign": "✗",
            "headline": "The chain is broken",
            "reason": f"What is there isn't what was recorded: {names}.",
            "tiles": tiles,
        }
    if not any(counts.values()):
        said = "Told as it was recorded; nothing was hashed or computed again."
        return {
            "tone": "calm",
            "sign": "·",
            "headline": "The chain as recorded",
            "reason": said,
            "tiles": tiles[:1],
        }
    if not counts["holds"] and sum(counts.values()) < len(links):
        said = "Told as it was recorded; nothing was hashed or computed again, and this can't be read: "
        said += ", ".join(link.title.lower() for link in links if link.verdict)
        headline = "The chain as recorded, with gaps"
        return {"tone": "warn", "sign": "?", "headline": headline, "reason": f"{said}.", "tiles": tiles[:1]}
    if counts["unchecked"]:
        names = ", ".join(link.title.lower() for link in links if link.verdict == "unchecked")
        headline = f"{counts['holds']} of {len(links)} links hold, {counts['unchecked']} can't be checked"
        said = f"Nothing that was looked at is broken, but the chain isn't proved: {names}. Each says why."
        return {"tone": "warn", "sign": "?", "headline": headline, "reason": said, "tiles": tiles}
    said = "Every part was hashed again, and what is cheap was computed again."
    return {"tone": "good", "sign": "✓", "headline": "The chain holds", "reason": said, "tiles": tiles}


def _node(link: Link) -> Node:
    column, row, short = PLACES[link.name]
    return Node(link, short, 4 + column * (BOX[0] + GAP[0]), 4 + row * (BOX[1] + GAP[1]))


def _path(start: Node, end: Node) -> str:
    """From one box's edge to the other's: along a curve where they lie side by side, straight where one lies below the other."""
    if start.x == end.x:
        down = end.y > start.y
        return f"M{start.x + BOX[0] // 2} {start.y + (BOX[1] if down else 0)}V{end.y - 3 if down else end.y + BOX[1] + 3}"
    x0, y0, x1, y1 = start.x + BOX[0], start.y + BOX[1] // 2, end.x - 2, end.y + BOX[1] // 2
    middle = (x0 + x1) // 2
    return f"M{x0} {y0}C{middle} {y0} {middle} {y1} {x1} {y1}"


@cache
def _environment() -> Environment:
    loader = ChoiceLoader([PackageLoader("skumatch.audit"), PackageLoader("skumatch.report")])
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
