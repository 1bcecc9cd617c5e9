"""A store that fails in every way there is: the page follows the policy, the error helps, and others go on.

The server is one of ours, because no real one can be made to lie.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import PATIENCE, eventually
from tests.support.faulty_restore import FaultyRestore, assert_says
from tests.support.file_kinds import CONTENT, SIZE
from tests.support.range_server import Answer, RangeServer, serving
from vmthaw import FailurePolicy, FileSource, FillMode, ObjectStoreSource, PagerConfig, PageServer
from vmthaw.errors import SourceIoError
from vmthaw.testing import FakeVmm, FakeVmmDiedError

pytest.importorskip("obstore")

PAGE = 4096
CHUNK = 16 * PAGE
PAGES = 512
FAILING = 5 * 16 + 3
"""A page of the sixth chunk, which fails."""
OTHERS = [page for page in range(PAGES) if page // 16 != FAILING // 16]
_never = threading.Event()


@dataclass(frozen=True)
class Fault:
    """What an answer becomes; the errno of a read then, and what its error says of cause and cure."""

    name: str
    change: Callable[[Answer], None]
    number: int
    texts: tuple[str, ...]


def _status(status: int) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        answer.status, answer.body, answer.headers = status, b"<Code>Word</Code><Message>of the store</Message>", {}

    return change


def _late(_: Answer) -> None:
    _never.wait(0.6)


def _stuck(answer: Answer) -> None:
    _never.wait(6)
    answer.close_after = 0


def _short(answer: Answer) -> None:
    answer.body = answer.body[: PAGE + 1]


def _long(answer: Answer) -> None:
    answer.body += bytes(PAGE)


def _cut(answer: Answer) -> None:
    answer.close_after = 2 * PAGE


def _other_version(answer: Answer) -> None:
    answer.headers["ETag"], answer.body = '"second"', b"\xff" * len(answer.body)


def _header(name: str, value: str) -> Callable[[Answer], None]:
    def change(answer: Answer) -> None:
        answer.headers[name] = value

    return change


def _no_range(answer: Answer) -> None:
    del answer.headers["Content-Range"]


MORE = "2 attempts failed: see what the store suffers from, or allow more"
LIES = "which is not what was asked for"
FAULTS = [
    Fault("403", _status(403), errno.EACCES, ("403 Forbidden", "Word: of the store", "check the credentials")),
    Fault("404", _status(404), errno.ENOENT, ("the object is gone", "it must stay while VMs stand on it")),
    Fault("412", _status(412), errno.ESTALE, ("was changed since it was opened", "names of their own")),
    Fault("416", _status(416), errno.ESTALE, ("has become shorter", "write snapshots anew")),
    Fault("500", _status(500), errno.EREMOTEIO, ("500 Internal Server Error", "Word: of the store", MORE)),
    Fault("503", _status(503), errno.EREMOTEIO, ("503 Service Unavailable", MORE)),
    Fault("no ranges", _status(200), errno.EOPNOTSUPP, ("ignores ranges", "put the file elsewhere")),
    Fault("stuck", _stuck, errno.ETIMEDOUT, ("no answer for 2000 ms", "give the source a longer timeout")),
    Fault("short", _short, errno.EBADMSG, (LIES, MORE)),
    Fault("long", _long, errno.EBADMSG, (LIES, MORE)),
    Fault("closes in the middle", _cut, errno.EREMOTEIO, ("body", MORE)),
    Fault("wrong ETag", _other_version, errno.ESTALE, ("was changed since it was opened", "names of their own")),
    Fault("wrong range", _header("Content-Range", f"bytes 0-{CHUNK - 1}/{PAGES * PAGE}"), errno.EREMOTEIO,
          (f"Requested {5 * CHUNK}..{6 * CHUNK}, got 0..{CHUNK}", MORE)),
    Fault("wrong size", _header("Content-Range", f"bytes {5 * CHUNK}-{6 * CHUNK - 1}/{7 * CHUNK}"), errno.EBADMSG,
          (LIES, MORE)),
    Fault("no range said", _no_range, errno.EREMOTEIO, ("Content-Range header not present", MORE)),
]  # fmt: skip


@pytest.fixture
def store(full_memory_file: Path) -> Iterator[RangeServer]:
    with serving(full_memory_file.read_bytes()) as server:
        yield server
        _never.set()
    _never.clear()


@pytest.fixture
def small_store() -> Iterator[RangeServer]:
    with serving(CONTENT) as server:
        yield server
        _never.set()
    _never.clear()


def faulty(server: RangeServer, change: Callable[[Answer], None], times: int = 1000, at: int = 5 * CHUNK) -> None:
    """From now on the answers for the failing chunk are changed, `times` of them."""
    left = [times]

    def apply(offset: int, _number: int, answer: Answer) -> None:
        if offset == at and left[0] > 0:
            left[0] -= 1
            change(answer)

    server.change = apply


def source_of(server: RangeServer, **options: Any) -> ObjectStoreSource:
    # One request gets half of the time-out.
    return ObjectStoreSource(server.url, **{"chunk": CHUNK, "attempts": 2, "timeout": 20.0 * PATIENCE, **options})


def config_of(policy: FailurePolicy) -> PagerConfig:
    return PagerConfig(failure_policy=policy, fill_mode=FillMode.page, retries=0)


@pytest.mark.usefixtures("userfaultfd_available")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_the_store_ends_one_vm_and_says_what_where_and_how_to_mend_it(
    fault: Fault, store: RangeServer, full_memory_file: Path, tmp_socket: Path
) -> None:
    options = {"timeout": 2.0, "attempts": 5} if fault.name == "stuck" else {}
    with (
        source_of(store, **options) as source,
        PageServer(tmp_socket, source, config=config_of(FailurePolicy.kill)) as server,
        FakeVmm(full_memory_file) as victim,
        FakeVmm(full_memory_file) as other,
    ):
        victim.handover(tmp_socket)
        other.handover(tmp_socket)
        faulty(store, fault.change)
        victim.touch([0]).check()
        with pytest.raises(FakeVmmDiedError):
            victim.touch([FAILING])
        other.touch(OTHERS).check()
        other.verify().check()
        assert server.stats.failed == 1
        text = eventually(lambda: server.failures)[0].text
        for part in (f"offset {FAILING * PAGE:#x} of ", store.url, *fault.texts):
            assert part in text
        with pytest.raises(SourceIoError) as caught:
            source.read(FAILING * PAGE, PAGE)
        assert caught.value.errno == fault.number
        # The store is well again, and so is the page: what was wrong was not kept.
        store.change = lambda *_: None
        other.touch([FAILING]).check()
        other.verify(only_touched=False).check()


@pytest.mark.usefixtures("userfaultfd_available")
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if MORE in fault.texts], ids=lambda fault: fault.name)
def test_a_fault_that_passes_is_not_noticed(
    fault: Fault, store: RangeServer, full_memory_file: Path, tmp_socket: Path
) -> None:
    with (
        source_of(store) as source,
        PageServer(tmp_socket, source, config=config_of(FailurePolicy.kill)) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        faulty(store, fault.change, times=1)
        vmm.touch("random", seed=3, threads=4).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert source.stats.retries == 1


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_late_answer_holds_up_its_own_page_alone(
    store: RangeServer, full_memory_file: Path, tmp_socket: Path
) -> None:
    with (
        source_of(store, hedge=False) as source,
        PageServer(tmp_socket, source, config=config_of(FailurePolicy.kill)) as server,
        FakeVmm(full_memory_file) as slow,
        FakeVmm(full_memory_file) as other,
    ):
        slow.handover(tmp_socket)
        other.handover(tmp_socket)
        faulty(store, _late)
        waiting = threading.Thread(target=lambda: slow.touch([FAILING]).check())
        waiting.start()
        eventually(lambda: (5 * CHUNK, CHUNK) in store.gets)
        other.touch(OTHERS).check()
        waiting.join(30)
        assert not waiting.is_alive()
        for vmm in (slow, other):
            vmm.verify().check()
        assert server.stats.failed == 0


@pytest.mark.usefixtures("userfaultfd_available")
@pytest.mark.parametrize(
    ("fault", "policy"),
    [
        *[(fault, FailurePolicy.poison) for fault in FAULTS],
        *[(fault, FailurePolicy.hang) for fault in FAULTS if fault.name in ("403", "503", "closes in the middle")],
    ],
    ids=lambda value: value.name,
)
def test_the_failing_page_follows_the_policy_and_other_faults_go_on(
    fault: Fault, policy: FailurePolicy, small_store: RangeServer, good: FileSource, tmp_socket: Path
) -> None:
    options = {"timeout": 1.0, "attempts": 5} if fault.name == "stuck" else {}
    with (
        source_of(small_store, **options) as source,
        FaultyRestore(source, good, CONTENT, tmp_socket, policy) as restore,
    ):
        faulty(small_store, fault.change, at=CHUNK)
        restore.read([3])
        assert_says(restore.fail(CHUNK // PAGE + 3), f"offset {CHUNK + 3 * PAGE:#x} of ", small_store.url)
        restore.read([page for page in range(SIZE // PAGE) if page * PAGE // CHUNK != 1])
        assert restore.server.stats.failed == 1
