"""Deterministic torch generators, keyed by (seed, purpose, step)."""

from __future__ import annotations

import hashlib

import torch


def generator(*key: int | str) -> torch.Generator:
    """Return a random generator that depends only on `key`, so that a resumed run draws the same numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
