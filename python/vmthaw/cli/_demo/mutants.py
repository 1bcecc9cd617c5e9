"""Page servers that are wrong on purpose, for proving that the demo's verification can fail."""

from __future__ import annotations

import threading
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Literal, get_args

from vmthaw.cli._demo.plan import PAGE_BYTES
from vmthaw.source import ExtentKind, FileSource, PageSource, PythonSource

Mutant = Literal["wrong-byte", "stale-page", "lost-fault", "zero-page"]
MUTANTS: tuple[Mutant, ...] = get_args(Mutant)


def changed_page(mutant: Mutant, memory_path: Path, file: FileSource) -> dict[int, bytes]:
    """A page of the memory's second half, where all is the guest's work, by its offset, as the mutant has it: another
    byte, other words, or zeros."""
    victim = next(
        max(int(row[0]), file.size // 2)
        for row in file.extents()
        if row[2] == int(ExtentKind.data) and int(row[0] + row[1]) > file.size // 2
    )
    page = bytearray(_read(memory_path, victim, PAGE_BYTES))
    if mutant == "wrong-byte":
        page[1000] ^= 1
    elif mutant == "stale-page":
        page[:] = bytes(255 - byte for byte in page)
    else:
        page[:] = bytes(PAGE_BYTES)
    return {victim: bytes(page)}


def wrong_file(path: Path, file: FileSource, changed: Mapping[int, bytes]) -> None:
    """Writes a copy of the memory but for `changed`, to be stored as the right one would be. Raises OSError."""
    from vmthaw._snapshot_merge import write_whole

    write_whole(file, path, lambda _done: None)
    with path.open("r+b") as copy:
        for offset, page in changed.items():
            copy.seek(offset)
            copy.write(page)


def silent_source(source: PageSource, victims: Container[int], heard: threading.Event) -> PythonSource:
    """`source`, but whoever reads a page at one of `victims` waits until `heard` is set."""

    def read(offset: int, size: int) -> bytes:
        if any(page in victims for page in range(offset, offset + size, PAGE_BYTES)):
            heard.wait()
        return source.read(offset, size)

    return PythonSource(read, source.size, source.extents().tolist(), threads=4, name="mutant lost-fault", timeout=600)


def wrong_source(mutant: Mutant, memory_path: Path, file: FileSource, changed: Mapping[int, bytes]) -> PythonSource:
    """The file, but for `changed` (offset: page)."""
    extents = [(int(row[0]), int(row[1]), int(row[2])) for row in file.extents()]

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
