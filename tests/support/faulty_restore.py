"""`FaultyRestore`: a VM restored from a source that fails, beside another on the same server that must not notice."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Iterable
from pathlib import Path

from tests.integration.server.raw_vmm import RawVmm
from tests.support.eventually import PATIENCE, eventually
from vmthaw import FailurePolicy, FillMode, PagerConfig, PageServer, PageSource

PAGE = 4096
PAGES = 64
BRIEF_S = 0.05


def page_of(content: bytes, page: int) -> bytes:
    """What the page must hold."""
    return content[page * PAGE : (page + 1) * PAGE]


class FaultyRestore(contextlib.ExitStack):
    """`vm` gets its pages from `source`, `other` from `good`; both must hold `content`, and read nothing else."""

    def __init__(
        self,
        source: PageSource,
        good: PageSource,
        content: bytes,
        socket: Path,
        policy: FailurePolicy = FailurePolicy.poison,
        retries: int = 0,
    ) -> None:
        super().__init__()
        self.content = content
        self.policy = policy
        sources = iter([source, good])
        config = PagerConfig(
            failure_policy=policy, fill_mode=FillMode.page, retries=retries, retry_min=0.01, retry_max=0.02
        )
        self.server = self.enter_context(PageServer(socket, lambda _info: next(sources), config=config))
        self.vm = self.enter_context(RawVmm(PAGES))
        self.other = self.enter_context(RawVmm(PAGES))
        for number, vm in enumerate((self.vm, self.other), 1):
            vm.handover(socket)
            eventually(lambda wanted=number: len(self.server.sessions) == wanted)  # type: ignore[misc]

    def read(self, pages: Iterable[int]) -> None:
        """Pages of `vm` that can be had."""
        assert self._read(self.vm, pages) == set()

    def failing(self, pages: Iterable[int] = range(PAGES)) -> set[int]:
        """Those of `pages` that cannot be had, by poison; the others are right. Only with the policy `poison`."""
        return self._read(self.vm, pages)

    def fail(self, page: int) -> str:
        """`page` cannot be had and ends as the policy says, while `other` goes on. What the server says of it."""
        if self.policy is FailurePolicy.kill:
            try:
                found = self.vm.read(page, 10 * PATIENCE)
            except EOFError:
                assert self.vm.exit_status() == -signal.SIGKILL
            else:
                raise AssertionError(f"page {page} was read: {found[:8].hex()}")
        elif self.policy is FailurePolicy.hang:
            self.vm.start_read(page)
            self.said()
            try:
                found = self.vm.finish_read(BRIEF_S)
            except TimeoutError:
                pass
            else:
                raise AssertionError(f"page {page} was read: {found[:8].hex()}")
        else:
            assert self.failing([page]) == {page}, f"page {page} was read"
        self.others_go_on()
        return self.said()

    def others_go_on(self) -> None:
        """Every page of `other` is right, and its session goes on."""
        assert self._read(self.other, range(PAGES)) == set()
        assert self.other.process is not None
        assert self.other.process.poll() is None

    def said(self) -> str:
        """The first failure's text."""
        return str(eventually(lambda: self.server.failures)[0].text)

    def _read(self, vm: RawVmm, pages: Iterable[int]) -> set[int]:
        """Those of `pages` that cannot be had; the others are right."""
        asked, failed = list(pages), set()
        for page, found in zip(asked, vm.read_each(asked, 10 * PATIENCE), strict=True):
            if found == errno.EFAULT:  # as the kernel says when it reads poison for the VM
                failed.add(page)
            else:
                assert found == page_of(self.content, page), f"page {page}"
        return failed


def assert_says(text: str, *parts: str) -> None:
    """Every part is in the text."""
    missing = [part for part in parts if part.lower() not in text.lower()]
    assert not missing, f"{missing} is not said in: {text}"
