"""Reads of a mount whose files other nodes cut, and what it reads ahead of programs."""

import os
import stat
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gkfs import metadentry
from gkfs.channel import Call
from gkfs.client.context import Context, MountOptions
from gkfs.client.handles import FileHandle, Handles
from gkfs.client.inodes import Inode
from gkfs.client.reading import Reader
from gkfs.distributor import Distributor
from gkfs.limits import CHUNK_SIZE_BYTES, READ_AHEAD_AGE_S, READ_AHEAD_ALL_BYTES, READ_AHEAD_CHUNKS
from gkfs.messages import LookupReply, ReadChunkReply, ReadChunkRequest, RecordReply
from gkfs.metadentry import Metadentry
from gkfs.operations import LEASE, READ_CHUNK, STAT

MIB = 1 << 20
SMALL = 4096


class Daemon:
    """Files as they are on a daemon, by fid. It is the pool of the mount, too."""

    def __init__(self) -> None:
        self.records: dict[int, Metadentry] = {}
        self.chunks: dict[tuple[int, int], bytes] = {}
        self.asked: list[ReadChunkRequest] = []
        self.leases = 0
        self.granted = False
        self.before_lease: list[Callable[[], None]] = []  # one for each

    def add(self, fid: int, size: int) -> None:
        entry = Metadentry.new(mode=stat.S_IFREG | 0o644, uid=0, gid=0, fid=fid, now_ns=1)
        self.records[fid] = entry._replace(size=size, flags=0, version=1)
        self.fill(fid, size, b"a")

    def fill(self, fid: int, size: int, byte: bytes) -> None:
        whole = byte * CHUNK_SIZE_BYTES
        for start in range(0, size, CHUNK_SIZE_BYTES):
            self.chunks[fid, start // CHUNK_SIZE_BYTES] = whole[: size - start]

    def resize(self, fid: int, size: int) -> None:
        """Another node sets the size."""
        entry = self.records[fid]
        self.records[fid] = entry._replace(size=size, version=entry.version + 1)
        for key in [key for key in self.chunks if key[0] == fid]:
            left = max(0, size - key[1] * CHUNK_SIZE_BYTES)
            self.chunks[key] = self.chunks[key][:left]

    def call(self, daemon: int, operation: Any, request: Any) -> Call[Any]:
        assert operation is READ_CHUNK
        self.asked.append(request)
        data = self.chunks.get((request.fid, request.chunk), b"")
        call: Call[Any] = Call(READ_CHUNK, 1, [], 0.0)
        call.finish(ReadChunkReply(data[request.offset : request.offset + request.length]), None)
        return call

    @property
    def asked_bytes(self) -> int:
        return sum(request.length for request in self.asked)


class Node(Context):
    """A mount with that daemon."""

    def __init__(self) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        self.daemon = Daemon()
        self.pool = self.daemon  # type: ignore[assignment]
        self.reader = Reader(self)

    def file(self, fid: int, size: int) -> Inode:
        self.daemon.add(fid, size)
        return self.inodes.seen(self.inodes.root, b"%d" % fid, metadentry.encode(self.daemon.records[fid]))

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> Any:
            if operation is LEASE:
                self.daemon.leases += 1
                if self.daemon.before_lease:
                    self.daemon.before_lease.pop(0)()
                return LookupReply(metadentry.encode(self.daemon.records[request.fid]), self.daemon.granted)
            assert operation is STAT
            return RecordReply(metadentry.encode(self.daemon.records[request.fid]))

        return reply()

    def read(self, handle: FileHandle, offset: int, length: int) -> bytes:
        return bytes(finished(self.reader.read(handle, offset, length)))


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def handle_of(inode: Inode, *, direct: bool = False) -> FileHandle:
    return FileHandle(inode, os.O_RDWR, direct=direct, privileged=False)


@pytest.fixture
def node() -> Node:
    return Node()


class Clock:
    """Stands for the monotonic clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- cut elsewhere


@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("size", "offset"), [(0, 0), (100, 0), (MIB, MIB - 100), (MIB, 5 * MIB), (SMALL, 0)])
def test_what_another_node_has_cut_is_no_hole(
    size: int, offset: int, direct: bool, granted: bool, node: Node
) -> None:
    handle = handle_of(node.file(7, 10 * MIB), direct=direct)
    node.daemon.granted = granted
    node.daemon.resize(7, size)
    for _ in range(2):
        assert node.read(handle, offset, SMALL) == b"a" * max(0, min(SMALL, size - offset))


def test_what_was_cut_while_it_was_read_ahead_is_no_hole(node: Node) -> None:
    handle = handle_of(node.file(7, 10 * MIB))
    for number in range(2):
        assert len(node.read(handle, number * SMALL, SMALL)) == SMALL
    node.daemon.resize(7, MIB + 100)
    assert len(node.read(handle, MIB - SMALL, SMALL)) == SMALL
    assert node.read(handle, MIB, SMALL) == b"a" * 100
    assert node.read(handle, MIB + SMALL, SMALL) == b""


def test_a_cut_that_another_call_has_learned_meanwhile_counts(node: Node, clock: Clock) -> None:
    inode = node.file(7, 10 * MIB)
    node.daemon.resize(7, 100)
    call = node.daemon.call

    def learning(daemon: int, operation: Any, request: Any) -> Call[Any]:
        inode.learn(node.daemon.records[7])
        inode.lease(clock.now_s, granted=True)
        return call(daemon, operation, request)

    node.daemon.call = learning  # type: ignore[method-assign]
    assert node.read(handle_of(inode, direct=True), 0, SMALL) == b"a" * 100


def test_a_hole_is_zeros_up_to_what_was_written_here(node: Node) -> None:
    inode = node.file(7, 100)
    inode.dirty, inode.dirty_size = True, 3 * SMALL  # sent, and not published
    assert node.read(handle_of(inode), SMALL, MIB) == bytes(2 * SMALL)
    node.daemon.resize(7, 50)
    assert node.read(handle_of(inode), SMALL, MIB) == bytes(2 * SMALL)


def test_what_was_written_anew_while_somebody_asked_why_it_is_missing_is_read(node: Node) -> None:
    handle = handle_of(node.file(7, 10 * MIB), direct=True)
    node.daemon.resize(7, 0)

    def write() -> None:
        node.daemon.resize(7, 10 * MIB)
        node.daemon.fill(7, 10 * MIB, b"b")

    node.daemon.before_lease = [write]
    assert node.read(handle, 0, SMALL) == b"b" * SMALL


def test_who_reads_a_hole_of_a_file_that_always_changes_is_answered(node: Node) -> None:
    handle = handle_of(node.file(7, 10 * MIB), direct=True)
    node.daemon.chunks.clear()
    node.daemon.before_lease = [lambda: node.daemon.resize(7, 10 * MIB)] * 100
    assert node.read(handle, 0, SMALL) == bytes(SMALL)
    assert node.daemon.leases == 2


# --- ahead


def test_who_reads_on_has_whole_chunks_and_the_next_ones_asked_for(node: Node) -> None:
    handle = handle_of(node.file(7, 10 * MIB))
    for number in range(256):
        assert node.read(handle, number * SMALL, SMALL) == b"a" * SMALL
    assert [request.chunk for request in node.daemon.asked] == [0, *range(1 + READ_AHEAD_CHUNKS)]


def test_who_reads_and_writes_in_turns_gets_what_was_asked_for(node: Node) -> None:
    inode = node.file(7, 10 * MIB)
    handle = handle_of(inode)
    for number in range(50):
        node.read(handle, number * SMALL, SMALL)
    node.daemon.asked.clear()
    for number in range(50, 100):
        inode.data_changes += 1
        node.read(handle, number * SMALL, SMALL)
        inode.data_changes += 1
    assert node.daemon.asked_bytes == 50 * SMALL
    for number in range(100, 150):
        node.read(handle, number * SMALL, SMALL)
    assert node.daemon.asked_bytes > READ_AHEAD_CHUNKS * MIB, "who goes on reading only reads ahead again"


def test_what_another_node_has_published_is_read_anew_and_further_ahead(node: Node) -> None:
    inode = node.file(7, 10 * MIB)
    handle = handle_of(inode)
    for number in range(50):
        node.read(handle, number * SMALL, SMALL)
    node.daemon.asked.clear()
    node.daemon.resize(7, 10 * MIB)
    node.daemon.fill(7, 10 * MIB, b"b")
    inode.learn(node.daemon.records[7])
    assert node.read(handle, 50 * SMALL, SMALL) == b"b" * SMALL
    assert len(node.daemon.asked) == 1 + READ_AHEAD_CHUNKS


def kept_bytes(handles: list[FileHandle]) -> int:
    return sum(block.length for handle in handles for block in handle.ahead.blocks.values())


def read_all(node: Node, handles: list[FileHandle], reads: int) -> None:
    for number in range(reads):
        for handle in handles:
            assert len(node.read(handle, number * SMALL, SMALL)) == SMALL


@pytest.mark.parametrize("in_turns", [False, True])
def test_all_files_together_have_only_so_much_read_ahead(in_turns: bool, node: Node, clock: Clock) -> None:
    node.daemon.granted = True
    handles = [handle_of(node.file(fid, 10 * MIB)) for fid in range(7, 307)]
    node.daemon.chunks.clear()  # holes do
    if in_turns:
        read_all(node, handles, 20)
    else:
        for handle in handles:
            read_all(node, [handle], 20)
    assert READ_AHEAD_ALL_BYTES // 2 < kept_bytes(handles) <= READ_AHEAD_ALL_BYTES
    # Nobody takes away what somebody else is at: chunks would be read again and again.
    assert node.daemon.asked_bytes < 2 * READ_AHEAD_ALL_BYTES
    clock.now_s += 2 * READ_AHEAD_AGE_S
    node.read(handle_of(node.file(7, 10 * MIB)), 5 * MIB, SMALL)
    assert kept_bytes(handles) == 0, "once anybody reads anything"


def test_what_an_idle_handle_has_goes_when_others_read(node: Node, clock: Clock) -> None:
    idle, busy = (handle_of(node.file(fid, 10 * MIB)) for fid in (7, 8))
    read_all(node, [idle, busy], 40)
    before = kept_bytes([busy])
    clock.now_s += 0.75 * READ_AHEAD_AGE_S
    node.read(busy, 40 * SMALL, SMALL)
    assert kept_bytes([idle]) > 0
    clock.now_s += 0.75 * READ_AHEAD_AGE_S
    node.read(busy, 41 * SMALL, SMALL)
    assert kept_bytes([idle]) == 0
    assert kept_bytes([busy]) == before
    assert len(node.read(idle, 40 * SMALL, SMALL)) == SMALL
    assert kept_bytes([idle]) > 0, "and it goes on where it was"


def test_what_a_handle_has_goes_with_it(node: Node, clock: Clock) -> None:
    handles: Handles[FileHandle] = Handles()
    for fid in range(7, 107):
        handle = handle_of(node.file(fid, 10 * MIB))
        number = handles.add(handle)
        read_all(node, [handle], 20)
        assert kept_bytes([handle]) > READ_AHEAD_CHUNKS * MIB, "as much as for the first"
        handles.remove(number)
        assert kept_bytes([handle]) == 0


def test_who_jumps_makes_room(node: Node, clock: Clock) -> None:
    for fid in range(7, 107):
        handle = handle_of(node.file(fid, 10 * MIB))
        read_all(node, [handle], 20)
        assert kept_bytes([handle]) > READ_AHEAD_CHUNKS * MIB
        node.read(handle, 9 * MIB, SMALL)
        assert kept_bytes([handle]) == 0
