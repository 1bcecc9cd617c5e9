"""`KnownGuest`: a VM whose memory is known byte for byte, whoever serves it."""

from __future__ import annotations

import ctypes
import os
import random
from pathlib import Path
from typing import Any, Self

from tests.support.eventually import PATIENCE
from vmthaw.testing import FakeVmm
from vmthaw.testing._host import ChildProcess

_libc = ctypes.CDLL(None, use_errno=True)
_read, _write = _libc.process_vm_readv, _libc.process_vm_writev
for _call in (_read, _write):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = (ctypes.c_int, *(ctypes.c_void_p, ctypes.c_ulong) * 2, ctypes.c_ulong)
TIMEOUT_S = 30.0 * PATIENCE


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class KnownGuest:
    """VM `number` of the process `host`, restored from `memory` in random regions, and `model`: what it must read.

    Reads and writes are process_vm_readv(2) and process_vm_writev(2): the kernel takes the faults on the VM's behalf.
    """

    def __init__(
        self, chance: random.Random, path: Path, memory: bytearray, page_size: int, host: ChildProcess, number: int
    ) -> None:
        self.chance = chance
        self.page_size = page_size
        self.model = bytearray(memory)
        self.pages = len(memory) // page_size
        self.vmm = FakeVmm(
            path, regions=self._regions(), kind="anonymous" if page_size == 4096 else "hugetlb",
            _child=host, _number=number,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.vmm.close()

    def play(self, steps: int) -> list[str]:
        """Random operations, each checked. What they were."""
        return [self.chance.choice([self.touch, self.read, self.write, self.remove])() for _ in range(steps)]

    def touch(self) -> str:
        """Random pages by several threads at once; the bytes are looked at later."""
        count, threads = self.chance.randrange(1, self.pages + 1), self.chance.choice([1, 1, 4])
        pages = self.chance.sample(range(self.pages), count)
        self.vmm.touch(pages, threads=threads, verify=False, timeout=TIMEOUT_S).check()
        return f"touch {count} by {threads}"

    def read(self) -> str:
        """A range of a region, of any size and place."""
        host, offset, size = self._range()
        self.check(host, offset, size)
        return f"read {offset:#x}+{size:#x}"

    def write(self) -> str:
        """Bytes of a range, which may begin and end in the middle of a page."""
        host, offset, size = self._range()
        size = min(size, 5000)
        data = self.chance.randbytes(size)
        self._move(_write, host, ctypes.create_string_buffer(data, size))
        self.model[offset : offset + size] = data
        return f"write {offset:#x}+{size:#x}"

    def remove(self) -> str:
        """Pages, which are zeros from then on."""
        first = self.chance.randrange(self.pages)
        count = min(self.chance.randrange(1, 9), self._pages_left(first))
        self.vmm.remove([(first, count)], timeout=TIMEOUT_S).check()
        for page in range(first, first + count):
            offset = self._offset_of(page)
            self.model[offset : offset + self.page_size] = bytes(self.page_size)
        return f"remove {first}+{count}"

    def check(self, host: int, offset: int, size: int) -> None:
        """The range is what it must be. AssertionError says where it is not."""
        buffer = ctypes.create_string_buffer(size)
        self._move(_read, host, buffer)
        found = buffer.raw
        wanted = self.model[offset : offset + size]
        if found != wanted:
            at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(found))
            raise AssertionError(
                f"at offset {offset + at:#x} the guest reads {found[at : at + 8].hex()}, "
                f"which must be {bytes(wanted[at : at + 8]).hex()}"
            )

    def check_all(self) -> None:
        """Every byte. Missing pages are touched first, by threads and with a time-out."""
        self.vmm.touch("random", seed=self.chance.randrange(99), threads=3, verify=False, timeout=TIMEOUT_S).check()
        for host, size, offset in self.vmm.regions:
            self.check(host, offset, size)

    def _move(self, call: Any, host: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
        """All of it, or OSError (EFAULT) from where a page cannot be had."""
        done, size = 0, ctypes.sizeof(buffer)
        while done < size:
            ours = _Iovec(ctypes.addressof(buffer) + done, size - done)
            theirs = _Iovec(host + done, size - done)
            moved = call(self.vmm.pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
            if moved <= 0:
                number = ctypes.get_errno()
                raise OSError(number, f"{os.strerror(number)}, at {host + done:#x}")
            done += moved

    def _regions(self) -> list[tuple[int, int]]:
        """One, or two in any order: (size, file offset)."""
        split = self.chance.randrange(self.pages) * self.page_size
        whole = self.pages * self.page_size
        if split == 0 or self.chance.random() < 0.5:
            return [(whole, 0)]
        regions = [(split, 0), (whole - split, split)]
        self.chance.shuffle(regions)
        return regions

    def _range(self) -> tuple[int, int, int]:
        host, size, offset = self.chance.choice(self.vmm.regions)
        begin = self.chance.randrange(size)
        return host + begin, offset + begin, self.chance.randrange(1, min(size - begin, 40 * self.page_size) + 1)

    def _place(self, page: int) -> tuple[int, int]:
        """(offset in the file, pages from there to the region's end) of a page, as `FakeVmm` numbers them."""
        for _, size, offset in self.vmm.regions:
            if page < size // self.page_size:
                return offset + page * self.page_size, size // self.page_size - page
            page -= size // self.page_size
        raise AssertionError(page)

    def _offset_of(self, page: int) -> int:
        return self._place(page)[0]

    def _pages_left(self, page: int) -> int:
        return self._place(page)[1]
