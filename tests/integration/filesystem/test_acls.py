"""POSIX ACLs of a passthrough's files: the client's kernel could not check them, so it never hears of them."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from vmthaw.fuse import FuseServer, PassthroughFs

pytestmark = pytest.mark.usefixtures("fuse_available")

NAME = "system.posix_acl_access"
NOBODY = 2**32 - 1
# Version 2; the owner rw-, user 1234 rwx, the group r--, the mask rw-, others r--: <linux/posix_acl_xattr.h>.
ENTRIES = [(0x01, 6, NOBODY), (0x02, 7, 1234), (0x04, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 4, NOBODY)]
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)


def test_acls_of_the_host_are_neither_shown_nor_changed(tmp_path: Path) -> None:
    backing, where = tmp_path / "backing", tmp_path / "mount"
    backing.mkdir()
    where.mkdir()
    own, shown = backing / "file", where / "file"
    own.touch()
    try:
        os.setxattr(own, NAME, ACL)
    except OSError:
        pytest.skip("the temporary directory's file system has no ACLs")
    with FuseServer(PassthroughFs(backing), where):
        assert NAME not in os.listxattr(shown)
        for call in (
            lambda: os.getxattr(shown, NAME),
            lambda: os.setxattr(shown, NAME, ACL),
            lambda: os.removexattr(shown, NAME),
        ):
            with pytest.raises(OSError, match=r".") as caught:
                call()
            assert caught.value.errno == errno.EOPNOTSUPP
    assert os.getxattr(own, NAME) == ACL
