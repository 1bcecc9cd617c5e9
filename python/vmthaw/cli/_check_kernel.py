"""What `vmthaw doctor` asks the kernel: KVM, userfaultfd and its features, pidfds, smaps."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from vmthaw.cli._check import CAP_SYS_PTRACE, Check, Status, has_capability, read_number, read_text, verdict
from vmthaw.cli._errors import sentence_of

_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12
_SO_PEERPIDFD = 77
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_DEVICE = "/dev/userfaultfd"

# Feature: (what it is needed for, since which kernel). Those of `_REQUIRED` are what serving cannot do without.
_FEATURES = {
    "pagefault_flag_wp": ("telling write faults of protected pages (dirty tracking)", "5.7"),
    "event_fork": ("VMMs that fork", "4.11"),
    "event_remap": ("VMMs that move guest memory", "4.11"),
    "event_remove": ("balloons and free-page reporting: removed pages become zeros", "4.11"),
    "missing_hugetlbfs": ("guest memory of 2 MiB pages", "4.11"),
    "missing_shmem": ("guest memory in a memfd", "4.11"),
    "event_unmap": ("VMMs that unmap guest memory", "4.11"),
    "sigbus": ("faults answered in the faulting thread", "4.14"),
    "thread_id": ("naming the thread that faulted in traces", "4.14"),
    "minor_hugetlbfs": ("memory shared by clones, 2 MiB pages", "5.13"),
    "minor_shmem": ("memory shared by clones", "5.14"),
    "exact_address": ("the exact address in traces", "5.18"),
    "wp_hugetlbfs_shmem": ("dirty tracking of memfd memory", "5.19"),
    "wp_unpopulated": ("dirty tracking of pages that are not there yet", "6.4"),
    "poison": ("UFFDIO_POISON: the failure policy poison, which spares the VMM", "6.6"),
    "wp_async": ("dirty tracking without a fault", "6.7"),
    "move": ("moving pages in without a copy", "6.8"),
}
_REQUIRED = ("event_remove", "missing_shmem")
_EVERYDAY = ("missing_hugetlbfs", "poison", "thread_id", "event_unmap", "event_remap")


def check_kernel() -> Iterator[Check]:
    """Version, architecture, processors."""
    release = platform.release()
    numbers = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal()]
    yield Check(
        "kernel", "version", verdict(numbers >= [6, 1]), f"Linux {release}, {platform.machine()}",
        "6.1: /dev/userfaultfd; 6.5: pidfds of peers; 6.6: poison",
        "" if numbers >= [6, 1] else "older kernels serve, with the userfaultfd system call; a newer one is better",
    )  # fmt: skip
    cpus, pages = len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE")
    yield Check("kernel", "processors", Status.OK, f"{cpus} usable of {os.cpu_count()}, pages of {pages} bytes",
                "one fault reader per processor")  # fmt: skip


def check_kvm() -> Iterator[Check]:
    """/dev/kvm opens and speaks the one version there is."""
    needed = "the VMM; serving its memory needs no KVM"
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        mend = {
            FileNotFoundError: "load kvm_intel or kvm_amd, or turn nested virtualization on",
            PermissionError: "join the group of /dev/kvm (usermod -aG kvm USER), or setfacl -m u:USER:rw /dev/kvm",
        }.get(type(error), "see dmesg")
        yield Check("kernel", "KVM", Status.WARN, f"/dev/kvm: {error.strerror}", needed, mend)
        return
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        yield Check("kernel", "KVM", Status.WARN, f"/dev/kvm answers {error.strerror}", needed, "see dmesg")
    else:
        mend = "" if version == _KVM_API_VERSION else "only version 12 is in use anywhere"
        yield Check("kernel", "KVM", verdict(not mend), f"/dev/kvm opens, API version {version}", needed, mend)
    finally:
        os.close(fd)


def _system_call() -> str:
    """Empty when userfaultfd(2) gives a descriptor that sees kernel faults, else why not."""
    number = _SYS_USERFAULTFD.get(platform.machine())
    if number is None:
        return f"its number on {platform.machine()} is not known here"
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return ""


def check_userfaultfd() -> Iterator[Check]:
    """The device, the system call, the sysctl; then whether one of them will do."""
    from vmthaw.userfaultfd import UserfaultfdFactory

    group = "userfaultfd"
    try:
        UserfaultfdFactory().create().close()
    except OSError as error:
        usable, reason = False, sentence_of(error)
    else:
        usable, reason = True, ""
    yield Check(
        group, "usable by this user", verdict(usable, Status.FAIL), "yes" if usable else reason,
        "everything: the VMM makes it, so look as the VMM's user (uid) too",
        "" if usable else f"chmod or setfacl -m u:USER:rw {_DEVICE}, or sysctl vm.unprivileged_userfaultfd=1",
    )  # fmt: skip
    other = Status.INFO if usable else Status.WARN
    try:
        found = Path(_DEVICE).stat()
    except OSError as error:
        yield Check(group, "device", other, f"{_DEVICE}: {error.strerror}", "userfaultfd without capabilities",
                    "Linux 6.1 or newer has it; in a container pass the device in")  # fmt: skip
    else:
        opens = os.access(_DEVICE, os.R_OK | os.W_OK)
        mode = f"{_DEVICE}: mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}:{found.st_gid}"
        yield Check(group, "device", verdict(opens, other), f"{mode}, {'opens' if opens else 'does not open'}",
                    "userfaultfd without capabilities", "" if opens else f"setfacl -m u:USER:rw {_DEVICE}")  # fmt: skip
    problem = _system_call()
    yield Check(group, "system call", verdict(not problem, other), problem or "works",
                "VMMs that do not use the device", problem and "CAP_SYS_PTRACE, or the sysctl below")  # fmt: skip
    setting = read_number("/proc/sys/vm/unprivileged_userfaultfd")
    yield Check(group, "vm.unprivileged_userfaultfd", Status.INFO, "absent" if setting is None else str(setting),
                "1 lets every user's system call see kernel faults; the device is the better way")  # fmt: skip


def check_features() -> Iterator[Check]:
    """One line a feature bit."""
    from vmthaw.userfaultfd import UserfaultfdFactory

    try:
        supported = int(UserfaultfdFactory.probe())
    except OSError:
        return  # the lines above say why
    from vmthaw.userfaultfd import Feature

    for name, (needed, since) in _FEATURES.items():
        there = bool(supported & int(Feature[name]))
        otherwise = Status.FAIL if name in _REQUIRED else Status.WARN if name in _EVERYDAY else Status.INFO
        mend = "" if there else f"Linux {since} or newer on x86_64 (aarch64 may be later)"
        yield Check("features", name, verdict(there, otherwise), "yes" if there else "no", needed, mend)
    unknown = supported & ~sum(int(Feature[name]) for name in _FEATURES)
    if unknown:
        yield Check("features", "newer ones", Status.INFO, f"{unknown:#x}", "nothing yet")


def check_pidfd() -> Iterator[Check]:
    """pidfd_open, and the pidfd of a socket's peer."""
    needed = "killing the right VM, never a stranger with its number"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        yield Check("processes", "pidfd", Status.WARN, str(error.strerror), needed,
                    "Linux 5.3; without it the failure policy is poison")  # fmt: skip
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            yield Check("processes", "pidfd", Status.INFO, "pidfd_open works, SO_PEERPIDFD does not", needed,
                        "Linux 6.5 names the peer without a race; pidfd_open is used until then")  # fmt: skip
        else:
            yield Check("processes", "pidfd", Status.OK, "pidfd_open and SO_PEERPIDFD work", needed)


def check_smaps() -> Iterator[Check]:
    """Whether the smaps of a VMM can be read."""
    needed = "noticing that a VMM lost a registration (VmFlags)"
    scope = read_text("/proc/sys/kernel/yama/ptrace_scope")
    capable = has_capability(CAP_SYS_PTRACE)
    own = os.access("/proc/self/smaps", os.R_OK)
    found = f"{'CAP_SYS_PTRACE' if capable else 'no CAP_SYS_PTRACE'}, yama.ptrace_scope {scope or 'absent'}"
    if not own:
        yield Check(
            "processes", "/proc/PID/smaps", Status.WARN, "absent", needed, "mount /proc; CONFIG_PROC_PAGE_MONITOR"
        )
        return
    mend = "" if capable else "only VMMs of this user can be looked at (not the jailer's): give CAP_SYS_PTRACE"
    yield Check("processes", "/proc/PID/smaps", verdict(capable, Status.INFO), found, needed, mend)
