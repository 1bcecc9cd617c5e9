"""What the commands say to people: help, errors in one sentence, exit codes, never a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import vmthaw
from vmthaw.cli import cli
from vmthaw.cli._errors import CliError, Exit


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="vmthaw")


def sentence(result: Result) -> str:
    """The one line on standard error; nothing else may be written."""
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = filter(None, result.stderr.splitlines())  # click moves below a ^C first
    return line


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(bytes(8192))
    return path


def test_version_is_the_packages() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"vmthaw {vmthaw.__version__}\n"


@pytest.mark.parametrize(
    "command", [(), ("serve",), ("record",), ("report",), ("doctor",), ("demo",), ("snapshot",), ("snapshot", "merge")]
)
def test_every_command_has_help_with_its_exit_codes(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "Exit codes: 0" in re.sub(r"\s+", " ", result.stdout)
    assert result.stdout.startswith("Usage: vmthaw")
    assert run(*command, "-h").stdout == result.stdout


def test_help_lists_the_commands_and_hides_the_mutants() -> None:
    assert all(name in run("--help").stdout for name in ("serve", "record", "report", "doctor", "demo"))
    assert "mutant" not in run("demo", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nonsense"], r"no such command 'nonsense'.*vmthaw --help"),
        (["serve"], r"missing option '--memory'"),
        (["serve", "--memory", "MEMORY"], r"say where VMs connect: --socket PATH, or --socket-fd N"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--socket-fd", "3"], "exclude each other"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--fill-bytes", "3"], "fill_bytes must be a power of two"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--fill-bytes", "lots"], "not a size: write for example"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--placement", "pinned"], "--cpu N go together"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--cpu", "0", "--placement", "local"], "go together"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--ram-start", "1"], "ram_start"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--prewarm", "kernel"], "not an address"),
        (
            ["serve", "--memory", "MEMORY", "--socket", "s", "--working-set", "MEMORY"],
            "no working set that can be used",
        ),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--owner", "nobody-of-that-name"], "there is no user"),
        (["serve", "--memory", "MEMORY", "--socket", "s", "--failure-policy", "hope"], "'hope' is not one of"),
        (["serve", "--memory", "MEMORY", "--socket-fd", "0", "--owner", "0"], "--owner needs --socket"),
        (["serve", "--memory", "MEMORY", "--socket", "s" * 200], "path"),
        (["demo", "--memory", "12 parsecs"], "not a size"),
        (["demo", "--memory", "5000"], "whole pages of 4 KiB and at least 4MiB"),
        (["doctor", "--loud"], "no such option"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(
    arguments: list[str], expected: str, memory: Path
) -> None:
    result = run(*(str(memory) if argument == "MEMORY" else argument for argument in arguments))
    assert re.search(expected, sentence(result), re.IGNORECASE)
    assert result.exit_code == Exit.USAGE


def test_what_cannot_be_served_is_one_sentence_and_exit_code_3(tmp_path: Path, memory: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for arguments, expected in [
        (["--memory", str(tmp_path / "none"), "--socket", "s"], "none cannot be served: No such file or directory"),
        (["--memory", str(empty), "--socket", "s"], "is empty: is the snapshot complete"),
        (["--memory", str(tmp_path), "--socket", "s"], "neither a file nor a block device"),
        (["--memory", str(memory), "--socket", "/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (["--memory", str(memory), "--socket", str(memory)], "memory"),
        (["--memory", str(memory), "--socket-fd", "999999"], "Bad file descriptor"),
    ]:
        result = run("serve", *arguments)
        written = result.stderr.splitlines()
        assert re.search(expected, written[-1]), written
        assert "Traceback" not in result.stderr
        assert result.exit_code == Exit.UNABLE
    assert memory.read_bytes() == bytes(8192)


def test_a_socket_that_is_no_socket_is_refused(memory: Path) -> None:
    with Path("/dev/null").open("rb") as null:
        result = run("serve", "--memory", str(memory), "--socket-fd", str(null.fileno()))
    assert result.exit_code in (Exit.USAGE, Exit.UNABLE)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (CliError("this cannot be"), Exit.UNABLE, "vmthaw: this cannot be"),
        (CliError("a VM failed", Exit.FAILED), Exit.FAILED, "vmthaw: a VM failed"),
        (PermissionError(13, "Permission denied", "/x"), Exit.UNABLE, "vmthaw: /x: Permission denied"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "vmthaw: interrupted"),
        (MemoryError(), Exit.UNABLE, "vmthaw: MemoryError"),
        (
            RuntimeError("two\nlines"),
            Exit.UNABLE,
            "vmthaw: unexpected RuntimeError: two lines; run it again with --debug to see where",
        ),
    ],
)
def test_any_error_is_one_sentence(
    error: BaseException, code: Exit, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("vmthaw.cli._doctor.examine", fail)
    result = run("doctor")
    assert sentence(result) == expected
    assert result.exit_code == code


@pytest.mark.parametrize("arguments", [("--debug", "doctor"), ("doctor", "--debug")])
def test_debug_shows_where_an_error_came_from(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("deep inside")

    monkeypatch.setattr("vmthaw.cli._doctor.examine", fail)
    result = run(*arguments)
    assert "Traceback" in result.stderr
    assert "in fail" in result.stderr
    assert result.exit_code == Exit.UNABLE
    assert "Traceback" not in run("doctor").stderr


def test_a_demo_that_does_not_fit_says_what_does() -> None:
    result = run("demo", "--memory", "1024TiB")
    assert re.search(r"do not fit into the .* available; try --memory \d+MiB|userfaultfd", sentence(result))
    assert result.exit_code == Exit.UNABLE


def test_a_demo_without_userfaultfd_says_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        def __init__(self) -> None:
            raise PermissionError(1, "userfaultfd denied (EPERM): vm.unprivileged_userfaultfd is 0")

    monkeypatch.setattr("vmthaw.userfaultfd.UserfaultfdFactory", Refused)
    result = run("demo", "--memory", "4MiB")
    assert "the demo needs a userfaultfd: userfaultfd denied (EPERM)" in sentence(result)
    assert "vmthaw doctor" in result.stderr
    assert result.exit_code == Exit.UNABLE


def test_a_demo_without_kvm_says_so_and_who_takes_the_guests_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, userfaultfd_available: None
) -> None:
    monkeypatch.setattr("vmthaw.cli._demo.kvm_guest.why_no_kvm", lambda: "/dev/kvm: Permission denied")
    result = run("demo", "--memory", "4MiB", "--output", str(tmp_path / "out"))
    assert result.exit_code == Exit.OK
    assert "no guest can run here: /dev/kvm: Permission denied; FakeVmm takes its place" in result.stderr
    assert result.stdout.startswith("FakeVmm in the guest's place: 4 MiB")
    refused = run("demo", "--memory", "4MiB", "--guest", "kvm")
    assert "/dev/kvm: Permission denied (see `vmthaw doctor`)" in sentence(refused)
    assert refused.exit_code == Exit.UNABLE
