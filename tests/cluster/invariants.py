"""What must hold for the stores of all daemons of a stopped file system: the checks of an fsck."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.rmdir import UNDECIDED
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.messages import StatusReply
from gkfs.metadentry import Metadentry


def table(store: MetadataStore, first: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    while page := store.scan(first, end, 1000):
        yield from page
        first = page[-1][0] + b"\0"


def unfinished(folder: Path, count: int) -> list[str]:
    """What background work has still to do."""
    found = []
    for daemon in range(count):
        store = MetadataStore(folder / f"daemon-{daemon}" / "metadata")
        for prefix in (keys.INTENTS, keys.ADOPTED, keys.CUTS, keys.TREE_LOCKS):
            found += [f"daemon {daemon}: {key!r}" for key, _ in table(store, *keys.table(prefix))]
        for key, value in table(store, *keys.table(keys.SEALS)):
            if value == UNDECIDED:
                found.append(f"daemon {daemon}: undecided {key!r}")
        store.close()
    return found


def check_stores(folder: Path, count: int, counted: dict[int, StatusReply]) -> None:
    """Assert all invariants; *counted* is what each daemon said before it stopped."""
    assert not unfinished(folder, count)
    distributor = Distributor(count)
    entries: dict[bytes, Metadentry] = {}
    orphans: dict[int, Metadentry] = {}
    chunks: dict[tuple[int, int], tuple[int, int]] = {}
    for daemon in range(count):
        root = folder / f"daemon-{daemon}"
        store = MetadataStore(root / "metadata")
        for path, entry in _records(store):
            assert distributor.path_owner(path) == daemon, f"{path!r} is on daemon {daemon}"
            entries[path] = entry
        for _, stored in table(store, *keys.table(keys.ORPHANS)):
            orphan = metadentry.decode(stored)
            orphans[orphan.fid] = orphan
        for key, record in table(store, *keys.table(keys.INODES)):
            assert distributor.path_owner(key) == daemon
            orphan = metadentry.decode(record)
            orphans[orphan.fid] = orphan
        indexed = {keys.chunk_of_key(key) for key, _ in table(store, *keys.table(keys.CHUNKS))}
        files = dict(_chunk_files(root / "chunks"))
        assert set(files) <= indexed, f"chunk files that no index knows: {set(files) - indexed}"
        chunks.update({name: (daemon, size) for name, size in files.items()})
        status = counted[daemon]
        assert (store.files, store.directories) == (status.files, status.directories), f"daemon {daemon}"
        assert status.used_bytes == sum(files.values()), f"daemon {daemon}"
        store.close()
    _check_links(entries, orphans)
    entries = {path: entry for path, entry in entries.items() if not entry.is_link}
    _check_tree(entries)
    _check_chunks(distributor, {**{entry.fid: entry for entry in entries.values()}, **orphans}, chunks)


def _records(store: MetadataStore) -> Iterator[tuple[bytes, Metadentry]]:
    root = store.get(keys.ROOT)
    if root is not None:
        yield paths.ROOT, metadentry.decode(root)
    for key, record in table(store, *keys.PATHS):
        yield paths.path_of_key(key), metadentry.decode(record)


def _chunk_files(folder: Path) -> Iterator[tuple[tuple[int, int], int]]:
    for path in folder.glob("*/*"):
        fid, chunk = path.name.split(".")
        yield (int(fid, 16), int(chunk, 16)), path.stat().st_size


def _check_links(entries: dict[bytes, Metadentry], orphans: dict[int, Metadentry]) -> None:
    counts = Counter(entry.fid for entry in entries.values() if entry.is_link)
    assert counts == {fid: entry.nlink for fid, entry in orphans.items() if entry.nlink}


def _check_tree(entries: dict[bytes, Metadentry]) -> None:
    assert paths.ROOT in entries
    fids = [entry.fid for entry in entries.values()]
    assert len(set(fids)) == len(fids), "two paths have one fid"
    for path in entries:
        if path != paths.ROOT:
            parent = paths.split(path)[0]
            assert parent in entries, f"{path!r} has no parent"
            assert entries[parent].is_directory, f"{path!r} lies in a file"


def _check_chunks(
    distributor: Distributor, entries: dict[int, Metadentry], chunks: dict[tuple[int, int], tuple[int, int]]
) -> None:
    for (fid, chunk), (daemon, size) in chunks.items():
        assert fid in entries, f"chunk {chunk} of {fid:x} has no record"
        entry = entries[fid]
        assert distributor.chunk_owner(fid, chunk, entry.placement) == daemon
        assert chunk * CHUNK_SIZE_BYTES + size <= entry.size, f"chunk {chunk} of {fid:x}, {entry.size}"
