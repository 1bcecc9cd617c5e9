"""An object store of one object, for the demo: HTTP on the loopback, which answers ranges of a file."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NAME = "/demo/memory"
_ETAG = '"demo"'
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@contextlib.contextmanager
def serving_object(path: Path) -> Iterator[str]:
    """Gives the object's URL. Nobody who is still served at the end is waited for."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(file).st_size

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(200 if self.path == _NAME else 404, size)

        def do_GET(self) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if self.path != _NAME or found is None or int(found[1]) >= size:
                self._answer(404 if self.path != _NAME else 416, 0)
                return
            begin, end = int(found[1]), min(int(found[2]) + 1, size)
            self._answer(206, end - begin, f"bytes {begin}-{end - 1}/{size}")
            with contextlib.suppress(OSError):  # the client did not wait for it
                self.wfile.write(os.pread(file, end - begin, begin))

        def _answer(self, status: int, length: int, content_range: str | None = None) -> None:
            self.send_response(status)
            for name, value in {
                "ETag": _ETAG, "Last-Modified": _DATE, "Content-Length": str(length), "Content-Range": content_range
            }.items():  # fmt: skip
                if value is not None:
                    self.send_header(name, value)
            with contextlib.suppress(OSError):
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    except BaseException:
        os.close(file)
        raise
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{_NAME}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        os.close(file)
