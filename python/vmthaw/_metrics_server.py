"""The HTTP server behind `vmthaw.metrics.MetricsServer`: one thread, bounded in everything a scraper could stretch."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vmthaw import _lifecycle
from vmthaw._drainer import blocked_signals
from vmthaw.errors import StateError, VmthawValueError, os_error_class

if TYPE_CHECKING:
    from vmthaw.server import PageServer

_MAX_CONNECTIONS = 16
_REQUEST_BYTES = 8192
_CONNECTION_S = 5.0  # from being accepted to the last byte of the answer
_TEXT_AGE_S = 0.2  # a flood of scrapers gets one text: making it costs time under the GIL
_JOIN_S = 5.0
_log = logging.getLogger("vmthaw.metrics")

Address = str | tuple[str, int]


def parse_address(text: str, *, allow_remote: bool = False) -> Address:
    """``127.0.0.1:9100``, ``[::1]:9100``, ``localhost:9100`` or ``unix:/run/metrics.sock``.

    The metrics name sockets and VMs and ask for no password, so another address than the loopback's is refused unless
    `allow_remote`. Port 0 lets the kernel choose. Raises VmthawValueError.
    """
    if text.startswith("unix:"):
        if not text[5:]:
            raise VmthawValueError("unix: needs a path: unix:/run/vmthaw-metrics.sock")
        return text[5:]
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise VmthawValueError(f"{text!r} is no address: write for example 127.0.0.1:9100 or unix:/run/metrics.sock")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise VmthawValueError(f"{host!r} is no IP address: names other than localhost are not looked up") from None
    if not address.is_loopback and not allow_remote:
        raise VmthawValueError(
            f"{host} can be reached from other machines, and the metrics name sockets and VMs without asking for a "
            "password: use 127.0.0.1 or unix:PATH behind something that does, or allow it explicitly (allow_remote)"
        )
    return str(address), int(port)


class _Connection:
    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.deadline = time.monotonic() + _CONNECTION_S
        self.received = b""
        self.answer: memoryview | None = None

    def step(self, render: Callable[[], bytes]) -> bool:
        """Goes on as far as it can without waiting. False: it is over."""
        if self.answer is None:
            data = self.link.recv(4096)
            self.received += data
            if b"\r\n\r\n" not in self.received and b"\n\n" not in self.received:
                return bool(data) and len(self.received) <= _REQUEST_BYTES
            self.answer = memoryview(_answer(self.received, render))
        self.answer = self.answer[self.link.send(self.answer) :]
        return len(self.answer) > 0


def _answer(request: bytes, render: Callable[[], bytes]) -> bytes:
    from vmthaw.metrics import CONTENT_TYPE

    words = request.split(b"\r\n", 1)[0].split(b" ")
    kind, allow = "text/plain; charset=utf-8", ""
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        status, body = "400 Bad Request", b"no HTTP/1 request\n"
    elif words[0] not in (b"GET", b"HEAD"):
        status, body, allow = "405 Method Not Allowed", b"only GET and HEAD\n", "Allow: GET, HEAD\r\n"
    elif words[1].partition(b"?")[0] not in (b"/metrics", b"/"):
        status, body = "404 Not Found", b"the metrics are at /metrics\n"
    else:
        try:
            status, body, kind = "200 OK", render(), CONTENT_TYPE
        except Exception:
            _log.exception("the metrics could not be rendered")
            status, body = "503 Service Unavailable", b"the metrics cannot be had now\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if words[0] == b"HEAD" else body)


class MetricsServer:
    """Answers ``GET /metrics`` for page servers; see `parse_address` for `address`. A context manager.

    One Python thread, which serves at most 16 connections at a time, each for at most 5 s and one request of at most
    8 KiB; a text is made at most five times a second. So slow or hostile scrapers cost little and delay no VM: nothing
    on the path of a fault takes the GIL. The socket of ``unix:`` has mode 0600. Raises VmthawValueError, OSError.
    """

    def __init__(
        self,
        address: str,
        servers: PageServer | Iterable[PageServer],
        *,
        allow_remote: bool = False,
        per_vm: bool = False,
    ) -> None:
        from vmthaw.server import PageServer

        self._parsed = parse_address(address, allow_remote=allow_remote)
        self._servers: Sequence[PageServer] = [servers] if isinstance(servers, PageServer) else list(servers)
        self._per_vm = per_vm
        self._pid = os.getpid()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._text = b""
        self._text_until = 0.0
        self._inode: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<MetricsServer {self.address}>"

    @property
    def address(self) -> str:
        """Where it listens, with the real port once it does; `parse_address` takes it."""
        parsed = self._parsed
        if isinstance(parsed, str):
            return f"unix:{parsed}"
        host, port = parsed
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> Self:
        """Listens; once it returns, scrapers may connect. Once only: raises StateError afterwards."""
        if self._listener is not None or self._wake >= 0:
            raise StateError(f"{self!r} has been started already")
        self._listener = self._listen()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="vmthaw-metrics", daemon=True)
        _lifecycle.register(self)
        with blocked_signals():
            self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> socket.socket:
        parsed = self._parsed
        family = socket.AF_UNIX if isinstance(parsed, str) else socket.AF_INET6 if ":" in parsed[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if isinstance(parsed, str):
                _remove_stale(parsed)
                os.fchmod(listener.fileno(), 0o600)  # before it has a name
                listener.bind(parsed)
                found = Path(parsed).lstat()
                self._inode = found.st_dev, found.st_ino
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(parsed)
                self._parsed = parsed[0], int(listener.getsockname()[1])
            listener.listen(_MAX_CONNECTIONS)
        except OSError as error:
            listener.close()
            number = error.errno or errno.EINVAL
            raise os_error_class(number)(
                number, f"metrics cannot listen on {self.address}: {os.strerror(number)}"
            ) from error
        return listener

    def _render(self) -> bytes:
        from vmthaw.metrics import render

        now = time.monotonic()
        if now >= self._text_until:
            self._text = render(self._servers, per_vm=self._per_vm).encode()
            self._text_until = now + _TEXT_AGE_S
        return self._text

    def _run(self) -> None:
        connections: dict[int, _Connection] = {}
        listener = self._listener
        assert listener is not None
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        listening = False
        while True:
            if listening != (len(connections) < _MAX_CONNECTIONS):
                listening = not listening
                if listening:
                    poller.register(listener, select.POLLIN)
                else:
                    poller.unregister(listener)  # the rest waits in the kernel's queue
            nearest = min((connection.deadline for connection in connections.values()), default=None)
            ready = poller.poll(None if nearest is None else max(0.0, nearest - time.monotonic()) * 1000 + 1)
            for fd, _events in ready:
                if fd == self._wake:
                    for connection in connections.values():
                        connection.link.close()
                    return
                if fd == listener.fileno():
                    self._accept(listener, connections, poller)
                elif fd in connections:
                    self._step(connections, poller, fd)
            now = time.monotonic()
            for fd in [fd for fd, connection in connections.items() if connection.deadline <= now]:
                self._drop(connections, poller, fd)

    @staticmethod
    def _accept(listener: socket.socket, connections: dict[int, _Connection], poller: select.poll) -> None:
        try:
            link, _address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                time.sleep(0.1)  # it stays readable
            return
        link.setblocking(False)
        connections[link.fileno()] = _Connection(link)
        poller.register(link, select.POLLIN)

    def _step(self, connections: dict[int, _Connection], poller: select.poll, fd: int) -> None:
        connection = connections[fd]
        try:
            if not connection.step(self._render):
                self._drop(connections, poller, fd)
                return
        except BlockingIOError:
            pass
        except OSError:
            self._drop(connections, poller, fd)
            return
        poller.modify(fd, select.POLLIN if connection.answer is None else select.POLLOUT)

    @staticmethod
    def _drop(connections: dict[int, _Connection], poller: select.poll, fd: int) -> None:
        poller.unregister(fd)
        connections.pop(fd).link.close()

    def close(self) -> None:
        """Stops listening and cuts off who is connected. Idempotent; does nothing in a forked child."""
        if self._listener is None or os.getpid() != self._pid:
            return
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        listener, self._listener = self._listener, None
        listener.close()
        if isinstance(self._parsed, str):
            with contextlib.suppress(FileNotFoundError):
                found = Path(self._parsed).lstat()
                if (found.st_dev, found.st_ino) == self._inode:  # not a successor's
                    Path(self._parsed).unlink()
        if self._thread is None or not self._thread.is_alive():
            os.close(self._wake)
        _lifecycle.unregister(self)

    def close_at_exit(self) -> None:
        """For interpreter exit."""
        self.close()


def _remove_stale(path: str) -> None:
    """A socket on which nobody listens is removed; anything else there is left, and bind fails."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except OSError:
            return
