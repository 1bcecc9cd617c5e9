"""Deterministic memory files."""

from __future__ import annotations

import os

from vmthaw import _core


def write_memory_file(
    path: str | os.PathLike[str], size: int, zero_share: float = 0.0, seed: int = 0, *, sparse: bool = True
) -> None:
    """Write a deterministic VM memory file; an existing file is replaced.

    ``size`` is in bytes. Of its 4 KiB pages the share ``zero_share`` (0 to 1; published snapshots have 0.7 to 0.83) is
    zeros, left as holes when ``sparse``. Every other page carries its own number in its first word (plus one) and a
    value made of number and ``seed`` in all others, so a page in the wrong place is seen. Equal arguments give equal
    files everywhere. Raises `VmthawOSError` and `VmthawValueError`. Runs with the GIL released.
    """
    _core.write_memory_file(os.fspath(path), size, zero_share, seed, sparse)
