"""Memory of every kind at raw addresses, and threads that touch it without holding the GIL."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]

SMALL_PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 << 20
MAP_HUGETLB = 0x40000
MAP_NORESERVE = 0x4000
MFD_HUGETLB_2MB = 0x4 | 21 << 26
MADV_DONTNEED = 4
MADV_REMOVE = 9

KINDS = ["anonymous", "shared_memory", "private_memfd", "hugetlb", "shared_hugetlb"]


class Memory:
    """`pages` untouched pages of a kind. The shared kinds have `alias`, a second mapping that is never registered."""

    def __init__(
        self,
        kind: str = "anonymous",
        pages: int = 4,
        *,
        protection: int = mmap.PROT_READ | mmap.PROT_WRITE,
        flags: int = 0,
        fd: int | None = None,
    ) -> None:
        self.kind = kind
        self.page_size = HUGE_PAGE if "hugetlb" in kind else SMALL_PAGE
        self.size = pages * self.page_size
        self.fd = -1
        self.alias = 0
        if fd is not None:
            self.fd = os.dup(fd)
        elif kind in {"shared_memory", "private_memfd", "shared_hugetlb"}:
            self.fd = os.memfd_create("vmthaw-test", os.MFD_CLOEXEC | (MFD_HUGETLB_2MB if "hugetlb" in kind else 0))
            os.ftruncate(self.fd, self.size)
        if self.fd >= 0:
            flags |= mmap.MAP_PRIVATE if kind == "private_memfd" else mmap.MAP_SHARED
        else:
            flags |= mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (MAP_HUGETLB if kind == "hugetlb" else 0)
        self.address = self._map(protection, flags)
        if kind in {"shared_memory", "shared_hugetlb"}:
            self.alias = self._map(mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED)

    def _map(self, protection: int, flags: int) -> int:
        address = libc.mmap(None, self.size, protection, flags, self.fd, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap of test memory")
        return int(address)

    def page(self, index: int) -> int:
        """The address of a page."""
        return self.address + index * self.page_size

    def peek(self, index: int, count: int = 1) -> bytes:
        """The first bytes of a page that is present. Releases the GIL."""
        return peek(self.page(index), count)

    def poke(self, index: int, value: int, *, alias: bool = False) -> None:
        """Write the first byte of a page. Releases the GIL."""
        base = self.alias if alias else self.address
        libc.memcpy(base + index * self.page_size, bytes([value]), 1)

    def discard(self, index: int, count: int = 1) -> None:
        """MADV_DONTNEED. Blocks while somebody has to read the event."""
        if libc.madvise(self.page(index), count * self.page_size, MADV_DONTNEED):
            raise OSError(ctypes.get_errno(), "madvise")

    def close(self) -> None:
        """Unmap everything."""
        libc.munmap(self.address, self.size)
        if self.alias:
            libc.munmap(self.alias, self.size)
        if self.fd >= 0:
            os.close(self.fd)


def peek(address: int, count: int = 1) -> bytes:
    """Bytes at an address, copied with the GIL released."""
    buffer = ctypes.create_string_buffer(count)
    libc.memcpy(buffer, address, count)
    return buffer.raw


class Background(threading.Thread):
    """Runs a call on a thread; `finish()` gives its result, within 10 s."""

    def __init__(self, call: object, *arguments: object) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._arguments = arguments
        self._result: object = None
        self.start()

    def run(self) -> None:
        assert callable(self._call)
        self._result = self._call(*self._arguments)

    @property
    def is_waiting(self) -> bool:
        """Whether the call has not returned."""
        return self.is_alive()

    def finish(self) -> object:
        """The call's result; AssertionError when it does not return."""
        self.join(10)
        assert not self.is_alive(), "the thread is still waiting for its page"
        return self._result
