"""`Actor`: a process that makes system calls on files as some user, and says what came of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

USER, GROUP = 65534, 65534
OTHER_USER, OTHER_GROUP = 65533, 65533
SECOND_GROUP = 65532


class Actor:
    """``actor.call("chmod", path, 0o644)`` gives the name of the errno, or None; `value` what the call gave."""

    def __init__(self, uid: int, gid: int, groups: Sequence[int] = ()) -> None:
        child = Path(__file__).with_name("actor_child.py").read_text(encoding="utf-8")
        self.uid, self.gid = uid, gid
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", child, str(uid), str(gid), ",".join(map(str, groups))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def _ask(self, name: str, *arguments: Any) -> tuple[str | None, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        plain = [os.fspath(each) if isinstance(each, os.PathLike) else each for each in arguments]
        self._process.stdin.write(json.dumps([name, plain]) + "\n")
        self._process.stdin.flush()
        error, value = json.loads(self._process.stdout.readline())
        return error, value

    def call(self, name: str, *arguments: Any) -> str | None:
        """None when it went well, else ``"ENOENT"`` and the like."""
        return self._ask(name, *arguments)[0]

    def value(self, name: str, *arguments: Any) -> Any:
        """What the call gave. Raises AssertionError when it failed."""
        error, value = self._ask(name, *arguments)
        assert error is None, f"{name}{arguments}: {error}"
        return value

    def stat(self, path: str | os.PathLike[str]) -> Any:
        """lstat, as a dictionary without the prefix st_."""
        return self.value("lstat", path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
