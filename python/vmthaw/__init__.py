"""vmthaw thaws microVMs: lazy snapshot restore through userfaultfd, seen and decided from Python."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vmthaw._version import __version__

if TYPE_CHECKING:
    from vmthaw.dax import DaxMapper, DaxPolicy, DaxSession, HostFiles, WindowMapper
    from vmthaw.devices import Buses, Serial
    from vmthaw.filesystem import FileSystem, FileSystemBackend, FuseDispatcher, MemoryFs, PythonFs
    from vmthaw.fuse import FuseServer, FuseStats, PassthroughFs
    from vmthaw.kvm import Exit, GuestArch, GuestMemory, Kvm, Vcpu, Vm, decode_exit
    from vmthaw.machine import GuestReport, Machine, VmmProcess, Workload
    from vmthaw.pager import (
        EndReason,
        FailurePolicy,
        FillMode,
        MemoryLayout,
        Pager,
        PagerConfig,
        PagerSession,
        PagerStats,
        Placement,
        PrewarmList,
        Region,
        SessionEventKind,
        SessionState,
        WorkingSetMode,
    )
    from vmthaw.run_loop import RunEnd, RunEndKind, RunLoop
    from vmthaw.server import (
        DetachedSession,
        Failure,
        HandoverInfo,
        PageServer,
        ServerTotals,
        SessionEvent,
    )
    from vmthaw.source import (
        ExtentKind,
        FileSource,
        LayeredHeader,
        LayeredSource,
        PageExporter,
        PageSource,
        PythonSource,
        SocketSource,
        SparseDiffSource,
        ZeroSource,
    )
    from vmthaw.trace import Trace, TraceRecorder
    from vmthaw.userfaultfd import (
        Feature,
        Features,
        FillOutcome,
        FillStatus,
        Liveness,
        LivenessChecker,
        Userfaultfd,
        UserfaultfdFactory,
        register_regions,
        unregister_regions,
    )
    from vmthaw.vcpu import Dispatcher, ExitAction, ExitActionKind, ExitProfile, classify_exit
    from vmthaw.working_set import WorkingSet

# Public name: the module that has it, imported when the name is first used.
_HOMES = {
    "Buses": "vmthaw.devices",
    "DaxMapper": "vmthaw.dax",
    "DaxPolicy": "vmthaw.dax",
    "DaxSession": "vmthaw.dax",
    "DetachedSession": "vmthaw.server",
    "Dispatcher": "vmthaw.vcpu",
    "EndReason": "vmthaw.pager",
    "Exit": "vmthaw.kvm",
    "ExitAction": "vmthaw.vcpu",
    "ExitActionKind": "vmthaw.vcpu",
    "ExitProfile": "vmthaw.vcpu",
    "ExtentKind": "vmthaw.source",
    "Failure": "vmthaw.server",
    "FailurePolicy": "vmthaw.pager",
    "Feature": "vmthaw.userfaultfd",
    "Features": "vmthaw.userfaultfd",
    "FileSource": "vmthaw.source",
    "FileSystem": "vmthaw.filesystem",
    "FileSystemBackend": "vmthaw.filesystem",
    "FillMode": "vmthaw.pager",
    "FillOutcome": "vmthaw.userfaultfd",
    "FillStatus": "vmthaw.userfaultfd",
    "FuseDispatcher": "vmthaw.filesystem",
    "FuseServer": "vmthaw.fuse",
    "FuseStats": "vmthaw.fuse",
    "GuestArch": "vmthaw.kvm",
    "GuestMemory": "vmthaw.kvm",
    "GuestReport": "vmthaw.machine",
    "HandoverInfo": "vmthaw.server",
    "HostFiles": "vmthaw.dax",
    "Kvm": "vmthaw.kvm",
    "LayeredHeader": "vmthaw.source",
    "LayeredSource": "vmthaw.source",
    "Liveness": "vmthaw.userfaultfd",
    "LivenessChecker": "vmthaw.userfaultfd",
    "Machine": "vmthaw.machine",
    "MemoryFs": "vmthaw.filesystem",
    "MemoryLayout": "vmthaw.pager",
    "PageExporter": "vmthaw.source",
    "PageServer": "vmthaw.server",
    "PageSource": "vmthaw.source",
    "Pager": "vmthaw.pager",
    "PagerConfig": "vmthaw.pager",
    "PagerSession": "vmthaw.pager",
    "PagerStats": "vmthaw.pager",
    "Placement": "vmthaw.pager",
    "PassthroughFs": "vmthaw.fuse",
    "PrewarmList": "vmthaw.pager",
    "PythonFs": "vmthaw.filesystem",
    "PythonSource": "vmthaw.source",
    "Region": "vmthaw.pager",
    "RunEnd": "vmthaw.run_loop",
    "RunEndKind": "vmthaw.run_loop",
    "RunLoop": "vmthaw.run_loop",
    "Serial": "vmthaw.devices",
    "ServerTotals": "vmthaw.server",
    "SessionEvent": "vmthaw.server",
    "SessionEventKind": "vmthaw.pager",
    "SessionState": "vmthaw.pager",
    "SocketSource": "vmthaw.source",
    "SparseDiffSource": "vmthaw.source",
    "Trace": "vmthaw.trace",
    "TraceRecorder": "vmthaw.trace",
    "Userfaultfd": "vmthaw.userfaultfd",
    "UserfaultfdFactory": "vmthaw.userfaultfd",
    "Vcpu": "vmthaw.kvm",
    "Vm": "vmthaw.kvm",
    "VmmProcess": "vmthaw.machine",
    "WindowMapper": "vmthaw.dax",
    "WorkingSet": "vmthaw.working_set",
    "WorkingSetMode": "vmthaw.pager",
    "Workload": "vmthaw.machine",
    "ZeroSource": "vmthaw.source",
    "classify_exit": "vmthaw.vcpu",
    "decode_exit": "vmthaw.kvm",
    "register_regions": "vmthaw.userfaultfd",
    "unregister_regions": "vmthaw.userfaultfd",
}

__all__ = [
    "Buses",
    "DaxMapper",
    "DaxPolicy",
    "DaxSession",
    "DetachedSession",
    "Dispatcher",
    "EndReason",
    "Exit",
    "ExitAction",
    "ExitActionKind",
    "ExitProfile",
    "ExtentKind",
    "Failure",
    "FailurePolicy",
    "Feature",
    "Features",
    "FileSource",
    "FileSystem",
    "FileSystemBackend",
    "FillMode",
    "FillOutcome",
    "FillStatus",
    "FuseDispatcher",
    "FuseServer",
    "FuseStats",
    "GuestArch",
    "GuestMemory",
    "GuestReport",
    "HandoverInfo",
    "HostFiles",
    "Kvm",
    "LayeredHeader",
    "LayeredSource",
    "Liveness",
    "LivenessChecker",
    "Machine",
    "MemoryFs",
    "MemoryLayout",
    "PageExporter",
    "PageServer",
    "PageSource",
    "Pager",
    "PagerConfig",
    "PagerSession",
    "PagerStats",
    "PassthroughFs",
    "Placement",
    "PrewarmList",
    "PythonFs",
    "PythonSource",
    "Region",
    "RunEnd",
    "RunEndKind",
    "RunLoop",
    "Serial",
    "ServerTotals",
    "SessionEvent",
    "SessionEventKind",
    "SessionState",
    "SocketSource",
    "SparseDiffSource",
    "Trace",
    "TraceRecorder",
    "Userfaultfd",
    "UserfaultfdFactory",
    "Vcpu",
    "Vm",
    "VmmProcess",
    "WindowMapper",
    "WorkingSet",
    "WorkingSetMode",
    "Workload",
    "ZeroSource",
    "__version__",
    "classify_exit",
    "decode_exit",
    "register_regions",
    "unregister_regions",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
