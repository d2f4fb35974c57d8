"""The handlers of PUT, SCAN and CHECKSUM: what whole trees are moved with.

PUT makes a record together with its first chunk, which is on this daemon, too. `store` and `storage` cannot
change as one, so the chunk's entry in the index says that it is unclaimed until the record is there: a restart
removes what is still so.
"""

import errno
import stat
from collections.abc import Coroutine
from typing import Any, Final

from gkfs import metadentry, paths
from gkfs.bulk_messages import (
    ChecksumReply,
    ChecksumRequest,
    PutReply,
    PutRequest,
    ScanReply,
    ScanRequest,
)
from gkfs.changes import check_xattrs
from gkfs.daemon.guards import Guards
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.namespace import Fids, check_kind, has_device
from gkfs.daemon.parents import Parents
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import (
    CHECKSUMS_MAX,
    FILE_SIZE_MAX_BYTES,
    INLINE_DATA_MAX_BYTES,
    SCAN_PAGE_BYTES,
    SCAN_PAGE_RECORDS,
)
from gkfs.metadentry import FLAG_INLINE, FLAG_SPARSE, Metadentry, Xattrs

_ENTRY_OVERHEAD_BYTES: Final = 16  # msgpack's, of a key and its record


class Bulk:
    """The handlers."""

    def __init__(
        self,
        own_index: int,
        store: MetadataStore,
        storage: ChunkStorage,
        guards: Guards,
        name_leases: NameLeases,
        parents: Parents,
        fids: Fids,
    ) -> None:
        self._head = metadentry.head_on(own_index)
        self._store = store
        self._storage = storage
        self._guards = guards
        self._name_leases = name_leases
        self._parents = parents
        self._fids = fids

    # --- PUT

    def put(self, session: Session, request: PutRequest) -> PutReply | Coroutine[Any, Any, PutReply]:
        if self._guards.active:
            self._guards.check_change(request.path)
        if self._parents.need_verification(request.path, request.parent_fid):
            return self._put_waiting(session.client_id, request, None, None, verify=True)
        existing = self._store.get(paths.key(request.path))
        if existing is not None:
            return PutReply(metadentry.fid_of(existing), existing)
        self._parents.check(request.path, request.parent_fid)
        self._name_leases.enter(request.path, session.client_id)
        entry = self._entry(request)
        work = self._begin(entry, request)
        if work is not None:
            return self._put_waiting(session.client_id, request, entry, work, verify=False)
        return self._keep(request.path, entry, _has_chunk(entry, request))

    def _begin(self, entry: Metadentry, request: PutRequest) -> Coroutine[Any, Any, None] | None:
        """Write the first chunk, if there is one."""
        if not _has_chunk(entry, request):
            self._storage.room.take_record(len(request.data))
            return None
        try:
            return self._storage.write_new(entry.fid, request.data)
        except OSError:
            self._storage.cut(entry.fid, 0)  # one chunk, that nobody writes any more: done at once
            raise

    async def _put_waiting(
        self,
        client_id: bytes,
        request: PutRequest,
        entry: Metadentry | None,
        work: Coroutine[Any, Any, None] | None,
        *,
        verify: bool,
    ) -> PutReply:
        """What `put` does where something must be waited for: a thread's write, or who knows the directory."""
        if entry is None:
            entry = self._entry(request)
            try:
                work = self._begin(entry, request)
            finally:
                self._store.commit()
        try:
            if work is not None:
                await work
            if verify or self._parents.need_verification(request.path, request.parent_fid):
                await self._parents.verify(request.path, request.parent_fid)
            # no await between here and the end: what is found now holds
            self._guards.check_change(request.path)
            existing = self._store.get(paths.key(request.path))
            self._parents.check(request.path, request.parent_fid)
            self._name_leases.enter(request.path, client_id)
        except BaseException:  # Blocked, too: then all is done again
            await self._discard(entry.fid)
            raise
        if existing is not None:
            await self._discard(entry.fid)
            return PutReply(metadentry.fid_of(existing), existing)
        return self._keep(request.path, entry, _has_chunk(entry, request))

    async def _discard(self, fid: int) -> None:
        work = self._storage.cut(fid, 0)
        self._store.commit()
        if work is not None:
            await work

    def _keep(self, path: bytes, entry: Metadentry, has_chunk: bool) -> PutReply:
        if has_chunk:
            self._storage.claim(entry.fid)
        self._store.put(paths.key(path), metadentry.encode(entry))
        self._store.count_entry(entry.mode, 1)
        self._name_leases.came(path)
        return PutReply(entry.fid, b"")

    def _entry(self, request: PutRequest) -> Metadentry:
        """The record that *request* asks for, with a new fid. Raises OSError (EINVAL, EFBIG, ENOSPC)."""
        mode, target, size, data = request.mode, request.target, request.size, request.data
        check_kind(request.path, mode, target)
        regular = stat.S_ISREG(mode)
        if (data or size or request.sparse) and not regular:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: data, mode {mode:o}")
        if not len(data) <= size <= FILE_SIZE_MAX_BYTES and regular:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: {len(data)} of {size} bytes")
        pairs = request.xattrs
        if len(pairs) % 2:
            raise os_error(
                errno.EINVAL, f"{paths.printable(request.path)}: attribute {pairs[-1][:40]!r} has no value"
            )
        xattrs: Xattrs = tuple(zip(pairs[::2], pairs[1::2], strict=True)) if pairs else ()
        check_xattrs(0, xattrs)
        flags = FLAG_SPARSE if request.sparse else 0
        if regular and not request.sparse and size == len(data) <= INLINE_DATA_MAX_BYTES:
            flags = FLAG_INLINE
        return Metadentry(
            metadentry.FORMAT,
            flags,
            self._head if regular else metadentry.PLACEMENT_HASHED,
            mode,
            request.uid,
            request.gid,
            2 if stat.S_ISDIR(mode) else 1,
            request.rdev if has_device(mode) else 0,
            size if regular else len(target),
            request.atime_ns,
            request.mtime_ns,
            request.now_ns,
            self._fids.take(),
            1,
            target,
            xattrs,
            bytes(data) if flags & FLAG_INLINE else b"",
        )

    # --- SCAN and CHECKSUM

    def scan(self, session: Session, request: ScanRequest) -> ScanReply:
        if self._guards.active:
            self._guards.check_list(request.path)
        found: list[tuple[bytes, bytes]] = []
        for first, end in (paths.children_range(request.path), paths.deeper_range(request.path)):
            if request.after < end and len(found) <= SCAN_PAGE_RECORDS:
                start = max(first, request.after + b"\0")
                found += self._store.scan(start, end, SCAN_PAGE_RECORDS + 1 - len(found))
        room_bytes = SCAN_PAGE_BYTES
        count = 0
        for key, record in found[:SCAN_PAGE_RECORDS]:
            room_bytes -= len(key) + len(record) + _ENTRY_OVERHEAD_BYTES
            if room_bytes < 0 and count:
                break
            count += 1
        page = found[:count]
        return ScanReply([key for key, _ in page], [record for _, record in page], count < len(found))

    def checksum(self, session: Session, request: ChecksumRequest) -> Coroutine[Any, Any, ChecksumReply]:
        fids, chunks, lengths = request
        if not len(fids) == len(chunks) == len(lengths) <= CHECKSUMS_MAX:
            raise os_error(errno.EINVAL, f"checksums of {len(fids)} files, {len(chunks)} chunks")
        return _checksum_reply(self._storage.digests(list(zip(fids, chunks, lengths, strict=True))))


def _has_chunk(entry: Metadentry, request: PutRequest) -> bool:
    return bool(request.data) and not entry.is_inline


async def _checksum_reply(work: Coroutine[Any, Any, list[bytes]]) -> ChecksumReply:
    return ChecksumReply(await work)
