"""versitygw, a real S3 server: where its program is, and how it is made where there is none.

``VERSITYGW`` names a program (``none``: tests that want one skip); else ``build/tools/versitygw`` is taken, and made by
``go install`` where it is missing. That takes minutes, once: it stands on half of what the clouds offer.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.tree import ROOT

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
OLDEST_GO = (1, 25)
_DOWNLOAD_S = 300.0
_BUILD_S = 900.0
_TOOLS = ROOT / "build" / "tools"


class NoVersitygwError(Exception):
    """There is none, and nothing to make it with: the reason why a test skips."""


def versitygw() -> Path:
    """The program, made if need be. Raises NoVersitygwError where there is no Go or nothing to download from, and
    RuntimeError with what Go said when it failed: whoever has both shall know."""
    named = os.environ.get("VERSITYGW")
    if named == "none":
        raise NoVersitygwError("VERSITYGW=none: no S3 server is wanted")
    if named:
        return Path(named)
    program = _TOOLS / "versitygw"
    if program.exists():
        return program
    go = find_go()
    _TOOLS.mkdir(parents=True, exist_ok=True)
    with (_TOOLS / ".versitygw-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(go)
    return program


def made_versitygw() -> Path | None:
    """The program, if there is one already."""
    program = Path(os.environ.get("VERSITYGW", _TOOLS / "versitygw"))
    return program if program.exists() else None


def find_go() -> str:
    """A Go that is new enough. Raises NoVersitygwError."""
    remedy = "install it, or let VERSITYGW name a versitygw"
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise NoVersitygwError(f"no Go to make the S3 server versitygw with: {remedy}")
    found = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=False).stdout
    match = re.match(r"go(\d+)\.(\d+)", found)
    if match is None or (int(match[1]), int(match[2])) < OLDEST_GO:
        raise NoVersitygwError(f"Go is too old ({found.strip() or 'no version'}) to make versitygw with: {remedy}")
    return go


def _build(go: str) -> None:
    """Into a directory of its own first, so that a build that was killed leaves no half program. Raises
    NoVersitygwError where the module cannot be had."""
    made = _TOOLS / "versitygw.partial"
    shutil.rmtree(made, ignore_errors=True)
    options = {**os.environ, "GOBIN": str(made), "GOFLAGS": "-buildvcs=false"}
    try:
        had = _go([go, "mod", "download", MODULE.replace("/cmd/versitygw", "")], options, _DOWNLOAD_S)
    except subprocess.TimeoutExpired:
        raise NoVersitygwError(f"versitygw cannot be downloaded: no end in {_DOWNLOAD_S:.0f} s") from None
    if had.returncode:
        last = had.stdout.strip().rpartition("\n")[2]
        raise NoVersitygwError(f"versitygw cannot be downloaded: {last}")
    # Without optimizations it takes some six tenths of the processor time, and tests do not ask for speed.
    done = _go([go, "install", "-gcflags=all=-N -l", "-ldflags=-s -w", MODULE], options, _BUILD_S)
    if done.returncode:
        raise RuntimeError(f"go install {MODULE} failed with status {done.returncode}:\n{done.stdout}")
    (made / "versitygw").rename(_TOOLS / "versitygw")
    shutil.rmtree(made)


def _go(command: list[str], environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment,
        cwd=_TOOLS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
