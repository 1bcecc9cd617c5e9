"""Frames between a `FakeVmm` and its process: u32 length, u32 payload length, JSON, payload (little endian)."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_HEADER = struct.Struct("<II")


def encode(message: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame."""
    text = json.dumps(message).encode()
    return _HEADER.pack(len(text), len(payload)) + text + payload


class FrameReader:
    """Takes bytes as they come and gives whole frames back."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, connection: socket.socket) -> bool:
        """Read what is there; False at the end of the stream."""
        data = connection.recv(1 << 20)
        self._buffer += data
        return bool(data)

    def next_frame(self) -> tuple[dict[str, Any], bytes] | None:
        """The next whole frame, or None."""
        if len(self._buffer) < _HEADER.size:
            return None
        text_length, payload_length = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + text_length + payload_length
        if len(self._buffer) < end:
            return None
        message: dict[str, Any] = json.loads(self._buffer[_HEADER.size : _HEADER.size + text_length])
        payload = bytes(self._buffer[_HEADER.size + text_length : end])
        del self._buffer[:end]
        return message, payload
