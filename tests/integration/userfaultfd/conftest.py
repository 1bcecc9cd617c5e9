"""Memory, descriptors and peers that are given back after each test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.integration.userfaultfd.memory import KINDS, Memory
from tests.integration.userfaultfd.peer import PeerProcess
from vmthaw.userfaultfd import Feature, Userfaultfd, UserfaultfdFactory

EVERYWHERE = (
    Feature.missing_shmem
    | Feature.missing_hugetlbfs
    | Feature.event_remove
    | Feature.minor_shmem
    | Feature.minor_hugetlbfs
    | Feature.pagefault_flag_wp
    | Feature.wp_hugetlbfs_shmem
)


@pytest.fixture(autouse=True)
def _needs_userfaultfd(userfaultfd_available: None) -> None:
    pass


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, hugetlb_pages: Callable[[int], int]) -> str:
    """Every kind of memory; eight huge pages are reserved for those that need them."""
    name: str = request.param
    if "hugetlb" in name:
        hugetlb_pages(8)
    return name


@pytest.fixture
def make_memory() -> Iterator[Callable[..., Memory]]:
    """`make_memory(kind, pages)`, unmapped at the end."""
    with contextlib.ExitStack() as stack:

        def make(*arguments: object, **options: object) -> Memory:
            return stack.enter_context(contextlib.closing(Memory(*arguments, **options)))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def make_userfaultfd() -> Iterator[Callable[..., Userfaultfd]]:
    """`make_userfaultfd(features)`, closed at the end (before the memory goes)."""
    with contextlib.ExitStack() as stack:

        def make(required: Feature = EVERYWHERE, **options: bool) -> Userfaultfd:
            return stack.enter_context(UserfaultfdFactory(required=required, **options).create())

        yield make


@pytest.fixture
def make_peer() -> Iterator[Callable[..., tuple[PeerProcess, Userfaultfd]]]:
    """`make_peer(kind, pages, modes, features)`: another process, and its descriptor as adopted here."""
    with contextlib.ExitStack() as stack:

        def make(*arguments: object, **options: object) -> tuple[PeerProcess, Userfaultfd]:
            peer = stack.enter_context(contextlib.closing(PeerProcess(*arguments, **options)))  # type: ignore[arg-type]
            return peer, stack.enter_context(Userfaultfd.adopt(peer.descriptor))

        yield make
