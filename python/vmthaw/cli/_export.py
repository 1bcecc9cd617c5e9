"""`vmthaw export`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from vmthaw.cli._errors import Exit, debug_option, usage_errors
from vmthaw.cli._memory import ADDRESSES, open_memory
from vmthaw.cli._output import Output, open_output
from vmthaw.cli._serve import logging_to, options_of
from vmthaw.cli._signals import signals_that_came
from vmthaw.cli._values import Size, format_size

if TYPE_CHECKING:
    from vmthaw.source import PageExporter

EPILOG = f"""{ADDRESSES}
\b
The wire (squib's page-server wire) knows neither passwords nor encryption. A UNIX socket's file has
--mode; a TCP port serves everybody who reaches it: listen on a private address.
\b
Signals: SIGTERM, SIGINT (Ctrl-C) and SIGHUP end it, and its clients with it. A restore that reads from
it waits for its return as long as its own time-out allows.
\b
Exit codes: 0 ended by a signal; 2 the command line is wrong; 3 it cannot listen or read SOURCE.
"""

_SLICE_S = 0.25
_SECONDS = click.FloatRange(min=0, min_open=True, max=1e6)

_limits = options_of(
    click.option("--max-page-size", type=Size(), default="2MiB", show_default=True,
                 help="The largest page that a client may ask for: a power of two up to 1 GiB."),
    click.option("--max-clients", type=click.IntRange(1, 4096), default=64, show_default=True,
                 help="More are turned away."),
    click.option("--send-timeout", type=_SECONDS, default=30.0, show_default=True,
                 help="Seconds after which a client that takes nothing is dropped."),
    click.option("--idle-timeout", type=_SECONDS, default=600.0, show_default=True,
                 help="The same of one that asks for nothing."),
    click.option("--mode", default="600", show_default=True, metavar="OCTAL", help="Of a UNIX socket's file."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON lines to standard output."),
    click.option("-v", "--verbose", is_flag=True, help="The library's debug lines too."),
)  # fmt: skip


@click.command(epilog=EPILOG, short_help="Serve a memory to other hosts.")
@click.argument("source", metavar="SOURCE")
@click.argument("address", metavar="ADDRESS")
@click.option(
    "--ram-start", type=Size(), show_default="0", help="Guest-physical address of the first byte of a memory file."
)
@_limits
@debug_option
def export(source: str, address: str, **options: Any) -> int:
    """Serve SOURCE at ADDRESS to page servers elsewhere (`SocketSource`), until a signal.

    SOURCE is a memory file, the directory of a snapshot of `Machine`, or another address of a memory, see below.
    ADDRESS is unix:/path, unix:@name or tcp:host:port; with port 0 the kernel chooses one.
    """
    from vmthaw.errors import VmthawValueError
    from vmthaw.source import PageExporter

    with usage_errors(VmthawValueError, ValueError):
        mode = int(options["mode"], 8)
        memory = open_memory(source, ram_start=options["ram_start"])
        exporter = PageExporter(
            memory, address, max_page_size=options["max_page_size"], max_clients=options["max_clients"],
            send_timeout=options["send_timeout"], idle_timeout=options["idle_timeout"], mode=mode,
        )  # fmt: skip
    output = open_output(as_json=options["as_json"])
    try:
        with logging_to(output, verbose=options["verbose"]), signals_that_came() as signals, memory, exporter:
            return _serve(exporter, output, signals)
    finally:
        output.close()


def _serve(exporter: PageExporter, output: Output, signals: list[str]) -> Exit:
    import time

    from vmthaw.cli._systemd import notify

    memory = exporter.source
    what = f"{memory.description} ({format_size(memory.size)}) is served at {exporter.address}"
    output.event("listening", what, address=exporter.address, size=memory.size, start=memory.start, pid=os.getpid())
    notify(f"READY=1\nSTATUS={what}")
    while not signals:
        time.sleep(_SLICE_S)
    notify("STOPPING=1")
    stats = exporter.stats
    output.event("stopped", f"stopped ({signals[-1]}) after {stats['pages']} pages", reason=signals[-1], **stats)
    return Exit.OK
