"""Random streams by name: a scene depends on its name only, never on what was drawn before it."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(*parts: object) -> np.random.Generator:
    """Generator seeded by the hash of `parts` (written with `str`), the same in every process and thread."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(np.frombuffer(digest, "<u4")))
