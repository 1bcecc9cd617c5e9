"""A guest reads a file through the DAX window, in turns with the same bytes by FUSE READ, in and out of order."""

from __future__ import annotations

import ctypes
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.bench import TIMEOUT, Bench, Case, Sample
from tests.benchmarks.exit_guest import why_no_guest
from tests.support.dax_guest import CHUNK, END_PORT, VALUE, DaxGuest
from tests.support.fuse_client import READ, ROOT, Client
from vmthaw.dax import DaxSession, HostFiles
from vmthaw.devices import Buses
from vmthaw.filesystem import FuseDispatcher
from vmthaw.fuse import PassthroughFs
from vmthaw.run_loop import RunEndKind, RunLoop
from vmthaw.vcpu import Dispatcher, ExitActionKind, ExitProfile, GuestArch

PAGE = 4096
SIZE = 32 * CHUNK
SEQUENTIAL, RANDOM = 128 << 10, PAGE  # bytes of one READ: what Linux reads ahead, and a page
_TURNS = 9
_RANDOM_PART = 8
_DOORBELL = 0x81
_PLACES, _BUFFER = 0x40000, 0x100000
_LINE = 64
_HEADER = 16  # of a reply


def reading_program(*, rings: bool) -> bytes:
    """Adds up EDI blocks of EBX cache lines, whose addresses lie at RBP, word by word in EDX, which ends up at VALUE.

    Plain loads in 64-bit code at CPL 3: a KVM without the processor's help emulates all else word by word. `rings`: the
    block is asked for by a write of its place to the doorbell's port, and lies in the buffer then.
    """
    load = b"".join(b"\x03\x56" + bytes([at]) for at in range(0, _LINE, 4))  # add at(%rsi), %edx
    line = load + b"\x48\x83\xc6" + bytes([_LINE]) + b"\xff\xc9"  # add $64, %rsi; dec %ecx
    line += b"\x75" + bytes([256 - len(line) - 2])  # jnz line
    block = b"\x48\x8b\x75\x00\x48\x83\xc5\x08"  # mov (%rbp), %rsi; add $8, %rbp
    if rings:
        block += b"\x89\xf0\xe7" + bytes([_DOORBELL])  # mov %esi, %eax; out %eax, $doorbell
        block += b"\xbe" + struct.pack("<I", _BUFFER)  # mov $buffer, %esi
    block += b"\x89\xd9" + line + b"\xff\xcf"  # mov %ebx, %ecx; line...; dec %edi
    block += b"\x75" + bytes([256 - len(block) - 2])  # jnz block
    return b"\x31\xd2" + block + b"\x89\x14\x25" + struct.pack("<I", VALUE)  # xor %edx, %edx; ...; mov %edx, VALUE


@dataclass
class Reader:
    """A guest, a file of SIZE bytes in the page cache, and the two ways to it."""

    guest: DaxGuest
    session: DaxSession
    node: int
    client: Client
    file: tuple[int, int]  # node and handle of the FUSE server
    data: NDArray[np.uint32]
    buffer: memoryview  # the guest's, for a reply with its header
    order: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def map_all(self) -> float:
        """Maps the file as Linux does, in pieces of 2 MiB over what is there: the guest's pages go. Seconds."""
        start = time.perf_counter()
        for offset in range(0, SIZE, CHUNK):
            self.session.set_up(self.node, window_offset=offset, file_offset=offset, length=CHUNK)
        return time.perf_counter() - start

    def through_window(self, block: int, *, shuffled: bool) -> float:
        """Seconds in which the guest reads all once, or an eighth in a new random order."""
        return self._read(block, self.guest.base, shuffled=shuffled)

    def by_requests(self, block: int, *, shuffled: bool) -> float:
        """The same by READs of `block` bytes, each asked for by an exit, answered by a `FuseDispatcher` and copied to
        the guest's buffer, where the guest reads it. Seconds."""
        return self._read(block, 0, shuffled=shuffled, rings=True)

    def _read(self, block: int, base: int, *, shuffled: bool, rings: bool = False) -> float:
        places = np.arange(0, SIZE, block, dtype=np.uint64)
        if shuffled:
            places = self.order.permutation(places)[: len(places) // _RANDOM_PART]
        total = int(self.data.reshape(-1, block // 4)[places // block].sum()) & 0xFFFF_FFFF
        self.guest.memory.write(_PLACES, (places + np.uint64(base)).tobytes())
        self.guest.begin(reading_program(rings=rings), rbp=_PLACES, rdi=len(places), rbx=block // _LINE)
        loop = RunLoop([self.guest.vcpu], Dispatcher(ExitProfile.strict, Buses(GuestArch.x86_64)))
        loop.on_port(END_PORT)(lambda _: ExitActionKind.shutdown)
        if rings:
            loop.on_port(_DOORBELL)(lambda access: self._answer(int.from_bytes(access.fields["data"], "little"), block))
        with loop:
            end = loop.run(timeout=TIMEOUT)
            stats = loop.stats[0]
        if end.kind is not RunEndKind.shutdown or self.guest.value != total:
            raise RuntimeError(f"the guest ended by {end} with {self.guest.value:#x}: it did not read what is there")
        return (stats.guest_ns + stats.host_ns) / 1e9

    def _answer(self, offset: int, size: int) -> ExitActionKind:
        node, handle = self.file
        body = struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)
        reply = self.client.dispatcher.dispatch(Client.frame(READ, node, body))
        assert reply is not None
        self.buffer[: len(reply)] = reply
        return ExitActionKind.continue_


def _buffer_of(guest: DaxGuest) -> memoryview:
    size = _HEADER + SEQUENTIAL
    place = guest.memory.regions[0][0] + _BUFFER - _HEADER
    return memoryview((ctypes.c_ubyte * size).from_address(place)).cast("B")


@contextmanager
def reader(bench: Bench, *, large: bool) -> Iterator[Reader]:
    """All of it is gone afterwards. `large`: the file is written in one go, which makes large folios."""
    data = np.random.default_rng(1).integers(0, 2**32, SIZE // 4, np.uint32)
    with tempfile.TemporaryDirectory(prefix="window-", dir=bench.files.path) as directory:
        path = f"{directory}/file"
        with open(path, "wb", buffering=0) as file:
            file.writelines(piece.tobytes() for piece in np.split(data, 1 if large else SIZE // PAGE))
        files = HostFiles()
        node = files.add(path)
        guest = DaxGuest(far=True, size=SIZE)
        try:
            client = Client(FuseDispatcher(PassthroughFs(directory)))
            client.init()
            inode, _ = client.lookup(ROOT, "file")
            with DaxSession(files, guest.window) as session:
                yield Reader(guest, session, node, client, (inode, client.open(inode)), data, _buffer_of(guest))
        finally:
            guest.close()


def in_turns(
    block: int, *, shuffled: bool = False, first: bool = True, large: bool = False
) -> Callable[[Bench], Sample]:
    """`touched` are pages of 4 KiB. `first`: the mappings are new in each turn, and set-up counts."""

    def measure(bench: Bench) -> Sample:
        ours, baseline = [], []
        with reader(bench, large=large) as found:
            found.map_all()
            found.through_window(block, shuffled=shuffled)
            for _turn in range(_TURNS):
                baseline.append(found.by_requests(block, shuffled=shuffled))
                set_up = found.map_all() if first else 0.0
                ours.append(set_up + found.through_window(block, shuffled=shuffled))
        pages = SIZE // PAGE // (_RANDOM_PART if shuffled else 1)
        return Sample(median(ours), pages, baseline_seconds=median(baseline))

    return measure


def window_cases() -> list[Case]:
    """Only where a guest runs. The file lies in the page cache, in folios of 4 KiB; the guest loads each word."""
    if why_no_guest():
        return []
    return [
        Case("window/sequential", in_turns(SEQUENTIAL),
             "64 MiB from nothing mapped, 2 MiB at a time, in turns with READs of 128 KiB"),
        Case("window/sequential-large", in_turns(SEQUENTIAL, large=True), "the same of a file in large folios"),
        Case("window/sequential-again", in_turns(SEQUENTIAL, first=False),
             "the same when the guest has read it before"),
        Case("window/random", in_turns(RANDOM, shuffled=True),
             "an eighth of its pages at random, from nothing mapped, in turns with READs of 4 KiB"),
        Case("window/random-again", in_turns(RANDOM, shuffled=True, first=False),
             "the same when the guest has read it before"),
    ]  # fmt: skip
