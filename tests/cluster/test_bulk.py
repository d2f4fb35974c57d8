"""A client without a mount: PUT, SCAN and CHECKSUM, and the calls of `gkfs.client.bulk` around them."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import mmh3
import trio

from gkfs import metadentry
from gkfs.bulk_messages import PutRequest
from gkfs.client import bulk
from gkfs.client.bulk import Bulk
from gkfs.client.scan import Attributes
from gkfs.daemon import bulk as handlers
from gkfs.daemon.faults import Kind
from gkfs.limits import CHUNK_SIZE_BYTES, INLINE_DATA_MAX_BYTES
from gkfs.messages import RenameRequest, RmdirRequest
from gkfs.operations import PUT, RENAME, RMDIR
from tests.cluster.cluster import Cluster, eventually, fails, in_cluster

T = TypeVar("T")
FILE = Attributes(stat.S_IFREG | 0o4751, 12, 34, 0, 0, 1_000_000_001, -2_000_000_003, b"", ((b"user.a", b"\0b"),))
DIRECTORY = Attributes(stat.S_IFDIR | 0o2750, 1, 2, 0, 0, 5, 6)
ROOT_FID = metadentry.ROOT_FID


async def run(cluster: Cluster, work: Callable[[Bulk], Coroutine[Any, None, T]]) -> T:
    """Do *work* as a process of its own would."""
    return await trio.to_thread.run_sync(bulk.run, cluster.hostfile, work)


@in_cluster(3)
async def test_put_makes_a_file_with_all_attributes_and_its_data(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        for size in (0, 1, INLINE_DATA_MAX_BYTES, INLINE_DATA_MAX_BYTES + 1, 200_000, CHUNK_SIZE_BYTES):
            data = os.urandom(size)
            path = b"/f%d" % size
            put = await b.put(path, ROOT_FID, FILE._replace(size=size), data)
            entry = await b.lookup(path)
            assert (put.fid, put.existing) == (entry.fid, b"")
            assert Attributes.of_entry(entry) == FILE._replace(size=size)
            assert entry.is_inline == (size <= INLINE_DATA_MAX_BYTES)
            if entry.is_inline:
                assert entry.data == data
            else:
                assert bytes((await b.read(entry.fid, entry.placement, 0, size)).data) == data
                owner = b.distributor.chunk_owner(entry.fid, 0, entry.placement)
                assert owner == b.distributor.path_owner(path), "the data is where the record is"
        await b.touch_all()

    await run(cluster, work)


@in_cluster(2)
async def test_put_leaves_what_is_there_and_shows_it(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        await b.put(b"/f", ROOT_FID, FILE._replace(size=3), b"old")
        for data in (b"new", bytes(200_000)):
            put = await b.put(b"/f", ROOT_FID, FILE._replace(size=len(data)), data)
            assert Attributes.of_entry(metadentry.decode(put.existing)) == FILE._replace(size=3)
        await b.touch_all()

    await run(cluster, work)


@in_cluster(3)
async def test_a_file_that_was_put_grows_and_goes_like_any_other(cluster: Cluster) -> None:
    chunks = [bytes([number]) * CHUNK_SIZE_BYTES for number in range(1, 9)]

    async def work(b: Bulk) -> None:
        put = await b.put(b"/f", ROOT_FID, FILE._replace(size=CHUNK_SIZE_BYTES), chunks[0])
        entry = await b.lookup(b"/f")
        for call in b.write(put.fid, entry.placement, CHUNK_SIZE_BYTES, b"".join(chunks[1:])):
            await call
        await b.extend(b"/f", put.fid, len(chunks) * CHUNK_SIZE_BYTES, sparse=False)
        for number, chunk in enumerate(chunks):
            assert (await b.read(put.fid, entry.placement, number, CHUNK_SIZE_BYTES)).data == chunk
        await b.truncate(b"/f", put.fid, 10)
        await b.unlink(b"/f", ROOT_FID)
        await b.touch_all()

    await run(cluster, work)
    await eventually(lambda: is_empty(cluster))


async def is_empty(cluster: Cluster) -> bool:
    statuses = [await cluster.client.status(daemon) for daemon in range(cluster.count)]
    return sum(status.used_bytes for status in statuses) == 0


@in_cluster(2)
async def test_entries_of_all_kinds_are_put(cluster: Cluster) -> None:
    kinds = {
        b"/directory": DIRECTORY,
        b"/symlink": Attributes(stat.S_IFLNK | 0o777, 3, 4, 0, 0, 7, 8, b"to nowhere"),
        b"/fifo": Attributes(stat.S_IFIFO | 0o600, 3, 4, 0, 0, 7, 8),
        b"/device": Attributes(stat.S_IFCHR | 0o600, 3, 4, os.makedev(1, 3), 0, 7, 8),
        b"/socket": Attributes(stat.S_IFSOCK | 0o600, 3, 4, 0, 0, 7, 8, b"", ((b"trusted.x", b""),)),
    }

    async def work(b: Bulk) -> None:
        for path, what in kinds.items():
            await b.put(path, ROOT_FID, what)
        for path, what in kinds.items():
            found = Attributes.of_entry(await b.lookup(path))
            assert found._replace(size=0) == what
        await b.touch_all()
        assert (await b.lookup(b"/")).nlink == 3

    await run(cluster, work)


@in_cluster(3)
async def test_scans_of_all_daemons_find_every_record_below_once(cluster: Cluster) -> None:
    made: set[bytes] = set()

    async def work(b: Bulk) -> None:
        fids = {b"/": ROOT_FID}
        for directory in (b"/t", b"/t/a", b"/t/a/b", b"/t0", b"/t-"):
            parent = directory.rpartition(b"/")[0] or b"/"
            fids[directory] = (await b.put(directory, fids[parent], DIRECTORY)).fid
            made.add(directory)
        crowd = b.crowd(100)

        async def put(path: bytes, fid: int) -> None:
            await b.put(path, fid, FILE)
            made.add(path)

        for number in range(3500):
            directory = (b"/t", b"/t/a/b", b"/t0", b"/t-")[number % 4]
            await crowd.start(put(directory + b"/%d\xff\n" % number, fids[directory]))
        await crowd.finish()
        await b.touch_all()
        for top in (b"/t", b"/t/a", b"/"):
            found = []
            for daemon in range(3):
                scan = b.scan(daemon, top)
                while page := await scan.page():
                    found += [path for path, _ in page]
            below = top if top == b"/" else top + b"/"
            assert sorted(found) == sorted(path for path in made if path.startswith(below))

    await run(cluster, work)


@in_cluster(2)
async def test_checksums_are_of_the_bytes_stored_and_zeros_behind(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        data = b"12345" * 2000
        fid = (await b.put(b"/f", ROOT_FID, FILE._replace(size=10_000), data)).fid
        place = metadentry.head_on(b.distributor.path_owner(b"/f"))
        found = await b.digests(
            [(fid, place, 0, 10_000), (fid, place, 0, 3), (fid, place, 0, 10_002), (fid, place, 9, 5)]
        )
        texts = [data, b"123", data + b"\0\0"]
        assert found == [*map(mmh3.mmh3_x64_128_digest, texts), b""]
        await b.touch_all()

    await run(cluster, work)


@in_cluster(2)
async def test_a_name_given_to_a_file_that_was_put_is_a_hard_link(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        fid = (await b.put(b"/f", ROOT_FID, FILE._replace(size=5), b"12345")).fid
        await b.link(b"/f", fid, b"/g", ROOT_FID)
        await b.touch_all()
        assert ((await b.lookup(b"/g")).fid, (await b.lookup(b"/f")).nlink) == (fid, 2)

    await run(cluster, work)


@in_cluster(1)
async def test_what_a_daemon_has_written_of_a_put_when_it_dies_is_gone_after_its_restart(cluster: Cluster) -> None:
    def die(self: object, *_: object) -> None:
        cluster.kill(0)
        raise OSError("killed")

    original = handlers.Bulk._keep
    handlers.Bulk._keep = die  # type: ignore[method-assign,assignment]
    try:
        data = b"12345" * 2000
        request = PutRequest(b"/f", ROOT_FID, FILE.mode, 0, 0, 0, len(data), False, 1, 2, 3, b"", [], data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ignore, cluster, request)
            await trio.sleep(0.1)
            await cluster.ended(0)
            left = list((cluster.folder / "daemon-0").rglob("*.00000000"))
            assert [path.read_bytes() for path in left] == [data]
            handlers.Bulk._keep = original  # type: ignore[method-assign]
            await cluster.start(0)
            nursery.cancel_scope.cancel()
    finally:
        handlers.Bulk._keep = original  # type: ignore[method-assign]
    report = await cluster.check()
    assert Kind.GARBAGE not in {fault.kind for fault in report.faults}
    files = [path for path in left if path.exists()]
    assert not files


async def _ignore(cluster: Cluster, request: PutRequest) -> None:
    with contextlib.suppress(OSError):
        await cluster.client.call(0, PUT, request)


@in_cluster(2)
async def test_of_two_who_put_the_same_file_one_succeeds_and_nothing_is_left_of_the_other(
    cluster: Cluster,
) -> None:
    async def work(b: Bulk) -> None:
        what = FILE._replace(size=300_000)
        calls = [b.begin_put(b"/f", ROOT_FID, what, bytes([number]) * what.size) for number in range(1, 9)]
        replies = [await call for call in calls]
        assert sum(not reply.record for reply in replies) == 1
        entry = await b.lookup(b"/f")
        assert {metadentry.fid_of(reply.record) for reply in replies if reply.record} == {entry.fid}
        b.note(b"/", ROOT_FID)
        await b.touch_all()

    await run(cluster, work)


@in_cluster(3)
async def test_nothing_is_put_into_a_directory_that_was_removed_or_renamed(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        removed = await b.put(b"/removed", ROOT_FID, DIRECTORY)
        moved = await b.put(b"/moved", ROOT_FID, DIRECTORY)
        await b.touch_all()
        await b.about(b"/removed", RMDIR, RmdirRequest(b"/removed", ROOT_FID, 1))
        await b.about(b"/moved", RENAME, RenameRequest(b"/moved", b"/elsewhere", ROOT_FID, ROOT_FID, 0, 0, 1))
        for directory, fid, error in (
            (b"/removed", removed.fid, errno.ENOENT),
            (b"/moved", moved.fid, errno.ESTALE),
        ):
            for number, size in enumerate((0, 100, 300_000)):
                with fails(error):
                    await b.put(directory + b"/%d" % number, fid, FILE._replace(size=size), bytes(size))
        b.note(b"/", ROOT_FID, -1)
        await b.touch_all()

    await run(cluster, work)


@in_cluster(1)
async def test_put_refuses_what_cannot_be(cluster: Cluster) -> None:
    wrong = (
        FILE._replace(mode=0o644),
        FILE._replace(mode=stat.S_IFLNK | 0o777),
        FILE._replace(target=b"to"),
        FILE._replace(size=2),
        FILE._replace(size=1 << 60),
        FILE._replace(xattrs=((b"", b""),)),
        DIRECTORY._replace(mode=stat.S_IFIFO | 0o600),
    )

    async def work(b: Bulk) -> None:
        for what in wrong:
            with fails(errno.EINVAL):
                await b.put(b"/f", ROOT_FID, what, b"123")
        with fails(errno.ENOSPC):
            await b.put(
                b"/f", ROOT_FID, FILE._replace(xattrs=((b"user.a", bytes(60_000)), (b"user.b", bytes(60_000))))
            )

    await run(cluster, work)


@in_cluster(2)
async def test_a_repeated_put_is_answered_as_the_first_one(cluster: Cluster) -> None:
    async def work(b: Bulk) -> None:
        call = b.begin_put(b"/f", ROOT_FID, FILE._replace(size=3), b"123")
        b.note(b"/", ROOT_FID)
        connection = b.pool._connections[b.distributor.path_owner(b"/f")]
        pieces = list(call.pieces)
        connection.channel._output += pieces  # once more, as after a connection that broke
        reply = await call
        assert (reply.fid, reply.record) == ((await b.lookup(b"/f")).fid, b"")
        await b.touch_all()

    await run(cluster, work)
