"""What `gkfs du` counts over several daemons."""

import pytest

from gkfs import hostfile
from gkfs.commands import usage
from gkfs.errors import GkfsError
from gkfs.tally import Tally
from tests.cluster.cluster import Cluster, in_cluster


async def count(cluster: Cluster, path: bytes = b"/", depth: int = 0) -> dict[bytes, Tally]:
    return (await usage.count_async(hostfile.read(cluster.hostfile), [path], depth))[0]


@in_cluster(3)
async def test_the_sum_over_all_daemons_is_what_is_there(cluster: Cluster) -> None:
    client = cluster.client
    await client.mkdir(b"/a")
    await client.mkdir(b"/a/b")
    for number in range(200):
        path = b"/a/%b%d" % (b"b/" if number % 2 else b"", number)
        entry = await client.create(path)
        if number:
            await client.write(path, entry, 0, b"x" * number)
    found = await count(cluster, depth=2)
    assert list(found) == [b"/a/b", b"/a", b"/"]  # what is below comes first
    assert [(tally.files, tally.directories) for tally in found.values()] == [(100, 1), (200, 2), (200, 3)]
    assert found[b"/"].size_bytes == sum(range(200))
    assert found[b"/a/b"].size_bytes == sum(range(1, 200, 2))
    assert sum(found[b"/"].sizes.values()) == sum(found[b"/"].ages.values()) == 200


@in_cluster(3)
async def test_a_file_with_several_names_counts_once(cluster: Cluster) -> None:
    client = cluster.client
    for directory in (b"/a", b"/b", b"/c"):
        await client.mkdir(directory)
    for number in range(5):
        first = b"/a/f%d" % number
        await client.write(first, await client.create(first), 0, b"x" * 100)
        await client.link(first, b"/b/g%d" % number)
        await client.link(first, b"/c/h%d" % number)
    found = await count(cluster, depth=1)
    assert {path: (tally.files, tally.size_bytes) for path, tally in found.items()} == {
        b"/": (5, 500),
        b"/a": (5, 500),
        b"/b": (0, 0),
        b"/c": (0, 0),
    }
    assert (await count(cluster, b"/c"))[b"/c"].size_bytes == 500


@in_cluster(2)
async def test_a_path_that_is_not_there_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(GkfsError, match="/no: no such file or directory"):
        await count(cluster, b"/no")
