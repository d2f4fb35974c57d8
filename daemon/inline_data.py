"""Small files, whose data are in their record: WRITE_INLINE, OUTGROW, which moves them to a chunk; WRITE_LEASE.

The first chunk of a file that has outgrown its record is on the daemon that had the record then, whatever becomes
of the record: so it is one step of one daemon. Chunk and record cannot change as one, but the chunk's entry in the
index says that it is unclaimed until the record has changed: a restart removes what is still so.
"""

import errno

from gkfs import metadentry, paths
from gkfs.changes import with_written
from gkfs.daemon.leases import Leases
from gkfs.daemon.records import Found, Records
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.writers import Writers
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES, INLINE_DATA_MAX_BYTES
from gkfs.messages import (
    OutgrowReply,
    OutgrowRequest,
    RecordReply,
    WriteInlineReply,
    WriteInlineRequest,
    WriteLeaseReply,
    WriteLeaseRequest,
)
from gkfs.metadentry import FLAG_INLINE, Metadentry


class InlineData:
    """The handlers, all synchronous and thus atomic, and what other changes of such files need."""

    def __init__(
        self,
        own_index: int,
        daemon_count: int,
        records: Records,
        leases: Leases,
        writers: Writers,
        storage: ChunkStorage,
    ) -> None:
        self._daemon_count = daemon_count
        self._head = metadentry.head_on(own_index)
        self._records = records
        self._leases = leases
        self._writers = writers
        self._storage = storage

    def write(self, session: Session, request: WriteInlineRequest) -> WriteInlineReply:
        found, entry = self._records.for_data(request.path, request.fid)
        offset, data = request.offset, request.data
        end = offset + len(data)
        if offset < 0 or end > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"{paths.printable(request.path)}: {len(data)} bytes at {offset}")
        if not entry.is_inline or end > INLINE_DATA_MAX_BYTES:
            return WriteInlineReply(found.record, False)
        self._leases.check_file(request.path, session.client_id)
        self._writers.check(entry.fid, session.client_id)
        if end > len(entry.data):
            self._storage.room.take(len(data))
        old = entry.data.ljust(offset, b"\0")
        data = b"".join((old[:offset], data, old[end:]))
        entry = with_written(entry, end, request.mtime_ns, unprivileged=request.unprivileged, data=data)
        return WriteInlineReply(self._records.replace(found, entry), True)

    def lease(self, session: Session, request: WriteLeaseRequest) -> WriteLeaseReply:
        _, entry = self._records.for_data(request.path, request.fid)
        leased = self._writers.declare(
            request.path, entry.fid, session.client_id, behind=request.behind, wanted=request.lease
        )
        return WriteLeaseReply(leased)

    def outgrow(self, session: Session, request: OutgrowRequest) -> OutgrowReply:
        found, entry = self._records.for_data(request.path, request.fid)
        leased = self._writers.declare(
            request.path, entry.fid, session.client_id, behind=False, wanted=request.lease
        )
        if not entry.is_inline:
            return OutgrowReply(found.record, leased)
        if not 0 <= request.placement <= self._daemon_count:
            raise os_error(errno.EINVAL, f"{paths.printable(request.path)}: placement {request.placement}")
        if not entry.data and request.placement:
            entry = entry._replace(flags=entry.flags & ~FLAG_INLINE, placement=request.placement)
        return OutgrowReply(self._records.replace(found, self.moved_out(entry).changed()), leased)

    def moved_out(self, entry: Metadentry) -> Metadentry:
        """*entry* without its data, which are in a chunk when the caller's change of the record is committed.

        Raises OSError (ENOSPC, EIO). An entry whose data are in chunks already is returned as it is.
        """
        if not entry.is_inline:
            return entry
        if entry.data:
            self._storage.cut(entry.fid, 0)  # one that is left of an earlier try, which could not be committed
            self._storage.write_new(entry.fid, entry.data)  # small enough to be done at once
            self._storage.claim(entry.fid)
        return entry._replace(flags=entry.flags & ~FLAG_INLINE, placement=self._head, data=b"")

    def resized(self, found: Found, entry: Metadentry, size: int, now_ns: int) -> RecordReply:
        """The record of an inline file with *size* bytes, `INLINE_DATA_MAX_BYTES` at most."""
        entry = entry.changed(
            data=entry.data[:size].ljust(size, b"\0"), size=size, mtime_ns=now_ns, ctime_ns=now_ns
        )
        return RecordReply(self._records.replace(found, entry))
