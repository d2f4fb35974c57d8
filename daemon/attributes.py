"""The handlers that change one record and no name: attributes, sizes, times, extended attributes.

All are synchronous and thus atomic. They check first and write then.
"""

import errno

from gkfs import metadentry, paths
from gkfs.changes import with_attributes, with_written, with_xattr, without_xattr
from gkfs.daemon.inline_data import InlineData
from gkfs.daemon.leases import Leases
from gkfs.daemon.records import Records
from gkfs.daemon.room import Room
from gkfs.daemon.session import Session
from gkfs.daemon.writers import Writers
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES
from gkfs.messages import (
    Empty,
    ExtendRequest,
    RecordReply,
    RemovexattrRequest,
    ReserveReply,
    ReserveRequest,
    SetattrRequest,
    SetxattrRequest,
    TouchRequest,
)
from gkfs.metadentry import FLAG_SPARSE


class Attributes:
    """The handlers."""

    def __init__(
        self, records: Records, leases: Leases, writers: Writers, inline_data: InlineData, room: Room
    ) -> None:
        self._room = room
        self._records = records
        self._leases = leases
        self._writers = writers
        self._inline_data = inline_data

    def setattr(self, session: Session, request: SetattrRequest) -> RecordReply:
        found, entry = self._records.for_change(request.path, request.fid)
        self._leases.check_entry(entry, request.path, session.client_id)
        return RecordReply(self._records.replace(found, with_attributes(entry, request)))

    def extend(self, session: Session, request: ExtendRequest) -> RecordReply:
        found, entry = self._records.for_data(request.path, request.fid)
        if request.settled:
            self._writers.settled(entry.fid, session.client_id, leaves=request.leaves)
        self._leases.check_file(request.path, session.client_id)
        size = request.size
        if size > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"{paths.printable(request.path)}: {size} bytes")
        if size > entry.size:  # which can only be so when somebody has written to chunks
            entry = self._inline_data.moved_out(entry)
        flags = entry.flags | FLAG_SPARSE if request.sparse and not entry.is_inline else entry.flags
        # The version grows even if nothing else does: others may hold pages from before this data was written, and
        # clocks of nodes differ.
        entry = with_written(entry, size, request.mtime_ns, unprivileged=request.unprivileged, flags=flags)
        return RecordReply(self._records.replace(found, entry))

    def reserve(self, session: Session, request: ReserveRequest) -> ReserveReply:
        found, entry = self._records.for_data(request.path, request.fid)
        if request.length < 0 or entry.size + request.length > FILE_SIZE_MAX_BYTES:
            raise os_error(
                errno.EFBIG, f"{paths.printable(request.path)}: {request.length} bytes more than {entry.size}"
            )
        self._leases.check_file(request.path, session.client_id)
        self._writers.check(entry.fid, session.client_id)  # what it has written before must not come over this
        offset = entry.size
        entry = with_written(self._inline_data.moved_out(entry), offset + request.length, request.mtime_ns)
        return ReserveReply(offset, self._records.replace(found, entry))

    def touch(self, session: Session, request: TouchRequest) -> Empty:
        found, entry = self._records.for_change(request.path, request.fid)
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

    # --- extended attributes

    def setxattr(self, session: Session, request: SetxattrRequest) -> RecordReply:
        found, entry = self._records.for_change(request.path, request.fid)
        self._leases.check_file(request.path, session.client_id)
        self._room.take_record(len(request.value))
        return RecordReply(self._records.replace(found, with_xattr(entry, request)))

    def removexattr(self, session: Session, request: RemovexattrRequest) -> RecordReply:
        found, entry = self._records.for_change(request.path, request.fid)
        self._leases.check_file(request.path, session.client_id)
        return RecordReply(self._records.replace(found, without_xattr(entry, request)))
