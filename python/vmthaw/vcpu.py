"""What a KVM_RUN came to, and what is to be done about it: pure functions over the bytes of struct kvm_run.

Nothing here needs KVM, and the exits of either architecture are decoded on any host::

    exit = classify_exit(ExitProfile.strict, GuestArch.x86_64, result, errno, mapping)
    if exit.action.kind is ExitActionKind.continue_:
        dispatcher.handle(exit, mapping)

`Dispatcher` does what the classifier decides: it feeds devices (`vmthaw.devices`) and answers the guest.
"""

from __future__ import annotations

from vmthaw._core import (
    Dispatcher,
    Exit,
    ExitAction,
    ExitActionKind,
    ExitProfile,
    GuestArch,
    classify_exit,
    decode_exit,
    exit_reason_name,
)

__all__ = [
    "Dispatcher",
    "Exit",
    "ExitAction",
    "ExitActionKind",
    "ExitProfile",
    "GuestArch",
    "classify_exit",
    "decode_exit",
    "exit_reason_name",
]
