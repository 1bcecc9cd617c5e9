# What the C++ core offers to Python, written by hand and proved by stubtest (tests/lint): one section per room.

from collections.abc import Sequence
from typing import Any

__version__: str

# handover: the message
def parse_handover_message(text: bytes | str) -> list[tuple[int, int, int, int]]: ...
def handover_message_is_incomplete(text: bytes | str) -> bool: ...

# testing
class FakeVmmCore:
    def __init__(
        self,
        memory_path: str,
        regions: Sequence[tuple[int, int]],
        kind: str = "anonymous",
        page_size: int = 4096,
        extra_features: int = 0,
    ) -> None: ...
    def handover(
        self,
        socket_path: str,
        *,
        text: str | None = None,
        page_size_fields: str = "both",
        unknown_fields: bool = False,
        splits: Sequence[int] = [],
        part_delay: float = 0.0,
        descriptor_part: int = 0,
        descriptor: str = "userfaultfd",
        surplus_descriptors: int = 0,
        close_afterwards: bool = False,
        timeout: float = 10.0,
    ) -> None: ...
    def handover_text(self, page_size_fields: str = "both", unknown_fields: bool = False) -> str: ...
    def touch(
        self,
        plan: Sequence[int],
        *,
        write: bool = False,
        threads: int = 1,
        everybody_touches_all: bool = False,
        cpus: Sequence[int] = [],
        verify: bool = True,
        timeout: float = 30.0,
    ) -> dict[str, Any]: ...
    def verify(self, *, only_touched: bool = True, threads: int = 1, timeout: float = 60.0) -> dict[str, Any]: ...
    def remove(self, ranges: Sequence[tuple[int, int]], timeout: float = 10.0) -> dict[str, Any]: ...
    def unmap(self, ranges: Sequence[tuple[int, int]], timeout: float = 10.0) -> dict[str, Any]: ...
    def remap(self, ranges: Sequence[tuple[int, int]], timeout: float = 10.0) -> dict[str, Any]: ...
    def storm(
        self,
        *,
        removals: int = 1000,
        max_pages: int = 256,
        threads: int = 1,
        write_share: float = 0.25,
        seed: int = 0,
        timeout: float = 60.0,
    ) -> dict[str, Any]: ...
    def close_socket(self) -> None: ...
    def close_userfaultfd(self) -> None: ...
    def peer_has_hung_up(self) -> bool: ...
    def resident_pages(self) -> int: ...
    @property
    def regions(self) -> list[tuple[int, int, int]]: ...
    @property
    def pages(self) -> int: ...

class TextbookLoop:
    def __init__(
        self,
        socket_path: str,
        memory_path: str,
        *,
        wrong_byte_at_fault: int = 0,
        wrong_page_at_fault: int = 0,
        lost_fault_at_fault: int = 0,
        stale_after_remove: bool = False,
    ) -> None: ...
    def serve(self, cpu: int = -1) -> dict[str, int]: ...
    def stop(self) -> None: ...

def write_memory_file(path: str, size: int, zero_share: float = 0.0, seed: int = 0, sparse: bool = True) -> None: ...
def plan_touches(
    pattern: str,
    pages: int,
    *,
    first_page: int = 0,
    count: int = 0,
    seed: int = 0,
    stride: int = 1,
    skew: float = 1.0,
) -> list[int]: ...
