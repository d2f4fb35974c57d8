"""A path may lead to another directory than who asks takes it for: then it says so, whatever is asked."""

import errno
from collections import Counter

import pytest

from gkfs.daemon.parents import Parents
from gkfs.messages import RENAME_EXCHANGE, LookupRequest
from gkfs.metadentry import ROOT_FID, Metadentry, fid_of
from gkfs.operations import LOOKUP
from tests.cluster.cluster import Client, Cluster, fails, in_cluster

FILES = [b"f%d" % number for number in range(8)]


async def lookup(client: Client, path: bytes, parent_fid: int) -> int:
    return fid_of((await client.call(client.owner(path), LOOKUP, LookupRequest(path, parent_fid))).record)


async def directory(client: Client, path: bytes) -> Metadentry:
    """A new one with FILES."""
    made = await client.mkdir(path, parent_fid=ROOT_FID)
    for name in FILES:
        await client.create(path + b"/" + name, parent_fid=made.fid)
    return made


async def by_old_paths(client: Client) -> None:
    one, other = await directory(client, b"/one"), await directory(client, b"/other")
    inside = {name: await lookup(client, b"/one/" + name, one.fid) for name in FILES}
    await client.rename(b"/one", b"/other", flags=RENAME_EXCHANGE)
    for name in FILES:
        with fails(errno.ESTALE):
            await lookup(client, b"/one/" + name, one.fid)
        with fails(errno.ESTALE):
            await client.unlink(b"/one/" + name, parent_fid=one.fid)
        for target in (b"/here", b"/one/other", b"/two", b"/three"):
            with fails(errno.ESTALE):
                await client.rename(b"/one/" + name, target, source_parent_fid=one.fid)
        assert await lookup(client, b"/other/" + name, one.fid) == inside[name]
    with fails(errno.ESTALE):
        await client.listing(b"/one", fid=one.fid)
    assert await client.listing(b"/one", fid=other.fid) == await client.listing(b"/other", fid=one.fid) == FILES
    await client.unlink(b"/other/" + FILES[0], parent_fid=one.fid)
    await client.rename(b"/other/" + FILES[1], b"/here", source_parent_fid=one.fid)
    assert (await client.stat(b"/here")).fid == inside[FILES[1]]
    assert await client.listing(b"/other", fid=one.fid) == FILES[2:]


@in_cluster(1)
async def test_nothing_is_done_in_the_other_one_on_one_daemon(cluster: Cluster) -> None:
    await by_old_paths(cluster.client)


@in_cluster(4)
async def test_nothing_is_done_in_the_other_one_on_four_daemons(cluster: Cluster) -> None:
    await by_old_paths(cluster.client)


@in_cluster(4)
async def test_so_it_is_after_the_daemons_have_restarted(cluster: Cluster) -> None:
    client = cluster.client
    one = await directory(client, b"/one")
    await directory(client, b"/other")
    await client.rename(b"/one", b"/other", flags=RENAME_EXCHANGE)
    await cluster.stop(*range(4))
    await cluster.start()
    for name in FILES:
        with fails(errno.ESTALE):
            await lookup(client, b"/one/" + name, one.fid)
        with fails(errno.ESTALE):
            await client.unlink(b"/one/" + name, parent_fid=one.fid)


@in_cluster(4)
async def test_a_directory_that_was_found_in_place_and_then_removed_is_not_the_next_one(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/d", parent_fid=ROOT_FID)
    await client.rename(b"/d", b"/elsewhere")
    removed = await directory(client, b"/d")
    for name in FILES:
        await client.unlink(b"/d/" + name, parent_fid=removed.fid)
    await client.rmdir(b"/d", parent_fid=ROOT_FID)
    await directory(client, b"/d")
    for name in FILES:
        with pytest.raises(FileNotFoundError):
            await lookup(client, b"/d/" + name, removed.fid)
        with pytest.raises(FileNotFoundError):
            await client.unlink(b"/d/" + name, parent_fid=removed.fid)
    with pytest.raises(FileNotFoundError):
        await client.listing(b"/d", fid=removed.fid)


@in_cluster(4)
async def test_each_daemon_asks_for_a_directory_once_after_each_rename(cluster: Cluster) -> None:
    client = cluster.client
    verify, asked = Parents.verify, Counter[bytes]()

    async def counted(self: Parents, path: bytes, parent_fid: int) -> None:
        asked[path.rpartition(b"/")[0]] += 1
        await verify(self, path, parent_fid)

    await client.mkdir(b"/d", parent_fid=ROOT_FID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parents, "verify", counted)
        for renamed in (b"/d", b"/unrelated"):
            await client.rename(renamed, b"/new" + renamed[1:])
            asked.clear()
            found = await directory(client, b"/d") if renamed == b"/d" else await client.stat(b"/d")
            for name in FILES:
                await lookup(client, b"/d/" + name, found.fid)
            owners = {client.owner(b"/d/" + name) for name in FILES}
            assert asked == {b"/d": len(owners)}
            if renamed == b"/d":
                await client.mkdir(b"/unrelated", parent_fid=ROOT_FID)
