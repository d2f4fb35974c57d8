"""`gkfs fsck` names each kind of fault, and nothing else; what it repairs is right afterwards.

The faults are planted in the stores of stopped daemons, which are then started again.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from gkfs import hostfile, metadentry, paths
from gkfs.commands import survey
from gkfs.commands.survey import Report
from gkfs.daemon import keys
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.faults import Kind
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.limits import CHUNK_SIZE_BYTES, FILE_SIZE_MAX_BYTES
from gkfs.metadentry import FLAG_INLINE, Metadentry
from tests.cluster.cluster import Cluster, eventually, in_cluster

LOST = 0x7_0001_0000_0001  # a fid of a daemon that does not exist


class Site:
    """The stopped file system: /d with a file of two chunks, a directory and a symbolic link in it."""

    def __init__(self, cluster: Cluster, entry: Metadentry) -> None:
        self.cluster = cluster
        self.fid = entry.fid
        self.distributor = Distributor(cluster.count)

    @contextmanager
    def store(self, daemon: int) -> Iterator[MetadataStore]:
        """Its store, to change."""
        store = MetadataStore(self.cluster.folder / f"daemon-{daemon}" / "metadata")
        try:
            yield store
            store.commit()
        finally:
            store.close()

    def put(self, path: bytes, entry: Metadentry | bytes, *, astray: bool = False) -> None:
        """Put a record, if wanted where it does not belong."""
        daemon = self.distributor.path_owner(path) ^ astray
        with self.store(daemon) as store:
            store.put(paths.key(path), entry if isinstance(entry, bytes) else metadentry.encode(entry))

    def get(self, path: bytes) -> Metadentry:
        with self.store(self.distributor.path_owner(path)) as store:
            return metadentry.decode(store.get(paths.key(path)) or b"")

    def change(self, path: bytes, **fields: object) -> None:
        self.put(path, self.get(path)._replace(**fields))  # type: ignore[arg-type]

    def delete(self, path: bytes) -> None:
        with self.store(self.distributor.path_owner(path)) as store:
            store.delete(paths.key(path))

    def set(self, daemon: int, key: bytes, value: bytes = b"") -> None:
        with self.store(daemon) as store:
            store.put(key, value)

    def chunk_file(self, daemon: int, fid: int, chunk: int) -> Path:
        return self.cluster.folder / f"daemon-{daemon}" / "chunks" / file_name(fid, chunk)

    def owner(self, fid: int, chunk: int) -> int:
        return self.distributor.chunk_owner(fid, chunk, self.cluster.placements.get(fid, 0))

    def add_chunk(self, fid: int, chunk: int, size: int, *, astray: bool = False, indexed: bool = True) -> None:
        daemon = self.owner(fid, chunk) ^ astray
        if indexed:
            self.set(daemon, keys.chunk(fid, chunk))
        self.chunk_file(daemon, fid, chunk).write_bytes(b"x" * size)

    def make_linked(self, *names: bytes, nlink: int) -> None:
        """A file with an inode record and a link under each of *names*."""
        entry = new(LOST)._replace(nlink=nlink)
        self.put(paths.inode_address(LOST), entry)
        for name in names:
            self.put(name, entry.link())


class Case(NamedTuple):
    """A planted fault, and whether a repair mends it."""

    kind: Kind
    fact: str
    mended: bool
    plant: Callable[[Site], object]


def new(fid: int, mode: int = stat.S_IFREG | 0o600) -> Metadentry:
    """A record, a file's without data in it."""
    return Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=1)._replace(flags=0)


def drop_directory(site: Site) -> None:
    site.delete(b"/d")
    site.change(b"/", nlink=2)


def put_inline(site: Site, data: bytes, size: int) -> None:
    site.put(b"/d/x", new(LOST)._replace(flags=FLAG_INLINE, data=data, size=size))


def put_inline_with_chunk(site: Site) -> None:
    put_inline(site, b"", 0)
    site.add_chunk(LOST, 3, 50)


def misplace(site: Site) -> None:
    entry = site.get(b"/d/f")
    site.delete(b"/d/f")
    site.put(b"/d/f", entry, astray=True)


def seal(site: Site) -> None:
    site.set(0, keys.seal(site.get(b"/d").fid))


def lie_in_a_file(site: Site) -> None:
    site.put(b"/d/f/below", new(LOST))


CASES = (
    # Not the record of a path: a daemon that finds one garbled does not start.
    Case(Kind.GARBLED, "file 1", False, lambda site: site.put(paths.inode_address(1), b"no record")),
    Case(Kind.GARBLED, "key 0c00", False, lambda site: site.set(0, b"\x0c\0", b"?")),
    Case(Kind.GARBLED, "key 2f612f62", False, lambda site: site.set(0, b"/a/b", metadentry.encode(new(LOST)))),
    Case(Kind.GARBLED, "key 02ff", False, lambda site: site.set(0, b"\x02\xff")),
    Case(Kind.OWNER, "/d/f", False, misplace),
    Case(Kind.PARENT, "/d, daemon", True, drop_directory),
    Case(Kind.PARENT, "/d/f, daemon", False, lie_in_a_file),
    Case(Kind.TYPE, "/d/x", False, lambda site: site.put(b"/d/x", new(LOST, 0o600))),
    Case(Kind.TYPE, "/d/f", False, lambda site: site.change(b"/d/f", flags=0x80)),
    Case(Kind.FID, "/d/l", False, lambda site: site.change(b"/d/l", fid=0)),
    Case(Kind.DUPLICATE, "/d/f on daemon", False, lambda site: site.put(b"/twin", site.get(b"/d/f"))),
    Case(Kind.LINKS, "/d, daemon", True, lambda site: site.change(b"/d", nlink=7)),
    Case(Kind.LINKS, "/d/f, daemon", True, lambda site: site.change(b"/d/f", nlink=2)),
    Case(Kind.LINKS, f"file {LOST:x}", True, lambda site: site.make_linked(b"/d/one", b"/two", nlink=3)),
    Case(Kind.DANGLING, "/d/one", True, lambda site: site.put(b"/d/one", new(LOST).link())),
    Case(Kind.UNLINKED, f"file {LOST:x}", True, lambda site: site.make_linked(nlink=2)),
    Case(Kind.TARGET, "/d/l", False, lambda site: site.change(b"/d/l", target=b"else")),
    Case(Kind.SIZE, "/d/f", False, lambda site: site.change(b"/d/f", size=FILE_SIZE_MAX_BYTES + 1)),
    Case(Kind.SIZE, "/d/f", False, lambda site: site.change(b"/d/f", data=b"not said to be here")),
    Case(Kind.SIZE, "/d/x", False, lambda site: put_inline(site, b"short", 6)),
    Case(Kind.TYPE, "/d/l", False, lambda site: site.change(b"/d/l", flags=FLAG_INLINE)),
    Case(Kind.GARBAGE, "a record without chunks", False, put_inline_with_chunk),
    Case(Kind.DEVICE, "/d/f", False, lambda site: site.change(b"/d/f", rdev=77)),
    Case(Kind.BEYOND, "/d/f: data up to byte", True, lambda site: site.change(b"/d/f", size=100)),
    Case(Kind.GARBAGE, "1 chunks, 50 bytes", True, lambda site: site.add_chunk(LOST, 3, 50)),
    Case(Kind.MISPLACED, "chunk 0 of", False, lambda site: site.add_chunk(site.fid, 0, 50, astray=True)),
    Case(Kind.OVERLONG, "chunk 0 of", False, lambda site: site.add_chunk(site.fid, 0, CHUNK_SIZE_BYTES + 1)),
    Case(Kind.UNINDEXED, "of no record", True, lambda site: site.add_chunk(LOST, 1, 9, indexed=False)),
    Case(
        Kind.FOREIGN,
        "chunks/aa/mine",
        False,
        lambda site: (site.chunk_file(0, 0xAA, 0).parent / "mine").write_bytes(b"?"),
    ),
    Case(Kind.FOREIGN, "chunks/mine", False, lambda site: (site.chunk_file(0, 0, 0).parents[1] / "mine").mkdir()),
    Case(Kind.HOLDER, f"file {LOST:x}", True, lambda site: site.set(1, keys.holder(LOST, b"c" * 16))),
    Case(Kind.SEALED, "/d, daemon", False, seal),
    Case(Kind.UNFINISHED, "intent 6969", False, lambda site: site.set(1, keys.adopted(b"i" * 16), b"\x92\0\xc2")),
)


async def check(cluster: Cluster, *, repair: bool = False) -> Report:
    return await survey.check_async(hostfile.read(cluster.hostfile), repair)


async def make_site(cluster: Cluster) -> Site:
    """A file system without fault, stopped."""
    client = cluster.client
    await client.mkdir(b"/d")
    await client.mkdir(b"/d/sub")
    entry = await client.create(b"/d/f")
    for chunk in range(2):
        await client.write(b"/d/f", entry, chunk, b"x" * 100)
    await client.create(b"/d/l", stat.S_IFLNK | 0o777)
    assert {fault.where for fault in (await check(cluster, repair=True)).faults} == {"/", "/d"}  # link counts
    report = await check(cluster)
    assert not report.faults
    assert report.summary[:4] == (5, 2, 3, 0)
    assert (report.summary.chunks, report.summary.chunk_bytes) == (2, 200)
    await cluster.stop()
    return Site(cluster, entry)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.fact}")
def test_a_fault_is_named_and_mended_or_left_alone(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "FSCK_UNFINISHED_S", 0.2)

    @in_cluster(2)
    async def run(cluster: Cluster) -> None:
        site = await make_site(cluster)
        case.plant(site)
        await cluster.start()
        (fault,) = (await check(cluster)).faults
        assert fault.kind is case.kind
        assert case.fact in str(fault)
        report = await check(cluster, repair=True)
        assert report.faults == [fault]
        if case.mended:
            assert (report.remaining, report.refused) == ([], [])
            assert not (await check(cluster)).faults
            return
        assert report.remaining == [fault]
        cluster.expected_faults.add(case.kind)

    run(tmp_path)


@in_cluster(2)
async def test_a_file_without_name_gets_one(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.make_linked(nlink=2)
    site.add_chunk(LOST, 0, 30)
    inode = site.get(paths.inode_address(LOST))._replace(size=30)
    site.put(paths.inode_address(LOST), inode)
    await cluster.start()
    assert not (await check(cluster, repair=True)).remaining
    client = cluster.client
    assert stat.S_IMODE((await client.stat(b"/lost+found")).mode) == 0o700
    assert await client.listing(b"/lost+found") == [b"#%x" % LOST]
    assert await client.read(LOST, 0) == b"x" * 30
    await cluster.stop()
    assert site.get(b"/lost+found/#%x" % LOST) == inode.link()
    assert site.get(paths.inode_address(LOST)).nlink == 1
    await cluster.start()


@in_cluster(2)
async def test_missing_directories_are_made_again(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.put(b"/gone/too/file", new(LOST))
    site.put(b"/gone/too/sub", new(LOST + 1, stat.S_IFDIR | 0o755))
    await cluster.start()
    report = await check(cluster, repair=True)
    assert [(fault.kind, fault.where) for fault in report.faults] == [(Kind.PARENT, "/gone/too")]
    assert not report.remaining
    made = [await cluster.client.stat(path) for path in (b"/gone", b"/gone/too")]
    assert [(stat.S_IMODE(entry.mode), entry.nlink) for entry in made] == [(0o700, 3), (0o700, 3)]


@in_cluster(2)
async def test_a_chunk_file_the_index_lost_is_readable_again(cluster: Cluster) -> None:
    site = await make_site(cluster)
    daemon = site.owner(site.fid, 1)
    with site.store(daemon) as store:
        store.delete(keys.chunk(site.fid, 1))
    await cluster.start()
    report = await check(cluster, repair=True)
    assert [fault.kind for fault in report.faults] == [Kind.UNINDEXED]
    assert not report.remaining
    assert await cluster.client.read(site.fid, 1) == b"x" * 100
    await cluster.client.unlink(b"/d/f")

    async def chunks_are_gone() -> bool:
        return (await check(cluster)).summary.chunks == 0

    await eventually(chunks_are_gone)


@in_cluster(2)
async def test_data_beyond_the_size_belongs_to_the_file_again(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.change(b"/d/f", size=0)
    await cluster.start()
    assert not (await check(cluster, repair=True)).remaining
    assert (await cluster.client.stat(b"/d/f")).size == CHUNK_SIZE_BYTES + 100


@in_cluster(2)
async def test_nothing_is_removed_while_a_record_cannot_be_read(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.make_linked(b"/one", b"/d/two", nlink=2)
    site.add_chunk(LOST, 0, 30)
    address = paths.inode_address(LOST)
    entry = site.get(address)._replace(size=30)
    site.put(address, b"damaged")
    await cluster.start()
    report = await check(cluster, repair=True)
    assert {fault.kind for fault in report.remaining} == {Kind.GARBLED, Kind.DANGLING, Kind.GARBAGE}
    await cluster.stop()
    site.put(address, entry)
    await cluster.start()
    assert not (await check(cluster)).faults
    assert await cluster.client.read(LOST, 0) == b"x" * 30


@in_cluster(2)
async def test_no_data_of_a_file_of_wrong_type_is_removed(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.change(b"/d/f", mode=0o644)
    await cluster.start()
    report = await check(cluster, repair=True)
    assert {fault.kind for fault in report.remaining} == {Kind.TYPE, Kind.GARBAGE}
    await cluster.stop()
    site.change(b"/d/f", mode=stat.S_IFREG | 0o644)
    await cluster.start()
    assert await cluster.client.read(site.fid, 0) == b"x" * 100


@in_cluster(2)
async def test_a_chunk_file_lost_on_a_running_daemon_shows_in_its_counter(cluster: Cluster) -> None:
    site = await make_site(cluster)
    await cluster.start()
    site.chunk_file(site.owner(site.fid, 0), site.fid, 0).unlink()
    (fault,) = (await check(cluster)).faults
    assert (fault.kind, fault.where) == (Kind.COUNTER, "bytes +100")
    assert "counts 100, 0 are there" in fault.facts or "counts 200, 100 are there" in fault.facts
    await cluster.stop()
    await cluster.start()


@in_cluster(2)
async def test_a_name_whose_record_is_elsewhere_is_not_removed(cluster: Cluster) -> None:
    site = await make_site(cluster)
    site.put(b"/one", site.get(b"/d/f").link())
    await cluster.start()
    report = await check(cluster, repair=True)
    assert [(fault.kind, fault.repairs) for fault in report.remaining] == [(Kind.DANGLING, ())]
    assert "a record elsewhere: /one" in report.remaining[0].facts
    cluster.expected_faults.add(Kind.DANGLING)
