"""The lineage page: a diagram of a version's chain, then each link's hash, facts and verdict.

The page is one static file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment

from skumatch.audit.dossier import DossierFacts
from skumatch.audit.link import Link, Verdict, count_verdicts
from skumatch.texts import agreeing, counted, page_environment

# Width and height of a node, and the horizontal and vertical space between nodes, in the diagram's units.
BOX, GAP = (128, 52), (24, 26)
# Link's name -> column, row and label of its node. Columns run from the pictures to the promotion.
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
# Arrows of the diagram, each from a link to another that rests on it.
EDGES = (
    ("data", "manifest"),
    ("manifest", "validation"),
    ("manifest", "split"),
    ("commit", "code"),
    ("tree", "code"),
    ("code", "inputs"),
    ("environment", "inputs"),
    ("parameters", "inputs"),
    ("weights", "inputs"),
    ("validation", "stages"),
    ("split", "stages"),
    ("inputs", "stages"),
    ("stages", "index"),
    ("stages", "evaluation"),
    ("champion", "evaluation"),
    ("index", "bundle"),
    ("evaluation", "decision"),
    ("bundle", "decision"),
    ("bundle", "version"),
    ("decision", "version"),
    ("version", "journal"),
    ("provenance", "version"),
)
WORDS = {"holds": "holds", "broken": "broken", "unchecked": "can't be checked", None: "not checked"}


@dataclass(frozen=True)
class Node:
    """A link's box in the diagram.

    Attributes:
        link: The link.
        short: The box's label.
        x: Left edge, in the diagram's units.
        y: Top edge, in the diagram's units.
    """

    link: Link
    short: str
    x: int
    y: int


def lineage_page(facts: DossierFacts, links: list[Link]) -> str:
    """Return the page as self-contained HTML, without scripts or external resources.

    All texts from the dossier are escaped.
    """
    nodes = {link.name: _node(link) for link in links}
    counts = count_verdicts(links)
    template = _environment().get_template("lineage.html.jinja")
    return template.render(
        registered=facts.registered,
        registry=facts.registry,
        collected=f"{facts.collected:%Y-%m-%d %H:%M} UTC",
        links=links,
        nodes=list(nodes.values()),
        edges=[_path(nodes[start], nodes[end]) for start, end in EDGES],
        box=BOX,
        words=WORDS,
        width=max(node.x for node in nodes.values()) + BOX[0] + 8,
        height=max(node.y for node in nodes.values()) + BOX[1] + 8,
        verified=all(link.verdict for link in links),
        **_verdict(links, counts),
    )


def _verdict(links: list[Link], counts: dict[Verdict, int]) -> dict[str, object]:
    """Return the template's values for the whole chain: tone, sign, headline, reason, tiles."""
    broken = [link for link in links if link.verdict == "broken"]
    tiles = [(str(len(links)), f"{agreeing(len(links), 'link')} from the promotion to the pictures")]
    hold = agreeing(counts["holds"], "holds", "hold")
    words = {"holds": hold, "broken": "broken", "unchecked": "can't be checked here"}
    tiles += [(str(count), words[name]) for name, count in counts.items()]
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
        reason = "Told as it was recorded; nothing was hashed or computed again."
        return {
            "tone": "calm",
            "sign": "·",
            "headline": "The chain as recorded",
            "reason": reason,
            "tiles": tiles[:1],
        }
    if not counts["holds"] and sum(counts.values()) < len(links):
        reason = "Told as it was recorded; nothing was hashed or computed again, and this can't be read: "
        reason += ", ".join(link.title.lower() for link in links if link.verdict)
        headline = "The chain as recorded, with gaps"
        return {"tone": "warn", "sign": "?", "headline": headline, "reason": f"{reason}.", "tiles": tiles[:1]}
    if counts["unchecked"]:
        names = ", ".join(link.title.lower() for link in links if link.verdict == "unchecked")
        hold = (
            f"{counts['holds']} of {counted(len(links), 'link')} {agreeing(counts['holds'], 'holds', 'hold')}"
        )
        headline = f"{hold}, {counts['unchecked']} can't be checked"
        reason = f"Nothing that was looked at is broken, but the chain isn't proved: {names}. Each says why."
        return {"tone": "warn", "sign": "?", "headline": headline, "reason": reason, "tiles": tiles}
    reason = "Every part was hashed again, and what is cheap was computed again."
    return {"tone": "good", "sign": "✓", "headline": "The chain holds", "reason": reason, "tiles": tiles}


def _node(link: Link) -> Node:
    column, row, short = PLACES[link.name]
    return Node(link, short, 4 + column * (BOX[0] + GAP[0]), 4 + row * (BOX[1] + GAP[1]))


def _path(start: Node, end: Node) -> str:
    """Return the SVG path between two boxes: a straight line within one column, else a curve."""
    if start.x == end.x:
        down = end.y > start.y
        x, y0 = start.x + BOX[0] // 2, start.y + (BOX[1] if down else 0)
        y1 = end.y - 3 if down else end.y + BOX[1] + 3
        return f"M{x} {y0}V{y1}"
    x0, y0, x1, y1 = start.x + BOX[0], start.y + BOX[1] // 2, end.x - 2, end.y + BOX[1] // 2
    middle = (x0 + x1) // 2
    return f"M{x0} {y0}C{middle} {y0} {middle} {y1} {x1} {y1}"


@cache
def _environment() -> Environment:
    return page_environment("skumatch.audit", "skumatch.report")
