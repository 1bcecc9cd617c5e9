"""vmthaw thaws microVMs: lazy snapshot restore through userfaultfd, seen and decided from Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vmthaw._version import __version__

if TYPE_CHECKING:
    from vmthaw.userfaultfd import (
        Feature,
        Features,
        FillOutcome,
        FillStatus,
        Liveness,
        LivenessChecker,
        Userfaultfd,
        UserfaultfdFactory,
        register_regions,
        unregister_regions,
    )

# Public name: the module that has it, imported when the name is first used.
_HOMES = {
    "Feature": "vmthaw.userfaultfd",
    "Features": "vmthaw.userfaultfd",
    "FillOutcome": "vmthaw.userfaultfd",
    "FillStatus": "vmthaw.userfaultfd",
    "Liveness": "vmthaw.userfaultfd",
    "LivenessChecker": "vmthaw.userfaultfd",
    "Userfaultfd": "vmthaw.userfaultfd",
    "UserfaultfdFactory": "vmthaw.userfaultfd",
    "register_regions": "vmthaw.userfaultfd",
    "unregister_regions": "vmthaw.userfaultfd",
}

__all__ = [
    "Feature",
    "Features",
    "FillOutcome",
    "FillStatus",
    "Liveness",
    "LivenessChecker",
    "Userfaultfd",
    "UserfaultfdFactory",
    "__version__",
    "register_regions",
    "unregister_regions",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
