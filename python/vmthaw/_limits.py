"""Limits of the process that a server raises for itself."""

from __future__ import annotations

import contextlib
import resource


def raise_descriptor_limit() -> tuple[int, int]:
    """Raises the soft limit on descriptors to the hard one (1000 VMs need 5000). Gives (soft, hard) afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)
