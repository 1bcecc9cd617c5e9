"""Run by test_wheel.py in a clean environment: serve real page faults with nothing but the installed wheel.

A thread of C (memcmp through ctypes, which releases the GIL) reads memory that is registered and missing; this thread
answers each fault. Prints how many faults it served.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading

import vmthaw
from vmthaw.userfaultfd import EVENT_PAGEFAULT, FillStatus, UserfaultfdFactory

PAGES = 64
PAGE = mmap.PAGESIZE


def main() -> int:
    """Serve every page of a mapping once and check what the reader saw."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The object of ctypes holds the mapping: it is never unmapped while registered.
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    wanted = b"".join(bytes([number]) * PAGE for number in range(1, PAGES + 1))
    differences: list[int] = []
    libc = ctypes.CDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    served = 0
    with UserfaultfdFactory().create() as userfaultfd:
        userfaultfd.register_range(address, PAGES * PAGE)
        reader = threading.Thread(target=lambda: differences.append(libc.memcmp(address, wanted, len(wanted))))
        reader.start()
        while served < PAGES:
            messages = userfaultfd.read(timeout=10.0)
            if len(messages) == 0:
                print("no fault came within 10 s", file=sys.stderr)
                return 1
            for message in messages:
                if message["event"] != EVENT_PAGEFAULT:
                    continue
                page = (int(message["address"]) - address) // PAGE
                outcome = userfaultfd.copy(address + page * PAGE, wanted[page * PAGE : (page + 1) * PAGE])
                served += outcome.status is FillStatus.done
        reader.join(10.0)
    print(f"{vmthaw.__version__} {vmthaw.__file__} served {served} differences {differences}")
    return 0 if differences == [0] else 1


if __name__ == "__main__":
    sys.exit(main())
