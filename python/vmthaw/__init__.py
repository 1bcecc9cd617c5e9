"""vmthaw thaws microVMs: lazy snapshot restore through userfaultfd, seen and decided from Python."""

from __future__ import annotations

from vmthaw._version import __version__

__all__ = ["__version__"]
