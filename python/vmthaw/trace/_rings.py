"""The rings of the core that records of a trace come from, under one face."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from vmthaw import _core

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vmthaw._core import PagerSession, RunLoopCore
    from vmthaw._dax_feed import DaxFeed
    from vmthaw._exit_feed import ExitFeed
    from vmthaw.trace._columns import Records


class RecordRing(Protocol):
    """A ring, and whether it can still fill."""

    idle_looks: ClassVar[int]
    """Looks in a row at a ring that has ended, without a record, before it is let go."""

    @property
    def key(self) -> Hashable:
        """The same for two that are the same ring."""

    @property
    def number(self) -> int:
        """What a trace calls it."""

    def take(self, limit: int) -> Records:
        """At most `limit` records, oldest first."""

    def dropped(self) -> int:
        """Lost so far because the ring was full."""

    def ended(self) -> bool:
        """Nothing will be added."""


class SessionRing:
    """The faults of a session."""

    idle_looks: ClassVar[int] = 3  # a worker may still be at its last fault when the session's state says that it ended

    def __init__(self, session: PagerSession) -> None:
        self.session = session

    @property
    def key(self) -> int:
        return self.session.id

    @property
    def number(self) -> int:
        return self.session.id

    def take(self, limit: int) -> Records:
        return self.session._take_records(limit)

    def dropped(self) -> int:
        return self.session._dropped_records()

    def ended(self) -> bool:
        return self.session.state is _core.SessionState.closed


class RunRing:
    """The exits of a run, the `number`th of its feed."""

    idle_looks: ClassVar[int] = 1  # when it has ended, its threads have left

    def __init__(self, feed: ExitFeed, number: int, run: RunLoopCore) -> None:
        self.feed = feed
        self.run = run
        self._number = number

    @property
    def key(self) -> tuple[ExitFeed, int]:
        return self.feed, self._number

    @property
    def number(self) -> int:
        return self._number

    def take(self, limit: int) -> Records:
        return self.run.take_records(limit)

    def dropped(self) -> int:
        return self.run.dropped_records()

    def ended(self) -> bool:
        return self.run.wait(0)


class DaxRing:
    """The events of a DAX session."""

    idle_looks: ClassVar[int] = 1  # a session ends when no request is under way

    def __init__(self, feed: DaxFeed) -> None:
        self.feed = feed

    @property
    def key(self) -> DaxFeed:
        return self.feed

    @property
    def number(self) -> int:
        return self.feed.number

    def take(self, limit: int) -> Records:
        return self.feed.events.take(limit)

    def dropped(self) -> int:
        return self.feed.events.dropped

    def ended(self) -> bool:
        return self.feed.events.ended
