"""Page servers that echo wrong, refuse, send too little, stall or die, below sources that may stand on a socket."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.eventually import PATIENCE
from tests.support.faulty_restore import PAGE, PAGES, FaultyRestore, assert_says
from tests.support.file_kinds import CONTENT, SIZE
from tests.support.hostile_server import Answer, HostileServer, header
from tests.support.layers import uuid_of
from vmthaw import CachedSource, FailurePolicy, FileSource, LayeredSource, PageSource, SocketSource
from vmthaw.source import LayeredHeader, LayeredMapping

pytestmark = pytest.mark.usefixtures("userfaultfd_available")

BAD = 9
POLICIES = [FailurePolicy.kill, FailurePolicy.hang]  # poison is what the other tests here have


def right(ipa: int, size: int) -> bytes:
    return header(ipa, size) + CONTENT[ipa : ipa + size]


def plain(source: SocketSource) -> PageSource:
    return source


def cached(source: SocketSource) -> PageSource:
    return CachedSource(source, chunk=PAGE)


def layered(source: SocketSource) -> PageSource:
    row = LayeredMapping(0, SIZE, uuid_of(1), 0)
    return LayeredSource(LayeredHeader(3, PAGE, SIZE, 0, uuid_of(1), uuid_of(1), (row,)), {uuid_of(1): source})


class Stall:
    """Nothing comes, until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, _ipa: int, _size: int) -> bytes | None:
        self.over.wait(60)
        return None


LIES: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "another address": (lambda ipa, size: header(ipa + PAGE, size) + CONTENT[ipa : ipa + size], ("answered 0xa000",)),
    "another size": (lambda ipa, size: header(ipa, 2 * size) + bytes(2 * size), ("8192 bytes", "no page server")),
    "no page": (lambda ipa, _size: header(ipa, 0), ("cannot read the page at 0x9000", "look into its log")),
    "another protocol": (lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n", ("no page server", "listens there")),
    "half a page": (lambda ipa, size: right(ipa, size)[:2000], ("no answer for", "longer timeout")),
    "dies": (lambda *_: None, ("start the server again",)),
    "stalls": (Stall(), ("no answer for", "longer timeout")),
}


@contextlib.contextmanager
def served(answer: Answer, socket: Path, timeout: float = 0.5) -> Iterator[SocketSource]:
    """A source of a server that answers so for one page."""
    server = HostileServer(
        socket.with_name("pages"), lambda ipa, size: (answer if ipa == BAD * PAGE else right)(ipa, size)
    )
    try:
        with SocketSource(server.address, SIZE, connections=4, timeout=timeout * PATIENCE) as source:
            yield source
    finally:
        server.close()


@pytest.mark.parametrize(
    ("lie", "over"),
    [*[(lie, plain) for lie in LIES], *[(lie, over) for lie in ("no page", "stalls") for over in (cached, layered)]],
)
def test_a_page_that_is_not_given_costs_itself_alone(
    lie: str, over: Callable[[SocketSource], PageSource], good: FileSource, tmp_socket: Path
) -> None:
    answer, said = LIES[lie]
    # A server that dies is given up at the time-out, and then left alone for a while, which is time of other pages too.
    with (
        served(answer, tmp_socket, 1.5 if lie == "dies" else 0.5) as far,
        over(far) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket) as restore,
    ):
        text = restore.fail(BAD)
        assert_says(text, "0x9000", far.address, *said)
        assert restore.failing() == {BAD}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "dies"])  # which takes seconds
def test_it_ends_by_the_policy_and_other_faults_go_on(
    lie: str, policy: FailurePolicy, good: FileSource, tmp_socket: Path
) -> None:
    answer, said = LIES[lie]
    with (
        served(answer, tmp_socket, 0.2) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket, policy, retries=1) as restore,
    ):
        restore.read([BAD - 1])
        assert_says(restore.fail(BAD), "0x9000", *said)
        assert restore.server.stats.retried == 1
        if policy is not FailurePolicy.kill:
            restore.read([page for page in range(PAGES) if page != BAD])


def test_while_a_server_keeps_one_page_others_of_the_same_vm_go_on(good: FileSource, tmp_socket: Path) -> None:
    stall = Stall()
    with (
        served(stall, tmp_socket, 20) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket, retries=3) as restore,
    ):
        restore.vm.start_read(BAD)
        restore.others_go_on()
        restore.read([page for page in range(PAGES) if page != BAD])
        with pytest.raises(TimeoutError):
            restore.vm.finish_read(0.01)
        assert restore.server.failures == []
        stall.over.set()


def test_a_server_that_recovers_costs_only_time(good: FileSource, tmp_socket: Path) -> None:
    died: list[int] = []

    def dies_at_first(ipa: int, size: int) -> bytes | None:
        died.append(ipa)
        return right(ipa, size) if len(died) > 3 else None

    with (
        served(dies_at_first, tmp_socket, 20) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket) as restore,
    ):
        restore.read(range(PAGES))
        assert restore.server.failures == []
        assert source.stats["lost"] == 3
