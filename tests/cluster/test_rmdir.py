"""Removal of directories, against creations at the same time."""

import errno

import trio

from tests.cluster.cluster import Client, Cluster, fails, in_cluster


@in_cluster(3)
async def test_empty_directory_goes(cluster: Cluster) -> None:
    directory = await cluster.client.mkdir(b"/d")
    await cluster.client.rmdir(b"/d")
    assert not await cluster.client.exists(b"/d")
    for number in range(6):
        with fails(errno.ENOENT):
            await cluster.client.create(b"/d/%d" % number, parent_fid=directory.fid)
    again = await cluster.client.mkdir(b"/d")
    await cluster.client.create(b"/d/x", parent_fid=again.fid)


@in_cluster(3)
async def test_refused_removals(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(b"/f")
    directory = await client.mkdir(b"/d")
    with fails(errno.ENOTDIR):
        await client.rmdir(b"/f")
    with fails(errno.ENOENT):
        await client.rmdir(b"/missing")
    with fails(errno.EBUSY):
        await client.rmdir(b"/")
    for number in range(6):  # the one child is on each daemon once
        child = b"/d/%d" % number
        await client.create(child, parent_fid=directory.fid)
        with fails(errno.ENOTEMPTY):
            await client.rmdir(b"/d")
        await client.create(b"/d/other", parent_fid=directory.fid)
        await client.unlink(b"/d/other")
        await client.unlink(child)
    await client.rmdir(b"/d")


@in_cluster(3)
async def test_creation_and_removal_at_once_never_leave_an_entry_without_parent(cluster: Cluster) -> None:
    client, other = cluster.client, Client(cluster)
    outcomes = set()
    for number in range(40):
        path = b"/d%d" % number
        directory = await client.mkdir(path)
        removed: list[bool] = []
        created: list[bool] = []

        async def remove(path: bytes = path, removed: list[bool] = removed) -> None:
            try:
                await client.rmdir(path)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                removed.append(False)
            else:
                removed.append(True)

        async def create(
            path: bytes = path + b"/x", fid: int = directory.fid, created: list[bool] = created
        ) -> None:
            try:
                await other.create(path, parent_fid=fid)
            except FileNotFoundError:
                created.append(False)
            else:
                created.append(True)

        async with trio.open_nursery() as nursery:
            for work in (remove, create) if number % 2 else (create, remove):
                nursery.start_soon(work)
        assert removed != created
        outcomes.add(tuple(created))
    assert outcomes == {(True,), (False,)}


@in_cluster(3)
async def test_many_removals_of_one_directory_succeed_once(cluster: Cluster) -> None:
    await cluster.client.mkdir(b"/d")
    succeeded: list[int] = []

    async def remove() -> None:
        try:
            await Client(cluster).rmdir(b"/d")
        except FileNotFoundError:
            return
        succeeded.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(remove)
    assert len(succeeded) == 1


@in_cluster(3)
async def test_directory_stays_usable_when_a_daemon_does_not_answer(cluster: Cluster) -> None:
    client = cluster.client
    directory = await client.mkdir(b"/d")
    owner = client.owner(b"/d")
    away = (owner + 1) % 3
    await cluster.stop(away)
    with fails(errno.ETIMEDOUT):
        await client.rmdir(b"/d", timeout_s=0.2)
    await cluster.crash(owner)
    await cluster.start(owner, away)
    for number in range(6):
        await client.create(b"/d/%d" % number, parent_fid=directory.fid)
