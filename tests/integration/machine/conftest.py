"""Guests that the tests of Machine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmthaw.machine import Machine

MEMORY = 8 << 20
SEED = 21


@pytest.fixture
def machine(kvm_available: None) -> Iterator[Machine]:
    """8 MiB, not filled."""
    with Machine(MEMORY) as made:
        yield made


@pytest.fixture(scope="session")
def snapshot(kvm_available: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 MiB, three pages of ten zeros, a tenth of the pages rewritten, seeded vector registers.

    Read only: a test that changes it takes a copy.
    """
    folder = tmp_path_factory.mktemp("snapshots") / "s"
    with Machine(MEMORY) as made:
        made.fill(SEED, zero_share=0.3)
        made.rewrite(5, share=0.1)
        made.load_vectors(31)
        made.verify().check()
        made.snapshot(folder)
    return folder
