"""What every restore of the demo does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096
KINDS = ("file", "diff", "layers", "compressed", "packed", "socket", "http", "python", "cached")


@dataclass(frozen=True)
class Plan:
    """`working_set` in pages; `directory` is for the snapshot and the socket; `timeout` in seconds for each command;
    `source` is where the memory lies: one of `KINDS`, or the URL of an object."""

    memory_bytes: int
    working_set: int
    seed: int
    directory: Path
    timeout: float = 60.0
    source: str = "file"

    @property
    def pages(self) -> int:
        """Of the guest's memory."""
        return self.memory_bytes // PAGE_BYTES

    @property
    def in_order(self) -> int:
        """How many pages of the working set are touched in order, from `first_page` on; then the rest at random."""
        return self.working_set // 4

    @property
    def first_page(self) -> int:
        """In the middle of the memory."""
        return self.pages // 2

    @property
    def socket_path(self) -> Path:
        """Where the page servers listen, one after another."""
        return self.directory / "s"
