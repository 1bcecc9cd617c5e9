"""Guest memory whose pages come when they are touched: from a page server here, or from one behind a socket."""

from __future__ import annotations

import json
import os
import socket

from vmthaw._core import Feature, GuestMemory, Userfaultfd, UserfaultfdFactory
from vmthaw.errors import VmthawTimeoutError, os_error_class
from vmthaw.pager import FailurePolicy, PagerConfig, Region
from vmthaw.server import PageServer
from vmthaw.source import PageSource

_PAGE_BYTES = 4096


def register(memory: GuestMemory) -> Userfaultfd:
    """A userfaultfd as Firecracker makes it (removals are events), with all of the memory registered MISSING."""
    userfaultfd = UserfaultfdFactory(required=Feature.event_remove).create()
    for host_address, _, size, _ in memory.regions:
        userfaultfd.register_range(host_address, size)
    return userfaultfd


def handover_text(memory: GuestMemory) -> bytes:
    """The message that Firecracker 1.16 sends for this memory. All in bytes, `page_size_kib` too."""
    return json.dumps(
        [
            {
                "base_host_virt_addr": host_address,
                "size": size,
                "offset": file_offset,
                "page_size": _PAGE_BYTES,
                "page_size_kib": _PAGE_BYTES,
            }
            for host_address, _, size, file_offset in memory.regions
        ],
        separators=(",", ":"),
    ).encode()


class LazyMemory:
    """What keeps lazily restored memory alive: our copy of the userfaultfd, and the connection or the server."""

    def __init__(
        self,
        userfaultfd: Userfaultfd,
        connection: socket.socket | None,
        server: PageServer | None,
        source: PageSource | None,
    ) -> None:
        self._userfaultfd = userfaultfd
        self._connection = connection
        self._server = server
        self._source = source

    @classmethod
    def hand_over(cls, memory: GuestMemory, path: str | os.PathLike[str], timeout: float) -> LazyMemory:
        """Sends the userfaultfd to the page server at `path` ("@name": abstract) and goes on without an answer."""
        address = os.fspath(path)
        userfaultfd = register(memory)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(timeout)
            connection.connect("\0" + address[1:] if address.startswith("@") else address)
            text = handover_text(memory)
            sent = socket.send_fds(connection, [text], [userfaultfd.fileno()])
            connection.sendall(text[sent:])
        except OSError as error:
            connection.close()
            userfaultfd.close()
            if error.errno is None:
                raise VmthawTimeoutError(
                    f"the page server at {address} did not take the memory over in time"
                ) from error
            raise os_error_class(error.errno)(
                error.errno, f"handing the memory over at {address}: {error.strerror}; is the page server running?"
            ) from error
        # Both stay open for the machine's life, as Firecracker's do: the server sees its end by the connection.
        return cls(userfaultfd, connection, None, None)

    @classmethod
    def serve_here(cls, memory: GuestMemory, source: PageSource, *, label: str) -> LazyMemory:
        """Has a page server of this process serve the source, which is as large as the memory."""
        regions = [
            Region(host_address=host, guest_address=guest, size=length, source_offset=offset)
            for host, guest, length, offset in memory.regions
        ]
        userfaultfd = register(memory)
        try:
            # Without a pidfd there is nobody to kill but ourselves: a page that cannot be had is poisoned.
            config = PagerConfig(failure_policy=FailurePolicy.poison)
            server = PageServer.adopt(userfaultfd.fileno(), regions, source, config=config, label=label)
        except BaseException:
            userfaultfd.close()
            raise
        return cls(userfaultfd, None, server, source)

    @property
    def server(self) -> PageServer | None:
        """The `PageServer` of this process, or None."""
        return self._server

    def pull(self, timeout: float) -> None:
        """Fills what is missing; nobody is asked any more. Raises PageFailedError. There must be a server."""
        server = self._server
        if server is not None:
            server.stop("drain", timeout=timeout)
            server.wait(timeout)

    def close(self) -> None:
        """Lets go without filling what is missing: nobody will touch it any more."""
        server, self._server = self._server, None
        if server is not None:
            server.stop("detach", timeout=5.0, taker=lambda session: os.close(session.fd))
        if self._connection is not None:
            self._connection.close()
        self._userfaultfd.close()


__all__ = ["LazyMemory", "handover_text", "register"]
