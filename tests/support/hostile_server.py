"""`HostileServer`: a page server that answers what a test wants."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

Answer = Callable[[int, int], "bytes | None"]


def header(ipa: int, size: int) -> bytes:
    """The echo that comes before a page."""
    return struct.pack("<QQ", ipa, size)


class HostileServer:
    """Answers each request with what a callable gives; None ends the connection, b"" leaves the client waiting."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.address = f"unix:{path}"
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in [self._listener, *self._clients]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as requests, contextlib.suppress(OSError):
            while len(request := requests.read(16)) == 16:
                answer = self._answer(*struct.unpack("<QQ", request))
                if answer is None:
                    return
                client.sendall(answer)
