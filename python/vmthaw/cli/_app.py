"""The group of all commands."""

from __future__ import annotations

import click

from vmthaw._version import __version__
from vmthaw.cli._demo import demo
from vmthaw.cli._doctor import doctor
from vmthaw.cli._errors import EXIT_CODES, Commands, debug_option
from vmthaw.cli._export import export
from vmthaw.cli._mount import mount
from vmthaw.cli._record import record
from vmthaw.cli._report import report
from vmthaw.cli._serve import serve
from vmthaw.cli._snapshot import snapshot
from vmthaw.cli._snapshot_pack import pack, unpack, verify

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=_CONTEXT, epilog=EXIT_CODES)
@click.version_option(__version__, "-V", "--version", prog_name="vmthaw", message="%(prog)s %(version)s")
@debug_option
def cli() -> None:
    """Thaw microVMs: give restored VMs their memory page by page, through userfaultfd."""


for _command in (serve, snapshot, record, report, mount, export, doctor, demo):
    cli.add_command(_command)
for _command in (pack, unpack, verify):
    snapshot.add_command(_command)


def main() -> None:
    """The console script ``vmthaw``."""
    cli.main(prog_name="vmthaw")
