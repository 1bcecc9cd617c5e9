"""What `vmthaw doctor` reads of the machine: limits, huge pages, sysctls, the jailer's places, extras."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from vmthaw.cli._check import CAP_CHOWN, Check, Status, has_capability, read_number, read_text, verdict
from vmthaw.cli._values import format_size

# Socket, userfaultfd, pidfd, and what is held for moments while a hand-over arrives.
DESCRIPTORS_PER_VM = 5
_OWN_DESCRIPTORS = 64
_MANY_VMS = 1000
_JAILER_ROOT = "/srv/jailer"
EXTRAS = {
    "firecracker": ["httpx"],
    "analysis": ["pyarrow", "duckdb", "pandas", "matplotlib", "plotly"],
    "s3": ["obstore"],
    "live": ["textual"],
}


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _limit_size(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else format_size(value)


def vms_served(hard: int) -> int:
    """How many VMs a process with this hard limit on descriptors can serve."""
    return max(0, (hard - _OWN_DESCRIPTORS) // DESCRIPTORS_PER_VM)


def check_limits() -> Iterator[Check]:
    """Descriptors, locked memory, processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = f"about {DESCRIPTORS_PER_VM} for every VM"
    if hard == resource.RLIM_INFINITY:
        yield Check("limits", "descriptors", Status.OK, f"soft {_limit(soft)}, hard unlimited", needed)
    else:
        vms = vms_served(hard)
        found = f"soft {_limit(soft)}, hard {hard}: {vms} VMs (a server raises its soft limit to the hard one)"
        mend = "" if vms >= _MANY_VMS else "LimitNOFILE=65536 in the unit, or * hard nofile 65536 in limits.conf"
        yield Check("limits", "descriptors", verdict(not mend), found, needed, mend)
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    yield Check("limits", "locked memory", Status.INFO, f"soft {_limit_size(soft)}, hard {_limit_size(hard)}",
                "VMMs that lock guest memory; serving locks none")  # fmt: skip
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    enough = soft == resource.RLIM_INFINITY or soft >= 256
    yield Check("limits", "processes", verdict(enough), f"soft {_limit(soft)}, hard {_limit(hard)}",
                "the server's few threads, and the VMMs of the same user",
                "" if enough else "TasksMax= and LimitNPROC= in the unit, or nproc in limits.conf")  # fmt: skip


def check_memory() -> Iterator[Check]:
    """What is free, huge pages, transparent ones, the sysctls."""
    available = 0
    for line in (read_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    yield Check("memory", "available", Status.INFO, format_size(available), "guests that touch all their memory")
    pool = "/sys/kernel/mm/hugepages/hugepages-2048kB"
    total, free = read_number(f"{pool}/nr_hugepages"), read_number(f"{pool}/free_hugepages")
    if total is None:
        yield Check("memory", "huge pages", Status.INFO, "no pool of 2 MiB pages", "VMs with 2 MiB pages")
    else:
        mend = "" if free else "sysctl vm.nr_hugepages=N (512 for every GiB of guest, one more while a page is filled)"
        yield Check("memory", "huge pages", Status.OK if free else Status.INFO,
                    f"{total} of 2 MiB reserved, {free} free", "VMs with 2 MiB pages", mend)  # fmt: skip
    thp = read_text("/sys/kernel/mm/transparent_hugepage/enabled") or ""
    mode = thp[thp.find("[") + 1 : thp.find("]")] if "[" in thp else "absent"
    yield Check("memory", "transparent huge pages", Status.INFO, mode,
                "filled pages are small; collapsing them later needs always or madvise")  # fmt: skip
    overcommit = read_number("/proc/sys/vm/overcommit_memory")
    yield Check("memory", "vm.overcommit_memory", verdict(overcommit != 2), str(overcommit),
                "VMMs map the whole guest without reserving it",
                "" if overcommit != 2 else "sysctl vm.overcommit_memory=0, or each VM counts in full")  # fmt: skip
    count = read_number("/proc/sys/vm/max_map_count") or 0
    yield Check("memory", "vm.max_map_count", verdict(count >= 65530), str(count),
                "removed and collapsed ranges split a VMM's mappings",
                "" if count >= 65530 else "sysctl vm.max_map_count=262144")  # fmt: skip


def check_jailer() -> Iterator[Check]:
    """Where the socket goes and whose it must be, when Firecracker is started by its jailer."""
    tools = [name for name in ("firecracker", "jailer") if shutil.which(name)]
    chroots = sorted(path.name for path in Path(_JAILER_ROOT).glob("*/*")) if Path(_JAILER_ROOT).is_dir() else []
    found = f"on PATH: {' and '.join(tools) or 'neither firecracker nor jailer'}"
    if chroots:
        found += f"; {len(chroots)} jail(s) in {_JAILER_ROOT}"
    yield Check(
        "jailer", "socket path", Status.INFO, found, "the jailer chroots Firecracker, so it sees another path",
        f"serve --socket {_JAILER_ROOT}/firecracker/ID/root/run/uffd.sock; backend_path is /run/uffd.sock",
    )  # fmt: skip
    may = has_capability(CAP_CHOWN)
    yield Check(
        "jailer", "socket owner", verdict(may, Status.INFO),
        f"uid {os.geteuid()}, {'may' if may else 'may not'} give files away (CAP_CHOWN)",
        "the socket has mode 0600: Firecracker's uid must own it",
        "serve --owner UID:GID --required-uid UID, with the jailer's --uid and --gid"
        + ("" if may else "; as that user or with CAP_CHOWN"),
    )  # fmt: skip


def check_extras() -> Iterator[Check]:
    """Which optional parts are installed."""
    needed = {
        "firecracker": "driving Firecracker's API", "analysis": "traces as tables and plots",
        "s3": "memory files in object stores", "live": "the full-screen monitor",
    }  # fmt: skip
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        yield Check(
            "extras", extra, verdict(not missing, Status.INFO),
            "installed" if not missing else f"without {', '.join(missing)}", needed[extra],
            f"pip install 'vmthaw[{extra}]'" if missing else "",
        )  # fmt: skip
