"""What `gkfs fsck` asks of a daemon: pages of its stores as they are, and changes made whole or not at all."""

import errno
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gkfs import metadentry, paths
from gkfs.audit_messages import (
    AuditFilesRequest,
    AuditStoreReply,
    AuditStoreRequest,
    MendRequest,
)
from gkfs.daemon import audit, keys
from gkfs.daemon.audit import Audit
from gkfs.daemon.chunk_files import file_name
from gkfs.daemon.guards import Blocked, Guards
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.metadentry import Metadentry

SESSION = Session(b"c" * 16, "control")
A, B = paths.key(b"/a"), paths.key(b"/b")


def record(fid: int, mode: int = stat.S_IFREG | 0o600) -> bytes:
    return metadentry.encode(Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=1))


class Daemon:
    """Stores in *folder* and what serves them."""

    def __init__(self, folder: Path) -> None:
        self.chunks = folder / "chunks"
        self.store = MetadataStore(folder / "metadata")
        self.storage = ChunkStorage(self.chunks, self.store)
        self.guards = Guards()
        self.audit = Audit(self.store, self.storage, self.guards, lambda: None, self.chunks)

    def mend(self, *changes: tuple[bytes, bytes | None, bytes | None]) -> None:
        """Make *changes* of (key, expected, value) as the dispatcher does."""
        found, expected, values = map(list, zip(*changes, strict=True))
        self.audit.mend(SESSION, MendRequest(found, expected, values))
        self.store.commit()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.storage.close()
    made.store.close()


def test_pages_hold_every_key_once_whatever_their_size(daemon: Daemon) -> None:
    values = {b"/\0%06d" % number: record(number + 2) for number in range(2500)}
    long = metadentry.encode(
        Metadentry.new(mode=stat.S_IFLNK | 0o777, uid=0, gid=0, fid=9999, now_ns=1, target=b"t" * 4095)
    )
    values |= {b"/\0l%06d" % number: long for number in range(200)}
    for key, value in values.items():
        daemon.store.put(key, value)
    daemon.store.commit()
    found: dict[bytes, bytes] = {}
    first, more, pages = b"", True, 0
    while more:
        page = daemon.audit.store(SESSION, AuditStoreRequest(first, b"0"))
        assert isinstance(page, AuditStoreReply)
        assert not found.keys() & set(page.keys)
        found |= zip(page.keys, page.values, strict=True)
        first, more, pages = page.keys[-1] + b"\0", page.more, pages + 1
    assert found == values
    assert pages > 5


def test_the_chunk_index_comes_with_the_sizes_of_the_files(daemon: Daemon) -> None:
    assert daemon.storage.write(7, 0, 0, b"x" * 30) == 30
    daemon.store.put(keys.chunk(7, 1), b"")
    daemon.store.commit()

    async def ask() -> AuditStoreReply:
        reply = daemon.audit.store(SESSION, AuditStoreRequest(*keys.table(keys.CHUNKS)))
        assert not isinstance(reply, AuditStoreReply)
        return await reply

    page = trio.run(ask)
    assert list(zip(page.keys, page.sizes, strict=True)) == [(keys.chunk(7, 0), 30), (keys.chunk(7, 1), -1)]


def test_files_the_index_does_not_know_are_told_in_pages(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_PAGE_FILES", 5)
    unknown = {file_name(8, chunk).encode() for chunk in range(40)}
    for name in unknown:
        (daemon.chunks / name.decode()).write_bytes(b"x" * 10)
    daemon.storage.write(7, 0, 0, b"x")
    (daemon.chunks / "ff" / "zz").touch()
    (daemon.chunks / "other").mkdir()

    async def ask() -> list[bytes]:
        names: list[bytes] = []
        after = b""
        while True:
            page = await daemon.audit.files(SESSION, AuditFilesRequest(after))
            names += page.names
            after = page.after
            if not after:
                return names

    names = trio.run(ask)
    assert sorted(names) == sorted([*unknown, b"ff/zz", b"other"])


def test_changes_are_counted(daemon: Daemon) -> None:
    daemon.mend((A, None, record(5)), (B, None, record(6, stat.S_IFDIR | 0o700)))
    assert (daemon.store.files, daemon.store.directories) == (1, 1)
    daemon.mend((A, record(5), None))
    assert (daemon.store.files, daemon.store.directories) == (0, 1)
    (daemon.chunks / file_name(5, 0)).write_bytes(b"x" * 10)
    daemon.mend((keys.chunk(5, 0), None, b""))
    assert daemon.storage.room.chunks_bytes == 10


def test_when_anything_differs_nothing_is_changed(daemon: Daemon) -> None:
    daemon.mend((A, None, record(5)))
    for change in ((B, record(6), None), (A, None, record(7)), (A, record(7), record(5))):
        with pytest.raises(OSError, match="changed meanwhile") as raised:
            daemon.mend((paths.key(b"/c"), None, record(8)), change)
        assert raised.value.errno == errno.ESTALE
    assert not daemon.store.dirty
    assert daemon.store.get(paths.key(b"/c")) is None


@pytest.mark.parametrize(
    "change",
    [
        (keys.intent(b"i" * 16), None, b"x"),
        (keys.replies(b"c" * 16, 0), b"x", None),
        (keys.cut(5), None, b""),
        (A, None, b"no record"),
        (A, None, None),
        (keys.holder(5, b"c" * 16), None, b""),
        (keys.chunk(5, 0), b"", None),
        (keys.chunk(5, 0)[:-1], None, b""),
    ],
    ids=lambda change: change[0].hex(),
)
def test_what_is_no_repair_is_refused(change: tuple[bytes, bytes | None, bytes | None], daemon: Daemon) -> None:
    with pytest.raises(OSError, match="not to be changed so") as raised:
        daemon.mend((B, None, record(6)), change)
    assert raised.value.errno == errno.EINVAL
    assert not daemon.store.dirty


def test_what_is_under_way_is_waited_for(daemon: Daemon) -> None:
    daemon.guards.hold_path(b"/a", "is being renamed")
    with pytest.raises(Blocked):
        daemon.mend((A, None, record(5)))
    daemon.guards.lift_path(b"/a")
    daemon.guards.hold_cut(5)
    with pytest.raises(Blocked):
        daemon.mend((A, None, record(5)))
    assert not daemon.store.dirty
