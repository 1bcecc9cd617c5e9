"""Making descriptors: defaults, features, fall-backs, refusals that name their cause, and adoption."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import vmthaw
from vmthaw.userfaultfd import Feature, Features, Userfaultfd, UserfaultfdFactory

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534


def run_python(code: str, **options: object) -> str:
    """A fresh interpreter that runs `code`; its output. It drops no privilege by itself."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=30,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_defaults_see_kernel_faults_and_removals() -> None:
    factory = UserfaultfdFactory()
    assert factory.features == Feature.missing_shmem | Feature.event_remove
    with factory.create() as userfaultfd:
        assert userfaultfd.features == factory.features
        assert not os.get_blocking(userfaultfd.fileno())
        assert fcntl.fcntl(userfaultfd.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_the_flags_can_be_chosen() -> None:
    with UserfaultfdFactory(close_on_exec=False, nonblocking=False).create() as userfaultfd:
        assert os.get_blocking(userfaultfd.fileno())
        assert not fcntl.fcntl(userfaultfd.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_optional_features_are_taken_where_the_kernel_has_them() -> None:
    unheard_of = Feature(1 << 40)
    factory = UserfaultfdFactory(required=Feature(0), optional=Feature.thread_id | unheard_of)
    assert factory.features == Feature.thread_id
    assert Feature.thread_id in factory.supported
    assert unheard_of not in factory.supported


def test_a_required_feature_that_is_missing_is_named() -> None:
    with pytest.raises(OSError, match=r"lacks bit40; use a newer kernel") as caught:
        UserfaultfdFactory(required=Feature.event_remove | Feature(1 << 40))
    assert caught.value.errno == errno.EOPNOTSUPP
    assert isinstance(caught.value, vmthaw.errors.VmthawError)


def test_probing_leaves_no_descriptor_and_tells_of_poison() -> None:
    before = set(os.listdir("/proc/self/fd"))
    supported = UserfaultfdFactory.probe()
    assert supported == UserfaultfdFactory().supported
    assert bool(Features.poison & supported) == (Feature.poison in supported)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_clone_goes_on_after_the_original_and_without_the_device_path() -> None:
    factory = UserfaultfdFactory()
    clone = factory.try_clone()
    if not factory.descriptors():
        pytest.skip("/dev/userfaultfd cannot be opened here")
    assert factory.descriptors() != clone.descriptors()
    for fd in clone.descriptors():
        assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/userfaultfd"
    del factory
    clone.create().close()


def test_a_refusal_names_every_cause_and_the_remedy() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become somebody without privileges")
    output = run_python(
        f"""
        import os
        from vmthaw.userfaultfd import Feature, UserfaultfdFactory
        os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
        try:
            UserfaultfdFactory()
        except PermissionError as error:
            print(error.errno, error.operation, error)
        print(Feature.poison in UserfaultfdFactory.probe())
        print(UserfaultfdFactory(user_mode_only=True).create().closed)
        """
    )
    first, *rest = output.splitlines()
    if "userfaultfd" not in first:
        pytest.skip("an unprivileged user may make a userfaultfd here")
    for part in (
        "1 userfaultfd",
        "/dev/userfaultfd (mode ",
        "CAP_SYS_PTRACE is missing",
        "vm.unprivileged_userfaultfd is ",
    ):
        assert part in first
    assert first.endswith("run `vmthaw doctor`")
    assert rest[-1] == "False", "a user-mode-only descriptor needs no privilege"


def test_the_system_call_is_used_where_the_device_refuses() -> None:
    """CAP_SYS_PTRACE alone, without access to the device, is enough."""
    if os.getuid() != 0:
        pytest.skip("only root can give up everything but one capability")
    output = run_python(
        f"""
        import ctypes, os
        from vmthaw.userfaultfd import UserfaultfdFactory
        libc = ctypes.CDLL(None, use_errno=True)
        ptrace = 1 << 19
        assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
        os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)(ptrace, ptrace, 0, 0, 0, 0)
        assert libc.capset(header, data) == 0
        factory = UserfaultfdFactory()
        print(factory.descriptors() == [] or os.access("/dev/userfaultfd", os.W_OK), factory.create().closed)
        """
    )
    assert output.split() == ["True", "False"]


def test_no_descriptors_left_is_said_so() -> None:
    output = run_python(
        """
        import resource
        from vmthaw.userfaultfd import UserfaultfdFactory
        factory = UserfaultfdFactory()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            factory.create()
        except OSError as error:
            print(error.errno, error)
        """
    )
    assert output.startswith(f"{errno.EMFILE} [Errno {errno.EMFILE}] userfaultfd: ")
    assert "raise RLIMIT_NOFILE" in output


def test_an_adopted_descriptor_keeps_its_features() -> None:
    factory = UserfaultfdFactory(required=Feature.thread_id, optional=Feature.poison | Feature.move)
    with factory.create() as original, Userfaultfd.adopt(os.dup(original.fileno())) as adopted:
        assert adopted.features == factory.features
        assert adopted.fileno() != original.fileno()


def test_only_a_userfaultfd_can_be_adopted() -> None:
    for fd in os.memfd_create("no userfaultfd"), os.open("/", os.O_RDONLY), os.eventfd(0):
        with pytest.raises(OSError, match="not a userfaultfd") as caught:
            Userfaultfd.adopt(fd)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)  # a refused descriptor is closed
    with pytest.raises(OSError, match="pass an open descriptor") as closed:
        Userfaultfd.adopt(1 << 20)
    assert closed.value.errno == errno.EBADF


def test_a_descriptor_without_its_handshake_is_refused() -> None:
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    raw = fcntl.ioctl(device, 0xAA00, os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(device)
    with pytest.raises(OSError, match="never called UFFDIO_API"):
        Userfaultfd.adopt(raw)
