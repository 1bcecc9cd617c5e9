"""Which tests `make test-vm` also runs in a virtual machine with another KVM and another kernel: see tests/vm."""

from __future__ import annotations

from pathlib import Path

import pytest

# The wrapper and the pager on another kernel, and whatever touches /dev/kvm. Tests of processes, signals, terminals and
# time would learn nothing there.
VM_X86 = (
    "tests/integration/dax",
    "tests/integration/guest",
    "tests/integration/kvm",
    "tests/integration/machine/test_diff_snapshot.py",
    "tests/integration/machine/test_machine.py",
    "tests/integration/machine/test_machine_run.py",
    "tests/integration/machine/test_running_snapshot.py",
    "tests/integration/machine/test_saved_vcpu.py",
    "tests/integration/machine/test_snapshot.py",
    "tests/integration/machine/test_watched_snapshot.py",
    "tests/integration/server/test_bytes.py",
    "tests/integration/server/test_removals.py",
    "tests/integration/userfaultfd",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks them ``vm_x86``."""
    chosen = [config.rootpath / path for path in VM_X86]
    for item in items:
        if any(Path(item.path).is_relative_to(path) for path in chosen):
            item.add_marker(pytest.mark.vm_x86)
