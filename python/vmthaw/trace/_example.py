"""Traces that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vmthaw.errors import VmthawValueError
from vmthaw.trace._trace import Trace

_DATA = Path(__file__).parents[1] / "data"
_NAMES = ("first", "second")


def example(name: Literal["first", "second"] = "first") -> Trace:
    """A real recording, to look at without a VM: two restores of one snapshot of 256 MiB.

    "first" was restored on demand alone, "second" with the working set of the first. ``scripts/record_example.py``
    made them; the VM is a `vmthaw.testing.FakeVmm`. Raises VmthawValueError, MissingExtraError.
    """
    if name not in _NAMES:
        raise VmthawValueError(f"there is no example {name!r}; there are {', '.join(map(repr, _NAMES))}")
    return Trace.open(_DATA / f"{name}_restore.parquet")
