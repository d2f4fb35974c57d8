"""Small files, whose data are in their record, and what happens when they outgrow it."""

import errno
import time

from gkfs import metadentry
from gkfs.daemon import inline_data
from gkfs.daemon.faults import Kind
from gkfs.limits import CHUNK_SIZE_BYTES, FILE_SIZE_MAX_BYTES, INLINE_DATA_MAX_BYTES
from gkfs.messages import (
    OutgrowRequest,
    ReserveRequest,
    WriteInlineReply,
    WriteInlineRequest,
)
from gkfs.metadentry import Metadentry
from gkfs.operations import OUTGROW, RESERVE, WRITE_INLINE
from tests.cluster.cluster import Client, Cluster, eventually, fails, in_cluster

SMALL = b"0123456789" * 50


async def write(client: Client, path: bytes, fid: int, offset: int, data: bytes) -> WriteInlineReply:
    request = WriteInlineRequest(path, fid, offset, time.time_ns(), False, data)
    return await client.call(client.owner(path), WRITE_INLINE, request)


async def make(client: Client, path: bytes) -> int:
    """The fid of a new file with the contents SMALL."""
    fid = (await client.create(path)).fid
    assert (await write(client, path, fid, 0, SMALL)).written
    return fid


async def outgrow(client: Client, path: bytes, fid: int, placement: int = 0) -> Metadentry:
    reply = await client.call(client.owner(path), OUTGROW, OutgrowRequest(path, fid, placement))
    entry = metadentry.decode(reply.record)
    client.cluster.placements[fid] = entry.placement
    return entry


@in_cluster(2)
async def test_writes_go_where_their_offset_says(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/f")
    assert entry.is_inline
    for offset, data in ((10, b"ten"), (0, b"zero"), (11, b"E"), (20, b"")):
        reply = await write(client, b"/f", entry.fid, offset, data)
        assert reply.written
    found = await client.stat(b"/f")
    assert (found.data, found.size) == (b"zero\0\0\0\0\0\0tEn\0\0\0\0\0\0\0", 20)
    assert found.version > entry.version
    assert (await client.status(0)).used_bytes + (await client.status(1)).used_bytes == 0


@in_cluster(2)
async def test_what_would_be_too_large_is_not_written(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/f")
    full = bytes(INLINE_DATA_MAX_BYTES)
    assert (await write(client, b"/f", entry.fid, 0, full)).written
    for offset, data in ((1, full), (INLINE_DATA_MAX_BYTES, b"x")):
        assert not (await write(client, b"/f", entry.fid, offset, data)).written
    assert (await client.stat(b"/f")).data == full
    for offset, number in ((-1, errno.EINVAL), (FILE_SIZE_MAX_BYTES, errno.EFBIG)):
        with fails(number):
            await write(client, b"/f", entry.fid, offset, b"x")


@in_cluster(3)
async def test_data_that_move_out_are_in_the_first_chunk_for_good(cluster: Cluster) -> None:
    client = cluster.client
    for number in range(6):
        path = b"/f%d" % number
        fid = await make(client, path)
        entry = await outgrow(client, path, fid)
        assert (entry.is_inline, entry.data, entry.size) == (False, b"", len(SMALL))
        assert cluster.distributor.chunk_owner(fid, 0, entry.placement) == client.owner(path)
        assert await client.read(fid, 0) == SMALL
        assert (await outgrow(client, path, fid)).version == entry.version, "once is enough"
        assert not (await write(client, path, fid, 0, b"x")).written
        assert not (await client.truncate(path, 0, fid=fid)).is_inline
        await client.unlink(path)

    async def nothing_is_left() -> bool:
        return sum([(await client.status(daemon)).used_bytes for daemon in range(3)]) == 0

    await eventually(nothing_is_left)


@in_cluster(3)
async def test_a_file_without_data_is_placed_as_wished(cluster: Cluster) -> None:
    client = cluster.client
    for number in range(6):
        path = b"/f%d" % number
        fid = (await client.create(path)).fid
        if number % 2:
            await write(client, path, fid, 0, SMALL)
        entry = await outgrow(client, path, fid, 2)
        places = {cluster.distributor.chunk_owner(fid, chunk, entry.placement) for chunk in range(50)}
        assert places == ({0, 1, 2} if number % 2 else {1})


@in_cluster(3)
async def test_a_record_that_moved_takes_its_data_along_and_outgrows_where_it_is(cluster: Cluster) -> None:
    client = cluster.client
    for number in range(6):
        source, target = b"/s%d" % number, b"/t%d" % number
        fid = await make(client, source)
        await client.rename(source, target)
        assert (await client.stat(target)).data == SMALL
        entry = await outgrow(client, target, fid)
        assert cluster.distributor.chunk_owner(fid, 0, entry.placement) == client.owner(target)
        assert await client.read(fid, 0) == SMALL


@in_cluster(3)
async def test_a_file_with_several_names_has_its_data_in_its_record(cluster: Cluster) -> None:
    client = cluster.client
    fid = await make(client, b"/one")
    await client.link(b"/one", b"/two")
    assert (await client.inode(fid)).data == SMALL
    assert (await client.stat(b"/two")).data == b"", "a link says no more than type and fid"


@in_cluster(2)
async def test_truncation_within_the_record(cluster: Cluster) -> None:
    client = cluster.client
    for size in (0, 100, 500, INLINE_DATA_MAX_BYTES):
        path = b"/f%d" % size
        fid = await make(client, path)
        entry = await client.truncate(path, size, fid=fid)
        assert (entry.is_inline, entry.data) == (True, SMALL[:size].ljust(size, b"\0"))


@in_cluster(2)
async def test_truncation_beyond_the_record_moves_the_data_out(cluster: Cluster) -> None:
    client = cluster.client
    fid = await make(client, b"/f")
    entry = await client.truncate(b"/f", 3 * CHUNK_SIZE_BYTES, fid=fid)
    assert (entry.is_inline, entry.size, entry.flags) == (False, 3 * CHUNK_SIZE_BYTES, metadentry.FLAG_SPARSE)
    cluster.placements[fid] = entry.placement
    assert await client.read(fid, 0) == SMALL


@in_cluster(2)
async def test_appending_moves_the_data_out(cluster: Cluster) -> None:
    client = cluster.client
    fid = await make(client, b"/f")
    request = ReserveRequest(b"/f", fid, 7, time.time_ns())
    reply = await client.call(client.owner(b"/f"), RESERVE, request)
    entry = metadentry.decode(reply.record)
    assert (reply.offset, entry.size, entry.is_inline) == (len(SMALL), len(SMALL) + 7, False)
    cluster.placements[fid] = entry.placement
    assert await client.read(fid, 0) == SMALL


@in_cluster(1)
async def test_a_daemon_that_dies_while_data_move_out_has_them_where_they_were(cluster: Cluster) -> None:
    client = cluster.client
    fid = await make(client, b"/f")
    original = inline_data.InlineData.moved_out

    def die(self: inline_data.InlineData, entry: Metadentry) -> Metadentry:
        original(self, entry)
        self._storage._store.rollback()  # it dies before the commit
        cluster.kill(0)
        raise OSError("killed")

    inline_data.InlineData.moved_out = die  # type: ignore[method-assign]
    try:
        with fails(errno.EIO):
            await client.call(0, OUTGROW, OutgrowRequest(b"/f", fid, 0), 0.5)
        await cluster.ended(0)
    finally:
        inline_data.InlineData.moved_out = original  # type: ignore[method-assign]
    chunks = list((cluster.folder / "daemon-0" / "chunks").glob("*/*"))
    assert [path.read_bytes() for path in chunks] == [SMALL]
    await cluster.start(0)
    assert not list((cluster.folder / "daemon-0" / "chunks").glob("*/*"))
    assert (await client.stat(b"/f")).data == SMALL
    assert Kind.GARBAGE not in {fault.kind for fault in (await cluster.check()).faults}
    await outgrow(client, b"/f", fid)
    assert await client.read(fid, 0) == SMALL
