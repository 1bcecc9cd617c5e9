"""What a guest's memory must hold, and what the guest says about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from vmthaw import _core
from vmthaw.errors import GuestMismatchError, StateError, VmthawValueError

Order = Literal["sequential", "random", "zipf"]

ORDERS: dict[str, int] = {"sequential": 0, "random": 1, "zipf": 2}
SHARE_ONE = 65536
FIRST_WORK_PAGE: int = _core.FIRST_WORK_PAGE


class Operation(enum.IntEnum):
    """What the payload can be told to do."""

    PING = 0
    FILL = 1
    VERIFY = 2
    TOUCH = 3
    REWRITE = 4
    SPIN = 5
    LOAD_VECTORS = 6
    CHECK_VECTORS = 7


def share_of(value: float, name: str) -> int:
    """A share from 0 to 1 in the guest's units of 1/65536. VmthawValueError outside."""
    if not 0.0 <= value <= 1.0:
        raise VmthawValueError(f"{name} must be from 0 to 1, got {value}")
    return round(value * SHARE_ONE)


@dataclass(frozen=True)
class Workload:
    """Decides what every page of the guest's work area must hold. A plain value that snapshots carry.

    `seed`; `zero_share` (in 1/65536) of the pages of each generation are zeros; each of `rewrites`, at most 32, is
    (seed, share in 1/65536, first page, pages). Pages of 4096 bytes are numbered by their offset in the memory file.
    """

    seed: int = 0
    zero_share: int = 0
    rewrites: tuple[tuple[int, int, int, int], ...] = ()

    def as_tuple(self) -> tuple[int, int, list[tuple[int, int, int, int]]]:
        """As the core takes it."""
        return self.seed, self.zero_share, list(self.rewrites)

    def page(self, number: int) -> bytes:
        """The 4096 bytes that a page must hold, computed here and not by the guest."""
        first = _core.payload_word(self.as_tuple(), number, 0)
        step = (_core.payload_word(self.as_tuple(), number, 1) - first) % (1 << 64)
        return b"".join(((first + i * step) % (1 << 64)).to_bytes(8, "little") for i in range(512))

    def generation(self, number: int) -> int:
        """How many rewritings the page's content belongs to; 0: as filled."""
        return _core.payload_generation(self.as_tuple(), number)


@dataclass(frozen=True)
class GuestReport:
    """What the guest itself found. `ok` is False when a word was wrong; then the first one is named.

    `pages` visited, `words` (of 8 bytes) compared, `mismatches` among them; `wrong_address` (guest) and `wrong_page`,
    `expected` and `found` of the first; `checksum` over what was compared, whatever its order; `iterations` of a spin;
    `tsc`: the guest's time stamp counter from start to end; `duration_ns`: from giving the command to the answer, on
    the host (CLOCK_MONOTONIC).
    """

    operation: str
    status: int = 0
    pages: int = 0
    words: int = 0
    mismatches: int = 0
    wrong_address: int = 0
    wrong_page: int = 0
    expected: int = 0
    found: int = 0
    checksum: int = 0
    iterations: int = 0
    tsc: int = 0
    duration_ns: int = 0
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def ok(self) -> bool:
        """Everything that was compared was right."""
        return self.status == 0

    def check(self) -> GuestReport:
        """Gives the report back, or raises `GuestMismatchError` that names the first wrong word."""
        if self.ok:
            return self
        if self.status != 1:
            raise StateError(f"the guest does not know the operation {self.operation}")
        error = GuestMismatchError(
            f"{self.operation}: {self.mismatches} of {self.words} words are wrong, the first at guest address "
            f"{self.wrong_address:#x} (page {self.wrong_page}): {self.found:#018x} instead of {self.expected:#018x}"
        )
        for name in ("wrong_address", "wrong_page", "expected", "found", "mismatches"):
            setattr(error, name, getattr(self, name))
        raise error

    @classmethod
    def from_fields(cls, values: dict[str, Any]) -> GuestReport:
        """From a dictionary that may have more in it."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
