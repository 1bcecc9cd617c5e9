"""`vmthaw serve`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import click

from vmthaw.cli import _values
from vmthaw.cli._errors import debug_option, usage_errors
from vmthaw.cli._memory import ADDRESSES, open_memory
from vmthaw.cli._output import LogHandler, Output, open_output

if TYPE_CHECKING:
    from vmthaw.source import PageSource

EPILOG = f"""{ADDRESSES}
\b
Signals: SIGTERM, SIGINT (Ctrl-C) and SIGHUP end it as --on-exit says. With "drain" no new VM is
taken and every VM gets all the pages that it still misses, for at most --drain-timeout seconds;
what is missing then meets the failure policy, with a warning that names the VM. A second signal
ends it at once: VMs with missing pages are killed (or left, with --failure-policy hang).
\b
SIGKILL and crashes: nothing can be filled then. Firecracker keeps its own userfaultfd, so a guest
that touches a missing page sleeps until it is killed; no page turns into zeros. A VM whose VMM
keeps no descriptor reads zeros. The socket file stays, and the next server replaces it.
\b
systemd: Type=notify is told READY=1 and STOPPING=1; a socket unit (LISTEN_FDS) is taken where
--socket is not given. TimeoutStopSec should be longer than --drain-timeout.
\b
Exit codes: 0 all VMs were served; 1 a VM failed, was killed by the failure policy or its hand-over
was refused; 2 the command line is wrong; 3 serving is impossible (a permission, a missing file).
"""

Beside = Callable[[Any, Output], AbstractContextManager[None]]
_POLICIES = ["automatic", "kill", "poison", "hang"]


def options_of(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_SECONDS = click.FloatRange(min=0, max=86400.0)

_where = options_of(
    click.option("--socket", "socket_path", metavar="PATH", help="Listen here: a path, or @NAME (abstract)."),
    click.option("--socket-fd", type=click.IntRange(min=0), help="A listening socket that is open already."),
    click.option("--memory", required=True, metavar="ADDRESS",
                 help="The snapshot's memory: a file, or another address, see below."),
    click.option("--mode", type=click.Choice(["mapped", "pread"]), show_default="mapped",
                 help="Of a memory file: let the kernel copy from a mapping of it, or read it."),
    click.option("--ram-start", type=_values.Size(), show_default="0",
                 help="Offset in the VM's memory of a memory file's first byte."),
    click.option("--short", type=click.Choice(["zero", "error"]), show_default="zero",
                 help="What lies beyond the end of a memory file: zeros, or an error."),
    click.option("--owner", type=_values.Owner(), help="Who owns the socket file (mode 0600): the jailer's uid:gid."),
    click.option("--required-uid", type=_values.User(), help="Refuse VMMs of any other user."),
    click.option("--handover-timeout", type=_SECONDS, default=5.0, show_default=True,
                 help="Seconds in which a connection must send its whole message."),
)  # fmt: skip

_how = options_of(
    click.option("--fill-mode", type=click.Choice(["window", "block", "page"]), default="window", show_default=True,
                 help="Fill a window that doubles while faults follow each other, a block, or one page."),
    click.option("--fill-bytes", type=_values.Size(), default="2MiB", show_default=True,
                 help="The largest window, or the block: a power of two from 4KiB."),
    click.option("--prewarm", type=_values.Address(), multiple=True,
                 help="A guest address whose page is there before the VM runs. May be repeated."),
    click.option("--working-set", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
                 help="A WorkingSet that was saved: its pages are installed at once, in large pieces."),
    click.option("--working-set-mode", type=click.Choice(["alongside", "before"]), default="alongside",
                 show_default=True, help="Install them beside the running guest, or before its first fault."),
    click.option("--layout", type=click.Choice(["host", "x86_64", "aarch64"]), default="host", show_default=True,
                 help="Where the guest's memory begins, for --prewarm and --working-set."),
    click.option("--failure-policy", type=click.Choice(_POLICIES), default="automatic", show_default=True,
                 help="What becomes of a page that cannot be had; automatic: kill, or poison without a pidfd."),
    click.option("--retries", type=click.IntRange(0, 1000), default=3, show_default=True,
                 help="Tries after the first, when reading the file fails."),
    click.option("--placement", type=click.Choice(["automatic", "local", "pinned", "sharded"]), default="automatic",
                 show_default=True, help="Which threads answer faults."),
    click.option("--cpu", type=click.IntRange(min=0), help="Answer faults on this CPU (--placement pinned)."),
    click.option("--poll-interval", type=_SECONDS, default=1.0, show_default=True,
                 help="Seconds between checks for lost registrations; 0: never."),
    click.option("--max-in-flight", type=click.IntRange(1, 1 << 20), default=4096, show_default=True,
                 help="Faults of one VM that may wait for the file."),
)  # fmt: skip

_end = options_of(
    click.option("--once", is_flag=True, help="End when the first VM (and whoever came beside it) is gone."),
    click.option("--on-exit", type=click.Choice(["drain", "kill"]), default="drain", show_default=True,
                 help="What a signal does to VMs that still miss pages."),
    click.option("--drain-timeout", type=_SECONDS, default=30.0, show_default=True,
                 help="Seconds that draining may take."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON lines (events, stats, log) to standard output."),
    click.option("--stats-interval", type=_SECONDS, default=10.0, show_default=True,
                 help="Seconds between lines of statistics; 0: none."),
    click.option("--metrics", metavar="ADDRESS",
                 help="Answer GET /metrics (Prometheus) at 127.0.0.1:PORT or unix:PATH (mode 0600)."),
    click.option("--metrics-allow-remote", is_flag=True,
                 help="Let --metrics listen on other addresses than the loopback's: it asks for no password."),
    click.option("-v", "--verbose", is_flag=True, help="The library's debug lines too."),
)  # fmt: skip


serve_options = options_of(_where, _how, _end)


@click.command(epilog=EPILOG, short_help="Serve the memory of restored VMs.")
@serve_options
@debug_option
def serve(**options: Any) -> int:
    """Serve the memory of VMs that hand their userfaultfd over, as Firecracker does (backend type "Uffd").

    Any number of VMs, one after another or at once, each from the same memory.
    """
    return run(**options)


def run(
    *,
    socket_path: str | None,
    socket_fd: int | None,
    memory: str,
    once: bool,
    on_exit: Literal["drain", "kill"],
    as_json: bool,
    stats_interval: float,
    metrics: str | None,
    metrics_allow_remote: bool,
    verbose: bool,
    recording: Beside | None = None,
    **options: Any,
) -> int:
    """Serves as the options of `serve` say. `recording` goes on from before the first VM until the last has gone."""
    from vmthaw.cli._serve_loop import LoopOptions, ServeLoop
    from vmthaw.cli._systemd import notify

    _check_metrics(metrics, allow_remote=metrics_allow_remote)
    make_server, source = _prepare(socket_path, socket_fd, memory, options)
    output = open_output(as_json=as_json)
    try:
        with logging_to(output, verbose=verbose), source:
            server = make_server()
            beside = recording or _nothing
            loop = ServeLoop(
                server, output, LoopOptions(once, on_exit, float(options["drain_timeout"]), stats_interval)
            )
            with (
                loop.signals(),
                beside(server, output),
                server,
                _answering_scrapers(metrics, server, output, metrics_allow_remote),
            ):
                text = f"serving {memory} on {server.socket_path}"
                output.event("listening", text, socket=server.socket_path, memory=memory)
                notify(f"READY=1\nSTATUS={text}")
                return loop.run()
    finally:
        output.close()


@contextlib.contextmanager
def _nothing(_server: Any, _output: Output) -> Iterator[None]:
    yield


def _check_metrics(address: str | None, *, allow_remote: bool) -> None:
    """A wrong address is found before the socket is made. A refusal names the option that allows it."""
    from vmthaw.errors import VmthawValueError
    from vmthaw.metrics import parse_address

    if address is None:
        if allow_remote:
            raise click.UsageError("--metrics-allow-remote needs --metrics ADDRESS")
        return
    try:
        parse_address(address, allow_remote=allow_remote)
    except VmthawValueError as error:
        text = str(error).replace("allow it explicitly (allow_remote)", "say --metrics-allow-remote")
        raise click.UsageError(f"--metrics: {text}") from error


@contextlib.contextmanager
def _answering_scrapers(address: str | None, server: Any, output: Output, allow_remote: bool) -> Iterator[None]:
    if address is None:
        yield
        return
    from vmthaw.metrics import MetricsServer

    with MetricsServer(address, server, allow_remote=allow_remote) as scraped:
        output.event("metrics", f"metrics at {scraped.address}", address=scraped.address)
        yield


def _prepare(
    socket_path: str | None, socket_fd: int | None, memory: str, options: dict[str, Any]
) -> tuple[Callable[[], Any], PageSource]:
    """Checks everything that can be checked before the socket is made; gives what makes the server, and its source."""
    from vmthaw.cli._systemd import listening_descriptor
    from vmthaw.errors import VmthawValueError
    from vmthaw.pager import FailurePolicy, FillMode, MemoryLayout, PagerConfig, Placement, WorkingSetMode
    from vmthaw.server import PageServer
    from vmthaw.working_set import WorkingSet

    if socket_path is not None and socket_fd is not None:
        raise click.UsageError("--socket and --socket-fd exclude each other")
    with usage_errors(VmthawValueError):
        if socket_path is None and socket_fd is None:
            socket_fd = listening_descriptor()
        if socket_path is None and socket_fd is None:
            raise click.UsageError("say where VMs connect: --socket PATH, or --socket-fd N for an open socket")
        owner_uid, owner_gid = options["owner"] or (None, None)
        if socket_path is None and options["owner"]:
            raise click.UsageError("--owner needs --socket: an open socket keeps the owner that it has")
        placement, cpu = options["placement"], options["cpu"]
        if cpu is not None and placement == "automatic":
            placement = "pinned"
        if (placement == "pinned") != (cpu is not None):
            raise click.UsageError("--placement pinned and --cpu N go together")
        config = PagerConfig(
            fill_mode=FillMode[options["fill_mode"]], fill_bytes=options["fill_bytes"], retries=options["retries"],
            failure_policy=FailurePolicy[options["failure_policy"]], placement=Placement[placement],
            cpu=-1 if cpu is None else cpu, poll_interval=options["poll_interval"],
            drain_timeout=options["drain_timeout"], max_in_flight=options["max_in_flight"],
            working_set_mode=WorkingSetMode[options["working_set_mode"]],
        )  # fmt: skip
        layouts = {"host": MemoryLayout.host, "x86_64": MemoryLayout.x86_64, "aarch64": MemoryLayout.aarch64}
        layout = layouts[options["layout"]]()
        working_set = WorkingSet.load(options["working_set"]) if options["working_set"] is not None else None
        source = open_memory(memory, ram_start=options["ram_start"], short=options["short"], mode=options["mode"])

    def make_server() -> PageServer:
        with usage_errors(VmthawValueError):
            return PageServer(
                socket_path, source, config=config, layout=layout, socket_fd=socket_fd, owner_uid=owner_uid,
                owner_gid=owner_gid, required_uid=options["required_uid"],
                handover_timeout=options["handover_timeout"], prewarm=options["prewarm"],
                working_set=working_set,
            )  # fmt: skip

    return make_server, source


@contextlib.contextmanager
def logging_to(output: Output, *, verbose: bool) -> Iterator[None]:
    """The library's log lines go to `output` meanwhile."""
    logger = logging.getLogger("vmthaw")
    handler = LogHandler(output)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
