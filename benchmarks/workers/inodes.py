"""The inode table of one worker: `gkfs.client.inodes` over rows of memory that all workers share.

What is said of an inode anywhere in the client, a record learnt, a name moved, a size that is not published, is
said in its row. In the worker's own memory are the decoded record (of the row's stamp), leases, and writes in
flight.
"""

import errno
import time
from collections import deque
from typing import Any, Final

from benchmarks.workers import table as rows
from benchmarks.workers.table import RECORD_MAX_BYTES, Table
from gkfs import metadentry, paths
from gkfs.channel import Call
from gkfs.client.holds import Holds
from gkfs.client.inodes import Inode, InodeTable
from gkfs.client.touches import Touches, _Touch
from gkfs.errors import os_error
from gkfs.messages import Empty
from gkfs.metadentry import ROOT_FID, Metadentry

SWEEP_INODES: Final = 4096  # after so many new ones, those that the kernel gave back to other workers go
TOUCHED_S: Final = 1.0  # so long a directory's times are at least those of a change seen by any worker


def _word(index: int) -> Any:
    """An attribute that is a word of the row."""

    def get(inode: "SharedInode") -> int:
        return inode.words[inode.base + index]

    def put(inode: "SharedInode", value: int) -> None:
        inode.words[inode.base + index] = value

    return property(get, put)


def _flag(index: int) -> Any:
    """Likewise, which is True or False: so it goes into requests."""

    def get(inode: "SharedInode") -> bool:
        return bool(inode.words[inode.base + index])

    def put(inode: "SharedInode", value: bool) -> None:
        inode.words[inode.base + index] = value

    return property(get, put)


def _time_s(index: int) -> Any:
    """Likewise, in seconds, of the monotonic clock, which all processes share."""

    def get(inode: "SharedInode") -> float:
        return inode.words[inode.base + index] / 1e9

    def put(inode: "SharedInode", value: float) -> None:
        inode.words[inode.base + index] = int(value * 1e9)

    return property(get, put)


class SharedInode(Inode):
    """An inode as one worker sees it."""

    __slots__ = ("_bytes", "_decoded", "_stamp", "base", "inodes", "words")

    def __init__(self, inodes: "SharedInodes", fid: int, base: int) -> None:  # not the base's: the row says it all
        self.inodes, self.fid, self.base = inodes, fid, base
        self.words = inodes.table.words
        self.behind = None
        self.behind_end = 0
        self.data_kept = False
        self.recent_until_s = self.lease_until_s = 0.0
        self.was_read = False
        self.cut_from = 0  # of what this worker truncates
        self.unsynced_record = self.unsynced_before = False
        self.leaving = None  # of what this worker removes
        self.write_right = None  # of this worker: each is a writer of its own
        self.names_known = None  # of a directory that this worker fills
        self.held_path = b""  # of what this worker said is held
        self._path, self._path_epoch = b"", -1
        self._stamp, self._bytes = -1, b""
        self._decoded: Metadentry | None = None

    lookups = _word(rows.LOOKUPS)
    opens = _word(rows.OPENS)
    removed = _flag(rows.REMOVED)
    gone = _flag(rows.GONE)
    kept = _flag(rows.KEPT)
    held = _flag(rows.HELD)
    dirty = _flag(rows.DIRTY)
    dirty_size = _word(rows.DIRTY_SIZE)
    dirty_mtime_ns = _word(rows.DIRTY_MTIME)
    dirty_sparse = _flag(rows.DIRTY_SPARSE)
    dirty_unprivileged = _flag(rows.DIRTY_UNPRIVILEGED)
    data_changes = _word(rows.DATA_CHANGES)
    cached_version = _word(rows.CACHED_VERSION)
    listed_version = _word(rows.LISTED_VERSION)
    times_set_ns = _word(rows.TIMES_SET)
    allocated_bytes = _word(rows.ALLOCATED)
    touched_s = _time_s(rows.TOUCHED)

    @property
    def is_live(self) -> bool:
        """Whether the kernel still holds it: otherwise the row is, or will be, another's."""
        return self.words[self.base + rows.FID] == self.fid

    # --- the record

    @property
    def _entry(self) -> Metadentry | bytes:
        if self.words[self.base + rows.STAMP] != self._stamp:
            self._load()
        return self._decoded or self._bytes

    @_entry.setter
    def _entry(self, value: Metadentry | bytes) -> None:
        record = value if isinstance(value, bytes) else metadentry.encode(value)
        self._decoded = None if isinstance(value, bytes) else value
        self._bytes = record
        self._store(record)

    @property
    def _version(self) -> int:
        return metadentry.version_of(self._bytes) if self._entry else 0

    @_version.setter
    def _version(self, value: int) -> None:
        """The record says it."""

    @property
    def entry(self) -> Metadentry:
        if self.words[self.base + rows.STAMP] != self._stamp:
            self._load()
        if self._decoded is None:
            self._decoded = metadentry.decode(self._bytes)
        return self._decoded

    def _load(self) -> None:
        words, base = self.words, self.base
        with self.inodes.table.lock:
            self._stamp = words[base + rows.STAMP]
            start = base * 8 + rows.RECORD_AT
            record = bytes(self.inodes.table.bytes[start : start + words[base + rows.RECORD_LENGTH]])
        if record != self._bytes:
            self._bytes, self._decoded = record, None

    def _store(self, record: bytes) -> None:
        words, base = self.words, self.base
        version = metadentry.version_of(record)
        with self.inodes.table.lock:
            if words[base + rows.FID] != self.fid:
                return
            if version < words[base + rows.VERSION]:
                self._stamp = -1  # another worker's answer overtook this one
                return
            stored = record if len(record) <= RECORD_MAX_BYTES else _cut(record)
            words[base + rows.INCOMPLETE] = stored is not record
            words[base + rows.VERSION] = version
            start = base * 8 + rows.RECORD_AT
            self.inodes.table.bytes[start : start + len(stored)] = stored
            words[base + rows.RECORD_LENGTH] = len(stored)
            words[base + rows.STAMP] += 1
            self._stamp = words[base + rows.STAMP]

    @property
    def _fresh_until_s(self) -> float:
        words, base = self.words, self.base
        return 0.0 if words[base + rows.INCOMPLETE] else words[base + rows.FRESH_UNTIL] / 1e9

    @_fresh_until_s.setter
    def _fresh_until_s(self, value: float) -> None:
        self.words[self.base + rows.FRESH_UNTIL] = int(value * 1e9)

    def learn(self, entry: Metadentry | bytes, *, fresh: bool = False) -> None:
        touched_s = self.touched_s
        if touched_s and time.monotonic() - touched_s < TOUCHED_S and self._bytes:
            # Another worker may not have told the directory's owner yet.
            before, now = self.entry, metadentry.decode(entry) if isinstance(entry, bytes) else entry
            if now.version == before.version and now.mtime_ns < before.mtime_ns:
                entry = now._replace(mtime_ns=before.mtime_ns, ctime_ns=max(now.ctime_ns, before.ctime_ns))
        super().learn(entry, fresh=fresh)

    # --- where it is

    @property
    def parent(self) -> Inode | None:  # type: ignore[override]
        fid = self.words[self.base + rows.PARENT]
        return self.inodes.known(fid) if fid else None

    @property
    def name(self) -> bytes:  # type: ignore[override]
        return self.inodes.table.name(self.base)

    @property
    def names(self) -> set[tuple[int, bytes]] | None:  # type: ignore[override]
        return set() if self.words[self.base + rows.DETACHED] else None  # which ones only the daemons know

    @property
    def address(self) -> bytes | None:
        length = self.words[self.base + rows.ADDRESS_LENGTH]
        start = self.base * 8 + rows.ADDRESS_AT
        return bytes(self.inodes.table.bytes[start : start + length]) if length else None

    @address.setter
    def address(self, path: bytes | None) -> None:
        start = self.base * 8 + rows.ADDRESS_AT
        self.inodes.table.bytes[start : start + len(path or b"")] = path or b""
        self.words[self.base + rows.ADDRESS_LENGTH] = len(path or b"")

    # --- which daemons got data

    @property
    def unsynced(self) -> frozenset[int]:
        bits = self.words[self.base + rows.UNSYNCED]
        return frozenset(daemon for daemon in range(63) if bits >> daemon & 1)

    @unsynced.setter
    def unsynced(self, daemons: frozenset[int]) -> None:
        self.words[self.base + rows.UNSYNCED] = sum(1 << daemon for daemon in daemons)


def _cut(record: bytes) -> bytes:
    """As much of a large record as a row holds: whoever needs more asks the daemon."""
    record = metadentry.without_data(record)
    if len(record) > RECORD_MAX_BYTES:
        record = metadentry.encode(metadentry.decode(record)._replace(xattrs=()))
    return record


class SharedInodes(InodeTable):
    """The inode table of one worker."""

    def __init__(self, table: Table) -> None:
        self.table = table
        with table.lock:
            base = table.find(ROOT_FID) or table.insert(ROOT_FID, 0, b"")
        root = SharedInode(self, ROOT_FID, base)
        self.root = root
        self._shared: dict[int, SharedInode] = {ROOT_FID: root}
        self._with_data: deque[Inode] = deque()
        self._new = 0

    def __len__(self) -> int:
        return self.table.words[rows.USED]

    @property
    def _epoch(self) -> int:  # type: ignore[override]
        return self.table.words[rows.EPOCH]

    def __getitem__(self, fid: int) -> Inode:
        inode = self.known(fid)
        if inode is None:
            raise os_error(errno.ESTALE, f"no inode {fid:#x}")
        return inode

    def known(self, fid: int) -> SharedInode | None:
        inode = self._shared.get(fid)
        if inode is not None and inode.is_live:
            return inode
        with self.table.lock:
            base = self.table.find(fid)
        return self._attach(fid, base) if base else None

    def _attach(self, fid: int, base: int) -> SharedInode:
        inode = self._shared.get(fid)
        if inode is None or inode.base != base:
            inode = self._shared[fid] = SharedInode(self, fid, base)
            self._new += 1
            if self._new > SWEEP_INODES:
                self._new = 0
                self._shared = {fid: inode for fid, inode in self._shared.items() if inode.is_live}
        return inode

    def named(self, parent: Inode, name: bytes) -> Inode | None:
        with self.table.lock:
            base = self.table.find_name(parent.fid, name)
            fid = self.table.words[base + rows.FID] if base else 0
        return self._attach(fid, base) if base else None

    def _referenced(self, parent: Inode, name: bytes, fid: int, *, several: bool) -> Inode:
        table, words = self.table, self.table.words
        with table.lock:
            base = table.find(fid) or table.insert(fid, parent.fid, name)
            words[base + rows.LOOKUPS] += 1
            words[base + rows.REMOVED] = 0
        inode = self._attach(fid, base)
        if several:
            self.detach(inode)
        elif (
            words[base + rows.PARENT] != parent.fid
            or words[base + rows.ADDRESS_LENGTH]
            or not words[base + rows.IS_NAMED]
            or inode.name != name
        ) and not words[base + rows.DETACHED]:
            self.move(inode, parent, name)
        return inode

    def oldest(self, count: int) -> list[Inode]:
        del count
        return []  # the table has its own bound

    def keep_data(self, inode: Inode) -> None:
        pass  # likewise

    def detach(self, inode: Inode) -> None:
        assert isinstance(inode, SharedInode)
        if not inode.words[inode.base + rows.DETACHED]:
            inode.address = paths.inode_address(inode.fid)
            inode.words[inode.base + rows.DETACHED] = 1

    def move(self, inode: Inode, parent: Inode, name: bytes) -> None:
        assert isinstance(inode, SharedInode)
        with self.table.lock:
            self.table.set_name(inode.base, parent.fid, name)
            inode.address = None
            self.table.words[rows.EPOCH] += 1

    def rename(self, inode: Inode, old: tuple[int, bytes], parent: Inode, name: bytes) -> None:
        del old
        if inode.names is None:
            self.move(inode, parent, name)
            return
        with self.table.lock:
            assert isinstance(inode, SharedInode)
            self.table.set_name(inode.base, parent.fid, name)

    def found(self, inode: Inode, path: bytes) -> None:
        if paths.is_address(path):
            self.detach(inode)
            return
        inode.address = path
        with self.table.lock:
            self.table.words[rows.EPOCH] += 1

    def unname(self, inode: Inode, name: tuple[int, bytes] | None = None) -> None:
        assert isinstance(inode, SharedInode)
        with self.table.lock:
            if inode.is_live and name in (None, (inode.words[inode.base + rows.PARENT], inode.name)):
                self.table.unname(inode.base)

    def forget(self, fid: int, lookups: int) -> None:
        if fid == ROOT_FID:
            return
        words = self.table.words
        with self.table.lock:
            base = self.table.find(fid)
            if not base:
                return
            words[base + rows.LOOKUPS] -= lookups
            if words[base + rows.LOOKUPS] <= 0 and not words[base + rows.OPENS]:
                self.table.delete(base)
                self._shared.pop(fid, None)


class SharedHolds(Holds):
    """The open files of one mount: this worker speaks to the daemons of those it opened."""

    def opened(self, inode: Inode) -> None:
        assert isinstance(inode, SharedInode)
        with inode.inodes.table.lock:
            inode.opens += 1
        self.open_files.add(inode)

    def closed(self, inode: Inode) -> bool:
        assert isinstance(inode, SharedInode)
        with inode.inodes.table.lock:
            inode.opens -= 1
            left = inode.opens
        if not left:
            self.open_files.discard(inode)
        return not left

    async def release(self, inode: Inode) -> None:
        await super().release(inode)
        if inode.lookups <= 0:
            self._context.inodes.forget(inode.fid, 0)  # the kernel gave it back before

    async def renew(self) -> None:
        self.open_files = {
            inode for inode in self.open_files if isinstance(inode, SharedInode) and inode.is_live and inode.opens
        }
        await super().renew()


class SharedTouches(Touches):
    """Changes of directories, of which this worker has not told their owners yet."""

    def _submit(self, path: bytes) -> tuple[_Touch, Call[Empty]]:
        touch = self._waiting[path]
        assert isinstance(touch.directory, SharedInode)
        if touch.directory.times_set_ns > touch.mtime_ns:  # by utimes through another worker, which is to stay
            self._waiting[path] = touch._replace(mtime_ns=0)
        return super()._submit(path)
