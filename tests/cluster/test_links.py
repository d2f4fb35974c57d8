"""Files with several names over several daemons, and what a death of each of them leaves."""

import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from stat import S_IFDIR
from typing import Any

import pytest
import trio

from gkfs import metadentry
from gkfs.daemon import name_leases, rows
from gkfs.daemon.peers import Peers
from gkfs.messages import RENAME_EXCHANGE, LinkRequest
from gkfs.metadentry import ROOT_FID
from gkfs.operations import ADOPT, LINK
from gkfs.paths import inode_address
from tests.cluster.cluster import CALL_TIMEOUT_S, Client, Cluster, eventually, fails, in_cluster
from tests.cluster.crashes import GIVE_UP_S, crash_and_repeat, crash_at_each_step, other_owner


@in_cluster(3)
async def test_the_count_is_the_number_of_names(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/a")
    for count, name in enumerate((b"/b", b"/c", b"/d"), start=2):
        assert (await client.link(b"/a", name)).nlink == count
    for count, name in ((3, b"/a"), (2, b"/c"), (1, b"/b")):
        assert (await client.unlink(name)).fid == entry.fid
        assert (await client.inode(entry.fid)).nlink == count
    await client.unlink(b"/d")
    with fails(errno.ESTALE):
        await client.inode(entry.fid)


@in_cluster(3)
async def test_what_cannot_be_linked(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(b"/a")
    await client.create(b"/b")
    directory = await client.create(b"/d", S_IFDIR | 0o755)
    with fails(errno.EEXIST):
        await client.link(b"/a", b"/b")
    with fails(errno.EPERM):
        await client.link(b"/d", b"/e")
    await client.rmdir(b"/d")
    with fails(errno.ENOENT):
        await client.link(b"/a", b"/d/a", directory.fid)
    assert (await client.inode((await client.stat(b"/a")).fid)).nlink == 1


@in_cluster(3)
async def test_renaming_one_name_over_another_of_the_same_file_changes_nothing(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/a")
    for name in (b"/b", b"/c"):
        await client.link(b"/a", name)
        reply = await client.rename(b"/a", name)
        assert reply.replaced_fid == metadentry.fid_of(reply.record) == entry.fid
    assert await client.listing(b"/") == [b"a", b"b", b"c"]
    assert (await client.inode(entry.fid)).nlink == 3


@in_cluster(3)
async def test_a_file_with_several_names_goes_with_the_last_also_by_rename(cluster: Cluster) -> None:
    client = cluster.client
    entry = await client.create(b"/a")
    await client.link(b"/a", b"/b")
    for name in (b"/x", b"/y"):
        await client.create(name)
    await client.rename(b"/x", b"/a")
    assert (await client.inode(entry.fid)).nlink == 1
    await client.rename(b"/y", b"/b", open_fid=entry.fid)
    assert (await client.inode(entry.fid)).nlink == 0  # nameless, since it is open


def spread(client: Client) -> tuple[bytes, bytes]:
    """Two names on different daemons."""
    return b"/source", other_owner(client, b"/source", b"/target")


class Work:
    """An operation on names of one file, with a check of what it left."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.source, self.target = spread(client)
        self.fid = 0

    async def prepare(self, names: int) -> None:
        """A file with so many names, the second one of them *target*."""
        entry = await self.client.create(self.source)
        await self.client.write(self.source, entry, 0, b"contents")
        self.fid = entry.fid
        for name in (self.target, b"/third")[: names - 1]:
            await self.client.link(self.source, name)

    async def names(self) -> list[bytes]:
        return [b"/" + name for name in await self.client.listing(b"/")]

    async def count(self) -> int:
        """The link count; of a file that never got a second name it is in its record."""
        try:
            return (await self.client.inode(self.fid)).nlink
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            return (await self.client.stat(self.source, self.fid)).nlink

    async def is_consistent(self) -> bool:
        """Whether the count says how many names there are."""
        try:
            fids = [(await self.client.stat(name)).fid for name in await self.names()]
            return await self.count() == fids.count(self.fid)
        except FileNotFoundError:
            return False  # a rename that nobody waits for any more has just ended

    async def clean(self) -> None:
        await eventually(self.is_consistent)
        assert (await self.client.read(self.fid, 0)) == b"contents"
        while names := await self.names():
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # it may be renamed only now
                    await self.client.unlink(name)

    # --- operations: each returns what is left of the names afterwards

    async def link(self, timeout_s: float) -> list[bytes]:
        await self.client.link(self.source, self.target, timeout_s=timeout_s)
        return [self.source, self.target]

    async def unlink(self, timeout_s: float) -> list[bytes]:
        await self.client.unlink(self.target, timeout_s=timeout_s)
        return [self.source, b"/third"]

    async def rename(self, timeout_s: float) -> list[bytes]:
        await self.client.rename(self.source, b"/moved", timeout_s=timeout_s)
        return [b"/moved", self.target]

    async def rename_over(self, timeout_s: float) -> list[bytes]:
        await self.client.rename(b"/other", self.target, timeout_s=timeout_s)
        return [self.source, self.target, b"/third"]

    async def exchange(self, timeout_s: float) -> list[bytes]:
        await self.client.rename(b"/other", self.target, flags=RENAME_EXCHANGE, timeout_s=timeout_s)
        return [b"/other", self.source, self.target]


NAMES = {"link": 1, "unlink": 3, "rename": 2, "rename_over": 3, "exchange": 2}


@pytest.mark.parametrize("kind", NAMES)
def test_a_repeating_client_notices_a_pause_and_nothing_else(kind: str, tmp_path: Path) -> None:
    @in_cluster(3)
    async def test(cluster: Cluster) -> None:
        work = Work(cluster.client)

        async def operation(number: int) -> None:
            await work.prepare(NAMES[kind])
            if kind in ("rename_over", "exchange"):
                await work.client.create(b"/other")
            left = await getattr(work, kind)(CALL_TIMEOUT_S)
            assert sorted(await work.names()) == sorted(left)
            for name in left:
                await work.client.unlink(name)

        steps = [await crash_and_repeat(cluster, victim, victim, operation) for victim in range(3)]
        assert sum(steps) >= 4

    test(tmp_path)


@pytest.mark.parametrize("victim", range(3))
@pytest.mark.parametrize("kind", NAMES)
def test_count_and_names_agree_when_the_client_gives_up(kind: str, victim: int, tmp_path: Path) -> None:
    @in_cluster(3)
    async def test(cluster: Cluster) -> None:
        work = Work(cluster.client)

        async def begin(number: int) -> Callable[[], Awaitable[None]]:
            if number > 1:
                await work.clean()
            await work.prepare(NAMES[kind])
            if kind in ("rename_over", "exchange"):
                await work.client.create(b"/other")
            return partial(getattr(work, kind), GIVE_UP_S)

        await crash_at_each_step(cluster, victim, victim, begin)

    test(tmp_path)


@pytest.mark.parametrize("kind", ["link", "rename"])
def test_who_repeats_what_a_restarted_daemon_is_still_at_is_not_told_that_it_has_not_happened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_leases, "NAMES_LEASE_S", 0.0)  # else who has just started refuses it

    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        entry = await client.create(b"/a")
        home = client.owner(b"/a" if kind == "rename" else inode_address(entry.fid))
        target = next(name for n in range(100) if client.owner(name := b"/b%d" % n) != home)
        if kind == "link":
            await client.detach(b"/a", entry.fid)
        await cluster.crash(1 - home)
        with adoption_begun() as begun, pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "LOCK_WAIT_S", 1.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_late, kind, client, entry.fid, target)
                await begun.wait()
                await cluster.crash(home)
                await cluster.start(home)
        await cluster.start(1 - home)
        await eventually(partial(client.exists, target))

    async def fail_late(kind: str, client: Client, fid: int, target: bytes) -> None:
        with fails(errno.ETIMEDOUT):
            if kind == "link":
                await client.call(
                    client.owner(inode_address(fid)), LINK, LinkRequest(fid, target, ROOT_FID, 1), CALL_TIMEOUT_S
                )
            else:
                await client.rename(b"/a", target)

    test(tmp_path)


@contextlib.contextmanager
def adoption_begun() -> Iterator[trio.Event]:
    """Set when a daemon has asked another one to take over a name: its intent is stored."""
    original, begun = Peers.call, trio.Event()

    async def call(peers: Peers, daemon: int, operation: Any, *arguments: Any) -> Any:
        if operation is ADOPT:
            begun.set()
        return await original(peers, daemon, operation, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Peers, "call", call)
        yield begun
