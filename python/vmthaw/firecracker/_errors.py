"""What goes wrong with Firecracker."""

from __future__ import annotations

import signal

from vmthaw.errors import VmthawError


class FirecrackerError(VmthawError):
    """Base of what `vmthaw.firecracker` raises itself."""


class ApiRefusedError(FirecrackerError):
    """Firecracker refused a request.

    Attributes: ``method``, ``path``, ``status`` (the HTTP status) and ``fault_message`` (Firecracker's own words).
    """

    def __init__(self, method: str, path: str, status: int, fault_message: str) -> None:
        super().__init__(f"Firecracker refused {method} {path} ({status}): {fault_message}")
        self.method, self.path, self.status, self.fault_message = method, path, status, fault_message


class FirecrackerDiedError(FirecrackerError):
    """The process has ended. Attributes: ``exit_code`` (negative: the signal, as in `subprocess`) and ``log_tail``."""

    def __init__(self, what: str, exit_code: int, log_tail: str, more: str = "") -> None:
        text = f"{what} {describe_exit(exit_code)}{more}"
        super().__init__(f"{text}; its last lines:\n{log_tail}" if log_tail else f"{text}; it wrote nothing")
        self.exit_code, self.log_tail = exit_code, log_tail


def describe_exit(code: int) -> str:
    """``ended with exit status 1``, ``was killed by SIGKILL``."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
