"""Threads start with signals blocked, and their starter never stays so."""

from __future__ import annotations

import signal
from collections.abc import Iterable

import pytest

from vmthaw import _drainer


def blocked() -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_a_signal_that_comes_as_signals_are_blocked_leaves_none_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = blocked()
    really = signal.pthread_sigmask

    def interrupted(how: int, signals: Iterable[int]) -> set[int | signal.Signals]:
        """As Python's, which runs the handlers of what came before, after it has changed the mask."""
        former = really(how, signals)
        if how == signal.SIG_BLOCK and signals:
            raise KeyboardInterrupt
        return former

    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt), _drainer.blocked_signals():
        pytest.fail("the handler raised before")
    monkeypatch.undo()
    assert blocked() == before


def test_all_but_faults_are_blocked_inside_alone() -> None:
    before = blocked()
    with _drainer.blocked_signals():
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1} <= blocked()
        assert signal.SIGSEGV not in blocked()
    assert blocked() == before
