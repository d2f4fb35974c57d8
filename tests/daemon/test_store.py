"""The metadata store: what is put is seen at once, and stored with the next commit, all of it or nothing."""

import errno
import itertools
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon import store as store_module
from gkfs.daemon.store import MetadataStore
from gkfs.hostfile import Sync
from gkfs.metadentry import Metadentry


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MetadataStore]:
    opened = MetadataStore(tmp_path / "metadata")
    yield opened
    opened.close()


def record(mode: int = stat.S_IFREG | 0o644, fid: int = 7) -> bytes:
    return metadentry.encode(Metadentry.new(mode=mode, uid=1, gid=2, fid=fid, now_ns=3))


def test_what_is_put_is_seen_before_commit(store: MetadataStore) -> None:
    store.put(b"/a", b"1")
    assert store.get(b"/a") == b"1"
    before = store.dirty
    store.commit()
    assert (before, store.dirty) == (True, False)
    assert store.get(b"/a") == b"1"


def test_what_is_deleted_is_gone_before_commit(store: MetadataStore) -> None:
    store.put(b"/a", b"1")
    store.commit()
    store.delete(b"/a")
    assert store.get(b"/a") is None
    assert store.scan(b"/", b"0", 10) == []
    store.commit()
    assert store.get(b"/a") is None


def test_rollback_forgets_everything_since_commit(store: MetadataStore) -> None:
    store.put(b"/a", b"1")
    store.commit()
    store.put(b"/a", b"2")
    store.put(b"/b", b"2")
    store.count_entry(stat.S_IFREG, 1)
    store.rollback()
    assert store.get(b"/a") == b"1"
    assert store.get(b"/b") is None
    store.commit()
    assert store.files == 0


def test_scan_merges_stored_and_uncommitted(store: MetadataStore) -> None:
    for number in range(0, 20, 2):
        store.put(b"/%02d" % number, b"stored")
    store.commit()
    for number in range(1, 20, 4):
        store.put(b"/%02d" % number, b"new")
    for number in range(0, 20, 4):
        store.delete(b"/%02d" % number)
    store.put(b"/02", b"changed")
    expected = {b"/%02d" % n: b"stored" for n in range(2, 20, 4)} | {b"/%02d" % n: b"new" for n in range(1, 20, 4)}
    expected[b"/02"] = b"changed"
    everything = sorted(expected.items())
    assert store.scan(b"/", b"0", 100) == everything
    for limit in range(1, 12):  # pages of every size give the same, in order
        found: list[tuple[bytes, bytes]] = []
        first = b"/"
        while page := store.scan(first, b"0", limit):
            assert len(page) <= limit
            found += page
            first = page[-1][0] + b"\0"
        assert found == everything


def test_scan_ends_before_its_end(store: MetadataStore) -> None:
    for key in (b"/a", b"/b", b"/c"):
        store.put(key, b"")
    assert [key for key, _ in store.scan(b"/a", b"/c", 10)] == [b"/a", b"/b"]
    store.commit()
    assert [key for key, _ in store.scan(b"/a", b"/c", 10)] == [b"/a", b"/b"]


def test_counts_survive_reopening(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path / "m")
    for name in (b"/f", b"/g"):
        store.put(paths.key(name), record())
        store.count_entry(stat.S_IFREG, 1)
    for name in (b"/", b"/d"):
        store.put(paths.key(name), record(stat.S_IFDIR))
        store.count_entry(stat.S_IFDIR, 1)
    store.put(keys.orphan(9), record() + bytes(16))
    assert store.files == 0
    store.commit()
    assert (store.files, store.directories) == (2, 2)
    store.close()
    again = MetadataStore(tmp_path / "m")
    assert (again.files, again.directories) == (2, 2)
    again.close()


class Full:
    """Stands for a RocksDB that has met a full disk: it refuses writes until it is opened anew."""

    def __init__(self, store: MetadataStore) -> None:
        self.real = store._db
        store._db = self  # type: ignore[assignment]

    def put(self, key: bytes, value: bytes) -> None:
        raise Exception("IO error: No space left on device: While appending to file")

    def get(self, key: bytes) -> bytes:
        raise Exception("Corruption: block checksum mismatch")

    def cancel_all_background(self, wait: bool) -> None:
        self.real.cancel_all_background(wait)

    def close(self) -> None:
        self.real.close()
        raise Exception("IO error: Writer has previous error.")


def test_failure_of_the_database_is_an_oserror(store: MetadataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "METADATA_REOPEN_BYTES", 1 << 60)
    Full(store)
    store.put(b"/a", b"1")
    store.count_entry(stat.S_IFREG, 1)
    with pytest.raises(OSError, match="No space") as caught:
        store.commit()
    assert caught.value.errno == errno.ENOSPC
    assert not store.dirty
    assert store.files == 0
    with pytest.raises(OSError, match="checksum") as caught:
        store.get(b"/a")
    assert caught.value.errno == errno.EIO


def test_store_takes_writes_again_once_there_is_space(
    store: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(b"/before", b"1")
    store.commit()
    Full(store)
    asked: list[int] = []

    def make_room() -> bool:
        asked.append(1)
        return False

    store.make_room = make_room
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "METADATA_REOPEN_BYTES", 1 << 60)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                store.put_now(b"/lost", b"1")
    assert asked
    store.put(b"/after", b"1")
    store.commit()
    merges = store.merges
    assert not merges  # until what was removed is merged: else it would take the space first
    trio.run(partial(store.merge_files, all_of_them=True))
    merges = store.merges
    assert merges
    assert [key for key, _ in store.scan(*keys.PATHS, 10)] == [b"/after", b"/before"]


def test_sync_leaves_everything_readable(store: MetadataStore) -> None:
    store.put(b"/a", b"1")
    store.commit()
    trio.run(store.sync)
    assert store.get(b"/a") == b"1"


def test_tables_do_not_overlap() -> None:
    prefixes = [keys.ORPHANS, keys.SEALS, keys.INTENTS, keys.CHUNKS, keys.ADOPTED, keys.CUTS, keys.REPLIES]
    ranges = sorted(keys.table(prefix) for prefix in [*prefixes, keys.TREE_LOCKS])
    assert all(end <= following for (_, end), (following, _) in itertools.pairwise(ranges))
    assert ranges[-1][1] <= keys.PATHS[0]
    assert ranges[0][0] > keys.ROOT


def test_chunk_keys_are_in_the_order_of_their_numbers() -> None:
    first, end = keys.chunk_range(5, 3)
    inside = [keys.chunk(5, index) for index in (3, 4, 255, 256, 2**32 - 1)]
    assert sorted(inside) == inside
    assert all(first <= key < end for key in inside)
    assert not first <= keys.chunk(5, 2) < end
    assert not first <= keys.chunk(6, 0) < end
    assert keys.chunk_of_key(inside[2]) == (5, 255)


# --- damage, and what a crash leaves


# --- syncing


def test_of_all_who_wait_for_the_disk_few_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path / "m", sync=Sync.COMMIT)
    synced: list[int] = []
    real = store.sync

    async def spy() -> None:
        await real()
        synced.append(1)

    async def commit(number: int) -> None:
        store.put(b"/%d" % number, b"")
        store.commit_unsynced()
        wanted = store._commits
        await store.synced()
        assert store._commits_synced >= wanted

    async def main() -> None:
        monkeypatch.setattr(store, "sync", spy)
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(commit, number)
        assert 1 <= len(synced) <= 3
        await store.synced()
        assert len(synced) <= 3

    trio.run(main)
    store.close()


def test_who_waits_for_a_disk_that_fails_learns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MetadataStore(tmp_path / "m", sync=Sync.COMMIT)
    failed: list[int] = []

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "Input/output error")

    async def commit(number: int) -> None:
        store.put(b"/%d" % number, b"")
        store.commit_unsynced()
        with pytest.raises(OSError, match="Input/output"):
            await store.synced()
        failed.append(number)

    async def main() -> None:
        monkeypatch.setattr(store, "sync", fail)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(commit, number)

    trio.run(main)
    assert sorted(failed) == list(range(5))
    monkeypatch.undo()
    trio.run(store.synced)
    store.close()
