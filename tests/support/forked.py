"""What a forked child may still do with the objects of its parent: nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

from vmthaw.errors import ForkedError


def assert_inert_in_a_forked_child(*calls: Callable[[], object]) -> None:
    """Fork and see each of `calls` raise `ForkedError` in the child; AssertionError names the first that does not."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            for index, call in enumerate(calls):
                try:
                    call()
                except ForkedError:
                    continue
                os._exit(index + 1)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"of {len(calls)} calls the {status}. was not refused" if status != 255 else "another exception"
