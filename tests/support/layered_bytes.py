"""Headers of layered memory, byte by byte, so that each can be wrong. The LZ4 frame has stored blocks."""

from __future__ import annotations

import struct
from uuid import UUID

ONE, TWO = (UUID(int=number << 64 | number) for number in (1, 2))
PAGE = 4096


def fixed(version: int, block_size: int = PAGE, size: int = 4 * PAGE, generation: int = 1) -> bytes:
    """The 64 bytes that come first; the build is ONE, its base TWO."""
    return struct.pack("<4Q", version, block_size, size, generation) + ONE.bytes + TWO.bytes


def record(offset: int, length: int, build: UUID, storage: int) -> bytes:
    """A mapping of versions 1 to 4."""
    return struct.pack("<2Q", offset, length) + build.bytes + struct.pack("<Q", storage)


def frame_of(
    build: UUID,
    size: int = 0,
    codec: int = 1,
    frames: list[tuple[int, int, int, int]] | None = None,
    count: int | None = None,
) -> bytes:
    """An entry of the builds section; `count` in the place of the number of frames."""
    rows = frames or []
    table = b"".join(struct.pack("<qqii", *row) for row in rows)
    number = len(rows) if count is None else count
    return build.bytes + struct.pack("<q", size) + bytes(32) + struct.pack("<II", codec, number) + table


def payload(mappings: bytes, builds: bytes = b"", count: int = 0) -> bytes:
    """Both sections."""
    return struct.pack("<I", count) + builds + mappings


def leb(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def columns(uuids: list[UUID], *rows: list[int]) -> bytes:
    """The mapping section of version 5, its numbers as they are to be written."""
    numbers = b"".join(leb(value) for row in rows for value in row)
    return (
        struct.pack("<I", len(uuids))
        + b"".join(uuid.bytes for uuid in uuids)
        + struct.pack("<I", len(rows[0]))
        + numbers
    )


def with_payload(start: bytes, body: bytes, flags: int = 0, size: int | None = None) -> bytes:
    """The fixed part and the rest of versions 4 and 5; `size` in the place of the payload's own."""
    length = len(body) if size is None else size
    return start + struct.pack("<BI", flags, length) + _lz4_frame(body)


def _lz4_frame(data: bytes) -> bytes:
    # Independent blocks of 4 MiB, no checksums: FLG 0x60, BD 0x70, and the second byte of their xxh32.
    blocks = b"".join(
        struct.pack("<I", len(data[at : at + (4 << 20)]) | 1 << 31) + data[at : at + (4 << 20)]
        for at in range(0, len(data), 4 << 20)
    )
    return struct.pack("<I", 0x184D2204) + b"\x60\x70\x73" + blocks + bytes(4)
