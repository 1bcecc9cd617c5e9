"""The header of layered memory: what a foreign writer wrote, what we write ourselves, and what must be refused."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.layered_bytes import columns, fixed, frame_of, leb, payload, record, with_payload
from vmthaw.errors import LayeredHeaderError
from vmthaw.source import Codec, LayeredBuild, LayeredFrame, LayeredHeader, LayeredMapping

HEADERS = sorted((Path(__file__).parents[2] / "data" / "headers").glob("*.header"))
NIL = UUID(int=0)
ONE, TWO, THREE = (UUID(int=number << 64 | number) for number in (1, 2, 3))
PAGE = 4096


def refusal(data: bytes) -> LayeredHeaderError:
    with pytest.raises(LayeredHeaderError) as caught:
        LayeredHeader.read(data)
    return caught.value


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.stem)
def test_a_foreign_writers_header_is_read_as_it_says(path: Path) -> None:
    header = LayeredHeader.read(path)
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    for name in ("version", "block_size", "size", "generation"):
        assert getattr(header, name) == expected[name]
    assert (header.build, header.base_build) == (UUID(expected["build"]), UUID(expected["base_build"]))
    assert header.mappings == tuple(
        LayeredMapping(one["Offset"], one["Length"], UUID(one["Build"]), one["Storage"]) for one in expected["mappings"]
    )
    found = {(one.build, one.size, one.checksum.hex(), int(one.codec), len(one.frames)) for one in header.builds}
    assert found == {
        (UUID(one["Build"]), one["Size"], one["Checksum"], one["Type"], one["FramesStored"])
        for one in expected["builds"] or []
    }


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_what_was_read_survives_every_version_that_can_say_it(path: Path, version: int) -> None:
    header = LayeredHeader.read(path.read_bytes())
    unit = header.block_size if version <= 3 else PAGE
    aligned = all(one.offset % unit == one.storage % unit == 0 for one in header.mappings)
    if version <= 3 and (not aligned or any(one.codec for one in header.builds)):
        with pytest.raises(LayeredHeaderError):
            header.write(version)
        return
    again = LayeredHeader.read(header.write(version))
    builds = header.builds if version > 3 else ()
    assert again == dataclasses.replace(header, version=version, builds=builds)


@pytest.mark.parametrize("path", [path for path in HEADERS if path.stem < "v4"], ids=lambda path: path.stem)
def test_an_old_header_is_written_byte_for_byte(path: Path) -> None:
    assert LayeredHeader.read(path).write() == path.read_bytes()


def test_no_record_at_all_is_one_mapping_of_the_build() -> None:
    header = LayeredHeader.read(fixed(2, size=3 * PAGE + 1))
    assert header.mappings == (LayeredMapping(0, 4 * PAGE, ONE, 0),)


def test_bits_above_the_version_are_kept() -> None:
    data = fixed(3 | 7 << 16) + record(0, 4 * PAGE, ONE, 0)
    assert LayeredHeader.read(data).write() == data


def test_storage_that_goes_back_survives_version_5() -> None:
    mappings = (LayeredMapping(0, PAGE, ONE, 9 * PAGE), LayeredMapping(PAGE, PAGE, TWO, 0))
    header = LayeredHeader(5, PAGE, 2 * PAGE, 0, ONE, TWO, mappings)
    assert LayeredHeader.read(header.write()) == header


def test_gaps_and_the_rest_are_zeros_in_version_5() -> None:
    header = LayeredHeader.read(with_payload(fixed(5), payload(columns([ONE], [1], [2], [0], [0]))))
    assert header.mappings == (
        LayeredMapping(0, PAGE, NIL, 0),
        LayeredMapping(PAGE, 2 * PAGE, ONE, 0),
        LayeredMapping(3 * PAGE, PAGE, NIL, 0),
    )


def test_a_thousand_builds_survive() -> None:
    mappings = tuple(LayeredMapping(i * PAGE, PAGE, UUID(int=i + 1), i % 7 * PAGE) for i in range(1000))
    builds = tuple(
        LayeredBuild(UUID(int=i + 1), 7 * PAGE, bytes([i % 256] * 32), Codec.zstd, (LayeredFrame(0, 5, 7 * PAGE, 9),))
        for i in range(1000)
    )
    header = LayeredHeader(4, PAGE, 1000 * PAGE, 999, ONE, TWO, mappings, builds)
    assert LayeredHeader.read(header.write()) == header
    assert LayeredHeader.read(header.write(5)) == dataclasses.replace(header, version=5)


def plain(*records: bytes, **of_fixed: int) -> bytes:
    return fixed(3, **of_fixed) + b"".join(records)


def with_build(**wrong: Any) -> bytes:
    """Version 4, one zstd build of two frames, four pages mapped to it; some of it wrong."""
    frames = wrong.pop("frames", [(0, 0, 2 * PAGE, 100), (2 * PAGE, 100, 2 * PAGE, 90)])
    build = frame_of(ONE, frames=frames, **wrong)
    return with_payload(fixed(4), struct.pack("<I", 1) + build + struct.pack("<I", 1) + record(0, 4 * PAGE, ONE, 0))


def v5(*rows: list[int], uuids: list[UUID] | None = None, tail: bytes = b"") -> bytes:
    return with_payload(fixed(5), payload(columns([ONE] if uuids is None else uuids, *rows) + tail))


GOOD = record(0, 4 * PAGE, ONE, 0)
HALF = record(0, 2 * PAGE, ONE, 0)
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "header"),
    "63 bytes": (fixed(3)[:-1], "header"),
    "version 0": (fixed(0) + GOOD, "version"),
    "version 6": (fixed(6) + GOOD, "version"),
    "block size 0": (plain(GOOD, block_size=0), "block size"),
    "block size 4097": (plain(GOOD, block_size=4097), "block size"),
    "block size 256": (plain(GOOD, block_size=256), "block size"),
    "block size 2 GiB": (plain(GOOD, block_size=2 << 30), "block size"),
    "size 0": (plain(GOOD, size=0), "size"),
    "size 2^63": (plain(GOOD, size=1 << 63), "size"),
    "partial record": (plain(GOOD, b"1"), "mappings"),
    "first after 0": (plain(record(PAGE, 3 * PAGE, ONE, 0)), "mappings[0].offset"),
    "gap": (plain(HALF, record(3 * PAGE, PAGE, ONE, 0)), "mappings[1].offset"),
    "overlap": (plain(HALF, record(PAGE, 3 * PAGE, ONE, 0)), "mappings[1].offset"),
    "unsorted": (plain(HALF, record(0, 2 * PAGE, ONE, 0)), "mappings[1].offset"),
    "does not cover": (plain(HALF), "mappings"),
    "length 0": (plain(record(0, 0, ONE, 0)), "mappings[0].length"),
    "beyond the size": (plain(record(0, 5 * PAGE, ONE, 0)), "mappings[0].length"),
    "length 2^64 - 4096": (plain(HALF, record(2 * PAGE, 2**64 - PAGE, ONE, 0)), "mappings[1].length"),
    "unaligned length": (plain(record(0, 100, ONE, 0), record(100, 4 * PAGE - 100, ONE, 0)), "mappings[0].length"),
    "unaligned storage": (plain(record(0, 4 * PAGE, ONE, 1)), "mappings[0].storage"),
    "storage 2^63": (plain(record(0, 4 * PAGE, ONE, 1 << 63)), "mappings[0].storage"),
    "no flags": (fixed(4), "flags"),
    "incomplete": (with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD), flags=1), "flags"),
    "unknown flag": (with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD), flags=2), "flags"),
    "size beyond 256 MiB": (with_payload(fixed(4), b"1234", size=(256 << 20) + 1), "uncompressed size"),
    "size that LZ4 cannot do": (with_payload(fixed(4), b"1234", size=200 << 20), "uncompressed size"),
    "size too small": (with_payload(fixed(4), b"12345678", size=7), "LZ4 frame"),
    "size too large": (with_payload(fixed(4), b"12345678", size=9), "LZ4 frame"),
    "no LZ4 frame": (fixed(4) + struct.pack("<BI", 0, 8) + b"x" * 30, "LZ4 frame"),
    "cut LZ4 frame": (with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD))[:-1], "LZ4 frame"),
    "bytes behind the frame": (with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD)) + b"1", "LZ4 frame"),
    "no builds section": (with_payload(fixed(4), b""), "builds"),
    "builds beyond the section": (with_payload(fixed(4), struct.pack("<I", 2) + frame_of(ONE)), "builds"),
    "build cut": (
        with_payload(fixed(4), struct.pack("<I", 2) + frame_of(ONE, frames=[(0, 0, 1, 1)] * 3, count=3)[:-1]),
        "builds[0].frame count",
    ),
    "builds unsorted": (
        with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD, frame_of(TWO) + frame_of(ONE), 2)),
        "builds[1].build",
    ),
    "build twice": (
        with_payload(fixed(4), payload(struct.pack("<I", 1) + GOOD, frame_of(ONE) + frame_of(ONE), 2)),
        "builds[1].build",
    ),
    "negative file size": (with_build(size=-1), "builds[0].file size"),
    "frame type 3": (with_build(codec=3), "builds[0].frame type"),
    "frames of a plain build": (with_build(codec=0), "builds[0].frames"),
    "a million frames too many": (with_build(count=1 << 21), "builds[0].frame count"),
    "frame of size 0": (with_build(frames=[(0, 0, 0, 9)]), "builds[0].frames[0].size"),
    "frame of size -1": (with_build(frames=[(0, 0, -1, 9)]), "builds[0].frames[0].size"),
    "frame of compressed size 0": (with_build(frames=[(0, 0, 9, 0)]), "builds[0].frames[0].compressed size"),
    "frame of compressed size -1": (with_build(frames=[(0, 0, 9, -1)]), "builds[0].frames[0].compressed size"),
    "frames overlap": (with_build(frames=[(0, 0, 9, 9), (8, 9, 9, 9)]), "builds[0].frames[1].start"),
    "frames overlap when compressed": (
        with_build(frames=[(0, 0, 9, 9), (9, 8, 9, 9)]),
        "builds[0].frames[1].compressed start",
    ),
    "frame at -1": (with_build(frames=[(-1, 0, 9, 9)]), "builds[0].frames[0].start"),
    "frame compressed at -1": (with_build(frames=[(0, -1, 9, 9)]), "builds[0].frames[0].compressed start"),
    "no frame for a mapping": (with_build(frames=[(0, 0, 2 * PAGE, 9)]), "mappings[0].storage"),
    "a hole between frames": (
        with_build(frames=[(0, 0, PAGE, 9), (2 * PAGE, 9, 2 * PAGE, 9)]),
        "mappings[0].storage",
    ),
    "build too small": (with_build(size=3 * PAGE), "mappings[0].storage"),
    "records missing": (with_payload(fixed(4), payload(struct.pack("<I", 2) + GOOD)), "mappings"),
    "records too many": (with_payload(fixed(4), payload(struct.pack("<I", 0) + GOOD)), "mappings"),
    "no mapping section": (with_payload(fixed(4), payload(b"")), "mappings"),
    "no UUIDs": (with_payload(fixed(5), payload(b"")), "UUIDs"),
    "UUIDs beyond the section": (with_payload(fixed(5), payload(struct.pack("<I", 9))), "UUIDs"),
    "more mappings than bytes": (with_payload(fixed(5), payload(struct.pack("<II", 0, 9))), "mappings"),
    "more than 8 Mi mappings": (with_payload(fixed(5), payload(struct.pack("<II", 0, (8 << 20) + 1))), "mappings"),
    "bytes behind the columns": (v5([0], [4], [0], [0], tail=b"1"), "mappings"),
    "a column missing": (v5([0], [4], [0, 0, 0], []), "mappings"),
    "offset before the end": (v5([0, 1], [2, 2], [0, 0], [0, 0]), "mappings[1].offset"),
    "offset beyond 32 bits": (v5([1 << 32], [1], [0], [0]), "mappings[0].offset"),
    "offsets that add up beyond": (v5([1, (1 << 32) - 1], [1, 1], [0, 0], [0, 0]), "mappings[1].offset"),
    "length of 0 units": (v5([0], [0], [0], [0]), "mappings[0].length"),
    "end beyond the size": (v5([1], [4], [0], [0]), "mappings[0].length"),
    "offset beyond the size": (v5([5], [1], [0], [0]), "mappings[0].length"),
    "length beyond 32 bits": (v5([0], [1 << 32], [0], [0]), "mappings[0].length"),
    "storage below 0": (v5([0], [1], [1], [0]), "mappings[0].storage"),
    "storage beyond 32 bits": (v5([0], [1], [1 << 33], [0]), "mappings[0].storage"),
    "index out of range": (v5([0], [1], [0], [1]), "mappings[0].build"),
    "index beyond 32 bits": (v5([0], [1], [0], [1 << 32]), "mappings[0].build"),
    "number cut": (
        with_payload(fixed(5), payload(struct.pack("<II", 0, 1) + leb(0) + leb(1) + leb(0) + b"\x80")),
        "mappings[0].build",
    ),
    "number of six bytes": (
        with_payload(fixed(5), payload(struct.pack("<II", 0, 1) + b"\x80" * 5 + b"\x00" + leb(1) * 3)),
        "mappings[0].offset",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_header_is_refused_by_the_name_of_its_field(name: str) -> None:
    data, field = WRONG[name]
    error = refusal(data)
    assert error.field == field
    assert str(error).startswith(f"bad layered header: {field}: ")


def test_the_right_form_of_what_is_refused_is_read() -> None:
    assert LayeredHeader.read(plain(GOOD)).size == 4 * PAGE
    assert len(LayeredHeader.read(with_build()).builds[0].frames) == 2
    assert LayeredHeader.read(v5([0], [4], [0], [0])).mappings == (LayeredMapping(0, 4 * PAGE, ONE, 0),)


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.stem)
def test_a_header_cut_anywhere_is_refused_or_says_less(path: Path) -> None:
    data = path.read_bytes()
    for size in range(len(data)):
        if size == 64 and data[0] <= 3:
            continue  # no record at all means something
        assert refusal(data[:size]).field


def test_a_value_that_cannot_be_is_refused_when_it_is_made() -> None:
    with pytest.raises(LayeredHeaderError) as caught:
        LayeredHeader(3, PAGE, PAGE, 0, ONE, TWO, (LayeredMapping(0, 2 * PAGE, ONE, 0),))
    assert caught.value.field == "mappings[0].length"


def test_versions_that_cannot_say_compressed_refuse_it() -> None:
    header = LayeredHeader.read(with_build())
    with pytest.raises(LayeredHeaderError, match="write version 4 or 5") as caught:
        header.write(3)
    assert caught.value.field == "builds[0].frame type"
