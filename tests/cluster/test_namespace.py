"""Records: creation, lookup, attributes, listing."""

import errno
import stat
import time
from pathlib import Path

import pytest

from gkfs import metadentry
from gkfs.bulk_messages import PutRequest
from gkfs.limits import FILE_SIZE_MAX_BYTES
from gkfs.messages import (
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    ExtendRequest,
    ReaddirRequest,
    ReserveRequest,
    SetattrRequest,
    TouchRequest,
)
from gkfs.metadentry import ROOT_FID, Metadentry
from gkfs.operations import CREATE, EXTEND, PUT, READDIR, RESERVE, SETATTR, TOUCH
from tests.cluster.cluster import Client, Cluster, create_request, fails, in_cluster


async def setattr_of(client: Client, path: bytes, which: int, *, fid: int = 0, **fields: int) -> Metadentry:
    values = {"mode": 0, "uid": 0, "gid": 0, "atime_ns": 0, "mtime_ns": 0, "now_ns": 5} | fields
    request = SetattrRequest(path, fid, which, **values)
    return metadentry.decode((await client.call(client.owner(path), SETATTR, request)).record)


@in_cluster(3)
async def test_root_exists_from_the_first_start(cluster: Cluster) -> None:
    root = await cluster.client.stat(b"/")
    assert root.fid == ROOT_FID
    assert root.mode == stat.S_IFDIR | 0o755
    await cluster.stop()
    await cluster.start()
    assert await cluster.client.stat(b"/") == root


@in_cluster(3)
async def test_nothing_is_made_where_nobody_would_look_for_it(cluster: Cluster) -> None:
    client, path = cluster.client, b"/misplaced"
    owner = client.owner(path)
    create = create_request(path)
    put = PutRequest(path, 1, create.mode, 1, 2, 0, 4, False, 1, 1, 1, b"", [], b"data")
    for daemon in range(3):
        if daemon != owner:
            with fails(errno.EINVAL):
                await client.call(daemon, CREATE, create)
            with fails(errno.EINVAL):
                await client.call(daemon, PUT, put)
    for daemon in range(3):
        assert (await client.call(daemon, READDIR, ReaddirRequest(b"/", 0, b"", 100))).names == []
    assert (await client.call(owner, PUT, put)).record == b""


@in_cluster(3)
async def test_every_kind_of_entry_is_kept_as_created(cluster: Cluster) -> None:
    client = cluster.client
    for number, kind in enumerate(
        (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
    ):
        rdev = 77 if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        request = create_request(b"/e%d" % number, kind | 0o640)._replace(rdev=rdev)
        reply = await client.call(client.owner(request.path), CREATE, request)
        assert reply.created
        entry = await client.stat(request.path)
        assert reply.record == metadentry.encode(entry)
        assert (entry.mode, entry.uid, entry.gid, entry.rdev) == (kind | 0o640, 1000, 1000, rdev)
        assert entry.atime_ns == entry.mtime_ns == entry.ctime_ns == request.now_ns
        assert (entry.nlink, entry.target) == (
            (2, b"") if kind == stat.S_IFDIR else (1, b"elsewhere" if kind == stat.S_IFLNK else b"")
        )


@in_cluster(2)
async def test_existing_entry_is_eexist_or_returned_as_it_is(cluster: Cluster) -> None:
    client = cluster.client
    directory = await client.mkdir(b"/d")
    with fails(errno.EEXIST):
        await client.create(b"/d")
    assert await client.create(b"/d", exclusive=False) == directory


@in_cluster(2)
async def test_entry_without_type_or_with_wrong_target_is_einval(cluster: Cluster) -> None:
    client = cluster.client
    for request in (
        create_request(b"/x", 0o644),
        create_request(b"/x")._replace(target=b"target"),
        create_request(b"/x", stat.S_IFLNK | 0o777)._replace(target=b""),
        create_request(b"/x", stat.S_IFLNK | 0o777)._replace(target=b"x" * 4096),
    ):
        with fails(errno.EINVAL):
            await client.call(client.owner(b"/x"), CREATE, request)
    assert not await client.exists(b"/x")


@in_cluster(2)
async def test_path_that_holds_another_file_is_estale(cluster: Cluster) -> None:
    client = cluster.client
    old = await client.create(b"/a")
    await client.unlink(b"/a")
    with fails(errno.ENOENT):
        await client.stat(b"/a")
    new = await client.create(b"/a")
    assert new.fid != old.fid
    with fails(errno.ESTALE):
        await client.stat(b"/a", old.fid)
    with fails(errno.ESTALE):
        await setattr_of(client, b"/a", SET_MODE, fid=old.fid)
    with fails(errno.ESTALE):
        await client.call(client.owner(b"/a"), TOUCH, TouchRequest(b"/a", old.fid, 5, 0))


@in_cluster(2)
async def test_removal_of_missing_path_is_enoent_and_of_directory_eisdir(cluster: Cluster) -> None:
    with fails(errno.ENOENT):
        await cluster.client.unlink(b"/a")
    await cluster.client.mkdir(b"/a")
    with fails(errno.EISDIR):
        await cluster.client.unlink(b"/a")


@in_cluster(2)
async def test_setattr_changes_what_is_asked_and_ctime(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/a", stat.S_IFREG | 0o4755)
    changed = await setattr_of(client, b"/a", SET_MODE, mode=0o6711)
    assert changed == entry._replace(mode=stat.S_IFREG | 0o6711, ctime_ns=5, version=entry.version + 1)
    times = await setattr_of(client, b"/a", SET_ATIME | SET_MTIME, atime_ns=-7, mtime_ns=8, now_ns=9)
    assert (times.atime_ns, times.mtime_ns, times.ctime_ns, times.mode) == (-7, 8, 9, changed.mode)
    assert (await setattr_of(client, b"/a", 0, now_ns=10)) == times._replace(
        ctime_ns=10, version=times.version + 1
    )
    with fails(errno.EINVAL):
        await setattr_of(client, b"/a", 64)


@pytest.mark.parametrize(
    ("mode", "kept"), [(0o6755, 0o755), (0o6745, 0o2745), (0o4711, 0o711), (0o2644, 0o2644), (0o1777, 0o1777)]
)
def test_chown_clears_set_id_bits_of_files(mode: int, kept: int, tmp_path: Path) -> None:
    @in_cluster(1)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        await client.create(b"/f", stat.S_IFREG | mode)
        await client.create(b"/d", stat.S_IFDIR | mode)
        for which in (SET_UID, SET_GID):
            entry = await setattr_of(client, b"/f", which, uid=3, gid=4)
            assert entry.mode == stat.S_IFREG | kept
        assert (entry.uid, entry.gid) == (3, 4)
        assert (await setattr_of(client, b"/f", SET_UID | SET_MODE, mode=mode)).mode == stat.S_IFREG | mode
        assert (await setattr_of(client, b"/d", SET_UID)).mode == stat.S_IFDIR | mode

    test(tmp_path)


@in_cluster(2)
async def test_extension_only_grows(cluster: Cluster) -> None:
    client = cluster.client
    created = await client.create(b"/a")
    later_ns = created.mtime_ns + 10

    async def extend(size: int, mtime_ns: int) -> Metadentry:
        request = ExtendRequest(b"/a", created.fid, size, mtime_ns, False, False)
        return metadentry.decode((await client.call(client.owner(b"/a"), EXTEND, request)).record)

    grown = await extend(100, later_ns)
    assert (grown.size, grown.mtime_ns, grown.ctime_ns) == (100, later_ns, later_ns)
    # Only the version: it tells other nodes that data was written, even by one whose clock is behind.
    assert await extend(50, later_ns - 5) == grown._replace(version=grown.version + 1)
    assert (await extend(50, later_ns + 1)).size == 100
    assert (await extend(FILE_SIZE_MAX_BYTES, 0)).size == FILE_SIZE_MAX_BYTES
    with fails(errno.EINVAL):
        await client.mkdir(b"/d")
        await client.call(client.owner(b"/d"), EXTEND, ExtendRequest(b"/d", 0, 1, 1, False, False))


@in_cluster(2)
async def test_reservations_do_not_overlap(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(b"/log")
    offsets = []
    for length in (10, 20, 0, 5):
        reply = await client.call(
            client.owner(b"/log"), RESERVE, ReserveRequest(b"/log", 0, length, time.time_ns())
        )
        offsets.append(reply.offset)
    assert offsets == [0, 10, 30, 30]
    assert (await client.stat(b"/log")).size == 35
    with fails(errno.EFBIG):
        await client.call(client.owner(b"/log"), RESERVE, ReserveRequest(b"/log", 0, FILE_SIZE_MAX_BYTES, 0))


@in_cluster(2)
async def test_touch_moves_times_forward_and_counts_directories(cluster: Cluster) -> None:
    client = cluster.client
    directory = await client.mkdir(b"/d")

    async def touch(mtime_ns: int, subdirectories: int) -> Metadentry:
        await client.call(client.owner(b"/d"), TOUCH, TouchRequest(b"/d", directory.fid, mtime_ns, subdirectories))
        return await client.stat(b"/d")

    assert await touch(0, 0) == directory
    entry = await touch(directory.mtime_ns + 7, 3)
    assert (entry.mtime_ns, entry.ctime_ns, entry.nlink) == (directory.mtime_ns + 7, directory.mtime_ns + 7, 5)
    entry = await touch(5, -10)  # another node tells later what it had made before
    assert (entry.mtime_ns, metadentry.shown_links(entry)) == (directory.mtime_ns + 7, 2)
    assert (await touch(5, 7)).nlink == 2


@in_cluster(3)
async def test_listing_in_pages_is_complete_and_ascending(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/d")
    await client.mkdir(b"/d/sub")
    await client.create(b"/d/sub/deep")
    await client.create(b"/d0")
    names = sorted([b"sub", b"%", b"\xff\xfe", b"a b", *(b"f%d" % number for number in range(100))])
    for name in names[:]:
        if name != b"sub":
            await client.create(b"/d/" + name)
    for page in (1, 7, 1000):
        assert await client.listing(b"/d", page) == names
    assert await client.listing(b"/") == [b"d", b"d0"]
    assert await client.listing(b"/missing") == []
    reply = await client.call(client.owner(b"/d/sub"), READDIR, ReaddirRequest(b"/d", 0, b"stop", 1))
    assert reply.names == [b"sub"]
    assert metadentry.decode(reply.records[0]).is_directory


@in_cluster(1)
async def test_listing_of_long_entries_fits_into_messages(cluster: Cluster) -> None:
    client = cluster.client
    names = [b"%03d" % number for number in range(200)]
    for name in names:
        request = create_request(b"/" + name, stat.S_IFLNK | 0o777)._replace(target=b"t" * 4095)
        await client.call(0, CREATE, request)
    assert await client.listing(b"/") == names
