"""A guest reads and writes files of the host through its DAX window."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.dax_guest import CHUNK, MEMORY, DaxGuest
from vmthaw.dax import DaxSession, HostFiles
from vmthaw.kvm import Exit

pytestmark = [
    pytest.mark.usefixtures("kvm_available"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the guest's code is x86"),
]
BUFFER = 0x100000  # in the guest's memory
PAGE = 4096

Make = Callable[..., "Dax"]


class Dax:
    """A guest and a session over files of the host."""

    def __init__(self, directory: Path, *, far: bool = False, window: bool = True) -> None:
        self.guest = DaxGuest(far=far, window=window)
        self.base = self.guest.base
        self.files = HostFiles()
        self.directory = directory
        self.session = DaxSession(self.files, self.guest.window, guest_base=self.base, size=self.guest.size)

    def file(self, name: str, content: bytes) -> tuple[int, Path]:
        path = self.directory / name
        path.write_bytes(content)
        return self.files.add(path), path

    def assert_unreachable(self, exit_: Exit, address: int) -> str:
        """The exit has the address (MMIO), or says EFAULT without one; gives what the session says about it."""
        if exit_.name == "MMIO":
            assert exit_.fields["guest_address"] == address
            if not exit_.fields["is_write"]:
                self.guest.vcpu.answer(exit_, bytes(4))
            self.guest.vcpu.drain()
        else:
            assert exit_.errno == errno.EFAULT, str(exit_)
        return self.session.explain(exit_)


@pytest.fixture
def make_dax(tmp_path: Path) -> Iterator[Make]:
    made: list[Dax] = []

    def make(*, far: bool = False, window: bool = True) -> Dax:
        made.append(Dax(tmp_path, far=far, window=window))
        return made[-1]

    yield make
    for dax in made:
        dax.guest.close()
        dax.session.close()
        assert dax.files.leases == 0


@pytest.mark.parametrize("way", ["window", "slots", "far"])
def test_a_guest_reads_and_writes_a_file_through_the_window(make_dax: Make, way: str) -> None:
    dax = make_dax(far=way == "far", window=way != "slots")
    content = random.Random(1).randbytes(CHUNK + 3 * PAGE)
    node, path = dax.file("data", content)
    dax.session.set_up(node, 0, 0, CHUNK)
    dax.session.set_up(node, CHUNK, CHUNK, CHUNK)  # past the file's end, as Linux does
    for offset in (0, 12345, CHUNK - 100, CHUNK + 2 * PAGE):
        dax.guest.copy(BUFFER, dax.base + offset, PAGE)
        assert dax.guest.memory.read(BUFFER, PAGE) == content[offset : offset + PAGE]
    dax.session.set_up(node, 0, 0, CHUNK, write=True)
    written = random.Random(2).randbytes(3 * PAGE)
    dax.guest.memory.write(BUFFER, written)
    dax.guest.copy(dax.base + 777, BUFFER, len(written))
    assert path.read_bytes() == content[:777] + written + content[777 + len(written) :]


def test_host_writes_are_seen_at_once(make_dax: Make) -> None:
    dax = make_dax()
    node, path = dax.file("data", bytes(CHUNK))
    dax.session.set_up(node, CHUNK, 0, CHUNK)
    with path.open("r+b", buffering=0) as file:
        for value in (1, 0xDEADBEEF, 7):
            os.pwrite(file.fileno(), value.to_bytes(4, "little"), 5 * PAGE)
            assert dax.guest.load(dax.base + CHUNK + 5 * PAGE).name == "IO"
            assert dax.guest.value == value


@pytest.mark.parametrize("window", [True, False])
def test_a_guest_sees_the_other_file_once_the_mapping_is_replaced(make_dax: Make, window: bool) -> None:
    dax = make_dax(window=window)
    nodes = [dax.file(f"file{i}", bytes([i]) * CHUNK)[0] for i in (1, 2, 3)]
    for node, byte in zip(nodes, (1, 2, 3), strict=True):
        dax.session.set_up(node, 0, 0, CHUNK)
        assert dax.guest.load(dax.base).name == "IO"
        assert dax.guest.value == byte * 0x01010101
    dax.session.set_up(nodes[0], 64 * PAGE, 0, PAGE)
    for offset, byte in ((63, 3), (64, 1), (65, 3)):
        assert dax.guest.load(dax.base + offset * PAGE).name == "IO"
        assert dax.guest.value == byte * 0x01010101


def test_a_hole_and_a_write_to_a_read_only_mapping_end_the_run_and_nothing_else(make_dax: Make) -> None:
    dax = make_dax()
    node, path = dax.file("data", bytes(CHUNK))
    dax.session.set_up(node, 0, 0, CHUNK)
    hole = dax.base + 3 * CHUNK
    assert "no mapping" in dax.assert_unreachable(dax.guest.load(hole), hole)
    text = dax.assert_unreachable(dax.guest.store(dax.base + PAGE, 1), dax.base + PAGE)
    assert f"node {node}" in text
    assert "read-only" in text
    assert path.read_bytes() == bytes(CHUNK)
    assert dax.guest.load(dax.base).name == "IO"


def test_truncation_of_a_mapped_file_leaves_everybody_else_alive_and_is_named(make_dax: Make) -> None:
    dax = make_dax()
    short, path = dax.file("short", b"\x11" * CHUNK)
    other, _ = dax.file("other", b"\x22" * CHUNK)
    dax.session.set_up(short, 0, 0, CHUNK, write=True)
    dax.session.set_up(other, CHUNK, 0, CHUNK)
    assert dax.guest.load(dax.base + PAGE).name == "IO"
    os.truncate(path, PAGE)
    text = dax.assert_unreachable(dax.guest.load(dax.base + PAGE), dax.base + PAGE)
    assert f"node {short}" in text
    assert "end of the file" in text
    assert text.index(f"node {short}") < text.find(f"node {other}") % len(text)
    assert dax.session.past_end()["node"].tolist() == [short]
    for address, value in ((dax.base, 0x11111111), (dax.base + CHUNK, 0x22222222)):
        assert dax.guest.load(address).name == "IO", "the mapping is alive"
        assert dax.guest.value == value
    dax.session.set_up(other, 0, 0, CHUNK)
    assert dax.guest.load(dax.base + PAGE).name == "IO"
    assert dax.guest.value == 0x22222222


def test_removed_ranges_are_holes_and_the_rest_stays(make_dax: Make) -> None:
    dax = make_dax()
    node, _ = dax.file("data", b"\x33" * CHUNK)
    dax.session.set_up(node, 0, 0, CHUNK)
    assert dax.guest.load(dax.base + PAGE).name == "IO"
    dax.session.remove(PAGE, PAGE)
    dax.assert_unreachable(dax.guest.load(dax.base + PAGE), dax.base + PAGE)
    assert dax.guest.load(dax.base + 2 * PAGE).name == "IO"
    dax.session.reset()
    dax.assert_unreachable(dax.guest.load(dax.base + 2 * PAGE), dax.base + 2 * PAGE)
    assert dax.guest.memory.size == MEMORY
