"""`SilentServer`: takes connections, hears what is asked, and never answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class SilentServer:
    """On a port of this host. `asked` is set by the first bytes that come, and `on_ask` called, on a thread of the
    server's. `left` connections were ended by the client."""

    def __init__(self, on_ask: Callable[[], None] = lambda: None) -> None:
        self.asked = threading.Event()
        self.left = 0
        self._on_ask = on_ask
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """For a client that takes it for an S3 server."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the connections, and takes no others."""
        for one in [self._listener, *self._clients]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                self._clients.append(client)
                threading.Thread(target=self._hear, args=(client,), daemon=True).start()

    def _hear(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while client.recv(1 << 16):
                with self._lock:
                    is_first = not self.asked.is_set()
                    self.asked.set()
                if is_first:
                    self._on_ask()
        with self._lock:
            self.left += 1
