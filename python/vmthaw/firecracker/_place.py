"""Where a VM's sockets and files lie: as we see them, and as Firecracker does."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

from vmthaw.errors import StateError, VmthawOSError, VmthawValueError, os_error_class
from vmthaw.firecracker._files import copy_new, move_out
from vmthaw.firecracker._jail import Jail

API_SOCKET = "firecracker.socket"
PAGES_SOCKET = "pages.sock"
_log = logging.getLogger("vmthaw.firecracker")


class Place:
    """A folder of our own, removed at the end. Without a jail both sides see the same paths."""

    jail: Jail | None = None

    def __init__(self) -> None:
        self.root = Path("/")
        self._folder = Path(tempfile.mkdtemp(prefix="vmthaw-fc-"))

    @property
    def cwd(self) -> Path:
        """Where the process is started."""
        return self._folder

    @property
    def orphan_folder(self) -> str:
        """What the guard removes when we cannot any more: "-" for nothing (disks may be mounted in a jail)."""
        return str(self._folder)

    @property
    def api_argument(self) -> str:
        """The API socket's path, for Firecracker."""
        return str(self._folder / API_SOCKET)

    def api_socket(self) -> str | None:
        """The API socket's path for us; None while its folder does not exist."""
        return self.api_argument

    def pages_socket(self) -> tuple[str, str]:
        """The page server's socket: for us, and for Firecracker."""
        path = str(self._folder / PAGES_SOCKET)
        return path, path

    def bring_in(self, path: Path) -> str:
        """A file that Firecracker is to read, as it sees it."""
        return str(path.absolute())

    def inside(self, path: str) -> str:
        """A path of ours as Firecracker sees it. Raises VmthawValueError when it does not."""
        return str(Path(path).absolute()) if not path.startswith("@") else path

    def output(self, path: Path, _number: int) -> str:
        """Where Firecracker is to write what shall become `path`."""
        return str(path.absolute())

    def take_out(self, path: Path, _number: int) -> None:
        """Brings there what it has written."""

    def remove(self) -> None:
        """Removes the folder. Idempotent; what cannot be removed is logged."""
        _remove_tree(self._folder)


class JailPlace(Place):
    """A jail. Firecracker owns it, so nothing below it is reached by a path that it could bend: only by descriptors."""

    def __init__(self, jail: Jail, binary: str, vm_id: str) -> None:
        self.jail = jail
        self.root = jail.root(binary, vm_id)
        self._folder = self.root.parent
        self._cgroups = jail.cgroup_folders(binary, vm_id)
        self._run_fd = -1
        if self._folder.exists():
            raise StateError(f"the jail {self._folder} exists already: ids must be unique; remove it, or take another")

    @property
    def cwd(self) -> Path:
        """The jailer changes it."""
        return Path("/")

    @property
    def orphan_folder(self) -> str:
        """A jail stays."""
        return "-"

    @property
    def api_argument(self) -> str:
        """Firecracker's default."""
        return f"/run/{API_SOCKET}"

    def _run_folder(self) -> str | None:
        # By /proc, because such a path is easily longer than the 107 bytes that a socket's address may have.
        if self._run_fd < 0:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self._run_fd = os.open(self.root / "run", flags)
            except FileNotFoundError:
                return None
        return f"/proc/self/fd/{self._run_fd}"

    def api_socket(self) -> str | None:
        """See `Place`."""
        folder = self._run_folder()
        return None if folder is None else f"{folder}/{API_SOCKET}"

    def pages_socket(self) -> tuple[str, str]:
        """See `Place`."""
        folder = self._run_folder()
        if folder is None:
            raise VmthawOSError(errno.ENOENT, f"the jail {self.root} has no folder run: the jailer makes it")
        return f"{folder}/{PAGES_SOCKET}", f"/run/{PAGES_SOCKET}"

    def bring_in(self, path: Path) -> str:
        """Copies what lies outside; Firecracker's user may read it."""
        assert self.jail is not None
        try:
            return self.inside(str(path))
        except VmthawValueError:
            pass
        root_fd = self._open_root()
        try:
            name = copy_new(path, root_fd, self.jail.uid, self.jail.gid)
        finally:
            os.close(root_fd)
        return f"/{name}"

    def inside(self, path: str) -> str:
        """See `Place`."""
        if path.startswith("@"):
            return path
        absolute = Path(path).absolute()
        for root in (self.root, self.root.resolve()):
            if absolute.is_relative_to(root):
                return "/" + str(absolute.relative_to(root))
        raise VmthawValueError(f"{path} lies outside the jail {self.root}: Firecracker could not see it")

    def output(self, path: Path, number: int) -> str:
        """See `Place`."""
        with contextlib.suppress(VmthawValueError):
            return self.inside(str(path))
        return f"/vmthaw-output-{number}"

    def take_out(self, path: Path, number: int) -> None:
        """See `Place`."""
        with contextlib.suppress(VmthawValueError):
            self.inside(str(path))
            return
        root_fd = self._open_root()
        try:
            move_out(root_fd, f"vmthaw-output-{number}", path)
        finally:
            os.close(root_fd)

    def _open_root(self) -> int:
        return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def remove(self) -> None:
        """See `Place`."""
        run_fd, self._run_fd = self._run_fd, -1
        if run_fd >= 0:
            os.close(run_fd)
        for folder in self._cgroups:
            with contextlib.suppress(OSError):
                folder.rmdir()
        mounts = _mounts_below(self._folder)
        if mounts:
            _log.warning("the jail %s stays: %s is mounted in it", self._folder, ", ".join(mounts))
            return
        _remove_tree(self._folder)


def _mounts_below(folder: Path) -> list[str]:
    """Removing would go into a mounted disk and empty it."""
    with Path("/proc/self/mountinfo").open("rb") as file:
        points = [line.split()[4].decode("unicode_escape") for line in file]
    return [point for point in points if Path(point).is_relative_to(folder)]


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s could not be removed: %s", folder, error.strerror)


def check_file(path: Path, what: str) -> None:
    """Raises the OSError that says which file is missing: Firecracker's own words come too late and end it."""
    try:
        found = path.stat()
    except OSError as error:
        kind = os_error_class(error.errno or errno.EIO)
        raise kind(error.errno, f"{what} {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise VmthawValueError(f"{what} {path} is no regular file")
