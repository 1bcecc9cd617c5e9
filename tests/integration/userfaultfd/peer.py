"""Another process with a userfaultfd of its own: started by PeerProcess, it obeys one command after the other."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


class PeerProcess:
    """The side of the test: a child process that maps memory, registers it and sends its descriptor here."""

    def __init__(self, kind: str = "anonymous", pages: int = 4, modes: int = 1, features: int = 40) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.userfaultfd.peer", str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._socket.settimeout(20)
        self.send("setup", kind, pages, modes, features)
        message, descriptors, _flags, _address = socket.recv_fds(self._socket, 4096, 1)
        answer = json.loads(message)
        self.descriptor: int = descriptors[0]
        self.address: int = answer["address"]
        self.size: int = answer["size"]
        self.page_size: int = self.size // pages

    def page(self, index: int) -> int:
        """The address of a page, in the peer."""
        return self.address + index * self.page_size

    def send(self, command: str, *arguments: object) -> None:
        """Start a command that may block."""
        self._socket.sendall(json.dumps([command, *arguments]).encode() + b"\n")

    def answer(self) -> Any:
        """What the last command came to, within 20 s."""
        return json.loads(self._socket.recv(4096))

    def call(self, command: str, *arguments: object) -> Any:
        """A command and its answer."""
        self.send(command, *arguments)
        return self.answer()

    def end(self, how: str) -> None:
        """Exit, be killed, or replace the memory by execve (`exec`); returns once it has happened."""
        if how == "kill":
            self.process.kill()
            self.process.wait(10)
        elif how == "exit":
            self.send("exit")
            self.process.wait(10)
        else:
            assert self.call("exec") == "executed"

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait(10)
        self._socket.close()


def _serve(connection: socket.socket) -> None:
    from tests.integration.userfaultfd.memory import Memory, libc
    from vmthaw.userfaultfd import UserfaultfdFactory

    lines = connection.makefile("r")
    memory: Memory | None = None
    for line in lines:
        command, *arguments = json.loads(line)
        answer: object = None
        if command == "setup":
            kind, pages, modes, features = arguments
            memory = Memory(kind, pages)
            userfaultfd = UserfaultfdFactory(required=features).create()
            userfaultfd.register_range(memory.address, memory.size, modes)
            text = json.dumps({"address": memory.address, "size": memory.size}).encode()
            connection.sendmsg(
                [text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [userfaultfd.fileno()]))]
            )
            userfaultfd.close()
            continue
        assert memory is not None
        if command == "peek":
            answer = memory.peek(arguments[0])[0]
        elif command == "poke":
            memory.poke(*arguments)
        elif command == "discard":
            memory.discard(*arguments)
        elif command == "unmap":
            answer = libc.munmap(memory.page(arguments[0]), arguments[1] * memory.page_size)
        elif command == "fork":
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            answer = os.waitpid(pid, 0)[1]
        elif command == "exit":
            os._exit(0)
        elif command == "exec":
            os.set_inheritable(connection.fileno(), True)
            script = f"import os; os.write({connection.fileno()}, b'\"executed\"'); os.read({connection.fileno()}, 1)"
            os.execv(sys.executable, [sys.executable, "-S", "-c", script])
        connection.sendall(json.dumps(answer).encode())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
