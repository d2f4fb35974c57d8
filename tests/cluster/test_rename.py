"""Renames within and between daemons, of files and of trees."""

import errno
import stat
from functools import partial

import pytest
import trio

from gkfs.daemon.guards import TreeLock
from gkfs.daemon.tree import Trees
from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, Empty, ReleaseRequest
from gkfs.metadentry import ROOT_FID
from gkfs.operations import RELEASE
from gkfs.paths import key
from gkfs.peer_messages import TREE_DROP
from tests.cluster.cluster import Client, Cluster, eventually, fails, in_cluster


def names(client: Client, count: int, *, same_owner: bool) -> tuple[bytes, bytes]:
    """Two paths below the root with the same owner, or with different ones."""
    source = b"/source"
    for number in range(1000):
        target = b"/target%d" % number
        if (client.owner(source) == client.owner(target)) == same_owner:
            return source, target
    raise AssertionError(count)


async def expect(number: int, client: Client, source: bytes, target: bytes, **options: int) -> None:
    with fails(number):
        await client.rename(source, target, **options)


@in_cluster(4)
async def test_renamed_file_keeps_fid_and_data(cluster: Cluster) -> None:
    client = cluster.client
    for same_owner in (True, False):
        source, target = names(client, cluster.count, same_owner=same_owner)
        entry = await client.create(source)
        await client.write(source, entry, 0, b"contents")
        reply = await client.rename(source, target)
        assert (reply.replaced_fid, reply.kept) == (0, False)
        moved = await client.stat(target)
        assert (moved.fid, moved.size) == (entry.fid, 8)
        assert moved.version > entry.version
        assert not await client.exists(source)
        assert await client.read(moved.fid, 0) == b"contents"
        await client.unlink(target)


@in_cluster(4)
async def test_replaced_file_and_its_chunks_go(cluster: Cluster) -> None:
    client = cluster.client
    for same_owner in (True, False):
        source, target = names(client, cluster.count, same_owner=same_owner)
        old = await client.create(target)
        await client.write(target, old, 3, b"old")
        await client.create(source)
        reply = await client.rename(source, target)
        assert (reply.replaced_fid, reply.kept) == (old.fid, False)
        await client.unlink(target)


@in_cluster(4)
async def test_replaced_open_file_lives_until_release(cluster: Cluster) -> None:
    client = cluster.client
    for same_owner in (True, False):
        source, target = names(client, cluster.count, same_owner=same_owner)
        old = await client.create(target)
        await client.write(target, old, 0, b"old")
        await client.create(source)
        reply = await client.rename(source, target, open_fid=old.fid)
        assert reply.kept
        assert (await client.stat(target, old.fid)).nlink == 0
        assert await client.read(old.fid, 0) == b"old"
        await client.call(client.owner(target), RELEASE, ReleaseRequest(old.fid))
        with fails(errno.ESTALE):
            await client.stat(target, old.fid)
        await client.unlink(target)


@in_cluster(4)
async def test_refused_renames_change_nothing(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/dir")
    await client.mkdir(b"/dir/sub")
    await client.mkdir(b"/full")
    await client.create(b"/full/x")
    await client.create(b"/file")
    await client.create(b"/other")
    await expect(errno.ENOENT, client, b"/missing", b"/new")
    await expect(errno.ENOTDIR, client, b"/dir", b"/file")
    await expect(errno.EISDIR, client, b"/file", b"/dir")
    await expect(errno.ENOTEMPTY, client, b"/dir", b"/full")
    await expect(errno.ENOTEMPTY, client, b"/dir/sub", b"/dir")
    await expect(errno.EISDIR, client, b"/full/x", b"/full")
    await expect(errno.EINVAL, client, b"/dir", b"/dir/sub/new")
    await expect(errno.EEXIST, client, b"/file", b"/other", flags=RENAME_NOREPLACE)
    await expect(errno.EEXIST, client, b"/dir", b"/full", flags=RENAME_NOREPLACE)
    await expect(errno.EBUSY, client, b"/", b"/new")
    await expect(errno.EINVAL, client, b"/file", b"/new", flags=64)
    assert await client.listing(b"/") == [b"dir", b"file", b"full", b"other"]
    assert await client.listing(b"/dir") == [b"sub"]


@in_cluster(4)
async def test_rename_to_itself_changes_nothing(cluster: Cluster) -> None:
    entry = await cluster.client.create(b"/a")
    await cluster.client.rename(b"/a", b"/a")
    assert await cluster.client.stat(b"/a") == entry


@in_cluster(4)
async def test_rename_into_removed_directory_is_enoent(cluster: Cluster) -> None:
    client = cluster.client
    parent = await client.mkdir(b"/gone")
    await client.rmdir(b"/gone")
    await client.create(b"/file")
    await client.mkdir(b"/dir")
    for number in range(4):  # targets on several owners
        await expect(errno.ENOENT, client, b"/file", b"/gone/%d" % number, parent_fid=parent.fid)
        await expect(errno.ENOENT, client, b"/dir", b"/gone/%d" % number, parent_fid=parent.fid)


@in_cluster(1)
async def test_tree_moves_on_one_daemon(cluster: Cluster) -> None:
    await move_a_tree(cluster, 50)


@in_cluster(4)
async def test_tree_of_hundreds_of_entries_moves_over_four_daemons(cluster: Cluster) -> None:
    await move_a_tree(cluster, 400)


async def move_a_tree(cluster: Cluster, files: int) -> None:
    client = cluster.client
    await client.mkdir(b"/old")
    await client.mkdir(b"/old/a")
    await client.mkdir(b"/old/a/b")
    await client.create(b"/old/a/link", stat.S_IFLNK | 0o777)
    await client.create(b"/old0")  # sorts right behind the tree, and is not part of it
    folders = [b"/old", b"/old/a", b"/old/a/b"]
    created = [folders[number % 3] + b"/f%d" % number for number in range(files)]
    fids = [(await client.create(path)).fid for path in created]
    entry = await client.stat(created[0])
    await client.write(created[0], entry, 1, b"data")
    await client.mkdir(b"/new")  # an empty directory is replaced
    await client.rename(b"/old", b"/new")
    assert not await client.exists(b"/old")
    assert await client.listing(b"/old") == await client.listing(b"/old/a") == []
    for path, fid in zip(created, fids, strict=True):
        assert (await client.stat(b"/new" + path[4:])).fid == fid
    assert (await client.stat(b"/new/a/link")).target == b"elsewhere"
    assert await client.listing(b"/new/a/b") == sorted(b"f%d" % number for number in range(2, files, 3))
    assert await client.listing(b"/") == [b"new", b"old0"]


@in_cluster(4)
async def test_creation_by_old_path_of_moved_directory_is_estale(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/old")
    sub = await client.mkdir(b"/old/sub")
    await client.rename(b"/old", b"/new")
    for number in range(8):
        with fails(errno.ESTALE):
            await client.create(b"/old/sub/%d" % number, parent_fid=sub.fid)
        await client.create(b"/new/sub/%d" % number, parent_fid=sub.fid)
    with fails(errno.ESTALE):
        await client.create(b"/old/sub/dir", stat.S_IFDIR | 0o755, parent_fid=sub.fid)
    # The same path made anew is as good as any other.
    again = await client.mkdir(b"/old", parent_fid=1)
    for number in range(8):
        await client.create(b"/old/%d" % number, parent_fid=again.fid)


@in_cluster(4)
async def test_so_it_is_after_the_daemons_have_restarted(cluster: Cluster) -> None:
    client = cluster.client
    old = await client.mkdir(b"/old")
    await client.create(b"/file", parent_fid=1)
    await client.rename(b"/old", b"/new")
    await cluster.stop(*range(4))
    await cluster.start()
    for number in range(8):
        with fails(errno.ESTALE):
            await client.create(b"/old/%d" % number, parent_fid=old.fid)
        with fails(errno.ESTALE):
            await client.rename(b"/file", b"/old/%d" % number, parent_fid=old.fid)
        await client.create(b"/new/%d" % number, parent_fid=old.fid)
    assert await client.listing(b"/old") == []


@in_cluster(4)
async def test_creation_in_replaced_directory_is_enoent(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/source")
    replaced = await client.mkdir(b"/target")
    await client.rename(b"/source", b"/target")
    for number in range(8):
        with pytest.raises(FileNotFoundError):
            await client.create(b"/target/%d" % number, parent_fid=replaced.fid)


@in_cluster(1)
async def test_no_directory_leaves_by_old_path_on_one_daemon(cluster: Cluster) -> None:
    await leave_by_old_paths(cluster.client)


@in_cluster(4)
async def test_no_directory_leaves_by_old_path_on_four_daemons(cluster: Cluster) -> None:
    await leave_by_old_paths(cluster.client)


async def leave_by_old_paths(client: Client) -> None:
    """Who takes a directory for what was there before would change the link count of the wrong one."""
    for change in (b"/replace", b"/rename", b"/exchange"):
        source, target, out = change, change + b".target", change + b".out"
        await client.mkdir(source)
        old = (await client.mkdir(target)).fid
        for number in range(8):
            await client.mkdir(source + b"/%d" % number)
        if change == b"/rename":
            await client.rename(target, change + b".elsewhere")
        if change == b"/exchange":
            await client.mkdir(target + b"/0")
        await client.rename(source, target, flags=RENAME_EXCHANGE if change == b"/exchange" else 0)
        new = (await client.stat(target)).fid
        error = errno.ENOENT if change == b"/replace" else errno.ESTALE  # it is somewhere else
        for number in range(8):
            path = target + b"/%d" % number
            with fails(error):
                await client.rmdir(path, parent_fid=old)
            await expect(error, client, path, out, source_parent_fid=old, parent_fid=ROOT_FID)
            await client.rename(path, out, source_parent_fid=new, parent_fid=ROOT_FID)
            await client.rename(out, path, source_parent_fid=ROOT_FID, parent_fid=new)
            await client.rmdir(path, parent_fid=new)


@in_cluster(3)
async def test_creations_during_a_tree_rename_end_in_the_tree_or_fail(cluster: Cluster) -> None:
    client = cluster.client
    parent = await client.mkdir(b"/old")
    for number in range(150):
        await client.create(b"/old/%d" % number)
    made: list[bytes] = []

    async def create_some() -> None:
        for number in range(60):
            path = b"/old/late%d" % number
            try:
                await client.create(path, parent_fid=parent.fid)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                continue
            made.append(path)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create_some)
        nursery.start_soon(client.rename, b"/old", b"/new")
    assert await client.listing(b"/old") == []
    listed = await client.listing(b"/new")
    assert {path[5:] for path in made} <= set(listed)
    assert len(listed) == 150 + len(made)


@in_cluster(3)
async def test_crossing_renames_of_files_both_end(cluster: Cluster) -> None:
    client, other = cluster.client, Client(cluster)
    source, target = names(client, 3, same_owner=False)
    await client.create(source)
    await client.create(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rename_or_fail, client, source, target)
        nursery.start_soon(rename_or_fail, other, target, source)
    assert len(await client.listing(b"/")) == 1


@in_cluster(3)
async def test_crossing_renames_of_directories_leave_one_tree(cluster: Cluster) -> None:
    client, other = cluster.client, Client(cluster)
    for round_number in range(5):
        one, two = b"/one%d" % round_number, b"/two%d" % round_number
        fids = {name: (await client.mkdir(name)).fid for name in (one, two)}
        await client.create(one + b"/f")
        await client.create(two + b"/f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename_or_fail, client, one, two + b"/in", fids[two])
            nursery.start_soon(rename_or_fail, other, two, one + b"/in", fids[one])
        left = [name for name in (one, two) if await client.exists(name)]
        assert len(left) == 1
        assert await client.listing(left[0]) == [b"f", b"in"]


async def rename_or_fail(client: Client, source: bytes, target: bytes, parent_fid: int = 0) -> None:
    try:
        await client.rename(source, target, parent_fid=parent_fid, timeout_s=45)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE, errno.EBUSY):
            raise


@in_cluster(4)
async def test_many_clients_replace_one_file(cluster: Cluster) -> None:
    clients = [Client(cluster) for _ in range(4)]

    async def replace(number: int) -> None:
        for turn in range(10):
            source = b"/tmp%d.%d" % (number, turn)
            entry = await clients[number].create(source)
            await clients[number].write(source, entry, 0, b"%d" % number)
            await clients[number].rename(source, b"/target")

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(replace, number)
    assert await cluster.client.listing(b"/") == [b"target"]


@in_cluster(3)
async def test_a_directory_that_has_gone_is_not_vouched_for_by_its_record_that_is_yet_to_go(
    cluster: Cluster,
) -> None:
    """Daemons end a rename one after another: who has ended asks one that has not for the parent of an entry."""
    client = cluster.client
    await client.mkdir(b"/old")
    sub = await client.mkdir(b"/old/sub")
    owner = client.owner(b"/old/sub")
    path = next(name for n in range(100) if client.owner(name := b"/old/sub/%d" % n) != owner)
    original = Trees._end

    async def late(trees: Trees, intent: bytes, lock: TreeLock, step: str) -> Empty:
        if step == TREE_DROP and trees._store.get(key(b"/old/sub")) is not None:
            await trio.sleep(1.0)
        return await original(trees, intent, lock, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trees, "_end", late)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.rename, b"/old", b"/new")
            await eventually(partial(client.exists, b"/new"))
            with fails(errno.ESTALE):
                await client.create(path, parent_fid=sub.fid)
    assert await client.listing(b"/new/sub") == await client.listing(b"/old/sub") == []
