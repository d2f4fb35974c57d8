"""File contents: reads and writes cut into chunks, and the sizes and times that follow from writes.

Data is written through: a write returns when the chunks' daemons have it. The size and time it leads to are kept
in the inode ("dirty") and published to the record's owner at flush, fsync, release, before anything that depends
on them, and every `SIZE_FLUSH_DELAY_S` by `publish_beside`. On this node they show at once.

Appends (O_APPEND) ask the owner for their range first, so records of many nodes never overlap.
"""

import errno
import logging
import stat
import time
from functools import partial

from gkfs import chunks, metadentry
from gkfs.client.context import Context
from gkfs.client.handles import FileHandle
from gkfs.client.inodes import Inode
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES
from gkfs.messages import (
    SET_MODE,
    AllocatedRequest,
    Buffer,
    ExtendRequest,
    ReadChunkRequest,
    ReserveRequest,
    SetattrRequest,
    StatRequest,
    SyncChunksRequest,
    SyncMetadataRequest,
    TruncateRequest,
    WriteChunkRequest,
)
from gkfs.operations import (
    ALLOCATED,
    EXTEND,
    READ_CHUNK,
    RESERVE,
    SETATTR,
    STAT,
    SYNC_CHUNKS,
    SYNC_METADATA,
    TRUNCATE,
    WRITE_CHUNK,
)

log = logging.getLogger(__name__)


class FileData:
    """Reads, writes and sizes of the files of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dirty: set[Inode] = set()
        self._publishing: set[Inode] = set()  # by `publish_beside`

    async def read(self, handle: FileHandle, offset: int, length: int) -> Buffer:
        """Up to *length* bytes from *offset*; shorter only at the end of the file. Holes read as zeros."""
        inode = handle.inode
        if offset + length > inode.size and handle.direct:
            # Others may have made the file longer since; a cached handle is cut by the kernel, which asked.
            await self._context.refresh(inode, STAT, lambda path: StatRequest(path, inode.fid))
        length = min(length, inode.size - offset)
        if length <= 0:
            return b""
        pieces = list(chunks.pieces(offset, length))
        calls = [
            self._context.pool.call(
                self._owner(inode, piece.chunk),
                READ_CHUNK,
                ReadChunkRequest(inode.fid, piece.chunk, piece.offset, piece.length),
            )
            for piece in pieces
        ]
        parts: list[Buffer] = []
        for piece, call in zip(pieces, calls, strict=True):
            data = (await call).data
            parts.append(data)
            if len(data) < piece.length:
                parts.append(bytes(piece.length - len(data)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Write all of *data* at *offset*, or at the end of the file for an append handle."""
        inode = handle.inode
        now_ns = time.time_ns()
        if handle.append:
            offset = await self._reserve(inode, len(data), now_ns)
        if offset + len(data) > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"write at {offset}: files end at {FILE_SIZE_MAX_BYTES} bytes")
        if not handle.privileged:
            inode.dirty_unprivileged = True  # another node may have set them since this one looked
            await self.drop_set_id(inode)
        view = memoryview(data)
        calls = []
        for piece in chunks.pieces(offset, len(data)):
            owner = self._owner(inode, piece.chunk)
            inode.unsynced |= {owner}
            part = view[piece.start : piece.start + piece.length]
            request = WriteChunkRequest(inode.fid, piece.chunk, piece.offset, part)
            calls.append(self._context.pool.call(owner, WRITE_CHUNK, request))
        for call in calls:
            await call
        if offset > inode.size:
            inode.dirty_sparse = True
        # The size of an append is known before its data is there. Publishing makes those look again who saw zeros.
        self._wrote(inode, 0 if handle.append else offset + len(data), now_ns)
        return len(data)

    async def publish(self, inode: Inode) -> None:
        """Tell the owner what was written here. A file removed elsewhere meanwhile is noted, not an error."""
        if not inode.dirty or inode.gone:
            return
        size, mtime_ns = inode.dirty_size, inode.dirty_mtime_ns
        sparse, unprivileged = inode.dirty_sparse, inode.dirty_unprivileged
        before = inode.entry.version
        try:
            reply = await self._context.about(
                inode, EXTEND, lambda path: ExtendRequest(path, inode.fid, size, mtime_ns, sparse, unprivileged)
            )
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            log.warning("file %#x lost its name elsewhere: %s", inode.fid, error)
            inode.gone = True
            return
        entry = metadentry.decode(reply.record)
        if inode.cached_version == before and entry.version == before + 1:
            inode.cached_version = entry.version  # nobody else wrote: the kernel's pages are still right
        inode.learn(entry)
        if inode.dirty_size == size and inode.dirty_mtime_ns == mtime_ns:  # else written again meanwhile
            self._clean(inode)

    async def publish_all(self) -> None:
        """Publish what every open file has written; errors come back at its own flush or fsync."""
        for inode in list(self._dirty):
            await self._publish_one(inode)

    async def publish_beside(self) -> None:
        """As `publish_all`, without waiting: a daemon that does not answer holds up no files of others."""
        for inode in self._dirty - self._publishing:
            self._publishing.add(inode)
            self._context.pool.pump.start(self._publish_one(inode))

    async def _publish_one(self, inode: Inode) -> None:
        try:
            await self.publish(inode)
        except OSError as error:
            log.warning("cannot publish the size of file %#x: %s", inode.fid, error)
        finally:
            self._publishing.discard(inode)

    async def truncate(self, inode: Inode, size: int) -> None:
        """Set the size; the bytes beyond are gone everywhere when it returns."""
        if size > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"size {size}: files end at {FILE_SIZE_MAX_BYTES} bytes")
        known_size, known_mtime_ns = inode.dirty_size, inode.dirty_mtime_ns
        now_ns = time.time_ns()
        # Before the request leaves: a publication that overtook its reply would make the file long again.
        self._clean(inode)
        try:
            await self._context.refresh(
                inode, TRUNCATE, lambda path: TruncateRequest(path, inode.fid, size, known_size, now_ns)
            )
        except OSError:
            if known_mtime_ns:
                self._wrote(inode, known_size, known_mtime_ns)
            raise

    async def fsync(self, inode: Inode) -> None:
        """Everything written here is on the daemons' disks, sizes and times included, and visible to all."""
        await self.publish(inode)
        daemons, inode.unsynced = inode.unsynced, frozenset()
        pool = self._context.pool
        calls = [pool.call(daemon, SYNC_CHUNKS, SyncChunksRequest(inode.fid)) for daemon in daemons]
        owner = self._context.distributor.path_owner(self._context.inodes.path(inode))
        records = pool.call(owner, SYNC_METADATA, SyncMetadataRequest())
        try:
            for call in calls:
                await call
        except OSError:
            inode.unsynced |= daemons
            raise
        await records

    async def closed(self, inode: Inode) -> None:
        """The last handle is closed: what only this mount kept alive goes."""
        if inode.gone:
            self._clean(inode)
        else:
            await self.publish(inode)

    async def measure(self, inode: Inode) -> None:
        """Find out how much space a file with holes takes."""
        entry = inode.entry
        owners = self._context.distributor.chunk_owners(inode.fid, 0, chunks.count(inode.size), entry.placement)
        calls = [self._context.pool.call(owner, ALLOCATED, AllocatedRequest(inode.fid)) for owner in owners]
        inode.allocated_bytes = sum([(await call).allocated_bytes for call in calls])

    def _wrote(self, inode: Inode, end: int, now_ns: int) -> None:
        inode.dirty_size = max(end, inode.dirty_size)
        inode.dirty_mtime_ns = max(now_ns, inode.dirty_mtime_ns)
        inode.dirty = True
        self._dirty.add(inode)

    def _clean(self, inode: Inode) -> None:
        inode.dirty, inode.dirty_size, inode.dirty_mtime_ns = False, 0, 0
        inode.dirty_sparse = inode.dirty_unprivileged = False
        self._dirty.discard(inode)

    def _owner(self, inode: Inode, chunk: int) -> int:
        return self._context.distributor.chunk_owner(inode.fid, chunk, inode.entry.placement)

    async def _reserve(self, inode: Inode, length: int, now_ns: int) -> int:
        if inode.dirty_size:  # an append goes behind what this node wrote through other handles
            await self.publish(inode)
        reply = await self._context.about(
            inode, RESERVE, lambda path: ReserveRequest(path, inode.fid, length, now_ns)
        )
        inode.learn(metadentry.decode(reply.record))
        return reply.offset

    async def drop_set_id(self, inode: Inode) -> None:
        """Writing to a set-user-id program takes that bit away; the kernel leaves it to us (HANDLE_KILLPRIV)."""
        mode = metadentry.without_set_id(inode.entry.mode)
        if mode != inode.entry.mode:
            make = partial(_set_mode, inode.fid, stat.S_IMODE(mode), time.time_ns())
            await self._context.refresh(inode, SETATTR, make)


def _set_mode(fid: int, mode: int, now_ns: int, path: bytes) -> SetattrRequest:
    return SetattrRequest(path, fid, SET_MODE, mode, 0, 0, 0, 0, now_ns)
