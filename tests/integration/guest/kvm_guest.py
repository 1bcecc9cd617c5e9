"""A VM with one vCPU in a process of its own: a guest at CPL 0 whose memory is missing until a page server gives it.

``python -m tests.integration.guest.kvm_guest SOCKET PAGES`` hands over, runs the guest and prints what it saw, as JSON.
Written against the kernel's interface alone (linux/kvm.h): of the library only the userfaultfd wrapper is used. The
guest, in real mode, goes through `PAGES` pages from `FIRST` on: it adds up the first byte of each, writes the sum's low
byte into the second, and sends that out by port 0x10.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import socket
import struct
import sys

from vmthaw import Feature, UserfaultfdFactory

PAGE = 4096
FIRST = 0x10000  # guest address of the first page of data
LOAD_AT = 0x1000
# ds walks by 0x100 paragraphs, a page: no pointer of 16 bits has to grow.
CODE = bytes.fromhex(
    "8edb"  # next: mov ds, bx
    "02160000"  # add dl, [0]
    "88160100"  # mov [1], dl
    "88d0"  # mov al, dl
    "e610"  # out 0x10, al
    "81c30001"  # add bx, 0x100
    "e2ec"  # loop next
    "f4"  # hlt
)

_KVM_CREATE_VM = 0xAE01
_KVM_GET_VCPU_MMAP_SIZE = 0xAE04
_KVM_CREATE_VCPU = 0xAE41
_KVM_SET_USER_MEMORY_REGION = 0x4020AE46
_KVM_SET_TSS_ADDR = 0xAE47
_KVM_RUN = 0xAE80
_KVM_SET_REGS = 0x4090AE82
_KVM_GET_SREGS = 0x8138AE83
_KVM_SET_SREGS = 0x4138AE84
_SREGS_BYTES = 312  # struct kvm_sregs: the segments cs, ds, es, fs, gs and ss come first
_SEGMENT_BYTES = 24  # struct kvm_segment: base (u64), limit (u32), selector (u16) ...
_EXIT_IO, _EXIT_HLT = 2, 5
_EXIT_REASON_AT, _IO_DATA_OFFSET_AT = 8, 40  # in struct kvm_run
_TSS_AT = 0x7FFBD000  # three pages that Intel wants, anywhere but in the guest's memory


def _registers(pages: int) -> bytes:
    """Order: rax rbx rcx rdx rsi rdi rsp rbp r8 to r15 rip rflags."""
    values = [0, FIRST >> 4, pages, 0, 0, 0, 0x8000, 0, *([0] * 8), LOAD_AT, 2]
    return struct.pack("<18Q", *values)


def _make_vcpu(kvm: int, vm: int, pages: int) -> tuple[int, mmap.mmap]:
    """The vCPU at the code's first instruction, all segments from 0 on; and its struct kvm_run."""
    vcpu = fcntl.ioctl(vm, _KVM_CREATE_VCPU, 0)
    segments = bytearray(_SREGS_BYTES)
    fcntl.ioctl(vcpu, _KVM_GET_SREGS, segments)
    for segment in range(6):
        struct.pack_into("<Q", segments, segment * _SEGMENT_BYTES, 0)
        struct.pack_into("<H", segments, segment * _SEGMENT_BYTES + 12, 0)
    fcntl.ioctl(vcpu, _KVM_SET_SREGS, bytes(segments))
    fcntl.ioctl(vcpu, _KVM_SET_REGS, _registers(pages))
    return vcpu, mmap.mmap(vcpu, fcntl.ioctl(kvm, _KVM_GET_VCPU_MMAP_SIZE, 0))


def _hand_over(path: str, descriptor: int, host: int, size: int) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(path)
    region = {"base_host_virt_addr": host, "size": size, "offset": 0, "page_size": PAGE, "page_size_kib": PAGE}
    socket.send_fds(link, [json.dumps([region]).encode()], [descriptor])
    return link


def run(path: str, pages: int) -> dict[str, object]:
    """Runs the guest to its HLT: the sums that it sent, those that it wrote, and the last exit's reason."""
    size = FIRST + pages * PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    host = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    userfaultfd = UserfaultfdFactory(required=Feature.event_remove).create()
    userfaultfd.register_range(host, size)
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, _KVM_CREATE_VM, 0)
    fcntl.ioctl(vm, _KVM_SET_TSS_ADDR, _TSS_AT)
    fcntl.ioctl(vm, _KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, size, host))
    vcpu, shared = _make_vcpu(kvm, vm, pages)
    with _hand_over(path, userfaultfd.fileno(), host, size):
        sent: list[int] = []
        while True:
            fcntl.ioctl(vcpu, _KVM_RUN, 0)
            reason = struct.unpack_from("<I", shared, _EXIT_REASON_AT)[0]
            if reason != _EXIT_IO:
                break
            sent.append(shared[struct.unpack_from("<Q", shared, _IO_DATA_OFFSET_AT)[0]])
        written = [memory[FIRST + page * PAGE + 1] for page in range(pages)]
    return {"halted": reason == _EXIT_HLT, "exit_reason": reason, "sent": sent, "written": written}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))), flush=True)
    os._exit(0)  # the mapping is exported to ctypes: it cannot be taken down in order
