"""Exit codes, and errors as one sentence."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import click

from vmthaw.errors import VmthawError


class Exit(IntEnum):
    """How every command ends."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNABLE = 3
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 all is well; 1 a VM failed (or a check, or a hand-over); 2 the command line is wrong; 3 it cannot "
    "be done here (a permission, a missing file, a kernel without userfaultfd); 130 interrupted."
)


class CliError(Exception):
    """Ends the command with one sentence and an exit code. Code: `FAILED` or `UNABLE`."""

    def __init__(self, sentence: str, code: Exit = Exit.UNABLE) -> None:
        super().__init__(sentence)
        self.code = code


_debug = False


def set_debug(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Callback of ``--debug``."""
    global _debug
    _debug = _debug or value


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--debug``, before or after the name of the command."""
    option = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=set_debug,
        help="With an error, show where it came from (a traceback).",
    )
    return option(command)


def sentence_of(error: BaseException) -> str:
    """What an exception says, on one line."""
    if isinstance(error, OSError) and not isinstance(error, VmthawError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def say_error(text: str) -> None:
    """One line on standard error, which may be closed."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True)


class Commands(click.Group):
    """A group whose commands end by one sentence and an exit code, whatever they raise."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run a command and exit with its code."""
        global _debug
        _debug = bool(os.environ.get("VMTHAW_DEBUG"))
        extra["standalone_mode"] = False
        name = prog_name or "vmthaw"
        try:
            code = super().main(args=args, prog_name=name, **extra)
        except BaseException as error:
            code = _code_of(name, error)
        _drop_unwritten()
        sys.exit(int(code) if isinstance(code, int) else 0)


def _drop_unwritten() -> None:
    """What nobody reads any more must not fail again when the interpreter ends: that would be exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(null, stream.fileno())
                os.close(null)


def _code_of(name: str, error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if _debug:
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else name
        text = error.format_message().rstrip(".")
        say_error(f"{command}: {text[:1].lower()}{text[1:]}; see `{command} --help`")
        return Exit.USAGE
    if isinstance(error, click.Abort | KeyboardInterrupt):
        say_error(f"{name}: interrupted")
        return Exit.INTERRUPTED
    if isinstance(error, click.ClickException):
        say_error(f"{name}: {' '.join(error.format_message().split())}")
        return Exit.UNABLE
    if isinstance(error, CliError):
        say_error(f"{name}: {error}")
        return error.code
    if isinstance(error, VmthawError | OSError | MemoryError):
        say_error(f"{name}: {sentence_of(error)}")
        return Exit.UNABLE
    hint = "" if _debug else "; run it again with --debug to see where"
    say_error(f"{name}: unexpected {type(error).__name__}: {sentence_of(error)}{hint}")
    return Exit.UNABLE


@contextlib.contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """What the library refuses as an argument is the user's to mend: exit code 2."""
    try:
        yield
    except kinds as error:
        raise click.UsageError(sentence_of(error)) from error


def joined(words: Iterable[str]) -> str:
    """``a, b and c``."""
    found = list(words)
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))
