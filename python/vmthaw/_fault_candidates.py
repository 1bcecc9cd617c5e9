"""Where a KVM_RUN that failed with EFAULT may have been: the kernel gives no address, so the places are looked for.

An address of a memory slot cannot be reached where nothing is mapped, where the mapping forbids it, and past the end of
the file that is mapped there (proc(5), "/proc/pid/maps"; mmap(2), "SIGBUS").
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class _Slot(Protocol):
    """What is looked at of a MemorySlot."""

    @property
    def slot(self) -> int: ...
    @property
    def guest_address(self) -> int: ...
    @property
    def host_address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...


_MOST = 8
_PAGE = 4096


@dataclass(frozen=True)
class _Mapped:
    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    path: str

    @property
    def readable_end(self) -> int:
        """Where the file behind it ends, for the mapping of a file; else its own end."""
        if self.inode == 0:
            return self.end
        try:
            found = Path(f"/proc/self/map_files/{self.start:x}-{self.end:x}").stat()
        except OSError:  # needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; a path may be another file's by now
            try:
                found = Path(self.path).stat()
            except OSError:
                return self.end
            if found.st_ino != self.inode:
                return self.end
        if not stat.S_ISREG(found.st_mode):
            return self.end
        left = -(-found.st_size // _PAGE) * _PAGE - self.offset
        return min(self.end, self.start + max(left, 0))


def _mappings() -> Iterator[_Mapped]:
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        span, permissions, offset, _device, inode, *path = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in span.split("-"))
        yield _Mapped(start, end, permissions, int(offset, 16), int(inode), path[0] if path else "")


def fault_candidates(slots: Iterable[_Slot]) -> list[str]:
    """The places in the slots that the guest cannot reach, in guest physical addresses. Reads /proc/self/maps."""
    mappings = list(_mappings())
    return [text for slot in slots for text in _of_slot(slot, mappings)]


def _of_slot(slot: _Slot, mappings: list[_Mapped]) -> Iterator[str]:
    end = slot.host_address + slot.size

    def place(start: int, stop: int) -> str:
        shift = slot.guest_address - slot.host_address
        return f"slot {slot.slot}, guest {start + shift:#x} to {stop + shift:#x}"

    reached = slot.host_address
    for mapped in mappings:
        start, stop = max(mapped.start, slot.host_address), min(mapped.end, end)
        if start >= stop:
            continue
        if start > reached:
            yield f"{place(reached, start)}: nothing is mapped there"
        reached = stop
        if "r" not in mapped.permissions:
            yield f"{place(start, stop)}: mapped without any access"
            continue
        if "w" not in mapped.permissions and not slot.read_only:
            yield f"{place(start, stop)}: mapped read-only, and the slot is not"
        if (readable := max(mapped.readable_end, start)) < stop:
            yield f"{place(readable, stop)}: past the end of the file {mapped.path}"
    if reached < end:
        yield f"{place(reached, end)}: nothing is mapped there"


def candidates_text(slots: Iterable[_Slot]) -> str:
    """One sentence for an error's text."""
    found = fault_candidates(slots)
    if not found:
        return "no address of the memory slots is unmapped, forbidden or past the end of its file now"
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return "what it cannot have reached: " + "; ".join(found[:_MOST]) + more
