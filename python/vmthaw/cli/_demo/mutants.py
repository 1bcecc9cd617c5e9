"""Page servers that are wrong on purpose, for proving that the demo's verification can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from vmthaw.cli._demo.plan import PAGE_BYTES
from vmthaw.source import ExtentKind, FileSource, PythonSource

Mutant = Literal["wrong-byte", "stale-page", "lost-fault", "zero-page"]
MUTANTS: tuple[Mutant, ...] = get_args(Mutant)


def wrong_source(
    mutant: Mutant, memory_path: Path, file: FileSource, changed: dict[int, bytes] | None = None
) -> PythonSource:
    """The file, but for `changed` (offset: page); by default one byte or one page in the middle of its data."""
    extents = [(int(row[0]), int(row[1]), int(row[2])) for row in file.extents()]
    if changed is None:
        data = [offset for offset, _, kind in extents if kind == int(ExtentKind.data)]
        victim = data[len(data) // 2]
        page = bytearray(_read(memory_path, victim, PAGE_BYTES))
        if mutant == "wrong-byte":
            page[1000] ^= 1
        else:
            page[:] = bytes(PAGE_BYTES)
        changed = {victim: bytes(page)}

    def read(offset: int, size: int) -> bytes:
        found = bytearray(_read(memory_path, offset, size))
        for victim, page in changed.items():
            if 0 <= victim - offset < size:
                found[victim - offset : victim - offset + PAGE_BYTES] = page
        return bytes(found)

    return PythonSource(read, file.size, extents=extents, threads=2, name=f"mutant {mutant}")


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
