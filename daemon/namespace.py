"""The handlers of single records: what can be done where the record is, without any other daemon.

All are synchronous and thus atomic, except for a creation below a directory that was renamed a moment ago. They
check first and write then. Semantics are in `gkfs.messages`, which records look like in `gkfs.metadentry`.
"""

import errno
import os
import stat
import time
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards
from gkfs.daemon.leases import Leases
from gkfs.daemon.parents import Parents
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES, MESSAGE_BODY_MAX_BYTES, READDIR_PAGE_ENTRIES, SYMLINK_TARGET_MAX_BYTES
from gkfs.messages import (
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    CreateReply,
    CreateRequest,
    Empty,
    ExtendRequest,
    LookupReply,
    LookupRequest,
    ReaddirReply,
    ReaddirRequest,
    RecordReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    SetattrRequest,
    StatRequest,
    TouchRequest,
    UnlinkReply,
    UnlinkRequest,
)
from gkfs.metadentry import ROOT_FID, Metadentry

_TYPES: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_COUNTER_MAX: Final = (1 << 32) - 1
_ENTRY_OVERHEAD_BYTES: Final = 16  # msgpack's, of one entry of a listing
_PAGE_BYTES: Final = MESSAGE_BODY_MAX_BYTES - 1024
_SET_ALL: Final = SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_MTIME


class Found(NamedTuple):
    """A record and the key under which it is stored: of its path, or of an orphan."""

    key: bytes
    record: bytes
    client_id: bytes  # of an orphan: who keeps it open; follows the record in the store


class Fids:
    """Gives file ids that this file system has never seen."""

    def __init__(self, daemon_index: int, boot_epoch: int) -> None:
        self.daemon_index = daemon_index
        self.boot_epoch = boot_epoch
        # Daemon 0 in epoch 0 would be able to give ROOT_FID; epochs begin with 1.
        self._counter = 0

    def take(self) -> int:
        """The next one. Raises OSError (ENOSPC) after 2**32 of one start."""
        if self._counter >= _COUNTER_MAX:
            raise os_error(errno.ENOSPC, "this daemon has given 2**32 file ids: restart it")
        self._counter += 1
        return metadentry.make_fid(self.daemon_index, self.boot_epoch, self._counter)


class Records:
    """Finding and storing records, with the rules of addressing."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    def find(self, path: bytes, fid: int) -> Found:
        """The record of *path*, or the orphan *fid*. Raises OSError: ENOENT, ESTALE."""
        key = paths.key(path)
        record = self._store.get(key)
        if record is not None and (not fid or metadentry.fid_of(record) == fid):
            return Found(key, record, b"")
        if not fid:
            raise os_error(errno.ENOENT, paths.printable(path))
        key = keys.orphan(fid)
        stored = self._store.get(key)
        if stored is None:
            raise os_error(errno.ESTALE, f"{paths.printable(path)} is no longer file {fid:x}")
        return Found(key, stored[:-16], stored[-16:])

    def replace(self, found: Found, entry: Metadentry) -> bytes:
        """Store *entry* in place of what was found; returns the record."""
        record = metadentry.encode(entry)
        self._store.put(found.key, record + found.client_id)
        return record


class Namespace:
    """The handlers."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        parents: Parents,
        reclaimer: Reclaimer,
        fids: Fids,
        leases: Leases,
    ) -> None:
        self._store = store
        self._records = Records(store)
        self._guards = guards
        self._parents = parents
        self._reclaimer = reclaimer
        self._fids = fids
        self._leases = leases

    def create_root(self) -> None:
        """Make sure that the root has its record, which this daemon owns. Commits."""
        if self._store.get(keys.ROOT) is None:
            root = Metadentry.new(
                mode=stat.S_IFDIR | 0o755, uid=os.getuid(), gid=os.getgid(), fid=ROOT_FID, now_ns=time.time_ns()
            )
            self._store.put(keys.ROOT, metadentry.encode(root))
            self._store.count_entry(root.mode, 1)
            self._store.commit()

    # --- reading

    def lookup(self, session: Session, request: LookupRequest) -> LookupReply:
        path = request.path
        record = self._store.get(paths.key(path))
        if record is None:
            raise os_error(errno.ENOENT, paths.printable(path))
        may_lease = metadentry.is_directory_record(record) and not self._guards.is_held(path)
        return LookupReply(record, may_lease and self._leases.grant(path, session.client_id))

    def stat(self, session: Session, request: StatRequest) -> RecordReply:
        key = paths.key(request.path)
        record = self._store.get(key)
        if record is not None and (not request.fid or metadentry.fid_of(record) == request.fid):
            return RecordReply(record)
        return RecordReply(self._records.find(request.path, request.fid).record)

    def readdir(self, session: Session, request: ReaddirRequest) -> ReaddirReply:
        first, end = paths.children_range(request.path)
        prefix_bytes = len(first)
        if request.after:
            first += request.after + b"\0"  # the least name above *after*, since no name holds a NUL
        limit = max(1, min(request.limit, READDIR_PAGE_ENTRIES))
        found = self._store.scan(first, end, limit + 1)
        names: list[bytes] = []
        records: list[bytes] = []
        room_bytes = _PAGE_BYTES
        for key, record in found[:limit]:
            room_bytes -= len(key) - prefix_bytes + len(record) + _ENTRY_OVERHEAD_BYTES
            if room_bytes < 0:
                break
            names.append(key[prefix_bytes:])
            records.append(record)
        return ReaddirReply(names, records, len(names) < len(found))

    # --- creation

    def create(self, session: Session, request: CreateRequest) -> CreateReply | Coroutine[Any, Any, CreateReply]:
        if self._guards.active:
            self._guards.check_change(request.path)
            if self._parents.need_verification(request.path, request.parent_fid):
                return self._create_verified(request)
        return self._create(request)

    def _create(self, request: CreateRequest) -> CreateReply:
        key = paths.key(request.path)
        existing = self._store.get(key)
        if existing is not None:
            return self._existing(request, existing)
        self._parents.check(request.path, request.parent_fid)
        if stat.S_IFMT(request.mode) not in _TYPES:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: mode {request.mode:o} without type")
        if bool(request.target) != stat.S_ISLNK(request.mode) or len(request.target) > SYMLINK_TARGET_MAX_BYTES:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: target of {len(request.target)} bytes")
        entry = Metadentry.new(
            mode=request.mode,
            uid=request.uid,
            gid=request.gid,
            fid=self._fids.take(),
            now_ns=request.now_ns,
            rdev=request.rdev,
            target=request.target,
        )
        record = metadentry.encode(entry)
        self._store.put(key, record)
        self._store.count_entry(request.mode, 1)
        return CreateReply(record, True)

    def _existing(self, request: CreateRequest, record: bytes) -> CreateReply:
        if request.exclusive:
            raise os_error(errno.EEXIST, paths.printable(request.path))
        return CreateReply(record, False)

    async def _create_verified(self, request: CreateRequest) -> CreateReply:
        await self._parents.verify(request.path, request.parent_fid)
        # no await between here and the put: what was verified still holds
        self._guards.check_change(request.path)
        return self._create(request)

    # --- removal

    def unlink(self, session: Session, request: UnlinkRequest) -> UnlinkReply:
        path = request.path
        if self._guards.active:
            self._guards.check_change(path)
        key = paths.key(path)
        record = self._store.get(key)
        if record is None:
            raise os_error(errno.ENOENT, paths.printable(path))
        entry = metadentry.decode(record)
        if entry.is_directory:
            raise os_error(errno.EISDIR, paths.printable(path))
        self._store.delete(key)
        self._store.count_entry(entry.mode, -1)
        return UnlinkReply(
            entry.fid, self._reclaimer.discard(session.client_id, entry, request.open_fid, request.now_ns)
        )

    def release(self, session: Session, request: ReleaseRequest) -> Empty:
        key = keys.orphan(request.fid)
        stored = self._store.get(key)
        if stored is not None:
            self._store.delete(key)
            self._reclaimer.add(metadentry.decode(stored[:-16]))
        return Empty()

    # --- changes

    def setattr(self, session: Session, request: SetattrRequest) -> RecordReply:
        if self._guards.active:
            self._guards.check_change(request.path)
        found = self._records.find(request.path, request.fid)
        entry = metadentry.decode(found.record)
        if entry.is_directory:
            self._leases.check_change(request.path, session.client_id)
        which = request.which
        if which & ~_SET_ALL or not which:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: attributes {which:#x}")
        mode, uid, gid = entry.mode, entry.uid, entry.gid
        if which & (SET_UID | SET_GID):
            uid = request.uid if which & SET_UID else uid
            gid = request.gid if which & SET_GID else gid
            mode = metadentry.without_set_id(mode)
        if which & SET_MODE:
            mode = stat.S_IFMT(mode) | stat.S_IMODE(request.mode)
        entry = entry.changed(
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=request.atime_ns if which & SET_ATIME else entry.atime_ns,
            mtime_ns=request.mtime_ns if which & SET_MTIME else entry.mtime_ns,
            ctime_ns=request.now_ns,
        )
        return RecordReply(self._records.replace(found, entry))

    def extend(self, session: Session, request: ExtendRequest) -> RecordReply:
        found, entry = self._for_data(request.path, request.fid)
        size, mtime_ns = request.size, request.mtime_ns
        if size > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"{paths.printable(request.path)}: {size} bytes")
        if size <= entry.size and mtime_ns <= entry.mtime_ns and mtime_ns <= entry.ctime_ns:
            return RecordReply(found.record)
        entry = entry.changed(
            size=max(entry.size, size),
            mtime_ns=max(entry.mtime_ns, mtime_ns),
            ctime_ns=max(entry.ctime_ns, mtime_ns),
        )
        return RecordReply(self._records.replace(found, entry))

    def reserve(self, session: Session, request: ReserveRequest) -> ReserveReply:
        found, entry = self._for_data(request.path, request.fid)
        if request.length < 0 or entry.size + request.length > FILE_SIZE_MAX_BYTES:
            raise os_error(
                errno.EFBIG, f"{paths.printable(request.path)}: {request.length} bytes more than {entry.size}"
            )
        offset = entry.size
        entry = entry.changed(
            size=offset + request.length,
            mtime_ns=max(entry.mtime_ns, request.mtime_ns),
            ctime_ns=max(entry.ctime_ns, request.mtime_ns),
        )
        return ReserveReply(offset, self._records.replace(found, entry))

    def touch(self, session: Session, request: TouchRequest) -> Empty:
        if self._guards.active:
            self._guards.check_change(request.path)
        found = self._records.find(request.path, request.fid)
        entry = metadentry.decode(found.record)
        mtime_ns = request.mtime_ns
        if not request.subdirectories and mtime_ns <= entry.mtime_ns and mtime_ns <= entry.ctime_ns:
            return Empty()
        entry = entry.changed(
            mtime_ns=max(entry.mtime_ns, mtime_ns),
            ctime_ns=max(entry.ctime_ns, mtime_ns),
            nlink=metadentry.counted(entry.nlink, request.subdirectories),
        )
        self._records.replace(found, entry)
        return Empty()

    def _for_data(self, path: bytes, fid: int) -> tuple[Found, Metadentry]:
        """The record of a regular file whose size may change now."""
        if self._guards.active:
            self._guards.check_change(path)
        found = self._records.find(path, fid)
        entry = metadentry.decode(found.record)
        if not entry.is_regular:
            raise os_error(errno.EINVAL, f"{paths.printable(path)} is not a regular file")
        self._guards.check_fid(entry.fid)
        return found, entry
