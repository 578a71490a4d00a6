"""Thumbnails for HTML pages."""

from __future__ import annotations

import base64
import io

from PIL import Image

SIDE = 168  # pixels of a thumbnail's longer side, shown at half of it


def thumbnail(image: Image.Image, side: int = SIDE) -> str:
    """Return the picture within `side` x `side` pixels, as a JPEG data URI without metadata."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
