"""Many `FakeVmm` in one process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vmthaw._closing import Closing
from vmthaw.errors import VmthawValueError
from vmthaw.testing._fake_vmm import FakeVmm, Pattern
from vmthaw.testing._host import ChildProcess
from vmthaw.testing._reports import TouchReport


class FakeVmmHost(Closing):
    """Many `FakeVmm` in one process: ``vms`` is the list. Use it with ``with``."""

    def __init__(self, count: int, memory_path: str | os.PathLike[str], **options: Any) -> None:
        if count < 1:
            raise VmthawValueError("count must be at least 1")
        self._child = ChildProcess()
        self.vms: list[FakeVmm] = []
        try:
            for number in range(count):
                self.vms.append(FakeVmm(memory_path, _child=self._child, _number=number, **options))
        except BaseException:
            self._child.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id of all the VMs."""
        return self._child.pid

    def handover_all(self, socket_paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *,
                     timeout: float = 30.0, **options: Any) -> None:  # fmt: skip
        """Every VM hands over at the same time: to one socket, or each to its own. Raises the first failure."""
        if isinstance(socket_paths, str | os.PathLike):
            paths: list[str | os.PathLike[str]] = [socket_paths] * len(self.vms)
        else:
            paths = list(socket_paths)
        if len(paths) != len(self.vms):
            raise VmthawValueError(f"{len(paths)} socket paths for {len(self.vms)} VMs")
        calls = [vm.start_handover(path, timeout, **options) for vm, path in zip(self.vms, paths, strict=True)]
        for call in calls:
            call.result()

    def touch_all(self, pattern: Pattern | Sequence[int] = "sequential", **options: Any) -> list[TouchReport]:
        """Every VM touches at the same time; options as for `FakeVmm.touch`. One report a VM, in order."""
        calls = [vm.start_touch(pattern, **options) for vm in self.vms]
        return [FakeVmm.touch_result(call) for call in calls]

    def kill(self) -> None:
        """SIGKILL the process, and with it every VM."""
        self._child.kill()

    def close(self) -> None:
        """End the process. Idempotent."""
        self._child.kill()
