"""The classifier: every row of its table under both profiles, and what `strict` mends. Pure; needs no KVM."""

from __future__ import annotations

import errno
import struct

import pytest

from tests.unit.vcpu.made import (
    ARM,
    DATA_OFFSET,
    FAIL_ENTRY,
    HLT,
    INTERNAL_ERROR,
    IO,
    LENIENT,
    MEMORY_FAULT,
    MMIO,
    SHUTDOWN,
    STRICT,
    UNKNOWN,
    X86,
    classify,
    event,
    io_in,
    io_out,
    mmio_read,
    mmio_write,
    run_bytes,
)
from vmthaw._core import _classify_exit_ns
from vmthaw.errors import VmthawValueError
from vmthaw.vcpu import ExitAction, ExitActionKind, ExitProfile, GuestArch, classify_exit

NONE, CONTINUE, STOP = "none", "continue", "shutdown"
FAILED_ENTRY = run_bytes(FAIL_ENTRY, struct.pack("<QI", 0x80000021, 3))


def internal(suberror: int) -> bytes:
    return run_bytes(INTERNAL_ERROR, struct.pack("<II", suberror, 0))


# What came out of KVM_RUN, then the action on x86-64 and on aarch64. Where the strict profile differs it is named third
# and fourth.
TABLE: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("out 0x64, 0xfe", io_out(0x64, b"\xfe"), (STOP, NONE)),
    ("out 0x64, another command", io_out(0x64, b"\xfd"), (CONTINUE, NONE)),
    ("out 0x64, 0xfe as the second element", io_out(0x64, b"\x00\xfe"), (CONTINUE, NONE, STOP, NONE)),
    ("out 0x64, 0xfe as the first byte of a word", io_out(0x64, b"\xfe\x00", 2), (STOP, NONE, CONTINUE, NONE)),
    ("out 0x60, 0xfe", io_out(0x60, b"\xfe"), (CONTINUE, NONE)),
    ("out com1", io_out(0x3F8, b"x"), (CONTINUE, NONE)),
    ("out com1, last register", io_out(0x3FF, b"x"), (CONTINUE, NONE)),
    ("out com2", io_out(0x2F8, b"x"), (CONTINUE, NONE)),
    ("out com2, last register", io_out(0x2FF, b"x"), (CONTINUE, NONE)),
    ("out elsewhere", io_out(0x80, b"\xfe"), (CONTINUE, NONE)),
    ("in 0x60", io_in(0x60), (CONTINUE, NONE)),
    ("in 0x64", io_in(0x64, before=b"\xfe"), (CONTINUE, NONE)),
    ("in com1", io_in(0x3FD), (CONTINUE, NONE)),
    ("in com2", io_in(0x2FD), (CONTINUE, NONE)),
    ("in elsewhere", io_in(0xCFC, 4), (CONTINUE, NONE)),
    ("mmio read of console", mmio_read(0xC0000000), (CONTINUE, CONTINUE)),
    ("mmio read of nothing", mmio_read(0x1234), (CONTINUE, CONTINUE)),
    ("mmio read of com1 on aarch64", mmio_read(0x09000000, 1), (CONTINUE, CONTINUE)),
    ("mmio write to net", mmio_write(0xC0002070, b"\0\0\0\0"), (CONTINUE, CONTINUE)),
    ("mmio write to nothing", mmio_write(0x1234, b"1"), (CONTINUE, CONTINUE)),
    ("mmio write of nothing", mmio_write(0x09000000, b""), (CONTINUE, CONTINUE)),
    ("hlt", run_bytes(HLT), (NONE, NONE)),
    ("shutdown", run_bytes(SHUTDOWN), (STOP, STOP)),
    ("event 1, shutdown", event(1), (STOP, STOP)),
    ("event 2, reset", event(2), (STOP, STOP)),
    ("event 3, crash", event(3), (CONTINUE, CONTINUE, "fatal(3)", "fatal(3)")),
    ("event 4, wakeup", event(4), (CONTINUE, CONTINUE)),
    ("event 5, suspend", event(5), (CONTINUE, CONTINUE)),
    ("event 6, SEV terminated", event(6), (CONTINUE, CONTINUE, "fatal(6)", "fatal(6)")),
    ("event 7, TDX fatal", event(7), (CONTINUE, CONTINUE, "fatal(7)", "fatal(7)")),
    ("event 8, not known", event(8), (CONTINUE, CONTINUE)),
    ("event 0", event(0), (CONTINUE, CONTINUE)),
    ("failed entry", FAILED_ENTRY, ("fatal(2147483681)", "fatal(2147483681)")),
    ("internal error 1, emulation", internal(1), ("fatal", "fatal", "fatal(1)", "fatal(1)")),
    ("internal error 2, simultaneous exceptions", internal(2), ("fatal", "fatal", "fatal(2)", "fatal(2)")),
    ("internal error 3, delivery of an event", internal(3), ("fatal", "fatal", "fatal(3)", "fatal(3)")),
    ("internal error 4, unexpected exit reason", internal(4), ("fatal", "fatal", "fatal(4)", "fatal(4)")),
    ("internal error 5, not known", internal(5), ("fatal", "fatal", "fatal(5)", "fatal(5)")),
    ("unknown, as KVM says", run_bytes(UNKNOWN, struct.pack("<Q", 51)), (NONE, NONE, "fatal(51)", "fatal(51)")),
    ("number 44", run_bytes(44), (NONE, NONE, "fatal(44)", "fatal(44)")),
    ("number 4294967295", run_bytes(0xFFFFFFFF), (NONE, NONE, "fatal(4294967295)", "fatal(4294967295)")),
]
# Anything else that has a name: the run loop decides, with the payload decoded.
OTHERS = [n for n in range(1, 44) if n not in (IO, HLT, MMIO, SHUTDOWN, FAIL_ENTRY, INTERNAL_ERROR, 24)]
TABLE += [(f"reason {n}", run_bytes(n), (NONE, NONE)) for n in OTHERS]


@pytest.mark.parametrize("profile", [LENIENT, STRICT], ids=lambda profile: profile.name)
@pytest.mark.parametrize("arch", [X86, ARM], ids=lambda arch: arch.name)
@pytest.mark.parametrize(("mapping", "actions"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_every_row_of_the_table(
    mapping: bytes, actions: tuple[str, ...], arch: GuestArch, profile: ExitProfile
) -> None:
    place = (0 if arch is X86 else 1) + (2 if profile is STRICT and len(actions) == 4 else 0)
    before = bytes(mapping)
    found = classify(profile, arch, mapping)
    assert str(found.action) == actions[place]
    assert mapping == before  # nothing was done


def test_ktstr_is_another_name_of_lenient() -> None:
    assert ExitProfile["ktstr"] is ExitProfile.lenient
    assert str(classify_exit(ExitProfile.ktstr, X86, 0, 0, event(3)).action) == CONTINUE


def test_a_reset_of_the_keyboard_controller_may_be_any_element_of_a_string() -> None:
    for place in range(5):
        data = bytes(0xFE if i == place else 1 for i in range(5))
        assert str(classify(STRICT, X86, io_out(0x64, data)).action) == STOP
        assert str(classify(LENIENT, X86, io_out(0x64, data)).action) == (STOP if place == 0 else CONTINUE)


def test_an_access_that_lies_only_partly_on_the_command_port_is_none_of_its() -> None:
    for size in (2, 4):
        assert str(classify(STRICT, X86, io_out(0x64, b"\xfe" * size, size)).action) == CONTINUE


def test_an_internal_error_keeps_sub_error_instruction_and_registers() -> None:
    payload = struct.pack("<IIQB15s", 1, 3, 1, 2, b"\x0f\x0b" + bytes(13))
    registers = {288: struct.pack("<Q", 1), 304: struct.pack("<18Q", *range(18))}
    found = classify(STRICT, X86, run_bytes(INTERNAL_ERROR, payload, at=registers))
    assert found.action == ExitAction(ExitActionKind.fatal, 1)
    assert (found.fields["suberror"], found.fields["instruction"]) == (1, b"\x0f\x0b")
    assert found.fields["registers"]["rip"] == 16


@pytest.mark.parametrize("error", [errno.EFAULT, errno.ENOEXEC, errno.EINVAL, errno.EBADF, errno.ENOSYS])
@pytest.mark.parametrize("stale", [SHUTDOWN, MMIO, HLT])
def test_a_lasting_error_is_fatal_and_the_old_exit_is_not_read(error: int, stale: int) -> None:
    strict = classify(STRICT, X86, run_bytes(stale), result=-1, errno=error)
    assert (str(strict.action), strict.reason) == (f"fatal({error})", None)
    assert str(classify(LENIENT, X86, run_bytes(stale), result=-1, errno=error).action) == NONE


@pytest.mark.parametrize("profile", [LENIENT, STRICT])
@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_an_interrupted_run_is_run_again(profile: ExitProfile, error: int) -> None:
    found = classify(profile, X86, run_bytes(SHUTDOWN), result=-1, errno=error)
    assert (str(found.action), found.is_interrupted) == (CONTINUE, True)


@pytest.mark.parametrize("mapping", [b"", bytes(100)], ids=["none", "short"])
def test_an_error_that_comes_without_a_reason_needs_no_mapping(mapping: bytes) -> None:
    for profile in (LENIENT, STRICT):
        assert str(classify(profile, X86, mapping, result=-1, errno=errno.EINTR).action) == CONTINUE
        assert classify(profile, X86, mapping, result=-1, errno=errno.EFAULT).reason is None
    assert str(classify(STRICT, X86, mapping, result=-1, errno=errno.ENOEXEC).action) == f"fatal({errno.ENOEXEC})"
    assert str(classify(STRICT, X86, mapping, result=-1, errno=errno.EFAULT).action) == f"fatal({errno.EFAULT})"
    assert str(classify(LENIENT, X86, mapping, result=-1, errno=errno.ENOEXEC).action) == NONE


@pytest.mark.parametrize("error", [errno.EFAULT, 133])
def test_a_memory_fault_is_told_by_result_errno_and_reason_together(error: int) -> None:
    mapping = run_bytes(MEMORY_FAULT, struct.pack("<QQQ", 8, 0x1000, 4096))
    strict = classify(STRICT, X86, mapping, result=-1, errno=error)
    assert (strict.name, str(strict.action)) == ("MEMORY_FAULT", f"fatal({error})")
    assert strict.fields["guest_address"] == 0x1000
    lenient = classify(LENIENT, X86, mapping, result=-1, errno=error)
    assert (lenient.name, str(lenient.action)) == ("MEMORY_FAULT", NONE)


@pytest.mark.parametrize("profile", [LENIENT, STRICT])
@pytest.mark.parametrize(
    ("mapping", "action"),
    [
        (run_bytes(MMIO, struct.pack("<Q8sIB", 0x1000, bytes(8), 255, 0)), "fatal(6)"),
        (run_bytes(IO, struct.pack("<BBHIQ", 1, 1, 0x64, 1, 1 << 40)), "fatal(2)"),
        (run_bytes(24, struct.pack("<II", 1, 17)), "fatal(24)"),
        (bytes(100), "fatal"),
    ],
)
def test_what_contradicts_itself_is_fatal_under_both_profiles(
    profile: ExitProfile, mapping: bytes, action: str
) -> None:
    found = classify(profile, X86, mapping)
    assert str(found.action) == action
    assert "problem" in found.fields


def test_anything_with_a_buffer_is_taken() -> None:
    mapping = bytearray(io_out(0x64, b"\xfe"))
    assert str(classify_exit(STRICT, X86, 0, 0, memoryview(mapping)).action) == STOP
    mapping[DATA_OFFSET] = 1
    assert str(classify_exit(STRICT, X86, 0, 0, mapping).action) == CONTINUE
    with pytest.raises(TypeError):
        classify_exit(STRICT, X86, 0, 0, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ExitProfile"):
        classify_exit("strict", X86, 0, 0, mapping)  # type: ignore[arg-type]


def test_actions_are_values() -> None:
    fatal = ExitAction(ExitActionKind.fatal, 7)
    assert fatal == ExitAction(ExitActionKind.fatal, 7) != ExitAction(ExitActionKind.fatal)
    assert len({fatal, ExitAction(ExitActionKind.fatal, 7), ExitAction(ExitActionKind.none)}) == 2
    assert (fatal.kind, fatal.reason, repr(fatal)) == (ExitActionKind.fatal, 7, "<ExitAction fatal(7)>")
    assert fatal != "fatal(7)"
    with pytest.raises(VmthawValueError, match="only a fatal action"):
        ExitAction(ExitActionKind.shutdown, 1)


def test_the_clock_of_the_classifier_counts_calls() -> None:
    assert 0 < _classify_exit_ns(STRICT, X86, io_out(0x3F8, b"x"), 1000) < 1e6
    with pytest.raises(VmthawValueError, match="calls is 0"):
        _classify_exit_ns(STRICT, X86, bytes(100), 0)
