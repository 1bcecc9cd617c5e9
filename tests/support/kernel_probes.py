"""Does this machine have what a test needs? Asked of the kernel itself, without the code under test."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import shutil

_USERFAULTFD_IOC_NEW = 0xAA00
_KVM_GET_API_VERSION = 0xAE00
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}


def why_no_userfaultfd() -> str | None:
    """None when a userfaultfd that sees kernel-mode faults can be made, else the reason."""
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        device_reason = f"/dev/userfaultfd: {error.strerror}"
    else:
        try:
            os.close(fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            device_reason = f"USERFAULTFD_IOC_NEW: {error.strerror}"
        else:
            return None
        finally:
            os.close(device)
    number = _SYS_USERFAULTFD.get(platform.machine())
    if number is None:
        return f"no userfaultfd: {device_reason}; the system call's number on {platform.machine()} is not known here"
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        return f"no userfaultfd: {device_reason}; userfaultfd(2): {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


def why_no_kvm() -> str | None:
    """None when /dev/kvm can be opened and speaks API version 12, else the reason."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"no KVM: /dev/kvm: {error.strerror}"
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"no KVM: KVM_GET_API_VERSION: {error.strerror}"
    finally:
        os.close(fd)
    return None if version == 12 else f"no KVM: API version {version}, not 12"


def why_no_fuse() -> str | None:
    """None where this process can mount a file system of its own, else the reason."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs /dev/fuse, which this user cannot open"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "needs root, or fusermount3 of the package fuse3"
    return None
