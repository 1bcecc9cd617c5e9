"""The file of a working set: a header, then the page numbers. All little-endian.

    offset  size  what
         0     8  "VMTHAWWS"
         8     2  version, 1
        10     2  log2 of the page size, 12 to 30
        12     4  CRC-32 (zlib) of the header with this field 0, and of the payload
        16     8  pages, at most 2**26 (256 GiB of small ones)
        24     8  bytes of the payload
        32        zlib: for each page, in order, its number (guest address / page size), 8 bytes

A file may come from anywhere: sizes are checked before anything is allocated by them.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vmthaw._whole_file import whole_file, write_at
from vmthaw.errors import WorkingSetFileError

_MAGIC = b"VMTHAWWS"
_VERSION = 1
_HEADER = struct.Struct("<8sHHIQQ")
_MOST_PAGES = 1 << 26


def _header(log2: int, checksum: int, pages: int, payload: int) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, log2, checksum, pages, payload)


def write_pages(path: str | os.PathLike[str], pages: NDArray[np.uint64], page_size: int) -> None:
    """Whole or not at all. Raises WorkingSetFileError for too many pages, and OSError."""
    log2 = page_size.bit_length() - 1
    if len(pages) > _MOST_PAGES:
        raise WorkingSetFileError(f"a working set file holds at most {_MOST_PAGES} pages, not {len(pages)}")
    payload = zlib.compress((pages >> np.uint64(log2)).astype("<u8").tobytes(), 6)
    checksum = zlib.crc32(payload, zlib.crc32(_header(log2, 0, len(pages), len(payload))))
    with whole_file(Path(path)) as file:
        write_at(file, 0, _header(log2, checksum, len(pages), len(payload)) + payload)
        os.fchmod(file, 0o644 & ~_umask())


def _umask() -> int:
    # From /proc: asking by umask(2) would change it for other threads.
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077


def read_pages(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint64], int]:
    """Guest addresses and the page size. Raises WorkingSetFileError that names the field, and OSError."""

    def wrong(what: str) -> WorkingSetFileError:
        return WorkingSetFileError(f"{os.fspath(path)} is no working set that can be used: {what}")

    with Path(path).open("rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise wrong(f"it does not begin with {_MAGIC.decode()} and a whole header")
        _, version, log2, checksum, count, size = _HEADER.unpack(head)
        if version != _VERSION:
            raise wrong(f"version {version} is not known here (version {_VERSION} is)")
        if not 12 <= log2 <= 30:
            raise wrong(f"the page size 2**{log2} is not from 2**12 to 2**30")
        if count > _MOST_PAGES:
            raise wrong(f"pages: {count} are more than {_MOST_PAGES}")
        if size > count * 9 + 64:  # zlib never needs more
            raise wrong(f"the payload of {size} bytes is too long for {count} pages")
        payload = file.read(size)
        if len(payload) != size or file.read(1):
            raise wrong(f"the payload is not the {size} bytes that the header says: cut off, or changed")
    if zlib.crc32(payload, zlib.crc32(_header(log2, 0, count, size))) != checksum:
        raise wrong("the checksum does not match: it was changed or damaged")
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(payload, count * 8 + 1)
    except zlib.error as error:
        raise wrong(f"the payload cannot be unpacked: {error}") from error
    if len(raw) != count * 8 or not unpacker.eof or unpacker.unused_data:
        raise wrong(f"the payload does not hold {count} pages")
    numbers = np.frombuffer(raw, dtype="<u8").astype(np.uint64)
    if len(numbers) and int(numbers.max()) >> (64 - log2):
        raise wrong("a page number is too large for its page size")
    if len(np.unique(numbers)) != count:
        raise wrong("a page is listed twice")
    return numbers << np.uint64(log2), 1 << log2
