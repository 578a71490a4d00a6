"""Hook of mkdocs: links to files outside docs/ become plain words, since the site doesn't have them."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)+(?:README|CHANGELOG|CONTRIBUTING|LICENSE|params|dvc|skumatch)[^)]*\)"
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's Markdown without links out of docs/."""
    return OUTSIDE.sub(r"\1", markdown)
