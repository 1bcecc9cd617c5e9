"""`vmthaw mount`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from vmthaw.cli._errors import CliError, Exit, debug_option, usage_errors
from vmthaw.cli._output import Output, open_output
from vmthaw.cli._serve import logging_to, options_of

if TYPE_CHECKING:
    from vmthaw.filesystem import FileSystem, FileSystemBackend
    from vmthaw.fuse import FuseServer

EPILOG = """\b
Signals: SIGTERM, SIGINT (Ctrl-C) and SIGHUP unmount and end it. Where files are still open it waits
for --stop-timeout seconds, or for a second signal; then their users get ENOTCONN. Unmounting it
(umount, fusermount3 -u) ends it as well.
\b
SIGKILL and crashes: a small process beside it takes the mount away; where that was killed too, every
call there says ENOTCONN, and the next `vmthaw mount` in the same place clears it away.
\b
Without root it is mounted by fusermount3 (package fuse3). systemd: Type=notify is told READY=1.
\b
Exit codes: 0 unmounted; 1 a request was never answered; 2 the command line is wrong; 3 it cannot be
mounted (a permission, a missing directory, something else mounted there).
"""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLICE_S = 0.25
_CACHE = click.FloatRange(min=0, max=86400.0)

_what = options_of(
    click.option("--fs", "kind", metavar="KIND", default="passthrough", show_default=True,
                 help="passthrough, memory (DIR is not used), or module:Class, a file system in Python; its class is "
                 "given DIR if it takes an argument."),
    click.option("--read-only", is_flag=True, help="Nothing can be changed."),
    click.option("--threads", type=click.IntRange(1, 256), help="Readers; by default one per processor, 4 to 16."),
    click.option("--owner", type=click.Choice(["caller", "server"]), default="caller", show_default=True,
                 help="Whose new files are (passthrough): the calling user's, as root, or this user's."),
    click.option("--max-descriptors", type=click.IntRange(min=0), default=0,
                 help="Descriptors that known files keep open (passthrough); 0: half of the limit."),
)  # fmt: skip

_how = options_of(
    click.option("--allow-other", is_flag=True, help="Let other users in, root included."),
    click.option("--nonempty", is_flag=True, help="Allow a directory with files, which are hidden meanwhile."),
    click.option("--set-uid", is_flag=True, help="Honour set-uid bits and file capabilities (root only)."),
    click.option("--devices", is_flag=True, help="Honour device files (root only)."),
    click.option("--fsname", default=None, help="What /proc/mounts calls it; by default DIR."),
    click.option("--entry-timeout", type=_CACHE, default=1.0, show_default=True,
                 help="Seconds for which the kernel trusts names; 0 where others change them."),
    click.option("--attr-timeout", type=_CACHE, default=1.0, show_default=True, help="The same of attributes."),
    click.option("--stop-timeout", type=_CACHE, default=5.0, show_default=True,
                 help="Seconds to wait for open files at the end."),
    click.option("--no-guard", is_flag=True, help="No process that unmounts when this one is killed."),
    click.option("--json", "as_json", is_flag=True, help="Write JSON lines to standard output."),
    click.option("-v", "--verbose", is_flag=True, help="The library's debug lines too."),
)  # fmt: skip


@click.command(epilog=EPILOG, short_help="Mount a directory, or a file system in Python.")
@click.argument("directory", metavar="DIR")
@click.argument("mount_point", metavar="MOUNTPOINT")
@_what
@_how
@debug_option
def mount(directory: str, mount_point: str, **options: Any) -> int:
    """Mount DIR at MOUNTPOINT through FUSE, and serve it until a signal or the unmount.

    MOUNTPOINT is an empty directory on which nothing is mounted.
    """
    from vmthaw.errors import VmthawValueError
    from vmthaw.fuse import FuseServer

    file_system = _file_system(directory, options)
    with usage_errors(VmthawValueError):
        server = FuseServer(
            file_system, mount_point, threads=options["threads"], read_only=options["read_only"],
            allow_other=options["allow_other"], set_uid=options["set_uid"], devices=options["devices"],
            nonempty=options["nonempty"], fsname=options["fsname"] or directory,
            entry_timeout=options["entry_timeout"], attr_timeout=options["attr_timeout"],
            guard=not options["no_guard"],
        )  # fmt: skip
    output = open_output(as_json=options["as_json"])
    try:
        with logging_to(output, verbose=options["verbose"]), _signals() as signals:
            return _serve(server, output, signals, options["stop_timeout"])
    finally:
        output.close()


def _serve(server: FuseServer, output: Output, signals: list[int], stop_timeout: float) -> Exit:
    from vmthaw.cli._systemd import notify
    from vmthaw.errors import StateError

    server.start()
    try:
        where = server.mount_point
        output.event("mounted", f"{server.file_system!r} is mounted at {where}", mount_point=where, pid=os.getpid())
        notify(f"READY=1\nSTATUS=mounted at {where}")
        while not signals and not server.wait(_SLICE_S):
            pass
        why = signal.Signals(signals[-1]).name if signals else "it was unmounted"
        output.event("stopping", f"stopping ({why})", reason=why)
        notify("STOPPING=1")
    finally:
        try:
            server.stop(stop_timeout)
        except StateError as error:
            raise CliError(str(error), Exit.FAILED) from error
    output.event("unmounted", f"{where} is unmounted", mount_point=where)
    return Exit.OK


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Those that came. From before the mount until after the unmount, so that none leaves it behind."""
    came: list[int] = []
    old = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _file_system(directory: str, options: dict[str, Any]) -> FileSystem | FileSystemBackend:
    from vmthaw.fuse import MemoryFs, PassthroughFs

    kind = options["kind"]
    if kind == "passthrough":
        return PassthroughFs(
            directory, read_only=options["read_only"], owner=options["owner"],
            max_descriptors=options["max_descriptors"],
        )  # fmt: skip
    if kind == "memory":
        return MemoryFs(root_uid=os.geteuid(), root_gid=os.getegid())
    return _from_python(kind, directory)


def _from_python(kind: str, directory: str) -> FileSystem:
    """An instance of module:Class, looked for in the working directory too, as ``python -m`` does."""
    from vmthaw.filesystem import FileSystem

    module_name, colon, class_name = kind.partition(":")
    if not colon or not module_name or not class_name:
        raise click.UsageError(f"--fs {kind}: say passthrough, memory or module:Class")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise CliError(f"--fs {kind}: no module named {error.name}", Exit.USAGE) from error
    except AttributeError as error:
        raise CliError(f"--fs {kind}: {error}", Exit.USAGE) from error
    if not isinstance(found, type) or not issubclass(found, FileSystem):
        raise CliError(f"--fs {kind}: {class_name} is no vmthaw.filesystem.FileSystem", Exit.USAGE)
    takes_one = any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
        for parameter in inspect.signature(found).parameters.values()
    )
    made: FileSystem = cast("Any", found)(*([directory] if takes_one else []))
    return made
