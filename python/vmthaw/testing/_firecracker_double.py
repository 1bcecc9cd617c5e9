"""A double of the Firecracker binary: ``python -m vmthaw.testing._firecracker_double --api-sock PATH --id ID``.

A process that speaks the API over its UNIX socket as Firecracker 1.16 does, and restores by handing a real userfaultfd
over. One thread answers all requests, so a load that waits for memory holds up everything, as there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from vmthaw.testing._firecracker_api import Answer, ApiModel
from vmthaw.testing._firecracker_machine import DoubleMachine, say

_PAYLOAD_BYTES = 51200
_BAD_ARGUMENTS = 153
_VALUES = ("--api-sock", "--id", "--start-time-us", "--start-time-cpu-us", "--log-path", "--level", "--seccomp-filter")
_FLAGS = ("--no-seccomp", "--enable-pci", "--show-level")


def parse_arguments(words: list[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value``. Exits as the original does when it does not know a word."""
    found = {"--api-sock": "/run/firecracker.socket", "--id": "anonymous-instance"}
    queue = list(words)
    while queue:
        name, equals, value = queue.pop(0).partition("=")
        if name in _FLAGS:
            continue
        if name not in _VALUES or (not equals and not queue):
            say(f"Arguments parsing error: Found argument '{name.lstrip('-')}' which wasn't expected")
            os._exit(_BAD_ARGUMENTS)
        found[name] = value if equals else queue.pop(0)
    return found


class _Connection:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = b""

    def _more(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except OSError:
            return False
        self._buffer += data
        return bool(data)

    def next_request(self) -> tuple[str, str, bytes] | None:
        """Method, path and body, or None at the end."""
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _PAYLOAD_BYTES or not self._more():
                return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        request, *headers = head.decode("ascii", "replace").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        length = int(fields.get("content-length", "0"))
        while len(rest) < length <= _PAYLOAD_BYTES:
            self._buffer = b""
            if not self._more():
                return None
            rest += self._buffer
        self._buffer = rest[length:]
        words = request.split(" ")
        if len(words) != 3 or length > _PAYLOAD_BYTES:
            return None
        return words[0], words[1], rest[:length]

    def send(self, answer: Answer) -> None:
        """As micro_http writes it: no reason phrase, no length without a body."""
        text = f"HTTP/1.1 {answer.status} \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
        body = b""
        if answer.body is not None:
            body = json.dumps(answer.body).encode()
            text += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._socket.sendall(text.encode() + b"\r\n" + body)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()


def _serve(connection: _Connection, model: ApiModel, one_at_a_time: threading.Lock) -> None:
    while (request := connection.next_request()) is not None:
        method, path, body = request
        with one_at_a_time:
            say(f"The API server received a {method} request on {path!r}.")
            answer = model.answer(method, path, body)
            if answer.body is not None and answer.status != 200:
                say(f"Received Error. Status code: {answer.status}. Message: {answer.body['fault_message']}")
            try:
                connection.send(answer)
            except OSError:
                break
            if answer.fatal:
                say("Firecracker exiting with error. exit_code=1")
                os._exit(1)
    connection.close()


def run(words: list[str]) -> None:
    """Serves until it is killed or its guest powers off."""
    arguments = parse_arguments(words)
    path = arguments["--api-sock"]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except OSError as error:
        say(f"Failed to open the API socket at: {path}. Check that it is not already used. ({error.strerror})")
        os._exit(1)
    listener.listen(16)
    say(f"Running Firecracker double; listening on API socket ({path!r}).")
    model = ApiModel(DoubleMachine(), arguments["--id"])
    lock = threading.Lock()
    while True:
        connection, _address = listener.accept()
        threading.Thread(target=_serve, args=(_Connection(connection), model, lock), daemon=True).start()


if __name__ == "__main__":
    run(sys.argv[1:])
