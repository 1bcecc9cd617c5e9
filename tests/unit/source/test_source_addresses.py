"""Addresses that are none: each error names the address, the part that is wrong and what would be right."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.layered_bytes import fixed, record
from vmthaw import open_source
from vmthaw.errors import LayeredHeaderError, MissingExtraError, SourceAddressError, SourceOpenError, VmthawError
from vmthaw.source._address import BOTTOMS, OVERS, parse_address

UUID_ = "11111111-2222-3333-4444-555555555555"

WRONG = [
    ("", "", "it is empty"),
    ("a\0b", "", "NUL byte"),
    ("file:", "file:", "write file:PATH"),
    ("file:a%0", "file:a%0", "write it as %25"),
    ("file:a%zz", "file:a%zz", "write it as %25"),
    ("file:a%00", "file:a%00", "NUL byte"),
    ("zero:1?", "zero:1?", "NAME=VALUE"),
    ("file:{memory}?mode", "mode", "NAME=VALUE.*%3F"),
    ("file:{memory}?=x", "=x", "NAME=VALUE"),
    ("file:{memory}?mode=pread&mode=pread", "mode=pread", "said twice"),
    ("file:{memory}?mode=fast", "mode=fast", "none of mapped, pread"),
    ("file:{memory}?short=cut", "short=cut", "none of zero, error"),
    ("file:{memory}?format=qcow2", "format=qcow2", "none of auto, raw"),
    ("file:{memory}?ram-start=x", "ram-start=x", "write for example 512MiB"),
    ("file:{memory}?ram-start=100", "file:{memory}?ram-start=100", "4096"),
    ("file:{memory}?depth=3", "depth=3", "they are format, ram-start, short, mode"),
    ("file:{memory},", "", "write a comma within a name as %2C"),
    ("file:{memory},x", "x", "begins with diff: or cache:; write a comma within a name as %2C"),
    ("file:{memory},file:{memory}", "file:{memory}", "only diff: and cache: lie over another"),
    ("zero:4096,zero:4096", "zero:4096", "only diff: and cache:"),
    ("diff:a", "diff:a", "write file:BASE,diff:a, or give base="),
    ("cache:", "cache:", "write file:BASE,cache:"),
    ("file:{memory},diff:", "diff:", "write diff:PATH"),
    ("file:{memory},diff:a?b=c", "b=c", "it takes none"),
    ("zero:4096?b=c", "b=c", "it takes none"),
    ("zero:", "zero:", "write for example 512MiB"),
    ("zero:0", "zero:0", "size"),
    ("zero:" + "9" * 400, "zero:" + "9" * 400, "too large"),
    ("zero:8192,diff:{memory}?x=1", "x=1", "it takes none"),
    ("file:{memory}?ram-start=4096,diff:{memory}", "diff:{memory}", "begins at offset 0"),
    ("file:{memory},cache:?chunk=5000", "cache:?chunk=5000", "power of two"),
    ("file:{memory},cache:?chunk=99999999999999999999", "chunk=99999999999999999999", "too large"),
    ("file:{memory},cache:?identity=x", "cache:?identity=x", "those of cache:DIRECTORY"),
    ("file:{memory},cache:{folder}", "cache:{folder}", "give an identity"),
    ("file:{memory},cache:{folder}?identity=", "identity=", "empty"),
    ("unix:/p", "unix:/p", "add size=, for example .size=512MiB"),
    ("tcp:a:1", "tcp:a:1", "add size="),
    ("unix:?size=4096", "unix:?size=4096", "the path is missing"),
    ("unix:{long}?size=4096", "unix:{long}?size=4096", "path"),
    ("unix:/%ff?size=4096", "unix:/%ff?size=4096", "UTF-8"),
    ("tcp:host?size=4096", "tcp:host?size=4096", "the port is missing"),
    ("tcp:host:x?size=4096", "tcp:host:x?size=4096", "no number from 0 to 65535"),
    ("tcp:::1:80?size=4096", "tcp:::1:80?size=4096", "needs brackets"),
    ("tcp:h:1?size=4096&page-size=5000", "tcp:h:1?size=4096&page-size=5000", "power of two"),
    ("tcp:h:1?size=4096&connections=many", "connections=many", "write for example 16"),
    ("tcp:h:1?size=4096&timeout=0", "timeout=0", "no number of seconds above 0"),
    ("tcp:h:1?size=4096&timeout=nan", "timeout=nan", "no number of seconds"),
    ("packed:{folder}", "packed:{folder}", "write packed:DIRECTORY#NAME .there: vm-1, vm-2"),
    ("packed:{folder}#", "packed:{folder}#", "the memory's name is missing"),
    ("packed:{folder}%23vm-1", "packed:{folder}%23vm-1", "the memory's name is missing"),
    ("packed:{folder}#a%23b", "packed:{folder}#a%23b", "the memory's name is missing"),
    ("packed:#vm-1", "packed:#vm-1", "the memory's name is missing"),
    ("packed:", "packed:", "write packed:DIRECTORY#NAME"),
    ("layers:", "layers:", "write layers:PATH"),
    ("layers:{memory}?build=x", "build=x", "they are builds, cache, UUID=ADDRESS"),
    ("layers:{memory}?1234=x", "1234=x", "they are builds, cache, UUID=ADDRESS"),
    ("layers:{memory}?builds=", "builds=", "the path is missing"),
    ("layers:{header}?" + UUID_ + "=", "", "it is empty"),
    ("layers:{header}?" + UUID_ + "=zero:x", "zero:x", "write for example 512MiB"),
    ("machine:", "machine:", "write machine:PATH"),
    ("s3://", "s3://", "names no object"),
    ("s3:x", "s3:x", "give SCHEME://BUCKET/KEY"),
    ("https://host", "https://host", "names no object"),
    ("s3://b/k?x=1", "x=1", "they are concurrency, attempts, hedge, timeout"),
    ("s3://b/k?hedge=maybe", "hedge=maybe", "none of yes, no"),
    ("s3://b/k?attempts=0", "s3://b/k?attempts=0", "at least 1"),
    ("s3://b/k#part", "s3://b/k#part", "fragment"),
    ("s3://b/%ff", "s3://b/%ff", "UTF-8"),
    ("s3://b/k,cache:?disk-size=1GiB", "s3://b/k,cache:?disk-size=1GiB", "that of cache:DIRECTORY"),
    ("s3://b/k,cache:{folder}?identity=x", "s3://b/k,cache:{folder}?identity=x", "leave identity= out"),
    ("ftp://host/file", "ftp:", "no such kind: the kinds are file:, compressed:"),
    ("File:/x", "File:", "no such kind"),
    ("nowhere.mem,diff:a", "nowhere.mem", "write file:nowhere.mem,diff:a"),
]  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    memory = tmp_path / "vm.mem"
    memory.write_bytes(b"\1" * 8192)
    (tmp_path / "snapshots").mkdir()
    for name in ("vm-1", "vm-2"):
        (tmp_path / "snapshots" / f"{name}.json").write_text("{}")
    header = tmp_path / "header"
    header.write_bytes(fixed(3, size=8192) + record(0, 8192, UUID(UUID_), 0))
    return {"memory": str(memory), "folder": str(tmp_path), "header": str(header), "long": "/x" * 200}


@pytest.mark.parametrize(("address", "part", "right"), WRONG, ids=[address[:40] for address, _, _ in WRONG])
def test_a_wrong_address_says_where_and_what_would_be_right(
    address: str, part: str, right: str, places: dict[str, str]
) -> None:
    address, part = (text.format(**places) for text in (address, part))
    with pytest.raises(SourceAddressError, match=right) as caught:
        open_source(address)
    nested = caught.value.address != address
    assert caught.value.address == (address.partition("=")[2] if nested else address)
    assert caught.value.part == part
    assert repr(part) in str(caught.value) or part in ("", caught.value.address)
    assert repr(caught.value.address) in str(caught.value)


@pytest.mark.parametrize(
    ("address", "kind", "named"),
    [
        ("{folder}/none", SourceOpenError, "none"),
        ("file:{folder}/none", SourceOpenError, "none"),
        ("zstd:{folder}/none", SourceOpenError, "none"),
        ("zstd:{memory}", SourceOpenError, "vm.mem"),
        ("packed:{folder}#none", SourceOpenError, "none"),
        ("packed:{folder}#../x", SourceOpenError, "letters, digits"),
        ("layers:{folder}/none", FileNotFoundError, "none"),
        ("layers:{memory}", LayeredHeaderError, "version"),
        ("layers:{header}", SourceOpenError, UUID_),
        ("layers:{header}?" + UUID_ + "={folder}/none", SourceOpenError, "none"),
        ("machine:{folder}", OSError, ""),
        ("{folder}", OSError, ""),
        ("unix:/nowhere/at/all?size=4096", SourceOpenError, "/nowhere/at/all"),
        ("file:{memory},diff:{folder}/none", SourceOpenError, "none"),
    ],
)
def test_what_cannot_be_opened_is_named(
    address: str, kind: type[Exception], named: str, places: dict[str, str]
) -> None:
    with pytest.raises(kind) as caught:
        open_source(address.format(**places))
    assert not isinstance(caught.value, SourceAddressError)
    assert named in str(caught.value)


@pytest.mark.parametrize("address", ["s3://bucket/key", "https://host/file", "gs://b/k,cache:"])
def test_a_store_without_its_library_names_the_line_that_installs_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_Without(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"pip install 'vmthaw\[s3\]'"):
        open_source(address)


class _Without:
    """Finds no obstore."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "obstore":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_what_is_given_must_have_its_place(places: dict[str, str]) -> None:
    with pytest.raises(SourceAddressError, match="only diff: and cache: lie over another"):
        open_source(places["memory"], base=places["memory"])
    with pytest.raises(SourceAddressError, match="builds are those of a layers:HEADER"):
        open_source(places["memory"], builds={UUID(UUID_): "x"})


def test_addresses_within_each_other_end_somewhere(places: dict[str, str]) -> None:
    with pytest.raises(SourceAddressError, match="more than 8 deep"):
        open_source(f"layers:{places['header']}?{UUID_}=" * 5000 + places["memory"])


def test_nothing_but_the_documented_errors_comes_of_noise(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing asks a network."""
    monkeypatch.chdir(tmp_path)  # a cache: makes its directory
    draw = random.Random(7)
    kinds = [f"{kind}:" for kind in (*BOTTOMS, *OVERS) if kind not in ("tcp", "s3", "s3a", "gs", "az", "azure", "abfs",
                                                                      "abfss", "http", "https")]  # fmt: skip
    pieces = [*kinds, ",", "?", "&", "=", "%", "%2", "%2C", "%00", "#", "size=4096", "mode=", "\udcff", "\n", "é",
              UUID_, places["memory"], places["header"], "builds", "0", "4KiB", "@", "//"]  # fmt: skip
    opened = 0
    for _ in range(3000):
        address = "".join(draw.choice(pieces) for _ in range(draw.randint(1, 9)))
        try:
            open_source(address).close()
            opened += 1
        except (VmthawError, OSError):
            pass
    assert opened < 3000


@pytest.mark.parametrize("address", ["/a,b", "a?b", "%", "b:c:d".replace(":", ";"), "-"])
def test_what_begins_with_no_kind_is_a_path_to_its_last_character(address: str) -> None:
    (stage,) = parse_address(address).stages
    assert (stage.kind, stage.rest, stage.options) == ("file", address, {})
