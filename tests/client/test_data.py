"""Sizes and holes of files, as a mount knows them while its daemons are asked."""

import errno
import os
import stat
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from gkfs import metadentry
from gkfs.client.context import Context, MountOptions
from gkfs.client.data import FileData
from gkfs.client.handles import FileHandle
from gkfs.client.pump import Gate, Pump
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.messages import LookupReply, ReadChunkReply, RecordReply, WhereReply
from gkfs.metadentry import Metadentry
from gkfs.operations import EXTEND, LEASE, READ_CHUNK, TRUNCATE, WHERE

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
        self.error: OSError | None = None
        self.asked: list[Any] = []
        self.sizes: list[int] = []  # of the file here, with each request on its way

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> Any:
            if operation is WHERE:
                return WhereReply([])
            self.sizes.append(self.inode.size)
            self.asked.append(request)
            if self.error is not None:
                raise self.error
            if operation is LEASE:
                return LookupReply(metadentry.encode(self.record), True)
            assert operation in (TRUNCATE, EXTEND)
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


@pytest.mark.parametrize("below", [False, True])
def test_a_file_with_a_lease_gives_it_back_before_it_is_renamed_also_when_all_is_published(below: bool) -> None:
    node = Node(0, 20000)
    node.inode.opens = 1
    node.data._writer.leases.told(node.inode, b"/file", time.monotonic(), leased=True)
    run(node.data.publish(node.inode))
    assert not node.inode.dirty
    top = node.inodes.root if below else node.inode
    if below:
        top.learn(metadentry.encode(node.record.changed(mode=stat.S_IFDIR | 0o755, fid=top.fid)))
    for _ in range(2):
        run(node.data.publish_moving((top, None)))
        assert [request.settled for request in node.asked] == [False, True], "and once only"


def test_who_renames_something_else_publishes_nothing() -> None:
    node = Node(0, 20000)
    other = node.inodes.seen(node.inodes.root, b"other", metadentry.encode(node.record.changed(fid=FILE + 1)))
    run(node.data.publish_moving((other,)))
    assert node.asked == []


class Turns(Node):
    """One whose daemon answers when it is told to, whatever was asked first."""

    def __init__(self) -> None:
        super().__init__(0, 20000)
        self.waiting: list[tuple[Any, Gate]] = []

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> Any:
            gate = Gate()
            self.waiting.append((operation, gate))
            await gate
            if self.error is not None:
                raise self.error
            return RecordReply(metadentry.encode(self.record.changed(size=request.size)))

        return reply()


def test_a_size_on_its_way_arrives_before_the_truncation_that_follows() -> None:
    """Both may wait at the daemon for who reads the file, and then be executed in any order."""
    node = Turns()
    pump = Pump()
    pump.start(node.data._publish_one(node.inode, ends=False))
    pump._run_ready()
    pump.start(node.data.truncate(node.inode, 100))
    pump._run_ready()
    assert [operation for operation, _ in node.waiting] == [EXTEND]
    node.waiting[0][1].open()
    pump._run_ready()
    assert [operation for operation, _ in node.waiting] == [EXTEND, TRUNCATE]
    pump.start(node.data.publish(node.inode))
    node.waiting[1][1].open()
    pump._run_ready()
    assert len(node.waiting) == 2
    assert node.inode.size == 100
    pump.start(node.data.truncate(node.inode, 50))
    pump._run_ready()
    node.error = os_error(errno.EIO, "/file")
    node.waiting[2][1].open()
    pump._run_ready()
    assert not node.data._telling
    pump.close()


class Chunks:
    """Daemons that have nothing of any chunk."""

    def call(self, daemon: int, operation: Any, request: Any) -> Any:
        async def reply() -> ReadChunkReply:
            assert operation is READ_CHUNK
            return ReadChunkReply(b"")

        return reply()


def reading(node: Node) -> bytes:
    node.pool = Chunks()  # type: ignore[assignment]
    handle = FileHandle(node.inode, os.O_RDONLY, direct=False, privileged=False)
    found: list[bytes] = []

    async def read() -> None:
        found.append(bytes(await node.data.read(handle, 0, 9)))

    run(read())
    return found[0]


def test_a_hole_is_read_after_a_look_whether_the_file_is_still_there() -> None:
    node = Node(100, 100)
    assert reading(node) == bytes(9)
    assert node.sizes == [100]
    assert reading(node) == bytes(9)
    assert node.sizes == [100], "under a lease nobody else removes it"


@pytest.mark.parametrize("error", [errno.ESTALE, errno.ENOENT])
def test_the_chunks_of_a_file_that_is_gone_are_no_holes(error: int) -> None:
    node = Node(100, 100)
    node.error = os_error(error, "gone")
    for _ in range(2):
        with pytest.raises(OSError, match="Stale file handle"):
            reading(node)
