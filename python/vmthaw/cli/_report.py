"""`vmthaw report`."""

from __future__ import annotations

from pathlib import Path

import click

from vmthaw.cli._errors import EXIT_CODES, CliError, debug_option


@click.command(epilog=EXIT_CODES, short_help="Make a page of a recorded fault trace.")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The page to write: one HTML file that needs no network.",
)
@click.option(
    "--compare",
    "others",
    metavar="TRACE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Another trace of the same snapshot to set beside it. May be repeated.",
)
@click.option("--title", help="The page's title; by default the trace's.")
@click.option(
    "--no-exits",
    is_flag=True,
    help="Leave the vCPU exits alone, whose file lies beside TRACE (NAME.exits.parquet).",
)
@click.option(
    "--no-dax",
    is_flag=True,
    help="Leave the DAX events alone, whose file lies beside TRACE (NAME.dax.parquet).",
)
@click.option("--force", is_flag=True, help="Overwrite the page if it exists.")
@debug_option
def report(
    trace: Path,
    output: Path,
    others: tuple[Path, ...],
    title: str | None,
    no_exits: bool,
    no_dax: bool,
    force: bool,
) -> int:
    """Write what a trace shows as one HTML page, and its figures to the terminal.

    The page says what happened, what it cost and what to do about it; then come pictures and tables. TRACE is what
    `vmthaw record` or a TraceRecorder wrote, also one whose process was killed (FILE.recording.arrow).
    """
    from vmthaw.errors import TraceError
    from vmthaw.trace import Trace, write_report

    if output.exists() and not force:
        raise CliError(f"{output} exists: choose another name, or overwrite it with --force")
    try:
        opened = Trace.open(trace, exits=not no_exits, dax=not no_dax)
        beside = [Trace.open(other, exits=False, dax=False) for other in others]
    except TraceError as error:
        raise CliError(str(error)) from error
    path = write_report(opened, output, title=title, comparisons=beside, overwrite=force)
    click.echo(str(opened.summary()))
    click.echo(f"\n{path} has the pictures, and what to do about it.")
    return 0
