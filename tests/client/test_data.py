"""Sizes of files, as a mount knows them while its daemons are asked."""

import stat
import time
from collections.abc import Coroutine
from typing import Any

from gkfs import metadentry
from gkfs.client.context import Context, MountOptions
from gkfs.client.data import FileData
from gkfs.distributor import Distributor
from gkfs.messages import RecordReply
from gkfs.metadentry import Metadentry
from gkfs.operations import EXTEND, TRUNCATE

FILE = 7


class Node(Context):
    """A mount that has written to a file of which its daemon knows less."""

    def __init__(self, known_size: int, written_size: int) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=0, gid=0, fid=FILE, now_ns=1)
        self.record = entry.changed(size=known_size, flags=0)
        self.inode = self.inodes.seen(self.inodes.root, b"file", metadentry.encode(self.record))
        self.data = FileData(self)
        self.inode.dirty = True
        self.inode.dirty_size, self.inode.dirty_mtime_ns = written_size, time.time_ns()
        self.sizes: list[int] = []  # of the file here, with each request on its way

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> RecordReply:
            assert operation in (TRUNCATE, EXTEND)
            self.sizes.append(self.inode.size)
            return RecordReply(metadentry.encode(self.record.changed(size=request.size)))

        return reply()


def run(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def test_until_a_truncation_is_done_all_that_was_written_is_there() -> None:
    node = Node(0, 20000)
    run(node.data.truncate(node.inode, 5000))
    assert node.sizes == [20000]
    assert node.inode.size == 5000


def test_what_is_published_during_a_truncation_makes_the_file_no_longer() -> None:
    node = Node(0, 20000)
    run(node.data.truncate(node.inode, 5000))
    run(node.data.publish(node.inode, ends=True))
    assert node.sizes == [20000]
    assert node.inode.size == 5000
