"""Whatever a VMM sends: a clear failure that names the field, nothing leaked, and the server goes on listening."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.server.support import PAGES, descriptors, failure_texts, tasks
from tests.support.eventually import eventually
from vmthaw import FailurePolicy, FileSource, PagerConfig, PageServer, UserfaultfdFactory
from vmthaw.errors import PageFailedError, VmthawError, VmthawTimeoutError
from vmthaw.testing import FakeVmm, FakeVmmDiedError


def serves_on(server: PageServer, path: Path) -> None:
    before = server._core.session_count
    with FakeVmm(path) as vmm:
        vmm.handover(server.socket_path)
        vmm.touch("subset", count=20).check()
    assert server._core.session_count == before + 1
    eventually(lambda: not server.sessions)


@pytest.mark.parametrize(
    "options",
    [
        {"splits": [1], "part_delay": 0.02},
        {"splits": [5, 17, 40], "part_delay": 0.02},
        {"splits": [30], "part_delay": 0.02, "descriptor_part": 1},
        {"surplus_descriptors": 1},
        {"surplus_descriptors": 20},
        {"page_size_fields": "page_size_kib"},
        {"page_size_fields": "page_size"},
        {"unknown_fields": True},
        {"close_afterwards": True},
    ],
    ids=str,
)
def test_odd_but_right_handover_is_served(
    options: dict[str, Any],
    full_memory_file: Path,
    source: FileSource,
    tmp_socket: Path,
    leaks_nothing: Callable[[], None],
) -> None:
    with PageServer(tmp_socket, source) as server:
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket, **options)
            vmm.touch("random").check()
            vmm.verify(only_touched=False).check()
        server.wait(10)
        assert server.failures == []


def region(**changes: object) -> str:
    good = {"base_host_virt_addr": 1 << 32, "size": PAGES * 4096, "offset": 0, "page_size": 4096, "page_size_kib": 4096}
    return json.dumps([{**good, **changes}])


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"text": "garbage"}, "message", "not an array of regions"),
        ({"text": "[garbage]"}, None, "JSON"),
        ({"text": "[]"}, None, "region"),
        ({"text": "{}"}, "message", "array"),
        ({"descriptor": "none"}, "handover_timeout", "no descriptor"),
        ({"descriptor": "memfd"}, "descriptor", "userfaultfd"),
        ({"text": region(size=0)}, "regions[0].size", "size"),
        ({"text": region(size=1000)}, None, "multiple"),
        ({"text": region(size=-1)}, "regions[0].size", "size"),
        ({"text": region(size=1.5)}, "regions[0].size", "size"),
        ({"text": region(page_size=4095, page_size_kib=4095)}, "regions[0].page_size", "power of two"),
        ({"text": region(page_size_kib=8192)}, "regions[0].page_size_kib", "contradicts"),
        (
            {"text": region(base_host_virt_addr=(1 << 64) - 4096)},
            "regions[0].size",
            "past the end of the address space",
        ),
        ({"text": region(base_host_virt_addr=123)}, None, "align"),
        ({"text": region(offset=1 << 40)}, None, "cover"),
        ({"text": region(page_size=16384, page_size_kib=16384)}, None, "16384"),
        ({"text": json.dumps(json.loads(region()) * 2)}, None, "overlap"),
        ({"text": '[{"size": 4096}]'}, "regions[0].base_host_virt_addr", "missing"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_handover_is_refused_by_name(
    options: dict[str, Any],
    field: str | None,
    words: str,
    full_memory_file: Path,
    source: FileSource,
    tmp_socket: Path,
    leaks_nothing: Callable[[], None],
) -> None:
    with PageServer(tmp_socket, source, handover_timeout=0.3) as server:
        with FakeVmm(full_memory_file) as vmm:
            with contextlib.suppress(FakeVmmDiedError):  # killed before it could answer
                vmm.handover(tmp_socket, **options)
            eventually(lambda: server.failures)
            failure = server.failures[0]
            assert failure.session == 0
            assert words.lower() in failure.text.lower()
            assert f"pid {vmm.pid}" in failure.text
            if field is not None:
                assert failure.field == field
            assert failure.field
        serves_on(server, full_memory_file)
        assert len(server.failures) == 1


@pytest.mark.parametrize("text", ["", "[", '[{"size": 4096,'])
def test_connection_that_closes_early_is_refused(
    text: str, full_memory_file: Path, source: FileSource, tmp_socket: Path, leaks_nothing: Callable[[], None]
) -> None:
    with PageServer(tmp_socket, source) as server:
        with FakeVmm(full_memory_file) as vmm:
            vmm.handover(tmp_socket, text=text, close_afterwards=True)
            eventually(lambda: server.failures)
        assert "clos" in server.failures[0].text.lower() or "end" in server.failures[0].text.lower()
        serves_on(server, full_memory_file)


@pytest.mark.parametrize("sent", [b"", b"[{"])
def test_connection_that_sends_too_little_is_closed_in_time(
    sent: bytes, full_memory_file: Path, source: FileSource, tmp_socket: Path, leaks_nothing: Callable[[], None]
) -> None:
    with PageServer(tmp_socket, source, handover_timeout=0.2) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_socket))
            start = time.monotonic()
            if sent:
                client.sendall(sent)
            client.settimeout(5)
            assert client.recv(1) == b""
            assert 0.1 < time.monotonic() - start < 2
        eventually(lambda: server.failures)
        assert server.failures[0].field == "handover_timeout"
        assert "200 ms" in server.failures[0].text
        serves_on(server, full_memory_file)


def test_slow_connection_holds_no_other_up(full_memory_file: Path, source: FileSource, tmp_socket: Path) -> None:
    with PageServer(tmp_socket, source) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_socket))
        client.sendall(b"[")
        serves_on(server, full_memory_file)


def test_wrong_uid_is_refused(
    full_memory_file: Path, source: FileSource, tmp_socket: Path, leaks_nothing: Callable[[], None]
) -> None:
    with PageServer(tmp_socket, source, required_uid=os.getuid() + 1) as server, FakeVmm(full_memory_file) as vmm:
        try:
            vmm.handover(tmp_socket)
        except BrokenPipeError:
            pass  # the uid is known, and refused, before a message comes
        else:
            eventually(lambda: vmm.peer_has_hung_up)
        eventually(lambda: server.failures)
        assert server.failures[0].field == "uid"
        assert f"uid {os.getuid()} " in server.failures[0].text
    with PageServer(tmp_socket, source, required_uid=os.getuid()) as server:
        serves_on(server, full_memory_file)


def test_vm_whose_regions_cannot_be_served_does_not_run_on(
    full_memory_file: Path, source: FileSource, tmp_socket: Path
) -> None:
    """Its memory would be zeros, or it would hang: the failure policy decides, as for a page."""
    with PageServer(tmp_socket, source) as server, FakeVmm(full_memory_file, size=2 * PAGES * 4096) as vmm:
        with contextlib.suppress(FakeVmmDiedError):  # so quickly that it cannot say that it has handed over
            vmm.handover(tmp_socket)
        eventually(lambda: server.failures)
        eventually(lambda: not vmm.alive)
        assert "cover" in failure_texts(server)


@pytest.mark.parametrize("wrong", ["raises", "gives nonsense"])
def test_vm_whose_source_callable_fails_is_killed(
    wrong: str, source: FileSource, full_memory_file: Path, tmp_socket: Path
) -> None:
    def choose(_info: object) -> FileSource:
        if wrong == "raises":
            raise LookupError("no such snapshot")
        return None  # type: ignore[return-value]

    with PageServer(tmp_socket, choose) as server, FakeVmm(full_memory_file) as vmm:
        with contextlib.suppress(FakeVmmDiedError):  # so quickly that it cannot say that it has handed over
            vmm.handover(tmp_socket)
        eventually(lambda: not vmm.alive)
        eventually(lambda: server.failures)
        assert server.failures[0].field == "source"
        assert ("no such snapshot" if wrong == "raises" else "not a PageSource") in failure_texts(server)
        assert f"pid {vmm.pid}" in failure_texts(server)
        with pytest.raises((PageFailedError, VmthawTimeoutError)):
            server.ready(0.2)


def test_kill_without_a_foreign_pid_is_refused_by_name(source: FileSource, tmp_socket: Path) -> None:
    """This process hands over to its own server and asks for kill: it must not be killed."""
    config = PagerConfig(failure_policy=FailurePolicy.kill)
    with (
        PageServer(tmp_socket, source, config=config) as server,
        UserfaultfdFactory().create() as uffd,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(tmp_socket))
        socket.send_fds(client, [region().encode()], [uffd.fileno()])
        eventually(lambda: server.failures)
        assert "failure_policy kill needs the pidfd" in failure_texts(server)
        assert server.failures[0].field == "failure_policy"


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def one_odd_handover(path: Path, fd: int, choice: random.Random) -> None:
    text = region(base_host_virt_addr=choice.randrange(1 << 20) << 21).encode()
    kind = choice.randrange(8)
    fds = [fd] * choice.choice([1, 1, 1, 2, 20])
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        try:
            if kind == 0:
                return
            if kind == 1:
                client.sendall(text[: choice.randrange(len(text))])
            elif kind == 2:
                client.sendall(text)
            elif kind == 3:
                socket.send_fds(client, [choice.randbytes(choice.randrange(1, 400))], fds)
            elif kind == 4:
                socket.send_fds(client, [text.replace(b"4096", b"4095")], fds)
            elif kind == 5:
                cut = choice.randrange(1, len(text))
                client.sendall(text[:cut])
                socket.send_fds(client, [text[cut:]], fds)
            elif kind == 6:
                cut = choice.randrange(1, len(text))
                socket.send_fds(client, [text[:cut]], fds)
                client.sendall(text[cut:])
            else:
                socket.send_fds(client, [text], fds)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused already


@pytest.mark.timeout(120)
def test_thousand_handovers_with_random_odd_cases_leak_nothing(
    source: FileSource, full_memory_file: Path, tmp_socket: Path, leaks_nothing: Callable[[], None]
) -> None:
    choice = random.Random(1)
    start = time.monotonic()
    with PageServer(tmp_socket, source, config=PagerConfig(poll_interval=0)) as server:

        def hand_over(count: int) -> None:
            # This process is the peer and lives on, so a session ends by being drained.
            for _ in range(count):
                with UserfaultfdFactory().create() as uffd:
                    one_odd_handover(tmp_socket, uffd.fileno(), choice)
            eventually(all_drained, 20)

        def all_drained() -> bool:
            for session in server.sessions:
                session.drain(5)  # there is nothing to fill: nothing is registered
            return not server.sessions

        hand_over(100)
        before = (descriptors(), len(tasks()), rss())
        for _ in range(9):
            hand_over(100)
        eventually(lambda: all_drained() and descriptors() <= before[0])
        assert len([name for name in tasks().values() if not name.startswith("vmthaw-source")]) <= before[1]
        assert rss() - before[2] < 8 << 20
        assert len(server.failures) == 256
        serves_on(server, full_memory_file)
    assert time.monotonic() - start < 60


def test_socket_in_a_directory_that_is_not_there_is_a_clear_error(source: FileSource, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-directory") as caught:
        PageServer(tmp_path / "no-such-directory" / "s", source)
    assert isinstance(caught.value, VmthawError)
