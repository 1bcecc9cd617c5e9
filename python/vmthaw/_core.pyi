# What the C++ core offers to Python, written by hand and proved by stubtest (tests/lint): one section per room.

import enum
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy
from typing_extensions import Buffer

__version__: str

# base: errors, log, waits
def _raise_system_error(errno: int, operation: str, remedy: str = "", address: int | None = None) -> None: ...
def drain_log(max_lines: int) -> list[tuple[int, int, str, str, bool, str, int]]: ...
def log_fd() -> int: ...
def log_dropped() -> int: ...
def log_line(level: int, component: str, text: str) -> None: ...
def set_log_level(level: int) -> None: ...
def log_level() -> int: ...
def _wait_readable(fd: int, timeout_s: float | None = None) -> bool: ...

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

# userfaultfd
class Feature(enum.IntFlag):
    pagefault_flag_wp = 1
    event_fork = 2
    event_remap = 4
    event_remove = 8
    missing_hugetlbfs = 16
    missing_shmem = 32
    event_unmap = 64
    sigbus = 128
    thread_id = 256
    minor_hugetlbfs = 512
    minor_shmem = 1024
    exact_address = 2048
    wp_hugetlbfs_shmem = 4096
    wp_unpopulated = 8192
    poison = 16384
    wp_async = 32768
    move = 65536

class FillStatus(enum.Enum):
    done = 0
    present = 1
    again = 2
    unmapped = 3
    gone = 4
    no_memory = 5
    bad_source = 6
    invalid = 7
    failed = 8

class Liveness(enum.Enum):
    alive = 0
    dead = 1
    unknown = 2

class FillOutcome:
    @property
    def status(self) -> FillStatus: ...
    @property
    def errno_value(self) -> int: ...
    @property
    def done_bytes(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

class Userfaultfd:
    @staticmethod
    def adopt(fd: int) -> Userfaultfd: ...
    def fileno(self) -> int: ...
    def detach(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def features(self) -> Feature: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def try_clone(self) -> Userfaultfd: ...
    def set_nonblocking(self, nonblocking: bool) -> None: ...
    def register_range(self, address: int, size: int, modes: int = 1) -> int: ...
    def unregister_range(self, address: int, size: int) -> None: ...
    def copy(self, address: int, source: Buffer | int, size: int | None = None, mode: int = 0) -> FillOutcome: ...
    def zero(self, address: int, size: int, mode: int = 0) -> FillOutcome: ...
    def continue_range(self, address: int, size: int, mode: int = 0) -> FillOutcome: ...
    def poison(self, address: int, size: int, mode: int = 0) -> FillOutcome: ...
    def move(self, address: int, source_address: int, size: int, mode: int = 0) -> FillOutcome: ...
    def write_protect(self, address: int, size: int, mode: int = 1) -> FillOutcome: ...
    def wake(self, address: int, size: int) -> None: ...
    def read(
        self, max_messages: int = 64, timeout: float | None = 0.0
    ) -> numpy.ndarray[Any, numpy.dtype[numpy.void]]: ...

class UserfaultfdFactory:
    def __init__(
        self,
        *,
        required: Feature | int | None = None,
        optional: Feature | int | None = None,
        close_on_exec: bool = True,
        nonblocking: bool = True,
        user_mode_only: bool = False,
    ) -> None: ...
    def create(self) -> Userfaultfd: ...
    def try_clone(self) -> UserfaultfdFactory: ...
    def descriptors(self) -> list[int]: ...
    @property
    def features(self) -> Feature: ...
    @property
    def supported(self) -> Feature: ...
    @staticmethod
    def probe() -> Feature: ...

class RegistrationOutcome:
    @property
    def skipped(self) -> list[int]: ...
    @property
    def ioctls(self) -> int: ...

class LivenessChecker:
    def __init__(self) -> None: ...
    @staticmethod
    def for_adopted(address: int | None = None) -> LivenessChecker: ...
    @property
    def address(self) -> int: ...
    def register_page(self, userfaultfd: Userfaultfd) -> None: ...
    def check(self, userfaultfd: Userfaultfd) -> Liveness: ...

def register_regions(
    regions: Iterable[tuple[Userfaultfd, Iterable[tuple[int, int]]]], modes: int = 1
) -> RegistrationOutcome: ...
def unregister_regions(regions: Iterable[tuple[Userfaultfd, Iterable[tuple[int, int]]]]) -> RegistrationOutcome: ...
def page_is_present(pid: int, address: int) -> bool | None: ...
def message_dtype() -> numpy.dtype[numpy.void]: ...

EVENT_PAGEFAULT: int
EVENT_FORK: int
EVENT_REMAP: int
EVENT_REMOVE: int
EVENT_UNMAP: int
FAULT_WRITE: int
FAULT_WRITE_PROTECT: int
FAULT_MINOR: int
REGISTER_MISSING: int
REGISTER_WRITE_PROTECT: int
REGISTER_MINOR: int
MODE_DONT_WAKE: int
MODE_COPY_WRITE_PROTECT: int
MODE_MOVE_ALLOW_SOURCE_HOLES: int
MODE_WRITE_PROTECT: int
MODE_WRITE_PROTECT_DONT_WAKE: int
RANGE_WAKE: int
RANGE_COPY: int
RANGE_ZEROPAGE: int
RANGE_MOVE: int
RANGE_WRITE_PROTECT: int
RANGE_CONTINUE: int
RANGE_POISON: int
PROTECT_CLEAR: int
MESSAGE_SIZE_BYTES: int
USERFAULTFD_API: int
USER_MODE_ONLY: int
