"""Firecracker's jailer: what it is told, and the folder that it makes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmthaw.errors import VmthawValueError

# jailer.md: "may contain alphanumeric characters and hyphens. The maximum length is currently 64 characters."
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def check_id(vm_id: str) -> str:
    """Gives the id back. Raises VmthawValueError where the jailer would refuse it."""
    if _ID.fullmatch(vm_id) is None:
        raise VmthawValueError(f"vm_id {vm_id!r} must be 1 to 64 letters, digits and hyphens")
    return vm_id


@dataclass(frozen=True)
class Jail:
    """How to run Firecracker under its jailer (which needs root): a plain value.

    `uid` and `gid` are what Firecracker runs as; the page server's socket is theirs and takes no other user. The jail
    is ``<chroot_base>/<name of the binary>/<id>/root``; it must not exist yet and is removed at the end
    (but stays when this process is killed by SIGKILL). `cgroups` are
    ``FILE=VALUE`` (version 2 unless `cgroup_version` is 1) below `parent_cgroup`; the VM's cgroup is removed too.
    `arguments` go to the jailer as they are (``--netns``, ``--resource-limit``); ``--daemonize`` and ``--new-pid-ns``
    are refused, because the process could not be watched then. Raises VmthawValueError.
    """

    uid: int
    gid: int
    jailer: str | os.PathLike[str] = "jailer"
    chroot_base: str | os.PathLike[str] = "/srv/jailer"
    cgroups: Sequence[str] = ()
    cgroup_version: int = 2
    parent_cgroup: str | None = None
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, value in (("uid", self.uid), ("gid", self.gid)):
            if not 0 <= value < 0xFFFFFFFF:
                raise VmthawValueError(f"{name} must be from 0 to 4294967294, got {value}")
        if self.cgroup_version not in (1, 2):
            raise VmthawValueError(f"cgroup_version must be 1 or 2, got {self.cgroup_version}")
        for cgroup in self.cgroups:
            if "=" not in cgroup:
                raise VmthawValueError(f"a cgroup setting is FILE=VALUE (cpuset.cpus=0), got {cgroup!r}")
        for word in self.arguments:
            if word in ("--daemonize", "--new-pid-ns", "--"):
                raise VmthawValueError(f"{word} cannot be among the jailer's arguments: the process is watched by pid")

    def root(self, binary: str, vm_id: str) -> Path:
        """The jail's root folder as the host sees it."""
        return Path(self.chroot_base).resolve() / Path(binary).resolve().name / vm_id / "root"

    def command(self, jailer: str, binary: str, vm_id: str, firecracker_arguments: Sequence[str]) -> list[str]:
        """The jailer's command line."""
        words = [
            jailer, "--id", vm_id, "--exec-file", binary, "--uid", str(self.uid), "--gid", str(self.gid),
            "--chroot-base-dir", str(Path(self.chroot_base).resolve()), "--cgroup-version", str(self.cgroup_version),
        ]  # fmt: skip
        for cgroup in self.cgroups:
            words += ["--cgroup", cgroup]
        if self.parent_cgroup is not None:
            words += ["--parent-cgroup", self.parent_cgroup]
        return [*words, *self.arguments, "--", *firecracker_arguments]

    def cgroup_folders(self, binary: str, vm_id: str) -> list[Path]:
        """The cgroups that the jailer has made for this VM."""
        if not self.cgroups and self.cgroup_version == 2:
            return []
        below = Path(self.parent_cgroup or Path(binary).resolve().name) / vm_id
        mounted = Path("/sys/fs/cgroup")
        if self.cgroup_version == 2:
            return [mounted / below, mounted / "unified" / below]
        controllers = {cgroup.partition(".")[0] for cgroup in self.cgroups}
        return [mounted / controller / below for controller in sorted(controllers)]
