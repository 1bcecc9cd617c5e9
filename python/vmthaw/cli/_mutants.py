"""Page servers that are wrong on purpose, for proving that the demo's verification can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from vmthaw.source import ExtentKind, FileSource, PythonSource

Mutant = Literal["wrong-byte", "stale-page", "lost-fault", "zero-page"]

# What TextbookServer is told; None: a source that is wrong, behind our own server.
MUTANTS: dict[Mutant, dict[str, Any] | None] = {
    "wrong-byte": None,
    "stale-page": {"stale_after_remove": True},
    "lost-fault": {"lost_fault_at_fault": 40},
    "zero-page": None,
}
assert set(MUTANTS) == set(get_args(Mutant))

_PAGE_BYTES = 4096


def mutant_source(mutant: Mutant, memory_path: Path, file: FileSource) -> PythonSource:
    """The file, but for one byte or one page in the middle of its data."""
    extents = [(int(row[0]), int(row[1]), int(row[2])) for row in file.extents()]
    data = [offset for offset, _, kind in extents if kind == int(ExtentKind.data)]
    victim = data[len(data) // 2]

    def read(offset: int, size: int) -> bytes:
        with memory_path.open("rb") as memory:
            memory.seek(offset)
            found = bytearray(memory.read(size))
        at = victim - offset
        if 0 <= at < size:
            if mutant == "wrong-byte":
                found[at + 1000] ^= 1
            else:
                found[at : at + _PAGE_BYTES] = bytes(_PAGE_BYTES)
        return bytes(found)

    return PythonSource(read, file.size, extents=extents, threads=2, name=f"mutant {mutant}")
