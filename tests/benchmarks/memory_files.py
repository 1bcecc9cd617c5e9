"""The memory files: one warm in 4 KiB folios, one to be evicted before each cold case."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmthaw._closing import Closing
from vmthaw.testing import write_memory_file

PAGE = 4096
_WARM_ENOUGH = 0.999
_MADV_POPULATE_READ = 22
_MADV_POPULATE_WRITE = 23
_KPF_COMPOUND = (1 << 15) | (1 << 16)  # head, tail
_libc = ctypes.CDLL(None, use_errno=True)


def address_of(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, dtype=np.uint8).ctypes.data)


def resident_pages(path: Path) -> NDArray[np.uint8]:
    """One byte a page: 1 where the page cache holds it, by mincore."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
        states = np.zeros(-(-size // PAGE), dtype=np.uint8)
        failed = _libc.mincore(
            ctypes.c_void_p(address_of(mapping)), ctypes.c_size_t(size), ctypes.c_void_p(states.ctypes.data)
        )
        if failed:
            raise OSError(ctypes.get_errno(), "mincore of the memory file failed")
    return states & np.uint8(1)


def resident_share(path: Path) -> float:
    return float(resident_pages(path).mean())


def large_folio_share(path: Path) -> float | None:
    """The share of the file's cached pages that belong to folios above 4 KiB; None without the right to ask."""
    size = path.stat().st_size
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping,
            open("/proc/self/pagemap", "rb", buffering=0) as pagemap,
            open("/proc/kpageflags", "rb", buffering=0) as flags,
        ):
            mapping.madvise(_MADV_POPULATE_READ)
            first = address_of(mapping) // PAGE
            entries = np.frombuffer(os.pread(pagemap.fileno(), size // PAGE * 8, first * 8), dtype=np.uint64)
            frames = entries & np.uint64((1 << 55) - 1)
            sample = frames[:: max(1, len(frames) // 2048)]
            if not sample.any():
                return None
            words = [struct.unpack("Q", os.pread(flags.fileno(), 8, int(frame) * 8))[0] for frame in sample]
    except (OSError, struct.error):
        return None
    return sum(1 for word in words if word & _KPF_COMPOUND) / len(words)


def read_whole(path: Path) -> None:
    """Reads what the page cache has lost of the file, 4 KiB at a time; then all of it.

    Read but a moment ago, none of it is old: machines that reclaim in advance (DAMON) take what is.
    """
    missing = np.flatnonzero(resident_pages(path) == 0)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in missing:
            os.pread(file.fileno(), PAGE, int(page) * PAGE)
        for start in range(0, path.stat().st_size, 1 << 20):
            os.pread(file.fileno(), 1 << 20, start)


class MemoryFiles(Closing):
    """``warm`` and ``cold``, `size` bytes each with the same contents, in a directory that goes with the object."""

    def __init__(self, size: int, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="memory-", dir=directory)
        self.size = size
        self.path = Path(self._directory.name)
        self.cold = self.path / "cold"
        self.warm = self.path / "warm"
        try:
            write_memory_file(self.cold, size)
            # 4 KiB at a time: larger writes make larger folios, which a mapping maps in one go.
            with self.cold.open("rb") as source, self.warm.open("wb", buffering=0) as target:
                while piece := source.read(1 << 20):
                    for start in range(0, len(piece), PAGE):
                        target.write(piece[start : start + PAGE])
                os.fsync(target.fileno())
            with self.cold.open("rb+") as file:
                os.fsync(file.fileno())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._directory.cleanup()

    def evict(self) -> None:
        """Take the cold file out of the page cache. Raises RuntimeError where that does not work (tmpfs, mapped)."""
        with self.cold.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.check_cold()

    def check_cold(self) -> None:
        if (share := resident_share(self.cold)) > 0:
            raise RuntimeError(f"{share:.1%} of {self.cold} is cached, so cold cases are not; choose --directory")

    def warm_up(self) -> None:
        """See `read_whole`."""
        read_whole(self.warm)

    def stayed_warm(self) -> bool:
        """False when somebody emptied caches meanwhile. A page or two may be on the move (compaction)."""
        return resident_share(self.warm) >= _WARM_ENOUGH

    def state(self) -> str:
        """What the page cache holds of the warm file, in words."""
        large = large_folio_share(self.warm)
        folios = "folio size not verified (needs root)" if large is None else f"{large:.1%} in folios above 4 KiB"
        return f"written in 4 KiB pieces, {resident_share(self.warm):.0%} resident (mincore), {folios} (kpageflags)"


def same_history(size: int) -> None:
    """Populates and frees `size` bytes, so that every case starts with memory freed just now."""
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory.madvise(_MADV_POPULATE_WRITE)
