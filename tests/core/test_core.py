"""Every GoogleTest suite of the core, as built for release, is one test here."""

from __future__ import annotations

import pytest

from tests.support import gtest

PROGRAM = gtest.executable("release")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("suite", gtest.suites(PROGRAM) or ["none"])
def test_core_suite_passes(suite: str) -> None:
    assert PROGRAM.exists(), f"{PROGRAM} is missing: run `make build`"
    result = gtest.run(PROGRAM, f"{suite}.*", timeout=110)
    assert result.ok, f"{suite}: {result.failed or f'status {result.status}'}\n{result.account}"
    if result.skipped:
        pytest.skip(result.skip_reason)
