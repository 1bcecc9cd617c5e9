"""One line of `vmthaw doctor`, and small readers that never raise."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CAP_SYS_PTRACE = 19
CAP_CHOWN = 0


class Status(enum.StrEnum):
    """The verdict of a check. `FAIL` alone makes serving impossible."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    INFO = "info"


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, what it is needed for, and how to mend it (empty when nothing is to mend)."""

    group: str
    what: str
    status: Status
    found: str
    needed_for: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verdict(good: bool, otherwise: Status = Status.WARN) -> Status:
    """`OK`, or what it is otherwise."""
    return Status.OK if good else otherwise


def read_text(path: str) -> str | None:
    """The stripped content of a small file, or None."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_number(path: str) -> int | None:
    """The number in a small file, or None."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def has_capability(number: int) -> bool:
    """Whether this process has it in its effective set."""
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return os.geteuid() == 0


def run_checks(makers: Iterable[Callable[[], Iterable[Check]]]) -> list[Check]:
    """All lines, in order. A check that breaks says so in a line of its own and hides no other."""
    found: list[Check] = []
    for maker in makers:
        try:
            found.extend(maker())
        except Exception as error:  # noqa: BLE001 - the next line may say what is wrong
            name = maker.__name__.replace("_", " ").removeprefix("check ")
            problem = f"{type(error).__name__}: {error}"
            found.append(Check("vmthaw", name, Status.WARN, f"could not be checked: {problem}", "this report"))
    return found
