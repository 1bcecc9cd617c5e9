"""`vmthaw doctor`."""

from __future__ import annotations

import json

import click

from vmthaw._version import __version__
from vmthaw.cli._check import Check, Status, run_checks
from vmthaw.cli._errors import Exit, debug_option

_EPILOG = "Exit codes: 0 serving is possible (there may be warnings); 1 it is not; 2 the command line is wrong."
_MARKS = {
    Status.OK: "[green]ok[/]",
    Status.WARN: "[yellow]warn[/]",
    Status.FAIL: "[red]FAIL[/]",
    Status.INFO: "[dim]info[/]",
}


def examine() -> list[Check]:
    """Everything there is to look at, in the order of the table."""
    from vmthaw.cli import _check_kernel as kernel
    from vmthaw.cli import _check_machine as machine

    return run_checks([
        kernel.check_kernel, kernel.check_kvm, kernel.check_userfaultfd, kernel.check_features, kernel.check_pidfd,
        kernel.check_smaps, machine.check_limits, machine.check_memory, machine.check_jailer, machine.check_extras,
    ])  # fmt: skip


@click.command(epilog=_EPILOG, short_help="Look at this machine: what is there, what to mend.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object to standard output.")
@debug_option
def doctor(as_json: bool) -> int:
    """Look at this machine: what is there, what it is needed for, and how to mend what is not.

    Look as the user that will serve, and as the VMM's user too. Changes nothing.
    """
    checks = examine()
    failed = [check for check in checks if check.status is Status.FAIL]
    if as_json:
        report = {"version": __version__, "can_serve": not failed, "checks": [check.as_dict() for check in checks]}
        click.echo(json.dumps(report, indent=2))
    else:
        _print_table(checks)
        warned = sum(check.status is Status.WARN for check in checks)
        click.echo(_conclusion(failed, warned))
    return Exit.FAILED if failed else Exit.OK


def _conclusion(failed: list[Check], warned: int) -> str:
    if failed:
        return f"Serving is not possible here: {'; '.join(f'{check.what}: {check.found}' for check in failed)}."
    return "Serving is possible here." + (f" {warned} warning(s) above say how to mend them." if warned else "")


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"vmthaw {__version__} doctor", title_justify="left", expand=False)
    for name in ("", "what", "found", "needed for", "how to mend"):
        table.add_column(name, overflow="fold")
    group = ""
    for check in checks:
        if group and check.group != group:
            table.add_section()
        group = check.group
        cells = (check.what, check.found, check.needed_for, check.mend)
        table.add_row(_MARKS[check.status], *(escape(cell) for cell in cells))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
