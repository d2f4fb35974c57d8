"""The handlers of names: lookup, listing, creation and removal where the name's record is.

All are synchronous and thus atomic, except where a directory above was renamed a moment ago. They check first and
write then. Semantics are in `gkfs.messages`, which records look like in `gkfs.metadentry`.
"""

import errno
import os
import stat
import time
from collections.abc import Coroutine
from typing import Any, Final

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards
from gkfs.daemon.leases import Leases
from gkfs.daemon.links import Links
from gkfs.daemon.moves import Moves
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.opens import Opens
from gkfs.daemon.parents import Parents
from gkfs.daemon.records import Records
from gkfs.daemon.room import Room
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import MESSAGE_BODY_MAX_BYTES, READDIR_PAGE_ENTRIES, SYMLINK_TARGET_MAX_BYTES
from gkfs.messages import (
    CreateReply,
    CreateRequest,
    LookupReply,
    LookupRequest,
    ReaddirReply,
    ReaddirRequest,
    RecordReply,
    StatRequest,
    UnlinkReply,
    UnlinkRequest,
    WhereReply,
    WhereRequest,
)
from gkfs.metadentry import ROOT_FID, Metadentry

_TYPES: Final = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_COUNTER_MAX: Final = (1 << 32) - 1
_ENTRY_OVERHEAD_BYTES: Final = 16  # msgpack's, of one entry of a listing
_PAGE_BYTES: Final = MESSAGE_BODY_MAX_BYTES - 1024


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


class Namespace:
    """The handlers."""

    def __init__(
        self,
        store: MetadataStore,
        records: Records,
        guards: Guards,
        moves: Moves,
        parents: Parents,
        opens: Opens,
        links: Links,
        fids: Fids,
        leases: Leases,
        name_leases: NameLeases,
        room: Room,
    ) -> None:
        self._store = store
        self._room = room
        self._records = records
        self._guards = guards
        self._moves = moves
        self._parents = parents
        self._opens = opens
        self._links = links
        self._fids = fids
        self._leases = leases
        self._name_leases = name_leases

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

    def lookup(self, session: Session, request: LookupRequest) -> LookupReply | Coroutine[Any, Any, LookupReply]:
        path, parent_fid = request
        if parent_fid and self._parents.need_verification(path, parent_fid):
            return self._lookup_verified(session.client_id, request)
        return self._lookup(session.client_id, path)

    def _lookup(self, client_id: bytes, path: bytes) -> LookupReply:
        if self._guards.active:
            self._guards.check_read(path)
        record = self._records.at(path)
        may_lease = metadentry.is_directory_record(record) and not self._guards.is_held(path)
        return LookupReply(record, may_lease and self._leases.grant(path, client_id))

    async def _lookup_verified(self, client_id: bytes, request: LookupRequest) -> LookupReply:
        await self._parents.verify(request.path, request.parent_fid)
        # no await between here and the reply: what was verified still holds
        return self._lookup(client_id, request.path)

    def stat(self, session: Session, request: StatRequest) -> RecordReply:
        if self._guards.active and request.fid and session.role == "peer":
            # Who asks for another daemon's sake must not be told of a directory that has been renamed already, and
            # whose record here is yet to go.
            self._guards.check_tree(request.path)
        return RecordReply(self._records.find(request.path, request.fid).record)

    def lease(self, session: Session, request: StatRequest) -> LookupReply:
        path = request.path
        found = self._records.find(path, request.fid)
        may_lease = not paths.is_address(path) and not self._guards.is_held(path)
        return LookupReply(found.record, may_lease and self._leases.grant(path, session.client_id))

    def where(self, session: Session, request: WhereRequest) -> WhereReply:
        path, fid = request
        if self._guards.active:
            self._guards.check_read(path)
        if not paths.is_address(path):
            record = self._store.get(paths.key(path))
            if record is not None and metadentry.fid_of(record) == fid:
                return WhereReply([paths.inode_address(fid) if metadentry.is_link_record(record) else path])
        if self._store.get(keys.orphan(fid)) is not None:  # it has lost its name here, and is open somewhere
            return WhereReply([path])
        return WhereReply(self._moves.where(path, fid))

    def readdir(
        self, session: Session, request: ReaddirRequest
    ) -> ReaddirReply | Coroutine[Any, Any, ReaddirReply]:
        inner = request.path + b"/"  # any name in it
        if self._parents.need_verification(inner, request.fid):
            return self._readdir_verified(inner, request)
        return self._readdir(request)

    async def _readdir_verified(self, inner: bytes, request: ReaddirRequest) -> ReaddirReply:
        await self._parents.verify(inner, request.fid)
        # no await between here and the reply: what was verified still holds
        return self._readdir(request)

    def _readdir(self, request: ReaddirRequest) -> ReaddirReply:
        if self._guards.active:
            self._guards.check_list(request.path)
        first, end = paths.children_range(request.path)
        prefix_bytes = len(first)
        if request.after:
            first += request.after + b"\0"  # the least name above *after*, since no name holds a NUL
        limit = max(1, min(request.limit, READDIR_PAGE_ENTRIES))
        found = self._store.scan(first, end, limit + 1)
        names: list[bytes] = []
        records: list[bytes] = []
        room_bytes = _PAGE_BYTES
        for key, stored in found[:limit]:
            record = metadentry.without_data(stored)
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
            return self._create_verified(session.client_id, request)
        return self._create(session.client_id, request)

    def _create(self, client_id: bytes, request: CreateRequest) -> CreateReply:
        key = paths.key(request.path)
        existing = self._store.get(key)
        if existing is not None:
            return self._existing(request, existing)
        self._parents.check(request.path, request.parent_fid)
        check_kind(request.path, request.mode, request.target)
        self._name_leases.enter(request.path, client_id)
        self._room.take_record(len(key) + len(request.target))
        entry = Metadentry.new(
            mode=request.mode,
            uid=request.uid,
            gid=request.gid,
            fid=self._fids.take(),
            now_ns=request.now_ns,
            rdev=request.rdev if has_device(request.mode) else 0,
            target=request.target,
        )
        record = metadentry.encode(entry)
        self._store.put(key, record)
        self._store.count_entry(request.mode, 1)
        lease, names = self._name_leases.created(request.path, request.parent_fid, client_id, request.names_lease)
        return CreateReply(record, True, lease, names)

    def _existing(self, request: CreateRequest, record: bytes) -> CreateReply:
        if request.exclusive:
            raise os_error(errno.EEXIST, paths.printable(request.path))
        return CreateReply(record, False, 0, [])

    async def _create_verified(self, client_id: bytes, request: CreateRequest) -> CreateReply:
        await self._parents.verify(request.path, request.parent_fid)
        # no await between here and the put: what was verified still holds
        self._guards.check_change(request.path)
        return self._create(client_id, request)

    # --- removal

    def unlink(self, session: Session, request: UnlinkRequest) -> UnlinkReply | Coroutine[Any, Any, UnlinkReply]:
        path = request.path
        if self._guards.active:
            self._guards.check_change(path)
        if self._parents.need_verification(path, request.parent_fid):
            return self._unlink_verified(session.client_id, session.seq, request)
        return self._unlink(session.client_id, session.seq, request)

    def _unlink(
        self, client_id: bytes, seq: int, request: UnlinkRequest
    ) -> UnlinkReply | Coroutine[Any, Any, UnlinkReply]:
        path = request.path
        entry = metadentry.decode(self._records.at(path))
        if entry.is_directory:
            raise os_error(errno.EISDIR, paths.printable(path))
        if entry.is_link:
            return self._links.unlink(client_id, seq, request)
        self._leases.check_file(path, client_id)
        self._store.delete(paths.key(path))
        self._store.count_entry(entry.mode, -1)
        kept = self._opens.discard(client_id, entry, request.open_fid, request.now_ns)
        return UnlinkReply(entry.fid, kept)

    async def _unlink_verified(self, client_id: bytes, seq: int, request: UnlinkRequest) -> UnlinkReply:
        await self._parents.verify(request.path, request.parent_fid)
        # no await between here and the removal: what was verified still holds
        self._guards.check_change(request.path)
        reply = self._unlink(client_id, seq, request)
        return reply if isinstance(reply, UnlinkReply) else await reply


def has_device(mode: int) -> bool:
    """Whether a device number says something of a file of this type."""
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def check_kind(path: bytes, mode: int, target: bytes) -> None:
    """Raise OSError (EINVAL) unless *mode* has a file type, and *target* is of a symlink if there is one."""
    if stat.S_IFMT(mode) not in _TYPES:
        raise os_error(errno.EINVAL, f"{paths.printable(path)}: mode {mode:o} without type")
    if bool(target) != stat.S_ISLNK(mode) or len(target) > SYMLINK_TARGET_MAX_BYTES:
        raise os_error(errno.EINVAL, f"{paths.printable(path)}: target of {len(target)} bytes")
