"""An HTTP server with one object, which answers ranges, and does what a test tells it to, now and then."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What a GET is answered with. A test changes it before it goes out."""

    status: int
    body: bytes
    headers: dict[str, str]
    close_after: int | None = None
    """Ends the connection after so many bytes of the body."""


Change = Callable[[int, int, Answer], None]
"""Of the offset, the number of the GET (from 1) and the answer; may wait, too."""


@dataclass
class RangeServer:
    """`gets` are the ranges asked for, in their order."""

    content: bytes
    etag: str = '"first"'
    change: Change = lambda _offset, _number, _answer: None
    gets: list[tuple[int, int]] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, wanted: str | None, if_match: str | None) -> Answer:
        """For the headers of a GET."""
        headers = {"ETag": self.etag, "Last-Modified": "Mon, 02 Jan 2023 00:00:00 GMT"}
        if if_match not in (None, self.etag):
            return Answer(412, b"changed", headers)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
        if match is None:
            return Answer(200, self.content, headers)
        begin, end = int(match[1]), min(int(match[2]) + 1, len(self.content))
        with self._lock:
            self.gets.append((begin, end - begin))
            number = len(self.gets)
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(self.content)}"
        found = Answer(206, self.content[begin:end], headers)
        if begin >= len(self.content):
            found = Answer(416, b"", {})
        self.change(begin, number, found)
        return found


@contextmanager
def serving(content: bytes) -> Iterator[RangeServer]:
    """On a port of its own, as ``server.url``. Requests that wait are not waited for at the end."""
    server = RangeServer(content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(Answer(200, server.content, {"ETag": server.etag, **_DATE}), body=False)

        def do_GET(self) -> None:
            self._send(server.answer(self.headers.get("Range"), self.headers.get("If-Match")), body=True)

        def _send(self, answer: Answer, *, body: bool) -> None:
            try:
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(answer.body[: answer.close_after])
            except OSError:
                self.close_connection = True  # the client did not wait for it
            if answer.close_after is not None:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}/snapshots/vm.mem"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


_DATE = {"Last-Modified": "Mon, 02 Jan 2023 00:00:00 GMT"}
