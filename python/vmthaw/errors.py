"""Exceptions of vmthaw.

Everything the library raises derives from `VmthawError`. A failed system call becomes the `OSError` subclass that its
errno stands for *and* a `VmthawError`, so both ``except PermissionError`` and ``except VmthawError`` work.
"""

from __future__ import annotations

import errno as _errno


class VmthawError(Exception):
    """Base of everything vmthaw raises."""


class VmthawValueError(VmthawError, ValueError):
    """An argument that cannot be right."""


class StateError(VmthawError, RuntimeError):
    """The object cannot do this in its present state (closed, not started, already stopped)."""


class ForkedError(StateError):
    """The object came through ``fork()`` and is inert in the child."""


class VmthawOSError(VmthawError, OSError):
    """A failed system call.

    Attributes: ``errno``, ``strerror`` (the whole sentence), ``operation`` (the system call), ``cause`` (what the errno
    means), ``remedy`` (may be empty) and ``address`` (None, or the host address it was about).
    """

    operation: str = ""
    cause: str = ""
    remedy: str = ""
    address: int | None = None


class VmthawPermissionError(VmthawOSError, PermissionError):
    """EPERM or EACCES."""


class VmthawFileNotFoundError(VmthawOSError, FileNotFoundError):
    """ENOENT."""


class VmthawFileExistsError(VmthawOSError, FileExistsError):
    """EEXIST."""


class VmthawProcessLookupError(VmthawOSError, ProcessLookupError):
    """ESRCH: the process has exited."""


class VmthawBlockingIOError(VmthawOSError, BlockingIOError):
    """EAGAIN: try again after draining events. EINPROGRESS, EALREADY."""


class VmthawInterruptedError(VmthawOSError, InterruptedError):
    """EINTR."""


class VmthawIsADirectoryError(VmthawOSError, IsADirectoryError):
    """EISDIR."""


class VmthawNotADirectoryError(VmthawOSError, NotADirectoryError):
    """ENOTDIR."""


class VmthawChildProcessError(VmthawOSError, ChildProcessError):
    """ECHILD."""


class VmthawConnectionError(VmthawOSError, ConnectionError):
    """Base of the four errors of a connection."""


class VmthawConnectionRefusedError(VmthawConnectionError, ConnectionRefusedError):
    """ECONNREFUSED: nobody listens."""


class VmthawConnectionResetError(VmthawConnectionError, ConnectionResetError):
    """ECONNRESET."""


class VmthawConnectionAbortedError(VmthawConnectionError, ConnectionAbortedError):
    """ECONNABORTED."""


class VmthawBrokenPipeError(VmthawConnectionError, BrokenPipeError):
    """EPIPE, ESHUTDOWN: the peer has closed."""


class VmthawTimeoutError(VmthawOSError, TimeoutError):
    """A wait ended before what it waited for (``errno`` is None then), or ETIMEDOUT."""


_BY_ERRNO: dict[int, type[VmthawOSError]] = {
    _errno.EPERM: VmthawPermissionError,
    _errno.EACCES: VmthawPermissionError,
    _errno.ENOENT: VmthawFileNotFoundError,
    _errno.EEXIST: VmthawFileExistsError,
    _errno.ESRCH: VmthawProcessLookupError,
    _errno.EAGAIN: VmthawBlockingIOError,
    _errno.EALREADY: VmthawBlockingIOError,
    _errno.EINPROGRESS: VmthawBlockingIOError,
    _errno.EINTR: VmthawInterruptedError,
    _errno.EISDIR: VmthawIsADirectoryError,
    _errno.ENOTDIR: VmthawNotADirectoryError,
    _errno.ECHILD: VmthawChildProcessError,
    _errno.ECONNREFUSED: VmthawConnectionRefusedError,
    _errno.ECONNRESET: VmthawConnectionResetError,
    _errno.ECONNABORTED: VmthawConnectionAbortedError,
    _errno.EPIPE: VmthawBrokenPipeError,
    _errno.ESHUTDOWN: VmthawBrokenPipeError,
    _errno.ETIMEDOUT: VmthawTimeoutError,
}


def os_error_class(errno_value: int) -> type[VmthawOSError]:
    """The class for an errno: the `OSError` subclass that Python people expect, which is a `VmthawError` too."""
    return _BY_ERRNO.get(errno_value, VmthawOSError)


class OutOfRegionError(VmthawError, LookupError):
    """An address in no region. Attribute ``address``."""

    address: int = 0


class RegionError(VmthawValueError):
    """A region that is unaligned, overflows, overlaps another or is not covered by its source."""


class PageSourceError(VmthawError):
    """A page source could not give its bytes."""


class ShortReadError(PageSourceError):
    """The source ended early. Attributes ``got`` and ``expected`` (bytes)."""

    got: int = 0
    expected: int = 0


class SourceOpenError(PageSourceError):
    """A source could not be opened. Attributes ``path``, ``errno`` and, where a format is wrong, ``field``."""

    path: str = ""
    errno: int = 0
    field: str = ""


class SourceAddressError(VmthawValueError):
    """An address of a memory that cannot be right. Attributes ``address`` and ``part``, the stage or option of it."""

    address: str = ""
    part: str = ""


class SourceIoError(PageSourceError):
    """Reading a source failed. Attribute ``errno``."""

    errno: int = 0


class SourceRangeError(PageSourceError, VmthawValueError):
    """A range that the source does not serve. Attributes ``offset`` and ``size`` (bytes)."""

    offset: int = 0
    size: int = 0


class LayeredHeaderError(PageSourceError, VmthawValueError):
    """A header of layered memory that cannot be right. Attribute ``field`` names what is wrong in it."""

    field: str = ""


class HandoverError(VmthawError):
    """A bad hand-over from a VMM. Attribute ``field`` names what was wrong."""

    field: str = ""


class IncompleteSessionsError(StateError):
    """Stopping now would leave VMs without pages. Attribute ``sessions`` names them."""

    sessions: str = ""


class WorkingSetFileError(VmthawValueError):
    """A file that holds no working set, or a damaged one."""


class PageFailedError(VmthawError):
    """A page could not be served and the failure policy was applied."""


class MissingExtraError(VmthawError, ImportError):
    """An optional dependency is not installed. The text has the line that installs it."""


class TraceError(VmthawError):
    """A trace file that cannot be read as one, or a recording that failed."""


class GuestError(VmthawError):
    """A guest stopped instead of answering. Attributes ``exit`` (the exit's name) and ``description`` (all of it)."""

    exit: str = ""
    description: str = ""


class GuestMismatchError(VmthawError):
    """A guest found memory that does not hold what it must. Attributes as of the report: ``wrong_address``, ..."""

    wrong_address: int = 0
    wrong_page: int = 0
    expected: int = 0
    found: int = 0
    mismatches: int = 0


class SnapshotError(VmthawError):
    """A snapshot that cannot be restored. Attribute ``field`` names what is wrong with it."""

    field: str = ""


class TranslationError(VmthawError, LookupError):
    """A guest-virtual address that the guest's page tables do not translate.

    Attributes: ``address``; ``reason`` ("not present", "reserved bits", "not canonical", "no memory", ...); and, where
    a table was read, ``level``, ``entry_address`` (guest-physical) and ``entry``.
    """

    address: int = 0
    reason: str = ""
    level: int = 0
    entry_address: int = 0
    entry: int = 0


class FreezeTimeoutError(VmthawError, TimeoutError):
    """A freeze in which not every vCPU parked in time. Attribute ``not_parked``: their numbers ("0, 2")."""

    not_parked: str = ""


class VmmDiedError(VmthawError):
    """The process of a VMM has ended."""
