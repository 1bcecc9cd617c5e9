"""A double of Firecracker's jailer: ``python -m vmthaw.testing._jailer_double --id ID --exec-file FILE ...``.

Makes the layout that docs/jailer.md describes, with device nodes, changes root and user, and becomes the double of
Firecracker (in the same process: a Python interpreter cannot be started inside an empty root). Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from pathlib import Path

from vmthaw.testing import _firecracker_double
from vmthaw.testing._firecracker_machine import say

_VALUES = (
    "--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--cgroup-version", "--cgroup", "--parent-cgroup",
    "--netns", "--resource-limit",
)  # fmt: skip
_DEVICES = ("kvm", "userfaultfd", "net/tun")


def _parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    split = words.index("--") if "--" in words else len(words)
    own, rest = words[:split], words[split + 1 :]
    found = {"--chroot-base-dir": "/srv/jailer"}
    while own:
        name = own.pop(0)
        if name not in _VALUES or not own:
            _fail(f"Failed to parse arguments: Found argument '{name.lstrip('-')}' which wasn't expected")
        found[name] = own.pop(0)
    for name in ("--id", "--exec-file", "--uid", "--gid"):
        if name not in found:
            _fail(f"Failed to parse arguments: Argument '{name.lstrip('-')}' required, but not found")
    return found, rest


def _fail(text: str) -> None:
    say(f"Error: {text}")
    os._exit(1)


def _make_root(arguments: dict[str, str], uid: int, gid: int) -> Path:
    executable = Path(arguments["--exec-file"]).resolve()
    root = Path(arguments["--chroot-base-dir"]).resolve() / executable.name / arguments["--id"] / "root"
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(executable, root / executable.name)
    for folder in (root, root / "dev", root / "dev" / "net", root / "run"):
        folder.mkdir(exist_ok=True, mode=0o700)
        os.chown(folder, uid, gid)
    for name in _DEVICES:
        device = Path("/dev") / name
        if not device.exists():
            continue
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o600, device.stat().st_rdev)
        os.chown(root / "dev" / name, uid, gid)
    return root


def main() -> None:
    """Jail and run."""
    arguments, rest = _parse(sys.argv[1:])
    if re.fullmatch(r"[A-Za-z0-9-]{1,64}", arguments["--id"]) is None:
        _fail(f"Invalid instance ID: {arguments['--id']}")
    uid, gid = int(arguments["--uid"]), int(arguments["--gid"])
    os.closerange(3, 1024)
    root = _make_root(arguments, uid, gid)
    os.chroot(root)
    os.chdir("/")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    _firecracker_double.run([f"--id={arguments['--id']}", "--start-time-us=0", "--start-time-cpu-us=0", *rest])


if __name__ == "__main__":
    main()
