"""Two copies of everything: any one daemon may be lost for good."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import trio

from gkfs.copy_messages import NOBODY
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.faults import Kind
from gkfs.daemon.server import serve
from gkfs.daemon.views import first_views
from gkfs.hostfile import DaemonAddress
from gkfs.limits import CHUNK_SIZE_BYTES, INLINE_IO_MAX_BYTES
from tests.cluster.cluster import SILENCE_S, Client, Cluster, eventually, fails, in_cluster
from tests.rot import flip


def address(index: int, host: str) -> DaemonAddress:
    return DaemonAddress(index, host, f"tcp://{host}:1", "-")


def test_mirror_and_witness_are_on_other_hosts() -> None:
    views = first_views({index: address(index, f"node{index // 2}") for index in range(6)})
    assert [(view.primary, view.mirror, view.witness) for view in views] == [
        (0, 2, 4),
        (1, 2, 4),
        (2, 4, 0),
        (3, 4, 0),
        (4, 0, 2),
        (5, 0, 2),
    ]


def test_on_one_host_the_next_ones_are_taken() -> None:
    views = first_views({index: address(index, "node") for index in range(3)})
    assert [tuple(view)[2:] for view in views] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    (only,) = first_views({0: address(0, "node")})
    assert only.mirror == only.witness == NOBODY


async def lose(cluster: Cluster, daemon: int) -> None:
    """The daemon and all it has stored are gone for good."""
    await cluster.crash(daemon)
    shutil.rmtree(cluster.folder / f"daemon-{daemon}")


@pytest.mark.parametrize("checksums", [False, True], ids=["plain", "checksums"])
def test_what_was_acknowledged_survives_the_loss_of_a_daemon(checksums: bool, tmp_path: Path) -> None:
    in_cluster(3, replicas=2, checksums=checksums)(_survives_a_loss)(tmp_path)


async def _survives_a_loss(cluster: Cluster) -> None:
    await mirrored(cluster)
    client = cluster.client
    contents: dict[bytes, tuple[int, bytes]] = {}
    await client.mkdir(b"/dir")
    for number in range(60):
        path = b"/dir/file-%d" % number
        entry = await client.create(path)
        data = os.urandom(CHUNK_SIZE_BYTES if number % 10 == 0 else 30_000)
        await client.write(path, entry, number % 3, data)
        contents[path] = entry.fid, data
    await lose(cluster, 1)
    for number, (path, (fid, data)) in enumerate(contents.items()):
        assert (await client.stat(path)).fid == fid
        assert await client.read(fid, number % 3) == data
    assert await client.listing(b"/dir") == sorted(path.removeprefix(b"/dir/") for path in contents)
    for path in contents:
        await client.unlink(path)
    await client.rmdir(b"/dir")


@in_cluster(3, replicas=2)
async def test_nobody_notices_but_for_a_pause(cluster: Cluster) -> None:
    await mirrored(cluster)
    created: set[bytes] = set()
    lost = trio.Event()

    async def create(writer: int) -> None:
        client = Client(cluster)
        number = 0
        while not lost.is_set() or number % 50:
            path = b"/%d-%d" % (writer, number)
            await client.create(path)  # exclusively: what is repeated must not be done twice
            if number % 3 == 0:
                await client.rename(path, path + b"-renamed")
                path += b"-renamed"
            created.add(path)
            number += 1
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        for writer in range(4):
            nursery.start_soon(create, writer)
        await trio.sleep(0.5)
        await lose(cluster, 2)
        await trio.sleep(2 * SILENCE_S)
        lost.set()
    assert await cluster.client.listing(b"/") == sorted(path[1:] for path in created)


@in_cluster(3, replicas=2)
async def test_copies_are_made_again_and_another_loss_is_survived(cluster: Cluster) -> None:
    await mirrored(cluster)
    client = cluster.client
    entry = await client.create(b"/file")
    data = [os.urandom(CHUNK_SIZE_BYTES) for _ in range(8)]
    for chunk, piece in enumerate(data):
        await client.write(b"/file", entry, chunk, piece)
    await lose(cluster, 0)
    await mirrored(cluster)
    for chunk, piece in enumerate(data):
        assert await client.read(entry.fid, chunk) == piece


@in_cluster(4, replicas=2)
async def test_a_witness_is_replaced_so_that_the_next_loss_is_survived(cluster: Cluster) -> None:
    await mirrored(cluster)
    entries = [await cluster.client.create(b"/%d" % number) for number in range(20)]
    await lose(cluster, 2)  # which decides about daemon 0
    await mirrored(cluster)
    await trio.sleep(4 * SILENCE_S)
    await lose(cluster, 0)
    for number, entry in enumerate(entries):
        assert (await cluster.client.stat(b"/%d" % number)).fid == entry.fid


@pytest.mark.parametrize("is_clean", [False, True], ids=["killed", "stopped"])
def test_all_start_again_also_without_one_that_was_lost(is_clean: bool, tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await mirrored(cluster)
        entries = [await cluster.client.create(b"/%d" % number) for number in range(20)]
        await lose(cluster, 1)
        await mirrored(cluster)
        await (cluster.stop(0, 2, 3) if is_clean else cluster.crash(0, 2, 3))
        header, *_ = cluster.hostfile.read_text().splitlines(keepends=True)
        cluster.hostfile.write_text(header)
        await cluster.start(0, 2, 3)
        for number, entry in enumerate(entries):
            assert (await cluster.client.stat(b"/%d" % number)).fid == entry.fid
        await mirrored(cluster)

    in_cluster(4, replicas=2)(test)(tmp_path)


@in_cluster(3, replicas=2)
async def test_who_was_replaced_and_is_started_with_the_others_ends(cluster: Cluster) -> None:
    await mirrored(cluster)
    entries = [await cluster.client.create(b"/%d" % number) for number in range(20)]
    await cluster.crash(1)
    await mirrored(cluster)
    await cluster.stop()
    header, *_ = cluster.hostfile.read_text().splitlines(keepends=True)
    cluster.hostfile.write_text(header)
    await cluster.start(1, 0, 2)
    for number, entry in enumerate(entries):
        assert (await cluster.client.stat(b"/%d" % number)).fid == entry.fid
    await cluster.ended(1)
    await mirrored(cluster)


@in_cluster(3, replicas=2)
async def test_who_has_lost_all_of_it_takes_nothing_from_its_copy(cluster: Cluster) -> None:
    """Also when nobody has taken over yet, and on the second attempt, when there is something in its rootdir."""
    await mirrored(cluster)
    entries = [await cluster.client.create(b"/%d" % number) for number in range(20)]
    await cluster.stop()
    shutil.rmtree(cluster.folder / "daemon-1")
    header, *_ = cluster.hostfile.read_text().splitlines(keepends=True)
    for _ in range(2):
        cluster.hostfile.write_text(header)
        await cluster.start(1)
        await cluster.crash(1)
    cluster.hostfile.write_text(header)
    await cluster.start(1, 0, 2)
    await cluster.ended(1)
    for number, entry in enumerate(entries):
        assert (await cluster.client.stat(b"/%d" % number)).fid == entry.fid
    await mirrored(cluster)


@in_cluster(3, replicas=2)
async def test_a_daemon_that_is_back_at_once_goes_on(cluster: Cluster) -> None:
    await mirrored(cluster)
    entries = [await cluster.client.create(b"/%d" % number) for number in range(20)]
    for daemon in range(3):
        await cluster.crash(daemon)
        await cluster.start(daemon)
        for number, entry in enumerate(entries):
            assert (await cluster.client.stat(b"/%d" % number)).fid == entry.fid
        await mirrored(cluster)


@in_cluster(3, replicas=2)
async def test_a_daemon_that_comes_back_without_its_data_is_refused(cluster: Cluster) -> None:
    await mirrored(cluster)
    entry = await cluster.client.create(b"/file")
    await lose(cluster, cluster.client.owner(b"/file"))
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, cluster.settings(cluster.client.owner(b"/file")))
    assert "has been started before" in str(caught.value.exceptions[0])
    assert (await cluster.client.stat(b"/file")).fid == entry.fid


@in_cluster(3, replicas=2, checksums=True)
async def test_what_a_disk_has_damaged_is_mended_from_the_copy(cluster: Cluster) -> None:
    await mirrored(cluster)
    client = cluster.client
    entry = await client.create(b"/file")
    data = [bytearray(os.urandom(size)) for size in (CHUNK_SIZE_BYTES, 30_001)]
    for chunk, piece in enumerate(data):
        await client.write(b"/file", entry, chunk, bytes(piece))
    original, copy = zip(*(both(cluster, entry.fid, chunk) for chunk in range(len(data))), strict=True)
    # What is read in a large piece and in a small one; then the rest of a block that is overwritten in part.
    for path, offsets in zip(original, ((5000, 700_000), (0, 30_000)), strict=True):
        for offset in offsets:
            flip(path, offset)
    for chunk, piece in enumerate(data):
        assert await client.read(entry.fid, chunk) == piece
        assert original[chunk].read_bytes() == piece
    flip(original[0], 4096)
    await client.write(b"/file", entry, 0, b"new", offset=5000)
    data[0][5000:5003] = b"new"
    assert await client.read(entry.fid, 0, 4096, 4096) == data[0][4096:8192]
    for path in (original[0], copy[0]):
        flip(path, 9000, 2)
    flip(original[0], 100)
    with fails(errno.EIO):
        await client.read(entry.fid, 0, 8192, 4096)
    assert [fault.kind for fault in (await cluster.check()).faults] == [Kind.CHECKSUM]
    assert await client.read(entry.fid, 0, 0, 4096) == data[0][:4096]
    await client.write(b"/file", entry, 0, bytes(data[0]))
    flip(original[1], 20_000)
    assert not (await cluster.check()).faults
    assert original[1].read_bytes() == data[1]


@in_cluster(3, replicas=2, checksums=True)
async def test_damaged_block_of_which_something_stays_is_mended_first(cluster: Cluster) -> None:
    await mirrored(cluster)
    entry = await cluster.client.create(b"/file")
    data = bytearray(os.urandom(CHUNK_SIZE_BYTES))
    await cluster.client.write(b"/file", entry, 0, bytes(data))
    original, copy = both(cluster, entry.fid, 0)
    start, end = 5000, 5000 + 2 * INLINE_IO_MAX_BYTES  # a write that a thread does
    flip(original, start - 1)
    flip(original, end)
    data[start:end] = bytes(end - start)
    await cluster.client.write(b"/file", entry, 0, bytes(end - start), offset=start)
    assert original.read_bytes() == copy.read_bytes() == data
    flip(original, 700_000)
    await cluster.client.truncate(b"/file", 700_001)
    assert original.read_bytes() == copy.read_bytes() == data[:700_001]
    assert await cluster.client.read(entry.fid, 0) == data[:700_001]


def both(cluster: Cluster, fid: int, chunk: int) -> tuple[Path, Path]:
    """The files of a chunk: the original and its copy."""
    owner = cluster.distributor.chunk_owner(fid, chunk, cluster.placements[fid])
    name = file_name(fid, chunk)
    copies = cluster.folder / f"daemon-{(owner + 1) % cluster.count}" / "copies" / str(owner)
    return cluster.folder / f"daemon-{owner}" / "chunks" / name, copies / "chunks" / name


async def mirrored(cluster: Cluster) -> None:
    """Wait until every shard has a mirror."""

    async def is_so() -> bool:
        return all([(await cluster.client.status(daemon)).copies == 2 for daemon in range(cluster.count)])

    await eventually(is_so)
