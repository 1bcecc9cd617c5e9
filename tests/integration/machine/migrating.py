"""One side of a postcopy migration, as a process of its own, with the argument ``send`` or ``receive``.

One line of JSON each way. The sender's guest is stopped in the middle of a command; the receiver goes on with it,
and its pages come when they are touched.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from vmthaw import PageExporter, SocketSource
from vmthaw.machine import Machine

MEMORY = 8 << 20
SEED = 21


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def hear() -> dict[str, Any]:
    line = sys.stdin.readline()
    if not line:
        sys.exit("the test has gone")
    heard: dict[str, Any] = json.loads(line)
    return heard


def send(address: str) -> None:
    """Freezes a guest, tells its state, and serves its memory until it is told that all has been pulled."""
    with Machine(MEMORY) as machine:
        machine.fill(SEED, zero_share=0.3)
        machine.load_vectors(31)
        with contextlib.suppress(TimeoutError):  # as it should be: the guest stands in the middle of it
            machine.rewrite(5, share=0.5, timeout=0.001)
        state = machine.capture_state()
        with machine.open_memory() as memory, PageExporter(memory, address) as exporter:
            say(address=exporter.address, state=base64.b64encode(state).decode(), busy=machine.busy)
            hear()
            say(**exporter.stats)


def receive() -> None:
    """Resumes the guest that it hears of, and pulls the rest."""
    told = hear()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state.bin").write_bytes(base64.b64decode(told["state"]))
        with (
            SocketSource(told["address"], MEMORY, timeout=60) as source,
            Machine.restore(folder, lazy=source) as machine,
        ):
            if machine.busy:
                machine.finish(timeout=60)
            pages = source.stats["pages"]
            say(resumed=True, pages=pages)
            hear()
            machine.check_vectors(31, timeout=60).check()
            machine.verify(timeout=60).check()
            say(verified=True, pages=source.stats["pages"])
            machine.pull_memory(timeout=60)
            say(pulled=True, **source.stats)
            source.close()
            hear()
            machine.rewrite(6, share=0.5)
            machine.verify().check()
            say(alone=True)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2])
    else:
        receive()
