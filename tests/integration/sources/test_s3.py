"""`ObjectStoreSource` and a real S3 server: right bytes, errors that say what to do, and servers that go away."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.delayed_link import DelayedLink
from tests.support.eventually import PATIENCE
from tests.support.s3_server import S3Server
from vmthaw import FillMode, ObjectStoreSource, PagerConfig, PageServer
from vmthaw.errors import SourceIoError, SourceOpenError
from vmthaw.testing import FakeVmm

pytestmark = pytest.mark.timeout(60, func_only=True)

PAGE = 4096
CHUNK = 64 << 10


def source_of(url: str, **options: Any) -> ObjectStoreSource:
    return ObjectStoreSource(url, **{"chunk": CHUNK, "timeout": 20.0 * PATIENCE, **options})


@pytest.fixture
def url(s3: S3Server, full_memory_file: Path) -> str:
    return s3.put("vm-1/mem", full_memory_file.read_bytes())


@pytest.mark.usefixtures("userfaultfd_available")
@pytest.mark.parametrize("fill_mode", FillMode)
def test_every_byte_is_right(fill_mode: FillMode, url: str, full_memory_file: Path, tmp_socket: Path) -> None:
    config = PagerConfig(fill_mode=fill_mode, fill_bytes=CHUNK)
    with (
        source_of(url, hedge=False) as source,
        PageServer(tmp_socket, source, config=config) as server,
        FakeVmm(full_memory_file) as vmm,
    ):
        vmm.handover(tmp_socket)
        vmm.touch("random", seed=3, threads=4).check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0
        assert source.stats.bytes == full_memory_file.stat().st_size, "a chunk came twice, or not at all"


def test_ranges_are_read_many_at_once(url: str, full_memory_file: Path) -> None:
    content = full_memory_file.read_bytes()
    with source_of(url, chunk=PAGE, concurrency=64, memory=4 * CHUNK) as source, ThreadPoolExecutor(16) as pool:
        offsets = [(7 * number) % (len(content) // PAGE) * PAGE for number in range(600)]
        for offset, data in zip(offsets, pool.map(lambda at: source.read(at, PAGE), offsets), strict=True):
            assert data == content[offset : offset + PAGE]
        assert source.stats.requests >= 512
        assert source.stats.retries == 0


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("AWS_SECRET_ACCESS_KEY", "another", "check the credentials"),
        ("AWS_ACCESS_KEY_ID", "nobody", "check the credentials"),
        ("AWS_SECRET_ACCESS_KEY", None, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", None, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_wrong_credentials_are_refused_with_the_way_out(
    name: str, value: str | None, text: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceOpenError, match=text) as caught:
        source_of(url)
    assert f"cannot open page source {url}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.errno == errno.EACCES
    if value is not None:
        assert "Server returned non-2xx status code: 40" in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "said"), [("s3://snapshots/vm-2/mem", "NoSuchKey"), ("s3://another/vm-1/mem", "NoSuchBucket")]
)
def test_what_is_not_there_is_named(missing: str, said: str, url: str) -> None:
    with pytest.raises(SourceOpenError, match="there is no such object: check bucket and key") as caught:
        source_of(missing)
    assert missing in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.errno == errno.ENOENT


def test_an_object_that_is_replaced_while_it_is_open_is_refused(s3: S3Server, url: str, full_memory_file: Path) -> None:
    content = full_memory_file.read_bytes()
    with source_of(url) as source:
        assert source.read(0, PAGE) == content[:PAGE]
        s3.put("vm-1/mem", os.urandom(len(content)))
        with pytest.raises(SourceIoError) as caught:
            source.read(5 * CHUNK, PAGE)
        assert caught.value.errno == errno.ESTALE
        assert source.read(PAGE, PAGE) == content[PAGE : 2 * PAGE], "what was fetched before is still the old object"


def test_an_object_that_is_removed_while_it_is_open_is_missed(s3: S3Server, url: str) -> None:
    with source_of(url) as source:
        source.read(0, PAGE)
        (s3.bucket("snapshots") / "vm-1" / "mem").unlink()
        with pytest.raises(SourceIoError) as caught:
            source.read(5 * CHUNK, PAGE)
        assert caught.value.errno == errno.ENOENT


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_server_that_is_killed_and_started_again_only_delays(
    s3: S3Server, url: str, full_memory_file: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    with (
        source_of(url, attempts=40) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
        ThreadPoolExecutor() as pool,
    ):
        vmm.handover(tmp_socket)
        vmm.touch([0]).check()
        s3.kill()
        touching = pool.submit(vmm.touch, "random", seed=2, threads=4)
        eventually(lambda: source.stats.retries >= 4)
        assert not touching.done()
        s3.start()
        touching.result().check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_server_that_stops_answering_is_a_time_out_and_others_go_on(
    s3: S3Server, s3_program: Path, url: str, full_memory_file: Path, tmp_path: Path, tmp_socket: Path
) -> None:
    other_socket, other_directory = tmp_socket.with_name("other"), tmp_path / "other"
    other_directory.mkdir()
    with S3Server(s3_program, other_directory) as other:
        other_url = other.put("mem", full_memory_file.read_bytes())
        with (
            source_of(url, timeout=1.5, attempts=2) as source,
            source_of(other_url, config={"endpoint": other.endpoint}) as other_source,
            PageServer(other_socket, other_source),
            FakeVmm(full_memory_file) as vmm,
            ThreadPoolExecutor() as pool,
        ):
            vmm.handover(other_socket)
            s3.freeze()
            waiting = pool.submit(source.read, 0, PAGE)
            vmm.touch("random", seed=1, threads=4).check()
            vmm.verify(only_touched=False).check()
            with pytest.raises(SourceIoError) as caught:
                waiting.result(30)
            assert caught.value.errno in (errno.ETIMEDOUT, errno.EREMOTEIO)
            s3.thaw()
            assert source.read(0, PAGE) == full_memory_file.read_bytes()[:PAGE], "it is not lost for good"


@pytest.mark.usefixtures("userfaultfd_available")
def test_a_link_that_is_cut_in_the_middle_and_mended_only_delays(
    s3: S3Server, url: str, full_memory_file: Path, tmp_socket: Path, eventually: Callable[..., object]
) -> None:
    with (
        DelayedLink(s3.port) as link,
        source_of(url, attempts=40, config={"endpoint": link.endpoint}) as source,
        PageServer(tmp_socket, source) as server,
        FakeVmm(full_memory_file) as vmm,
        ThreadPoolExecutor() as pool,
    ):
        vmm.handover(tmp_socket)
        vmm.touch([0]).check()
        link.cut()
        touching = pool.submit(vmm.touch, "random", seed=2, threads=4)
        eventually(lambda: source.stats.retries >= 4)
        assert not touching.done()
        link.mend()
        touching.result().check()
        vmm.verify(only_touched=False).check()
        assert server.stats.failed == 0


def test_a_link_that_is_slow_delays_what_is_asked_for_at_once_but_once(
    s3: S3Server, url: str, full_memory_file: Path
) -> None:
    content = full_memory_file.read_bytes()
    delay, chunks = 0.1, len(content) // CHUNK
    with (
        DelayedLink(s3.port, delay) as link,
        source_of(url, hedge=False, config={"endpoint": link.endpoint}) as source,
        ThreadPoolExecutor(chunks) as pool,
    ):
        began = time.monotonic()
        parts = list(pool.map(lambda number: source.read(number * CHUNK, CHUNK), range(chunks)))
        took = time.monotonic() - began
        assert b"".join(parts) == content
        assert 2 * delay <= took < chunks * delay
