"""READDIRPLUS of file systems written in Python: what a listing tells is not asked for again, nor told too late."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from tests.support.fuse_client import ROOT, Client
from tests.support.python_file_systems import DictFs
from vmthaw import FuseDispatcher, PythonFs
from vmthaw.filesystem import Attributes, FileSystem


class Listed(DictFs):
    """Counts what it is asked."""

    def getattr(self, path: PurePosixPath) -> Attributes:
        self.calls.append(f"getattr {path}")
        return super().getattr(path)


@pytest.fixture
def fs() -> Listed:
    return Listed()


@pytest.fixture
def backend(fs: Listed) -> PythonFs:
    return PythonFs(fs)


@pytest.fixture
def client(backend: PythonFs) -> Iterator[Client]:
    client = Client(FuseDispatcher(backend))
    client.init()
    for name in ("a", "b", "c"):
        node, handle = client.create(ROOT, name)
        client.release(node, handle)
        client.forget(node)
    yield client
    client.dispatcher.reset()
    assert (backend.held_nodes, backend.open_handles) == (0, 0)


def test_a_listing_with_attributes_gives_nodes_and_asks_for_nothing_else(
    client: Client, fs: Listed, backend: PythonFs
) -> None:
    fs.calls.clear()
    listed = client.listed_plus(ROOT, client.opendir(ROOT))
    assert fs.calls == []
    assert list(listed) == [".", "..", "a", "b", "c"]
    assert [listed[name][0] for name in (".", "..")] == [0, 0], "the client knows these"
    node, attributes = listed["b"]
    assert attributes.mode == stat.S_IFREG | 0o644
    assert attributes.ino == node, "the server's own number"
    assert client.lookup(ROOT, "b")[0] == node
    assert backend.held_nodes == 3
    for number, count in ((listed["a"][0], 1), (node, 2), (listed["c"][0], 1)):
        client.forget(number, count)
    assert backend.held_nodes == 0, "each was counted once, and by lookup once more"


def test_an_entry_that_does_not_fit_is_not_counted(client: Client, backend: PythonFs) -> None:
    handle = client.opendir(ROOT)
    first = client.listed_plus(ROOT, handle, size=160 * 4 - 1)
    assert list(first) == [".", "..", "a"]
    assert backend.held_nodes == 1
    assert list(client.listed_plus(ROOT, handle, offset=3)) == ["b", "c"]
    assert backend.held_nodes == 3


@pytest.mark.parametrize("change", ["unlink", "rename", "write", "chmod", "mkdir", "create"])
def test_what_was_listed_before_a_change_is_not_given_after_it(client: Client, change: str) -> None:
    handle = client.opendir(ROOT)
    client.listed_plus(ROOT, handle, size=160 * 3)
    node, file = client.lookup(ROOT, "b")[0], 0
    if change == "unlink":
        client.unlink(ROOT, "b")
    elif change == "rename":
        client.rename(ROOT, "b", ROOT, "d")
    elif change == "write":
        file = client.open(node, os.O_RDWR)
        client.write(node, file, b"more")
    elif change == "chmod":
        client.setattr(node, 1, mode=0o100600)
    elif change == "mkdir":
        client.mkdir(ROOT, "directory")
    else:
        client.create(ROOT, "new")
    rest = client.listed_plus(ROOT, handle, offset=3)
    assert {name: found[0] for name, found in rest.items()} == {"b": 0, "c": 0}
    assert stat.S_ISREG(rest["b"][1].mode), "its type is all that is said of it"
    fresh = client.listed_plus(ROOT, handle)
    assert all(found[0] for name, found in fresh.items() if name not in (".", ".."))
    assert ("b" in fresh) == (change not in ("unlink", "rename"))


def test_names_alone_come_without_nodes() -> None:
    class Names(FileSystem):
        def getattr(self, path: PurePosixPath) -> Attributes:
            return Attributes.directory()

        def readdir(self, path: PurePosixPath) -> list[str]:
            return ["x", "y"]

    backend = PythonFs(Names())
    client = Client(FuseDispatcher(backend))
    client.init()
    listed = client.listed_plus(ROOT, client.opendir(ROOT))
    assert {name: found[0] for name, found in listed.items()} == {".": 0, "..": 0, "x": 0, "y": 0}
    assert backend.held_nodes == 0


def test_an_offset_before_any_listing_is_einval(client: Client) -> None:
    with pytest.raises(OSError, match=r".") as caught:
        client.listed_plus(ROOT, client.opendir(ROOT), offset=7)
    assert caught.value.errno == errno.EINVAL


def test_the_inode_numbers_of_a_listing_are_the_file_systems_own() -> None:
    class Numbered(FileSystem):
        def getattr(self, path: PurePosixPath) -> Attributes:
            return Attributes.directory()

        def readdir(self, path: PurePosixPath) -> list[tuple[str, Any]]:
            return [("x", Attributes(mode=stat.S_IFREG | 0o600, ino=77))]

    client = Client(FuseDispatcher(PythonFs(Numbered())))
    client.init()
    assert client.listed_plus(ROOT, client.opendir(ROOT))["x"][1].ino == 77
