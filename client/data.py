"""File contents: reads and writes cut into chunks, and the sizes and times that follow from writes.

The data is on its way when a write returns (`writing`), or at the daemons with `--write-through`. The size and
time it leads to are kept in the inode ("dirty") and published to the record's owner at flush, fsync, release,
before anything that depends on them, and every `SIZE_FLUSH_DELAY_S` by `publish_beside`. On this node all of it
shows at once.

Appends (O_APPEND) ask the owner for their range first, so records of many nodes never overlap.
"""

import errno
import logging
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from gkfs import chunks, metadentry
from gkfs.client.context import Context
from gkfs.client.handles import FileHandle
from gkfs.client.inodes import Inode
from gkfs.client.pump import Lock
from gkfs.client.reading import Reader
from gkfs.client.writing import Writer
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES, INLINE_DATA_MAX_BYTES, SIZE_FLUSH_DELAY_S
from gkfs.messages import (
    SET_MODE,
    AllocatedRequest,
    Buffer,
    ExtendRequest,
    ReserveRequest,
    SetattrRequest,
    SyncChunksRequest,
    SyncMetadataRequest,
    TruncateRequest,
)
from gkfs.operations import (
    ALLOCATED,
    EXTEND,
    RESERVE,
    SETATTR,
    SYNC_CHUNKS,
    SYNC_METADATA,
    TRUNCATE,
)
from gkfs.paths import is_below

log = logging.getLogger(__name__)


class FileData:
    """Reads, writes and sizes of the files of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = Reader(context)
        self._writer = Writer(context, self._tell_settled)
        self._telling: dict[Inode, Lock] = {}  # requests that set the size, one after another; see `_in_turn`
        self._publishing: set[Inode] = set()  # by `publish_beside`
        self._setbacks: Counter[int] = Counter()  # how often a daemon has gone back to an earlier state

    async def read(self, handle: FileHandle, offset: int, length: int) -> Buffer:
        """See `Reader.read`; what was written here is confirmed before."""
        behind = handle.inode.behind
        if behind is None or not behind.pending:
            return await self._reader.read(handle, offset, length)
        await self._writer.settle(handle.inode)
        # What somebody has written meanwhile is none of what was asked for: the kernel holds these pages. But it
        # would be missing in what is read ahead.
        return await self._reader.read(handle, offset, length, ahead=not behind.pending)

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Write all of *data* at *offset*, or at the end of the file for an append handle."""
        inode = handle.inode
        now_ns = time.time_ns()
        if handle.append:
            offset = await self._reserve(inode, len(data), now_ns)
        end = offset + len(data)
        if end > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"write at {offset}: files end at {FILE_SIZE_MAX_BYTES} bytes")
        inode.data_changes += 1
        if not handle.privileged:
            inode.dirty_unprivileged = True  # another node may have set them since this one looked
            await self.drop_set_id(inode)
        if offset > inode.size and not (inode.entry.is_inline and end <= INLINE_DATA_MAX_BYTES):
            inode.dirty_sparse = True
        through = handle.append or handle.direct or self._context.options.write_through
        # The size of an append is known before its data is there. Publishing makes those look again who saw zeros.
        await self._writer.write(handle, offset, data, now_ns, through=through, reserved=handle.append)
        inode.data_changes += 1  # again: who read while this waited has read what was there before
        return len(data)

    async def flush(self, handle: FileHandle, *, syncs: bool = False) -> None:
        """`publish`; errors of earlier writes are raised. ESTALE: the file is nowhere to be found.

        Who *syncs* is told of them once. Linux asks for this at each close of a descriptor, also of one that a new
        program does not get: the next one is told again.
        """
        try:
            await self.publish(handle.inode, ends=True, leaves=handle.inode.opens <= 1)
        except OSError:
            self._writer.check(handle, once=syncs)  # who is told of the size is told of the data, too
            raise
        self._writer.check(handle, once=syncs)

    async def publish(self, inode: Inode, *, ends: bool = False, leaves: bool = False) -> None:
        """Tell the owner what was written here; with *ends* nothing more is expected, so the lease goes back.

        With *leaves* this node is no writer of the file any more.
        """
        ends = ends and inode.write_right is not None
        if not inode.dirty and not (ends and self._writer.leases.granted(inode)):
            return
        await self._writer.settle(inode)
        if inode.gone:
            return
        if ends:
            tell = partial(self._extend, inode, settled=True, leaves=leaves)
            await self._writer.leases.give_back(inode, tell, leaves=leaves)
        elif inode.dirty:
            await self._extend(inode)

    async def _in_turn(self, inode: Inode, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* when no other is at it: the daemon may execute requests that wait there in any order."""
        lock = self._telling.setdefault(inode, Lock())
        try:
            with await lock.taken():
                await work()
        finally:
            if not lock.held and self._telling.get(inode) is lock:
                del self._telling[inode]

    async def _tell_settled(self, inode: Inode) -> None:
        await self._extend(inode, settled=True)

    async def _extend(self, inode: Inode, *, settled: bool = False, leaves: bool = False) -> None:
        await self._in_turn(inode, partial(self._extend_now, inode, settled=settled, leaves=leaves))

    async def _extend_now(self, inode: Inode, *, settled: bool, leaves: bool) -> None:
        if not inode.dirty and not settled:
            return  # it was said meanwhile
        size, mtime_ns = inode.dirty_size, inode.dirty_mtime_ns
        sparse, unprivileged = inode.dirty_sparse, inode.dirty_unprivileged
        before = inode.entry.version
        try:
            reply = await self._context.about(
                inode,
                EXTEND,
                lambda path: ExtendRequest(path, inode.fid, size, mtime_ns, sparse, unprivileged, settled, leaves),
            )
        except OSError as error:
            if not self._writer.is_lost(inode, error):
                raise
            return
        inode.learn_own(metadentry.decode(reply.record), before)
        inode.unsynced_record = True
        if inode.dirty_size == size and inode.dirty_mtime_ns == mtime_ns:  # else written again meanwhile
            self._writer.clean(inode)

    async def publish_all(self) -> None:
        """Publish what every open file has written; errors come back at its own flush or fsync."""
        for inode in list(self._writer.dirty):
            await self._publish_one(inode, ends=True)

    async def publish_moving(self, moving: Iterable[Inode | None]) -> None:
        """Publish what is about to be renamed, and all below it: nobody has to wait for the leases.

        None stands for something that is not known here, and so was not written to here.
        """
        files = {inode for inode in moving if inode is not None and not inode.entry.is_directory}
        tops = [self._context.inodes.path(top) for top in moving if top is not None and top.entry.is_directory]
        if tops:
            written = self._writer.dirty | self._writer.leases.holding
            paths = {inode: self._context.inodes.path(inode) for inode in written}
            files |= {inode for inode, path in paths.items() if any(is_below(path, top) for top in tops)}
        for inode in files:
            await self._publish_one(inode, ends=True)

    async def publish_beside(self) -> None:
        """As `publish_all`, without waiting: a daemon that does not answer holds up no files of others."""
        for inode in self._publishing:  # its data take their time: nobody else may write meanwhile
            self._writer.leases.renew(inode)
        idle_since_ns = time.time_ns() - int(SIZE_FLUSH_DELAY_S / 2 * 1e9)
        for inode in self._writer.dirty - self._publishing:
            self._publishing.add(inode)
            ends = inode.dirty_mtime_ns < idle_since_ns
            self._context.pool.pump.start(self._publish_one(inode, ends=ends))

    async def _publish_one(self, inode: Inode, *, ends: bool) -> None:
        try:
            await self.publish(inode, ends=ends)
        except OSError as error:
            log.warning("cannot publish the size of file %#x: %s", inode.fid, error)
        finally:
            self._publishing.discard(inode)

    async def truncate(self, inode: Inode, size: int) -> None:
        """Set the size; the bytes beyond are gone everywhere when it returns."""
        if size > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"size {size}: files end at {FILE_SIZE_MAX_BYTES} bytes")
        await self._writer.settle(inode)
        await self._in_turn(inode, partial(self._truncate_now, inode, size))

    async def _truncate_now(self, inode: Inode, size: int) -> None:
        known_size, known_mtime_ns = inode.dirty_size, inode.dirty_mtime_ns
        was_inline, now_ns = inode.entry.is_inline, time.time_ns()
        # Before the request leaves: a publication that overtook its reply would make the file long again. Who
        # reads meanwhile finds what is there.
        inode.cut_from = known_size
        self._writer.clean(inode)
        try:
            await self._context.refresh(
                inode, TRUNCATE, lambda path: TruncateRequest(path, inode.fid, size, known_size, now_ns)
            )
        except OSError:
            if known_mtime_ns:
                self._writer.note(inode, known_size, known_mtime_ns)
            raise
        finally:
            inode.cut_from = 0
            inode.data_changes += 1
        inode.unsynced_record = True
        self._writer.check_moved(inode, was_inline)

    async def fsync(self, handle: FileHandle) -> None:
        """Everything written here is on the daemons' disks, sizes and times included, and visible to all."""
        inode = handle.inode
        await self.flush(handle, syncs=True)
        inode.data_changes += 1  # MPI programs sync before they read what others have written: read it again
        setbacks = self._setbacks.copy()
        daemons, inode.unsynced = inode.unsynced, frozenset()
        others, inode.unsynced_before, inode.unsynced_record = inode.unsynced_before, False, False
        pool = self._context.pool
        asked = daemons | self._chunk_owners(inode) if others else daemons
        calls = [pool.call(daemon, SYNC_CHUNKS, SyncChunksRequest(inode.fid)) for daemon in asked]
        owner = self._context.distributor.path_owner(self._context.inodes.path(inode))
        records = pool.call(owner, SYNC_METADATA, SyncMetadataRequest())
        try:
            for call in calls:
                await call
            await records
        except OSError:
            inode.unsynced |= daemons
            inode.unsynced_before |= others
            inode.unsynced_record = True
            raise
        if any(setbacks[daemon] != self._setbacks[daemon] for daemon in (owner, *asked)):
            raise os_error(errno.EIO, f"the node of a daemon went down while file {inode.fid:x} was synced")

    def setback(self, daemon: int, open_files: Iterable[Inode]) -> None:
        """The node of *daemon* went down, with what was not synced: who has written it to *open_files* is told."""
        self._setbacks[daemon] += 1
        for inode in open_files:
            owner = self._context.distributor.path_owner(self._context.inodes.path(inode))
            if daemon in inode.unsynced or (inode.unsynced_record and owner == daemon):
                self._writer.lost(inode, f"daemon {daemon} has lost what was not synced: its node went down")

    async def closed(self, inode: Inode) -> None:
        """The last handle is closed: what only this mount kept alive goes."""
        if inode.gone:
            await self._writer.drop(inode)
        else:
            await self.publish(inode)
            self._writer.closed(inode)

    async def measure(self, inode: Inode) -> None:
        """Find out how much space a file with holes takes."""
        await self._writer.settle(inode)
        owners = self._chunk_owners(inode)
        calls = [self._context.pool.call(owner, ALLOCATED, AllocatedRequest(inode.fid)) for owner in owners]
        inode.allocated_bytes = sum([(await call).allocated_bytes for call in calls])

    def _chunk_owners(self, inode: Inode) -> frozenset[int]:
        """The daemons that may have chunks of the file."""
        if inode.entry.is_inline:
            return frozenset()
        count, placement = chunks.count(inode.size), inode.entry.placement
        return frozenset(self._context.distributor.chunk_owners(inode.fid, 0, count, placement))

    async def _reserve(self, inode: Inode, length: int, now_ns: int) -> int:
        if inode.dirty_size or inode.behind_end:  # an append goes behind what was written through other handles
            await self.publish(inode)
        was_inline = inode.entry.is_inline
        reply = await self._context.about(
            inode, RESERVE, lambda path: ReserveRequest(path, inode.fid, length, now_ns)
        )
        inode.learn(metadentry.decode(reply.record))
        inode.unsynced_record = True
        self._writer.check_moved(inode, was_inline)
        return reply.offset

    async def drop_set_id(self, inode: Inode) -> None:
        """Writing to a set-user-id program takes that bit away; the kernel leaves it to us (HANDLE_KILLPRIV)."""
        mode = metadentry.without_set_id(inode.entry.mode)
        if mode != inode.entry.mode:
            make = partial(_set_mode, inode.fid, stat.S_IMODE(mode), time.time_ns())
            await self._context.refresh(inode, SETATTR, make)


def _set_mode(fid: int, mode: int, now_ns: int, path: bytes) -> SetattrRequest:
    return SetattrRequest(path, fid, SET_MODE, mode, 0, 0, 0, 0, now_ns)
