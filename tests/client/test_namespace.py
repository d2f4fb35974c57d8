"""Names below a directory that turns out to be somewhere else while its daemon is asked."""

import errno
import stat
import time
from typing import Any

import pytest
import trio

from gkfs import metadentry
from gkfs.client.context import Context, MountOptions
from gkfs.client.inodes import Inode
from gkfs.client.namespace import Namespace
from gkfs.client.touches import Touches
from gkfs.distributor import Distributor
from gkfs.messages import LookupReply
from gkfs.metadentry import Metadentry


def record(fid: int, mode: int) -> bytes:
    return metadentry.encode(Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=1))


class Scripted(Context):
    """The file of fid 3 is at /e/file; who asks elsewhere is told no, once *directory* has been moved to /e."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        self.directory = self.inodes.seen(self.inodes.root, b"d", record(2, stat.S_IFDIR | 0o755))
        self.directory.lease(time.monotonic(), granted=True)
        self.asked: list[bytes] = []
        self._moves = moves

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> LookupReply:
            self.asked.append(path)
            if path == b"/e/file":
                return LookupReply(record(3, stat.S_IFREG | 0o644), False)
            if self._moves:
                self.inodes.move(self.directory, self.inodes.root, b"e")
            raise FileNotFoundError(errno.ENOENT, "not here")

        return reply()


async def lookup(context: Scripted) -> Inode:
    return await Namespace(context, None, Touches(context)).lookup(context.directory, b"file")  # type: ignore[arg-type]


def test_a_name_is_asked_for_again_where_another_call_has_found_its_directory_meanwhile() -> None:
    context = Scripted(moves=True)
    assert trio.run(lookup, context).fid == 3
    assert context.asked == [b"/d/file", b"/e/file"]


def test_a_name_that_is_not_there_is_asked_for_once() -> None:
    context = Scripted(moves=False)
    with pytest.raises(FileNotFoundError):
        trio.run(lookup, context)
    assert context.asked == [b"/d/file"]
