"""`vmthaw record`: `vmthaw serve` that records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from vmthaw.cli._errors import CliError, Exit, debug_option, sentence_of
from vmthaw.cli._output import Output
from vmthaw.cli._serve import EPILOG, run, serve_options
from vmthaw.errors import VmthawError


@click.command(epilog=EPILOG, short_help="Serve restored VMs and record their faults.")
@click.option(
    "-o",
    "--output",
    metavar="TRACE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write: NAME.parquet, or NAME.arrow.",
)
@click.option("--force", is_flag=True, help="Overwrite the trace if it exists.")
@click.option("--title", help="What the trace is called in reports; by default as the file.")
@click.option(
    "--ring-records",
    type=click.IntRange(1, 1 << 26),
    default=65536,
    show_default=True,
    help="Records that wait for each VM; what it can fault in 50 ms should fit.",
)
@serve_options
@debug_option
def record(output: Path, force: bool, title: str | None, ring_records: int, **options: Any) -> int:
    """Serve as `vmthaw serve` does, and record every fault in a trace for `vmthaw report`.

    The trace is made when serving ends. Until then batches go to TRACE.recording.arrow, which `vmthaw report` reads
    too, whatever happened to this process. No VM ever waits for the recording: if the disk is full, it ends, and
    serving goes on. Needs the extra vmthaw[analysis].
    """
    from vmthaw._extras import need

    if output.suffix not in (".parquet", ".arrow"):
        raise click.UsageError(f"--output must end in .parquet or .arrow, not {output.name!r}")
    need("pyarrow", "analysis")
    beside = output.with_name(output.name + ".recording.arrow")
    for path in (output, beside):
        if path.exists() and not force:
            raise CliError(f"{path} exists: choose another name, or overwrite it with --force")
    notes = {"memory file": options["memory"], **({"title": title} if title else {})}

    @contextlib.contextmanager
    def recording(server: Any, lines: Output) -> Iterator[None]:
        from vmthaw.trace import TraceRecorder

        recorder = TraceRecorder(output, server, overwrite=force, ring_records=ring_records, notes=notes).start()
        try:
            yield
        except BaseException:
            with contextlib.suppress(VmthawError):  # it is in the log; the other error is the one to tell
                recorder.stop()
            raise
        try:
            recorder.stop()
        except VmthawError as error:
            raise CliError(sentence_of(error), Exit.FAILED) from error
        text = f"recorded {recorder.recorded} records in {output}; see `vmthaw report {output} -o PAGE.html`"
        lines.event("recorded", text, path=str(output), records=recorder.recorded, dropped=recorder.dropped)

    return run(recording=recording, **options)
