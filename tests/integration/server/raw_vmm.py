"""A VMM of a few lines, for what `FakeVmm` does not do: two things at once, fork(), mapping anew, dying of SIGBUS.

A process of its own reads commands (one line of JSON each) and answers each from a thread; memory is touched by ctypes
with the GIL released (read() into a pipe from guest memory), so that a missing page blocks one thread only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHILD = r"""
import ctypes, fcntl, json, os, signal, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
pages, features = int(sys.argv[1]), int(sys.argv[2])
FLAGS = 0x22 | 0x4000  # private, anonymous, noreserve


def check(result):
    if result in (-1, (1 << 64) - 1, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


base = check(libc.mmap(None, pages * 4096, 3, FLAGS, -1, 0))
device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
uffd = fcntl.ioctl(device, 0xAA00, os.O_CLOEXEC | os.O_NONBLOCK)
os.close(device)
fcntl.ioctl(uffd, 0xC018AA3F, struct.pack("QQQ", 0xAA, features, 0))
fcntl.ioctl(uffd, 0xC020AA00, struct.pack("QQQQ", base, pages * 4096, 1, 0))
connection = None
reply_lock = threading.Lock()
channel = socket.socket(fileno=int(sys.argv[3]))


def read(page):
    # write(2) from guest memory: the kernel takes the fault, in a call without the GIL
    reader, writer = os.pipe()
    check(libc.write(writer, base + page * 4096, 4096))
    data = os.read(reader, 4096)
    os.close(reader)
    os.close(writer)
    return data.hex()


def read_each(pages):
    def outcome(page):
        try:
            return read(page)
        except OSError as error:
            return error.errno

    return [outcome(page) for page in pages]


def load(page):
    # a load in user space: poison is SIGBUS here
    libc.memcpy(ctypes.create_string_buffer(8), base + page * 4096, 8)


def write(page, value):
    libc.memset(base + page * 4096, value, 8)


def remove(page, count):
    check(libc.madvise(base + page * 4096, count * 4096, 4))


def map_anew(page, count):
    check(libc.mmap(base + page * 4096, count * 4096, 3, FLAGS | 0x10, -1, 0))


def handover(path, first, count, text):
    global connection
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    region = {"base_host_virt_addr": base + first * 4096, "size": count * 4096, "offset": first * 4096,
              "page_size": 4096, "page_size_kib": 4096}
    socket.send_fds(connection, [(text or json.dumps([region])).encode()], [uffd])


def fork(fd):
    global channel, reply_lock
    pid = os.fork()
    if pid == 0:
        reply_lock = threading.Lock()  # another thread may have held it
        channel = socket.socket(fileno=fd)
        serve()
        os._exit(0)
    return pid


def base_address():
    return base


def close_uffd():
    os.close(uffd)


def answer(name, arguments, number):
    try:
        reply = {"id": number, "result": globals()[name](*arguments)}
    except OSError as error:
        reply = {"id": number, "errno": error.errno}
    with reply_lock:
        channel.sendall((json.dumps(reply) + "\n").encode())


def serve():
    for line in channel.makefile():
        request = json.loads(line)
        if request["name"] == "fork":
            answer("fork", request["arguments"], request["id"])
        else:
            threading.Thread(target=answer, args=(request["name"], request["arguments"], request["id"])).start()
    os._exit(0)


serve()
"""

FEATURES = {"event_fork": 1 << 1, "event_remap": 1 << 2, "event_remove": 1 << 3, "event_unmap": 1 << 6}


class _Calls:
    """Requests over one connection; answers may come in any order."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._replies: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._next = 0
        self._ended = False
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        try:
            with self.connection.makefile() as lines:
                for line in lines:
                    reply = json.loads(line)
                    with self._changed:
                        self._replies[reply["id"]] = reply
                        self._changed.notify_all()
        except (OSError, ValueError):
            pass
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def submit(self, name: str, *arguments: Any) -> int:
        self._next += 1
        request = {"id": self._next, "name": name, "arguments": arguments}
        self.connection.sendall((json.dumps(request) + "\n").encode())
        return self._next

    def result(self, number: int, timeout: float = 10.0) -> Any:
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._replies or self._ended, timeout):
                raise TimeoutError("the VM does not answer")
            if number not in self._replies:
                raise EOFError("the VM is gone")
            reply = self._replies.pop(number)
        if "errno" in reply:
            raise OSError(reply["errno"], os.strerror(reply["errno"]))
        return reply["result"]


class RawVmm:
    """`pages` of anonymous memory in a process of its own. `calls` does what its script defines."""

    def __init__(self, pages: int, *, features: tuple[str, ...] = (), _calls: _Calls | None = None) -> None:
        self.pages = pages
        self.process: subprocess.Popen[bytes] | None = None
        self._extra: list[socket.socket] = []
        if _calls is not None:
            self.calls = _calls
            return
        bits = FEATURES["event_remove"]
        for feature in features:
            bits |= FEATURES[feature]
        ours, theirs = socket.socketpair()
        # For fork(): the child of the VMM needs a connection that exists before it does.
        self._child_end, child_side = socket.socketpair()
        with theirs, child_side:
            self._child_fd = child_side.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", CHILD, str(pages), str(bits), str(theirs.fileno())],
                pass_fds=[theirs.fileno(), child_side.fileno()],
            )
        self.calls = _Calls(ours)
        self._reading = 0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def handover(self, path: Path, *, first: int = 0, count: int | None = None, text: str | None = None) -> None:
        """Hands over `count` pages from `first` on, which may be fewer than are registered."""
        count = self.pages - first if count is None else count
        self.calls.result(self.calls.submit("handover", str(path), first, count, text))

    def start_read(self, page: int) -> None:
        self._reading = self.calls.submit("read", page)

    def finish_read(self, timeout: float = 10.0) -> bytes:
        return bytes.fromhex(self.calls.result(self._reading, timeout))

    def read(self, page: int, timeout: float = 10.0) -> bytes:
        """The page's bytes; touched by the kernel on the VM's behalf. Raises OSError (EFAULT) when it is poisoned."""
        return bytes.fromhex(self.calls.result(self.calls.submit("read", page), timeout))

    def read_each(self, pages: list[int], timeout: float = 10.0) -> list[bytes | int]:
        """The same of page after page, in much less time; an errno for those that cannot be had."""
        found = self.calls.result(self.calls.submit("read_each", pages), timeout)
        return [one if isinstance(one, int) else bytes.fromhex(one) for one in found]

    def remove(self, page: int, count: int) -> float:
        """Gives back pages and says how many seconds that took."""
        start = time.monotonic()
        self.calls.result(self.calls.submit("remove", page, count))
        return time.monotonic() - start

    def call(self, name: str, *arguments: Any, timeout: float = 10.0) -> Any:
        return self.calls.result(self.calls.submit(name, *arguments), timeout)

    def fork(self) -> RawVmm:
        """fork() in the VMM: the child, which ends with its connection."""
        self.calls.result(self.calls.submit("fork", self._child_fd))
        self._extra.append(self._child_end)
        return RawVmm(self.pages, _calls=_Calls(self._child_end))

    def exit_status(self, timeout: float = 10.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        for connection in (self._child_end, self.calls.connection):
            with_suppressed_shutdown(connection)
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


def with_suppressed_shutdown(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
