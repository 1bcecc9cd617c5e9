"""`DelayedLink`: a way to a TCP server that takes longer than the loopback does, and that can be cut and mended.

The kernels that we run on have no netem. ``python -m tests.support.delayed_link PORT SECONDS`` is one in a process of
its own: it prints its port and ends with its standard input.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Self

_PIECE = 1 << 18
_MOST_ON_THE_WAY = 64 << 20


@dataclass(eq=False)
class _Direction:
    """What `source` sent and `target` has not got yet, each piece with the time when it arrives there."""

    source: socket.socket
    target: socket.socket
    pieces: deque[tuple[float, memoryview]] = field(default_factory=deque)
    bytes_on_the_way: int = 0
    ended: bool = False


class DelayedLink:
    """Forwards connections of a port of this host to its port `upstream`. Every byte arrives `delay` seconds after it
    was sent, in both directions, however many are on the way: a round trip takes two delays more, a transfer no
    longer. `cut()` ends all connections, in the middle of whatever they carry, and refuses others until `mend()`."""

    def __init__(self, upstream: int, delay: float = 0.0) -> None:
        self.delay = delay
        self.connections = 0
        self._upstream = upstream
        self._listener: socket.socket | None = None
        self._directions: list[_Direction] = []
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._closed = False
        self.port = 0
        self.mend()
        self._thread = threading.Thread(target=self._run, name="delayed-link", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        with self._lock:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            for direction in self._directions:
                direction.source.close()
            self._directions = []
        self._wake.send(b"x")

    def mend(self) -> None:
        """Connections are taken from now on, at the same port as before."""
        with self._lock:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
            self._listener.setblocking(False)
            self.port = int(self._listener.getsockname()[1])
        self._wake.send(b"x")

    def close(self) -> None:
        """Ends everything, the thread too."""
        self._closed = True
        self.cut()
        self._thread.join(10)
        self._wake.close()
        self._woken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                listener, directions = self._listener, list(self._directions)
                reading = [
                    one.source for one in directions if not one.ended and one.bytes_on_the_way < _MOST_ON_THE_WAY
                ]
            now = time.monotonic()
            dues = [one.pieces[0][0] for one in directions if one.pieces]
            writing = [one.target for one in directions if one.pieces and one.pieces[0][0] <= now]
            wait = max(0.0, min([due for due in dues if due > now], default=now + 1.0) - now)
            waiting = [self._woken, *reading] if listener is None else [self._woken, listener, *reading]
            try:
                readable, writable, _ = select.select(waiting, writing, [], wait)
            except (OSError, ValueError):  # cut meanwhile
                continue
            with self._lock, contextlib.suppress(BlockingIOError):
                if self._woken in readable:
                    self._woken.recv(4096)
                if listener in readable and listener is self._listener:
                    self._accept(listener)
            for one in directions:
                self._move(one, one.source in readable, one.target in writable)

    def _accept(self, listener: socket.socket | None) -> None:
        assert listener is not None
        client, _ = listener.accept()
        server = socket.socket()
        try:
            server.connect(("127.0.0.1", self._upstream))
        except OSError:
            server.close()
            client.close()
            return
        for one in (client, server):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._directions += [_Direction(client, server), _Direction(server, client)]

    def _move(self, one: _Direction, readable: bool, writable: bool) -> None:
        try:
            if readable:
                data = one.source.recv(_PIECE)
                one.ended = not data
                one.pieces.append((time.monotonic() + self.delay, memoryview(data)))
                one.bytes_on_the_way += len(data)
            if writable:
                self._deliver(one)
        except BlockingIOError:
            return
        except OSError:
            self._drop(one)

    def _deliver(self, one: _Direction) -> None:
        now = time.monotonic()
        while one.pieces and one.pieces[0][0] <= now:
            due, piece = one.pieces[0]
            if not piece:
                self._drop(one)
                return
            sent = one.target.send(piece)
            one.bytes_on_the_way -= sent
            if sent < len(piece):
                one.pieces[0] = (due, piece[sent:])
                return
            one.pieces.popleft()

    def _drop(self, one: _Direction) -> None:
        """The connection, both ways: a client of ours that ends its side wants no answer any more."""
        with self._lock:
            self._directions = [other for other in self._directions if one.source not in (other.source, other.target)]
        one.source.close()
        one.target.close()


def main() -> None:
    with DelayedLink(int(sys.argv[1]), float(sys.argv[2])) as link:
        print(link.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
