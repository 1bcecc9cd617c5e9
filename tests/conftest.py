"""Fixtures that probe for kernel features, and the rule about skips on CI."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import eventually as _eventually
from tests.support.huge_pages import HugePagesUnavailableError, reserved_huge_pages
from tests.support.kernel_probes import why_no_kvm, why_no_userfaultfd
from tests.support.known_skips import pytest_make_collect_report, pytest_runtest_makereport
from tests.support.tiers import pytest_collection_modifyitems

__all__ = ["pytest_collection_modifyitems", "pytest_make_collect_report", "pytest_runtest_makereport"]


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Tests press Ctrl-C, but a shell's background job ignores it, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="session")
def userfaultfd_available() -> None:
    """Skip where no userfaultfd that sees kernel-mode faults can be made."""
    if reason := why_no_userfaultfd():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kvm_available() -> None:
    """Skip where /dev/kvm cannot be used."""
    if reason := why_no_kvm():
        pytest.skip(reason)


@pytest.fixture
def hugetlb_pages() -> Iterator[Callable[[int], int]]:
    """`hugetlb_pages(n)` reserves n free pages of 2 MiB until the test ends, or skips it. Call it once in a test."""
    with contextlib.ExitStack() as stack:

        def reserve(pages: int) -> int:
            try:
                return stack.enter_context(reserved_huge_pages(pages))
            except HugePagesUnavailableError as error:
                pytest.skip(str(error))

        yield reserve


@pytest.fixture
def tmp_socket() -> Iterator[Path]:
    """A path for a Unix socket, short enough for sun_path (108 bytes), in a directory of its own."""
    parent = tempfile.gettempdir()
    directory = Path(tempfile.mkdtemp(prefix="vmt-", dir=parent if len(parent) < 60 else "/tmp"))
    yield directory / "s"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`eventually(predicate, timeout=10.0)`: polls until the predicate gives something truthy and returns that."""
    return _eventually.eventually
