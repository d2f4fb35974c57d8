"""Data and what becomes of it: truncation, removal, files that are open without a name."""

import contextlib
import errno
import os
import time
from pathlib import Path

import pytest
import trio

from gkfs.daemon import opens
from gkfs.limits import CHUNK_SIZE_BYTES, FILE_SIZE_MAX_BYTES
from gkfs.messages import (
    ExtendRequest,
    HoldRequest,
    ReleaseRequest,
    SyncChunksRequest,
    TruncateRequest,
    WriteChunkRequest,
)
from gkfs.operations import EXTEND, HOLD, RELEASE, SYNC_CHUNKS, TRUNCATE, WRITE_CHUNK
from tests.cluster.cluster import GRACE_S, Client, Cluster, eventually, fails, in_cluster


async def used_bytes(cluster: Cluster) -> int:
    return sum([(await cluster.client.status(daemon)).used_bytes for daemon in range(cluster.count)])


async def is_empty(cluster: Cluster) -> bool:
    return await used_bytes(cluster) == 0


@in_cluster(3)
async def test_truncation_leaves_no_old_bytes(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/f")
    for chunk in range(12):
        await client.write(b"/f", entry, chunk, b"x" * 100)
    cut = await client.truncate(b"/f", 2 * CHUNK_SIZE_BYTES + 50)
    assert cut.size == 2 * CHUNK_SIZE_BYTES + 50
    assert cut.mtime_ns == cut.ctime_ns > entry.mtime_ns
    assert await used_bytes(cluster) == 250
    assert await client.read(entry.fid, 2) == b"x" * 50
    assert await client.read(entry.fid, 3) == b""
    grown = await client.truncate(b"/f", 12 * CHUNK_SIZE_BYTES)
    assert grown.size == 12 * CHUNK_SIZE_BYTES
    assert await client.read(entry.fid, 2) == b"x" * 50
    await client.truncate(b"/f", 0)
    assert await used_bytes(cluster) == 0


@in_cluster(3)
async def test_truncation_reaches_what_only_the_caller_knows_of(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/f")
    for chunk in range(4):
        await client.write(b"/f", entry, chunk, b"x" * 100)
    await client.truncate(b"/f", 0)
    for chunk in range(4):  # as a writer that has not published its size yet
        owner = cluster.distributor.chunk_owner(entry.fid, chunk, cluster.placements[entry.fid])
        await client.call(owner, WRITE_CHUNK, WriteChunkRequest(entry.fid, chunk, 0, b"y" * 100))
    assert (await client.stat(b"/f")).size == 0
    await client.truncate(b"/f", 100, known_size=3 * CHUNK_SIZE_BYTES + 100)
    assert await used_bytes(cluster) == 100


@in_cluster(2)
async def test_impossible_sizes_are_refused(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(b"/f")
    await client.mkdir(b"/d")
    with fails(errno.EFBIG):
        await client.truncate(b"/f", FILE_SIZE_MAX_BYTES + 1)
    with fails(errno.EINVAL):
        await client.truncate(b"/f", -1)
    with fails(errno.EINVAL):
        await client.truncate(b"/d", 0)
    with fails(errno.ENOENT):
        await client.truncate(b"/missing", 0)


@in_cluster(3)
async def test_removed_file_leaves_no_chunks(cluster: Cluster) -> None:
    client = cluster.client
    for number in range(20):
        path = b"/f%d" % number
        entry = await client.create(path)
        for chunk in range(number % 7):
            await client.write(path, entry, chunk, os.urandom(1000))
        assert not (await client.unlink(path)).kept
    await eventually(lambda: is_empty(cluster))


@in_cluster(3)
async def test_unlinked_open_file_works_until_release(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/f")
    await client.write(b"/f", entry, 0, b"before")
    reply = await client.unlink(b"/f", open_fid=entry.fid)
    assert (reply.fid, reply.kept) == (entry.fid, True)
    with fails(errno.ENOENT):
        await client.stat(b"/f")
    assert (await client.stat(b"/f", entry.fid)).nlink == 0
    other = await client.create(b"/f")  # the name is free
    await client.write(b"/f", entry, 1, b"after")
    assert (await client.stat(b"/f", entry.fid)).size == CHUNK_SIZE_BYTES + 5
    assert (await client.stat(b"/f")).size == 0
    await client.truncate(b"/f", 3, fid=entry.fid)
    assert await client.read(entry.fid, 0) == b"bef"
    await cluster.stop()
    await cluster.start()
    assert (await client.stat(b"/f", entry.fid)).size == 3
    await client.call(client.owner(b"/f"), RELEASE, ReleaseRequest(entry.fid))
    await client.call(client.owner(b"/f"), RELEASE, ReleaseRequest(entry.fid))

    async def is_gone() -> bool:
        with contextlib.suppress(OSError):
            await client.stat(b"/f", entry.fid)
            return False
        return True

    await eventually(is_gone)  # a daemon that has just started waits for others who may have it open
    assert (await client.stat(b"/f")).fid == other.fid


@in_cluster(2)
async def test_a_file_stays_for_who_has_just_opened_it_also_when_its_known_holder_lets_go(
    cluster: Cluster,
) -> None:
    other = Client(cluster)
    entry = await other.create(b"/f")
    assert (await cluster.client.unlink(b"/f", open_fid=entry.fid)).kept
    await cluster.client.call(other.owner(b"/f"), RELEASE, ReleaseRequest(entry.fid))
    assert (await other.stat(b"/f", entry.fid)).nlink == 0
    assert not (await other.call(other.owner(b"/f"), HOLD, HoldRequest([b"/f"], [entry.fid]))).lost
    await trio.sleep(2 * GRACE_S)
    assert (await other.stat(b"/f", entry.fid)).nlink == 0
    await other.call(other.owner(b"/f"), RELEASE, ReleaseRequest(entry.fid))
    with fails(errno.ESTALE):
        await other.stat(b"/f", entry.fid)


@in_cluster(2)
async def test_unlinked_file_open_elsewhere_goes(cluster: Cluster) -> None:
    entry = await cluster.client.create(b"/f")
    await cluster.client.write(b"/f", entry, 0, b"data")
    assert not (await cluster.client.unlink(b"/f", open_fid=entry.fid + 1)).kept
    with fails(errno.ESTALE):
        await cluster.client.stat(b"/f", entry.fid)


@pytest.mark.parametrize("restart", [False, True])
def test_nameless_files_of_a_vanished_client_go_others_stay(
    restart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opens, "HOLDER_GONE_S", 0.4)

    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        kept = await client.create(b"/kept")
        await client.unlink(b"/kept", open_fid=kept.fid)
        async with trio.open_nursery() as nursery:
            cluster.nursery, whole = nursery, cluster.nursery
            gone = Client(cluster)
            entry = await gone.create(b"/gone")
            await gone.write(b"/gone", entry, 0, b"data")
            await gone.unlink(b"/gone", open_fid=entry.fid)
            nursery.cancel_scope.cancel()
        cluster.nursery = whole
        if restart:
            await cluster.stop()
            await cluster.start()

        async def others_are_gone() -> bool:
            await client.call(client.owner(b"/kept"), HOLD, HoldRequest([b"/kept"], [kept.fid]))
            return await is_empty(cluster)

        await eventually(others_are_gone)
        assert (await client.stat(b"/kept", kept.fid)).nlink == 0
        with fails(errno.ESTALE):
            await client.stat(b"/gone", entry.fid)
        await client.call(client.owner(b"/kept"), RELEASE, ReleaseRequest(kept.fid))

    test(tmp_path)


@in_cluster(3)
async def test_file_whose_daemon_is_away_is_reclaimed_later(cluster: Cluster) -> None:
    client = cluster.client
    path = next(b"/f%d" % n for n in range(100) if client.owner(b"/f%d" % n) == 0)
    entry = await client.create(path)
    for chunk in range(6):
        await client.write(path, entry, chunk, b"x" * 100)
    await cluster.stop(1)
    await client.unlink(path)
    await trio.sleep(0.1)
    await cluster.crash(0)
    await cluster.start(0, 1)
    await eventually(lambda: is_empty(cluster))


@in_cluster(3)
async def test_truncation_that_cannot_finish_holds_the_size_until_it_does(cluster: Cluster) -> None:
    client = cluster.client
    path = next(b"/f%d" % n for n in range(100) if client.owner(b"/f%d" % n) == 0)
    entry = await client.create(path)
    for chunk in range(12):
        await client.write(path, entry, chunk, b"x" * 100)
    await cluster.stop(1)
    request = TruncateRequest(path, 0, 0, 0, time.time_ns())
    with fails(errno.ETIMEDOUT):
        await client.call(0, TRUNCATE, request, timeout_s=0.2)
    await cluster.crash(0)
    await cluster.start(0)
    with fails(errno.ETIMEDOUT):  # waits for the cut
        await client.call(0, EXTEND, ExtendRequest(path, entry.fid, 5, 0, False, False), timeout_s=0.2)
    await cluster.start(1)
    assert (await client.stat(path)).size == 0
    await client.write(path, entry, 1, b"y" * 10)
    assert await used_bytes(cluster) == 10


@in_cluster(2)
async def test_data_can_be_synced(cluster: Cluster) -> None:
    entry = await cluster.client.create(b"/f")
    await cluster.client.write(b"/f", entry, 0, b"x" * 300_000)
    for daemon in range(2):
        await cluster.client.call(daemon, SYNC_CHUNKS, SyncChunksRequest(entry.fid))
