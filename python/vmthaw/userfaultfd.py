"""The kernel's userfaultfd, usable by itself: descriptors, registration, fills, messages and liveness.

Everything here is implemented in C++ and releases the GIL while the kernel works; the docstrings of the classes say how
each call fails. A thread of Python that touches a missing page holds the GIL until the page comes, so touch such memory
from another process, or from a ctypes call, which releases it.

Example::

    with UserfaultfdFactory().create() as userfaultfd:
        userfaultfd.register_range(address, size)
        for message in userfaultfd.read(timeout=1.0):
            if message["event"] == EVENT_PAGEFAULT:
                page = int(message["address"]) & ~0xFFF
                outcome = userfaultfd.copy(page, page_bytes)
                if outcome.status is FillStatus.present:
                    userfaultfd.wake(page, 4096)

Constants: ``EVENT_*`` and ``FAULT_*`` occur in messages, ``REGISTER_*`` are modes of registration, ``MODE_*`` and
``PROTECT_CLEAR`` modes of fills and of write protection, ``RANGE_*`` bits of what a registration returns.
"""

from __future__ import annotations

from vmthaw._core import (
    EVENT_FORK,
    EVENT_PAGEFAULT,
    EVENT_REMAP,
    EVENT_REMOVE,
    EVENT_UNMAP,
    FAULT_MINOR,
    FAULT_WRITE,
    FAULT_WRITE_PROTECT,
    MESSAGE_SIZE_BYTES,
    MODE_COPY_WRITE_PROTECT,
    MODE_DONT_WAKE,
    MODE_MOVE_ALLOW_SOURCE_HOLES,
    MODE_WRITE_PROTECT,
    MODE_WRITE_PROTECT_DONT_WAKE,
    PROTECT_CLEAR,
    RANGE_CONTINUE,
    RANGE_COPY,
    RANGE_MOVE,
    RANGE_POISON,
    RANGE_WAKE,
    RANGE_WRITE_PROTECT,
    RANGE_ZEROPAGE,
    REGISTER_MINOR,
    REGISTER_MISSING,
    REGISTER_WRITE_PROTECT,
    USER_MODE_ONLY,
    USERFAULTFD_API,
    Feature,
    FillOutcome,
    FillStatus,
    Liveness,
    LivenessChecker,
    RegistrationOutcome,
    Userfaultfd,
    UserfaultfdFactory,
    message_dtype,
    page_is_present,
    register_regions,
    unregister_regions,
)

Features = Feature

__all__ = [
    "EVENT_FORK",
    "EVENT_PAGEFAULT",
    "EVENT_REMAP",
    "EVENT_REMOVE",
    "EVENT_UNMAP",
    "FAULT_MINOR",
    "FAULT_WRITE",
    "FAULT_WRITE_PROTECT",
    "MESSAGE_SIZE_BYTES",
    "MODE_COPY_WRITE_PROTECT",
    "MODE_DONT_WAKE",
    "MODE_MOVE_ALLOW_SOURCE_HOLES",
    "MODE_WRITE_PROTECT",
    "MODE_WRITE_PROTECT_DONT_WAKE",
    "PROTECT_CLEAR",
    "RANGE_CONTINUE",
    "RANGE_COPY",
    "RANGE_MOVE",
    "RANGE_POISON",
    "RANGE_WAKE",
    "RANGE_WRITE_PROTECT",
    "RANGE_ZEROPAGE",
    "REGISTER_MINOR",
    "REGISTER_MISSING",
    "REGISTER_WRITE_PROTECT",
    "USERFAULTFD_API",
    "USER_MODE_ONLY",
    "Feature",
    "Features",
    "FillOutcome",
    "FillStatus",
    "Liveness",
    "LivenessChecker",
    "RegistrationOutcome",
    "Userfaultfd",
    "UserfaultfdFactory",
    "message_dtype",
    "page_is_present",
    "register_regions",
    "unregister_regions",
]
