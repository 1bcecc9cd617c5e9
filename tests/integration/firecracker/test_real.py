"""Against the real binary: ``FIRECRACKER=/path/to/firecracker``, and a guest kernel in ``FIRECRACKER_KERNEL``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vmthaw import FileSource
from vmthaw.firecracker import ApiRefusedError, Firecracker, FirecrackerDiedError

pytestmark = pytest.mark.usefixtures("userfaultfd_available", "kvm_available")


@pytest.fixture
def binary() -> str:
    """The real Firecracker."""
    found = os.environ.get("FIRECRACKER")
    if not found or shutil.which(found) is None:
        pytest.skip("no Firecracker: FIRECRACKER names no binary")
    return found


@pytest.fixture
def kernel() -> str:
    """A guest kernel (vmlinux)."""
    found = os.environ.get("FIRECRACKER_KERNEL")
    if not found or not Path(found).exists():
        pytest.skip("no guest kernel: FIRECRACKER_KERNEL names no file")
    return found


def test_it_starts_answers_and_ends(binary: str) -> None:
    with Firecracker(binary) as vm:
        assert vm.info()["state"] == "Not started"
        with pytest.raises(ApiRefusedError, match="not supported before starting"):
            vm.pause()


def test_a_damaged_state_file_is_refused(binary: str, tmp_path: Path) -> None:
    (tmp_path / "vmstate").write_bytes(b"not a state")
    (tmp_path / "mem").write_bytes(bytes(1 << 20))
    with Firecracker(binary) as vm:
        with pytest.raises(ApiRefusedError, match="Load snapshot error") as refused:
            vm.load_snapshot(tmp_path / "vmstate", FileSource(tmp_path / "mem"))
        assert refused.value.status == 400
        vm.wait(10)
        with pytest.raises(FirecrackerDiedError):
            vm.info()


def test_a_vm_is_booted_snapshot_and_thawed(binary: str, kernel: str, tmp_path: Path) -> None:
    state, memory = tmp_path / "vmstate", tmp_path / "mem"
    with Firecracker(binary) as vm:
        vm.request("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
        arguments = "console=ttyS0 reboot=k panic=-1 pci=off"
        vm.request("PUT", "/boot-source", {"kernel_image_path": kernel, "boot_args": arguments})
        vm.request("PUT", "/actions", {"action_type": "InstanceStart"})
        vm.pause()
        vm.create_snapshot(state, memory)
    with Firecracker(binary) as vm:
        vm.load_snapshot(state, FileSource(memory))
        assert vm.info()["state"] == "Running"
        vm.pause()
        vm.create_snapshot(tmp_path / "vmstate2", tmp_path / "mem2")
        assert (tmp_path / "mem2").stat().st_size == 128 << 20
        assert vm.session is not None
        assert vm.session.stats.failed == 0
