"""Where a serial port's output goes: a bounded buffer, a descriptor, a stream. The guest waits for none of them."""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vmthaw.devices import DescriptorSink, OutputBuffer, Serial
from vmthaw.errors import VmthawValueError


def send(port: Serial, data: bytes) -> None:
    for value in data:
        port.write(0, bytes([value]))


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vmthaw-serial"]


# --- buffer


def test_a_buffer_keeps_the_newest_bytes_and_counts_the_others() -> None:
    buffer = OutputBuffer(8)
    port = Serial(buffer)
    send(port, b"0123456789")
    assert (len(buffer), buffer.dropped_bytes, buffer.capacity) == (8, 2, 8)
    assert (buffer.take(3), buffer.take(), buffer.take()) == (b"234", b"56789", b"")
    send(port, b"abc")
    assert buffer.take() == b"abc"


def test_a_buffer_goes_round_without_losing_a_byte() -> None:
    buffer = OutputBuffer(7)
    port = Serial(buffer)
    sent = bytes(i & 0xFF for i in range(1000))
    got = b""
    for start in range(0, 1000, 5):
        send(port, sent[start : start + 5])
        got += buffer.take(4 if start < 10 else 5)  # never empty again, so that it wraps
    assert got + buffer.take() == sent
    assert buffer.dropped_bytes == 0


def test_waiting_for_output_ends_with_a_byte_a_time_out_or_the_end() -> None:
    buffer = OutputBuffer()
    port = Serial(buffer)
    start = time.monotonic()
    assert not buffer.wait(0.05)
    assert time.monotonic() - start < 5
    timer = threading.Timer(0.05, send, (port, b"x"))
    timer.start()
    assert buffer.wait(30)
    timer.join()
    assert buffer.take() == b"x"
    timer = threading.Timer(0.05, buffer.close)
    timer.start()
    assert buffer.wait(30)
    timer.join()
    assert buffer.closed
    send(port, b"late")
    assert (buffer.take(), buffer.dropped_bytes) == (b"", 4)


@pytest.mark.parametrize("capacity", [0, (1 << 30) + 1])
def test_an_impossible_capacity_is_refused(capacity: int) -> None:
    with pytest.raises(VmthawValueError, match="1 byte to 1 GiB"):
        OutputBuffer(capacity)


# --- descriptor


def test_a_file_gets_what_the_guest_sends(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        port = Serial(file.fileno())
    send(port, b"to a duplicate\n")
    assert (tmp_path / "log").read_bytes() == b"to a duplicate\n"


def test_a_slow_reader_stops_nobody_and_loses_only_what_exceeds_the_backlog() -> None:
    reader, writer = os.pipe()  # blocking, as most are
    sink = DescriptorSink(writer, backlog=1000)
    os.close(writer)
    port = Serial(sink)
    total = 70_000  # 65,536 in the pipe, 1000 in the backlog
    data = bytes(i * 7 & 0xFF for i in range(total))
    send(port, data)
    dropped = sink.dropped_bytes
    assert 0 < dropped < total
    assert not sink.flush()
    got = b""
    while len(got) < total - dropped:
        got += os.read(reader, 1 << 16)
        sink.flush()
    assert got == data[: total - dropped]
    assert sink.flush()
    send(port, b"again")
    assert os.read(reader, 100) == b"again"
    os.close(reader)


def test_a_reader_that_is_gone_is_remembered_and_nothing_else_happens() -> None:
    reader, writer = os.pipe()
    sink = DescriptorSink(writer)
    os.close(writer)
    port = Serial(sink)
    os.close(reader)
    send(port, b"abc")
    assert (sink.errno, sink.dropped_bytes) == (errno.EPIPE, 3)


def test_the_backlog_goes_out_with_its_sink() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = os.write(writer, bytes(1 << 20))
    port = Serial(DescriptorSink(writer))
    os.close(writer)
    send(port, b"last words")
    left = filled
    while left:
        left -= len(os.read(reader, left))
    del port
    gc.collect()
    assert os.read(reader, 100) == b"last words"
    assert os.read(reader, 100) == b""  # and the duplicate is closed
    os.close(reader)


def test_a_descriptor_that_is_none_is_an_os_error() -> None:
    with pytest.raises(OSError, match="fcntl") as caught:
        Serial(1 << 20)
    assert caught.value.errno == errno.EBADF


# --- stream


def test_a_binary_stream_gets_bytes_and_a_text_stream_text() -> None:
    for stream, wanted in ((io.BytesIO(), "grüße\n".encode() + b"\xff"), (io.StringIO(), "grüße\n\ufffd")):
        port = Serial(stream)
        send(port, "grüße\n".encode())
        assert port.flush()
        send(port, b"\xff")
        assert port.flush()
        assert stream.getvalue() == wanted


def test_the_thread_of_a_stream_ends_with_its_port(eventually: Callable[..., object]) -> None:
    eventually(lambda: not pumps())
    stream = io.BytesIO()
    port = Serial(stream)
    assert len(pumps()) == 1
    send(port, b"farewell")
    del port
    gc.collect()
    eventually(lambda: not pumps())
    assert stream.getvalue() == b"farewell"


def test_a_stream_that_raises_is_logged_and_the_guest_goes_on(
    caplog: pytest.LogCaptureFixture, eventually: Callable[..., object]
) -> None:
    class Broken(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "full")

    with caplog.at_level(logging.ERROR, logger="vmthaw.devices"):
        port = Serial(Broken())
        send(port, b"a")
        eventually(lambda: caplog.records)
    assert "dropped from now on" in caplog.text
    eventually(lambda: not pumps())
    send(port, b"b")


def test_a_port_does_not_wait_for_a_stream_that_blocks() -> None:
    class Slow(io.BytesIO):
        def write(self, data: object, /) -> int:
            may_go.wait(30)
            return super().write(bytes(data))  # type: ignore[call-overload]

    may_go = threading.Event()
    stream = Slow()
    port = Serial(stream)
    start = time.monotonic()
    send(port, b"x" * 1000)
    assert time.monotonic() - start < 10
    assert not port.flush(0.05)
    may_go.set()
    assert port.flush(30)
    assert stream.getvalue() == b"x" * 1000


@pytest.mark.parametrize("output", [True, 1.5, "path", object()])
def test_something_that_takes_no_bytes_is_no_output(output: object) -> None:
    with pytest.raises(VmthawValueError, match="give None, an OutputBuffer, a descriptor or a stream"):
        Serial(output)  # type: ignore[arg-type]


def test_without_an_output_bytes_vanish() -> None:
    port = Serial()
    send(port, b"nobody hears")
    assert port.flush(0)
