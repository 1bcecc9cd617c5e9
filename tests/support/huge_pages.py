"""Reserving 2 MiB pages for one test and giving them back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")


class HugePagesUnavailableError(Exception):
    """The pages cannot be had; the text says why."""


def _count(name: str) -> int:
    return int((_POOL / name).read_text(encoding="ascii"))


@contextlib.contextmanager
def reserved_huge_pages(pages: int) -> Iterator[int]:
    """At least `pages` free 2 MiB pages while the context lasts; one test at a time holds the pool.

    Raises HugePagesUnavailableError when the kernel has no such pool, when we may not enlarge it, or when memory is too
    fragmented to. The pool's former size comes back at the end.
    """
    if not _POOL.is_dir():
        raise HugePagesUnavailableError("no hugetlb: the kernel has no pool of 2 MiB pages")
    lock = os.open(
        Path(tempfile.gettempdir()) / f"vmthaw-huge-pages-{os.getuid()}.lock",
        os.O_CREAT | os.O_RDWR | os.O_CLOEXEC,
        0o600,
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        former = _count("nr_hugepages")
        missing = pages - (_count("free_hugepages") - _count("resv_hugepages"))
        if missing > 0:
            _enlarge(former + missing)
        try:
            free = _count("free_hugepages") - _count("resv_hugepages")
            if free < pages:
                raise HugePagesUnavailableError(f"no hugetlb: {free} of {pages} pages of 2 MiB could be had")
            yield pages
        finally:
            if missing > 0:
                (_POOL / "nr_hugepages").write_text(str(former), encoding="ascii")
    finally:
        os.close(lock)


def _enlarge(size: int) -> None:
    try:
        (_POOL / "nr_hugepages").write_text(str(size), encoding="ascii")
    except OSError as error:
        raise HugePagesUnavailableError(f"no hugetlb: {_POOL}/nr_hugepages: {error.strerror}") from error
