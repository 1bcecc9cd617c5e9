"""`FuseServer`: a file system that the Linux kernel mounts, and the file systems that come with the library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from vmthaw import _core, _lifecycle
from vmthaw._core import PassthroughFs
from vmthaw._limits import raise_descriptor_limit
from vmthaw._mount_guard import MountGuard
from vmthaw.errors import StateError, VmthawValueError
from vmthaw.filesystem import FileSystem, FileSystemBackend, MemoryFs, PythonFs, backend_of

__all__ = ["FuseServer", "FuseStats", "MemoryFs", "PassthroughFs"]

_MOST_THREADS = 256
_JOIN_S = 5.0


@dataclass(frozen=True)
class FuseStats:
    """Counters of a server since its start; `readers` is how many threads read at this moment.

    `spliced` replies went from a file to the kernel without a copy here; `unwanted` ones came after whoever asked had
    given up; `refused` ones the kernel did not take, which is a fault of the file system or of ours.
    """

    requests: int
    replies: int
    spliced: int
    unwanted: int
    refused: int
    readers: int


class FuseServer:
    """Serves `file_system` to the kernel at the directory `mount_point`, from `start` (or ``with``) until the unmount.

    `file_system` is a `MemoryFs`, a `PassthroughFs` or one in Python (`vmthaw.filesystem.FileSystem`). As root it is
    mounted by mount(2), else by fusermount3 of the package fuse3. A dead mount of vmthaw in its place is cleared away
    first.

    `threads` readers (by default one per processor, 4 to 16) answer at once; for a file system in Python they are
    Python's. `read_only` mounts so. `allow_other` lets other users in (a user needs ``user_allow_other`` in
    /etc/fuse.conf). `default_permissions` has the kernel check modes and owners. `set_uid` and `devices` honour set-uid
    bits and device files (root only). `nonempty` allows a directory with files, which are hidden meanwhile. `fsname` is
    what /proc/mounts calls it. `entry_timeout` and `attr_timeout`: seconds for which the kernel trusts names and
    attributes without asking; 0 where others change them and all must see it at once. `max_write`: the largest write
    and read in bytes, a multiple of 4096 up to 1 MiB. `splice` moves large reads of host files without a copy here.
    `guard` keeps a small process beside the mount that takes it away if this one is killed.

    Methods are for any thread; what waits releases the GIL. After fork() the child's copy is inert. A server that is
    forgotten warns (ResourceWarning) and is stopped, at the interpreter's exit at the latest.
    """

    def __init__(
        self,
        file_system: FileSystem | FileSystemBackend,
        mount_point: str | os.PathLike[str],
        *,
        threads: int | None = None,
        read_only: bool = False,
        allow_other: bool = False,
        default_permissions: bool = True,
        set_uid: bool = False,
        devices: bool = False,
        nonempty: bool = False,
        fsname: str = "vmthaw",
        entry_timeout: float = 1.0,
        attr_timeout: float = 1.0,
        max_write: int = 1 << 20,
        splice: bool = False,
        guard: bool = True,
    ) -> None:
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise VmthawValueError(f"threads must be from 1 to {_MOST_THREADS}, not {threads}")
        self._file_system = file_system
        self._backend = backend_of(file_system)
        self._path = os.fspath(mount_point)
        self._threads = threads if threads is not None else min(max(len(os.sched_getaffinity(0)), 4), 16)
        self._guarded = guard
        self._options: dict[str, Any] = {
            "fsname": fsname, "read_only": read_only, "allow_other": allow_other,
            "default_permissions": default_permissions, "set_uid": set_uid, "devices": devices, "nonempty": nonempty,
            "entry_timeout": entry_timeout, "attr_timeout": attr_timeout, "max_write": max_write, "splice": splice,
        }  # fmt: skip
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._core: _core.FuseServerCore | None = None
        self._guard: MountGuard | None = None
        self._readers: list[threading.Thread] = []
        self._stopped = False

    def __repr__(self) -> str:
        return f"<FuseServer of {self._file_system!r} at {self._path}>"

    def start(self) -> Self:
        """Mounts; once it returns, files can be used. Idempotent. Raises StateError after `stop`.

        Raises OSError: NotADirectoryError, ENOTEMPTY, EBUSY (something is mounted there), PermissionError.
        """
        self._check_process()
        with self._lock:
            if self._stopped:
                raise StateError(f"{self!r} has been stopped; make a new one")
            if self._core is None:
                raise_descriptor_limit()
                _lifecycle.ensure_drainer()
                core = _core.FuseServerCore(self._backend, self._path, **self._options)
                try:
                    self._start_readers(core)
                    if self._guarded:
                        self._guard = MountGuard(core.mount_point, core.device_minor, by_fusermount=core.by_fusermount)
                except BaseException:
                    core.stop(0.0)
                    raise
                self._core = core
                _lifecycle.register(self)
        return self

    def _start_readers(self, core: _core.FuseServerCore) -> None:
        if not self._backend.takes_gil:
            core.start(self._threads)
            return
        for number in range(self._threads):
            reader = threading.Thread(target=_serve, args=(core,), name=f"vmthaw-fuse-{number}", daemon=True)
            reader.start()
            self._readers.append(reader)

    def stop(self, timeout: float = 5.0) -> None:
        """Unmounts and forgets. Idempotent, also before `start`.

        Where files are open there, waits `timeout` seconds for their users; then the mount is taken out of sight and
        they get ENOTCONN. Coroutines that are still at a request after as long again are cancelled. Raises StateError
        when one is not answered even so: the file system hangs, and its thread is left behind.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._stopped = True
            core, self._core = self._core, None
        if core is None:
            return
        _lifecycle.unregister(self)
        finished = core.stop(timeout)
        if not finished and isinstance(self._backend, PythonFs):
            self._backend.cancel_coroutines()
            finished = core.wait(max(timeout, _JOIN_S))
        if self._guard is not None:
            self._guard.dismiss()
        if not finished:
            raise StateError(f"{self!r} is unmounted, but a request of it has not been answered within {timeout:g} s")
        for reader in self._readers:
            reader.join(_JOIN_S)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it has been unmounted, by `stop` or by anybody (umount, fusermount3 -u). False: not in time.

        Ctrl-C ends it; the GIL is released.
        """
        self._check_process()
        core = self._core
        return core is None or core.wait(timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def file_system(self) -> FileSystem | FileSystemBackend:
        """What was given."""
        return self._file_system

    @property
    def backend(self) -> FileSystemBackend:
        """What the core serves: the file system itself, or the `PythonFs` round it. Its counts are 0 after `stop`."""
        return self._backend

    @property
    def mount_point(self) -> str:
        """The directory: absolute and without links once it is mounted, else as it was given."""
        core = self._core
        return self._path if core is None else core.mount_point

    @property
    def serving(self) -> bool:
        """True while it is mounted and read."""
        core = self._core
        return core is not None and core.serving

    @property
    def stats(self) -> FuseStats:
        """Counters at this moment. Raises StateError unless it has been started, and after `stop`."""
        self._check_process()
        core = self._core
        if core is None:
            raise StateError(f"{self!r} does not run")
        return FuseStats(**core.stats())

    def close_at_exit(self) -> None:
        """For interpreter exit: does not wait for files that are open there."""
        self.stop(0.5)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StateError(f"{self!r} was created before fork(); it is inert in the child: create a new one here")

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is None or os.getpid() != self._pid:
            return
        with contextlib.suppress(Warning):
            warnings.warn(f"{self!r} was forgotten; call stop() or use it in a with statement", ResourceWarning, 2)
        with contextlib.suppress(StateError):
            self.stop(0.0)


def _serve(core: _core.FuseServerCore) -> None:
    with contextlib.suppress(StateError):  # it was unmounted before this thread began to read
        core.serve()
