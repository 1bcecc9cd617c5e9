"""Sizes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(?:i?b)?|b)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of ``512MiB``, ``2G``, ``64k`` or ``4096``; units are powers of 1024. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write for example 512MiB, 2G or 4096")
    size = float(found[1]) * (1 << _UNITS[(found[2] or "").lower()])
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)
