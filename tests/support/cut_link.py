"""`CutLink`: a way to a page server that can be cut and mended."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from pathlib import Path
from typing import Self


class CutLink:
    """Forwards connections of the UNIX socket `path` to the UNIX socket `upstream`.

    `cut()` ends all connections, in the middle of whatever they carry, and nobody gets one until `mend()`. With
    `cut_every` bytes, each connection ends by itself after so many bytes of replies.
    """

    def __init__(self, path: Path, upstream: str, cut_every: int | None = None) -> None:
        self.path = path
        self.cuts = 0
        self.forwarded = 0
        self._upstream = upstream
        self._cut_every = cut_every
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.mend()

    @property
    def address(self) -> str:
        """As `SocketSource` takes it."""
        return f"unix:{self.path}"

    def mend(self) -> None:
        """Connections are taken from now on."""
        listener = socket.socket(socket.AF_UNIX)
        self.path.unlink(missing_ok=True)
        listener.bind(str(self.path))
        listener.listen(64)
        self._listener = listener
        self._start(self._accept, listener)

    def cut(self) -> None:
        """Ends the connections that there are, and refuses others."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self.path.unlink(missing_ok=True)
            _end(listener)
        with self._lock:
            self.cuts += 1
            for connection in self._open:
                _end(connection)
            self._open.clear()

    def close(self) -> None:
        """Ends everything, the threads too."""
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.socket(socket.AF_UNIX)
                with self._lock:
                    if self._listener is not listener:
                        client.close()
                        server.close()
                        return
                    self._open |= {client, server}
                self._start(self._forward, client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        left = self._cut_every
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError, ValueError):
            server.connect(self._upstream.removeprefix("unix:"))
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    data = source.recv(1 << 16)
                    if source is server and left is not None:
                        data = data[:left]
                        left -= len(data)
                    if not data:
                        return
                    key.data.sendall(data)
                    if source is server:
                        with self._lock:
                            self.forwarded += len(data)
                        if left == 0:
                            return
        with self._lock:
            self._open -= {client, server}


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
