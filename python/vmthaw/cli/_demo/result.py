"""What a restore came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Times:
    """In ms from the request to restore: the guest may run; it has answered; it has its working set."""

    resume_ms: float
    first_answer_ms: float
    working_set_ms: float


@dataclass
class Result:
    """One row of the table. None: does not apply.

    Faults, pages (installed) and zero pages are those up to the end of the working set, and so is the memory that the
    VMM uses more than before. p50 and p99 in us: from a fault's message to its page.
    """

    name: str
    handler: str
    resume_ms: float | None = None
    first_answer_ms: float | None = None
    working_set_ms: float | None = None
    faults: int | None = None
    pages: int | None = None
    zero_pages: int | None = None
    fault_p50_us: float | None = None
    fault_p99_us: float | None = None
    memory_bytes: int | None = None
    verified: bool = False
    problem: str = ""

    def take(self, times: Times) -> None:
        """Fills in the times."""
        self.resume_ms = times.resume_ms
        self.first_answer_ms = times.first_answer_ms
        self.working_set_ms = times.working_set_ms

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
