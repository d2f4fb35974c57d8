"""Errors of data that was lost after its write had returned."""

import errno
import os
import stat

import pytest

from gkfs import metadentry
from gkfs.client.context import Context, MountOptions
from gkfs.client.handles import FileHandle
from gkfs.client.inodes import Inode
from gkfs.client.writing import Behind, Writer
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.metadentry import Metadentry


async def _never(inode: Inode) -> None:
    raise AssertionError


class File:
    """One whose data has failed to arrive."""

    def __init__(self) -> None:
        context = Context(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=0, gid=0, fid=7, now_ns=1)
        self.inode = context.inodes.seen(context.inodes.root, b"file", metadentry.encode(entry))
        self.inode.behind = self.behind = Behind()
        self.writer = Writer(context, _never)

    def open(self) -> FileHandle:
        return FileHandle(self.inode, os.O_WRONLY, direct=False, privileged=False)

    def fail(self) -> None:
        self.writer._failed(self.inode, self.behind, os_error(errno.ENOSPC, "/file"))

    def raises(self, handle: FileHandle, *, at_end: bool, once: bool = True) -> bool:
        try:
            self.writer.check(handle, once=once) if at_end else self.writer._raise_unknown(handle, self.behind)
        except OSError as error:
            return error.errno == errno.ENOSPC
        return False


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_write_tells_once_and_the_end_once_more(written: int) -> None:
    file = File()
    here, there = file.open(), file.open()
    for _ in range(2):
        file.fail()
        assert [file.raises(here, at_end=False) for _ in range(written)] == [True, False][:written]
        assert [file.raises(here, at_end=True) for _ in range(2)] == [True, False]
        assert not file.raises(here, at_end=False)
    assert [file.raises(there, at_end=True) for _ in range(2)] == [True, False]
    assert not file.raises(file.open(), at_end=True), "somebody has been told"


def test_who_opens_before_anybody_was_told_is() -> None:
    file = File()
    file.fail()
    assert file.raises(file.open(), at_end=True)


def test_who_starts_a_program_is_told_although_that_has_closed_what_it_did_not_get() -> None:
    file = File()
    handle = file.open()
    file.fail()
    assert [file.raises(handle, at_end=True, once=False) for _ in range(2)] == [True, True]
    assert [file.raises(handle, at_end=True) for _ in range(2)] == [True, False]
    assert not file.raises(handle, at_end=True, once=False), "fsync has told"
