"""A daemon dies at every step of an operation over several daemons; afterwards nothing is lost or left over."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gkfs import metadentry
from gkfs.messages import RENAME_EXCHANGE
from tests.cluster.cluster import Client, Cluster, in_cluster
from tests.cluster.crashes import GIVE_UP_S, crash_and_repeat, crash_at_each_step, other_owner

TREE_STRIDE = 3  # 1 takes three times as long and finds the same


async def the_one_name(client: Client, source: bytes, target: bytes) -> bytes:
    """Which of the names exists in the end; it may be both for a while, but never none."""
    assert any([await client.exists(source), await client.exists(target), await client.exists(source)])
    with contextlib.suppress(OSError):
        await client.rmdir(source)  # waits until it is decided; it is not an empty directory
    (name,) = [name for name in (source, target) if await client.exists(name)]
    return name


@pytest.mark.parametrize("who", ["coordinator", "owner of target"])
def test_renamed_file_has_exactly_one_name(who: str, tmp_path: Path) -> None:
    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        source = b"/source"
        target = other_owner(client, source, b"/target")
        watched = client.owner(source)
        victim = watched if who == "coordinator" else client.owner(target)
        fids: list[int] = []

        async def work(number: int) -> Callable[[], Awaitable[None]]:
            if number > 1:
                await check()
            entry = await client.create(source)
            await client.write(source, entry, 0, b"%d" % number)
            fids.append(entry.fid)

            async def rename() -> None:
                await client.rename(source, target, timeout_s=GIVE_UP_S)

            return rename

        async def check() -> None:
            name = await the_one_name(client, source, target)
            await client.unlink(name)
            assert await client.listing(b"/") == []

        steps = await crash_at_each_step(cluster, watched, victim, work)
        assert steps >= 4

    test(tmp_path)


@pytest.mark.parametrize("who", ["coordinator", "other"])
def test_renamed_tree_is_whole_under_one_name(who: str, tmp_path: Path) -> None:
    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        watched = client.owner(b"/source")
        victim = watched if who == "coordinator" else 1 - watched
        target = other_owner(client, b"/source", b"/target")
        inside = [b"a", b"b", b"c", b"d", b"sub"]
        below = [b"x", b"y", b"z"]

        async def work(number: int) -> Callable[[], Awaitable[None]]:
            if number > 1:
                await check()
            await client.mkdir(b"/source")
            await client.mkdir(b"/source/sub")
            for name in inside[:-1]:
                await client.create(b"/source/" + name)
            for name in below:
                await client.create(b"/source/sub/" + name)

            async def rename() -> None:
                await client.rename(b"/source", target, timeout_s=2 * GIVE_UP_S)

            return rename

        async def check() -> None:
            name = await the_one_name(client, b"/source", target)
            await client.create(name + b"/sub/probe")  # waits until the tree is unlocked
            await client.unlink(name + b"/sub/probe")
            assert await client.listing(name) == inside
            assert await client.listing(name + b"/sub") == below
            gone = target if name == b"/source" else b"/source"
            assert await client.listing(gone) == await client.listing(gone + b"/sub") == []
            for path in [b"/sub/" + leaf for leaf in below] + [b"/" + leaf for leaf in inside[:-1]]:
                await client.unlink(name + path)
            await client.rmdir(name + b"/sub")
            await client.rmdir(name)

        steps = await crash_at_each_step(cluster, watched, victim, work, TREE_STRIDE)
        assert steps >= 16

    test(tmp_path)


@pytest.mark.parametrize("victim", range(2))
def test_exchanged_trees_are_whole_under_one_name_each(victim: int, tmp_path: Path) -> None:
    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        names = (b"/one", other_owner(client, b"/one", b"/two"))
        inside = {names[0]: [b"a", b"b", b"c"], names[1]: [b"b", b"c", b"d", b"e"]}
        fids: dict[bytes, int] = {}

        async def content(name: bytes) -> list[bytes]:
            await client.create(name + b"/sub/probe")  # waits until the trees are unlocked
            await client.unlink(name + b"/sub/probe")
            assert await client.listing(name) == [b"sub"]
            return await client.listing(name + b"/sub")

        async def work(number: int) -> Callable[[], Awaitable[None]]:
            if number > 1:
                await check()
            for name, leaves in inside.items():
                fids[name] = (await client.mkdir(name)).fid
                await client.mkdir(name + b"/sub")
                for leaf in leaves:
                    await client.create(name + b"/sub/" + leaf)

            async def exchange() -> None:
                await client.rename(*names, flags=RENAME_EXCHANGE, timeout_s=2 * GIVE_UP_S)

            return exchange

        async def check() -> None:
            with contextlib.suppress(OSError):
                await client.rmdir(names[0])  # waits until it is decided; it is not empty
            found = {name: await content(name) for name in names}
            moved = found[names[0]] == inside[names[1]]
            assert found == ({names[0]: inside[names[1]], names[1]: inside[names[0]]} if moved else inside)
            assert (await client.stat(names[0])).fid == fids[names[1 if moved else 0]]
            assert (await client.stat(names[1])).fid == fids[names[0 if moved else 1]]
            for name in names:
                for leaf in found[name]:
                    await client.unlink(name + b"/sub/" + leaf)
                await client.rmdir(name + b"/sub")
                await client.rmdir(name)

        steps = await crash_at_each_step(cluster, client.owner(names[0]), victim, work, TREE_STRIDE)
        assert steps >= 16

    test(tmp_path)


@pytest.mark.parametrize("who", ["coordinator", "other"])
@pytest.mark.parametrize("kind", ["file", "tree", "removal"])
def test_repeating_client_notices_a_pause_and_nothing_else(kind: str, who: str, tmp_path: Path) -> None:
    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        source = b"/source"
        target = other_owner(client, source, b"/target")
        watched = client.owner(source)
        victim = watched if who == "coordinator" else 1 - watched

        async def move_file(number: int) -> None:
            entry = await client.create(source)
            reply = await client.rename(source, target)
            assert metadentry.decode(reply.record).fid == entry.fid
            assert not await client.exists(source)
            await client.unlink(target)

        async def move_tree(number: int) -> None:
            await client.mkdir(source)
            for name in (b"/a", b"/b", b"/c"):
                await client.create(source + name)
            await client.rename(source, target)
            assert await client.listing(target) == [b"a", b"b", b"c"]
            for name in (b"/a", b"/b", b"/c"):
                await client.unlink(target + name)
            await client.rmdir(target)

        async def remove(number: int) -> None:
            await client.mkdir(source)
            await client.rmdir(source)
            assert not await client.exists(source)

        operation = {"file": move_file, "tree": move_tree, "removal": remove}[kind]
        steps = await crash_and_repeat(cluster, watched, victim, operation, 2 if kind == "tree" else 1)
        assert steps >= 4

    test(tmp_path)


@pytest.mark.parametrize("who", ["coordinator", "other"])
def test_directory_is_removed_or_usable(who: str, tmp_path: Path) -> None:
    @in_cluster(2)
    async def test(cluster: Cluster) -> None:
        client = cluster.client
        watched = client.owner(b"/dir")
        victim = watched if who == "coordinator" else 1 - watched
        inside = [b"/dir/a", other_owner(client, b"/dir/a", b"/dir/b")]
        fids: list[int] = []

        async def work(number: int) -> Callable[[], Awaitable[None]]:
            if number > 1:
                await check()
            fids.append((await client.mkdir(b"/dir")).fid)

            async def remove() -> None:
                await client.rmdir(b"/dir", timeout_s=GIVE_UP_S)

            return remove

        async def check() -> None:
            try:
                await client.create(inside[0], parent_fid=fids[-1])  # waits until it is decided
            except FileNotFoundError:
                assert not await client.exists(b"/dir")
            else:
                assert await client.exists(b"/dir")
                await client.create(inside[1], parent_fid=fids[-1])
                for name in inside:
                    await client.unlink(name)
                await client.rmdir(b"/dir")
            for name in inside:
                with pytest.raises(FileNotFoundError):
                    await client.create(name, parent_fid=fids[-1])

        steps = await crash_at_each_step(cluster, watched, victim, work)
        assert steps >= 4

    test(tmp_path)
