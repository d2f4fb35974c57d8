"""Writes on their way to daemons: gathered, sent without waiting, and confirmed later, while nobody else writes.

Writes that follow one another are gathered until they fill a chunk; what is gathered leaves when something else
is written, when the file is read, flushed or synced, and after `SIZE_FLUSH_DELAY_S` at the latest. Requests for
chunks are not waited for; only so much is under way. Errors come back with the next write, flush or fsync. With
`--write-through`, and when another node writes to the file, too (`write_leases`), each write waits.

What fits goes into the file's record; the first byte that does not fit moves the data to chunks (see
`gkfs.daemon.inline_data`). Programs on this node see all of it at once: who reads waits for it here.
"""

import errno
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from gkfs import chunks, metadentry
from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.handles import FileHandle
from gkfs.client.inodes import Inode
from gkfs.client.pump import Lock
from gkfs.client.write_leases import WriteLeases
from gkfs.errors import os_error
from gkfs.limits import (
    CHUNK_SIZE_BYTES,
    INLINE_DATA_MAX_BYTES,
    WRITE_BEHIND_ALL_BYTES,
    WRITE_BEHIND_BYTES,
    WRITE_BEHIND_CALLS,
)
from gkfs.messages import OutgrowRequest, WriteChunkRequest, WriteInlineRequest
from gkfs.operations import OUTGROW, WRITE_CHUNK, WRITE_INLINE

log = logging.getLogger(__name__)


class _Sent:
    """One request that writes a part of a chunk."""

    __slots__ = ("call", "end", "size", "start", "written_ns")

    def __init__(self, call: Call[Any], start: int, end: int, size: int, written_ns: int) -> None:
        self.call = call
        self.start = start
        self.end = end
        self.size = size  # what the owner must know once it is confirmed; 0: it does already
        self.written_ns = written_ns  # likewise


class Behind:
    """What was written to one file here and is not confirmed. *lock* is held by who sends or waits."""

    __slots__ = (
        "error",
        "failures",
        "gathered",
        "lock",
        "reserved",
        "sending",
        "sent",
        "sent_bytes",
        "start",
        "stop",
        "told",
    )

    def __init__(self) -> None:
        self.lock = Lock()
        self.gathered: list[bytes] = []  # one run of bytes, from *start* to *stop* of the file
        self.start = self.stop = 0
        self.reserved = False  # it is an append, whose range the owner has given
        self.sending = False  # what was gathered is taken, and not yet among *sent*
        self.sent: deque[_Sent] = deque()
        self.sent_bytes = 0
        self.error: OSError | None = None  # of what has failed last
        self.failures = 0  # so many: each handle is told of those that it has not seen
        self.told = 0  # of those somebody has been told: who opens the file from now on need not know of them

    @property
    def pending(self) -> bool:
        """Whether there is anything."""
        return bool(self.gathered or self.sent or self.sending)


class Writer:
    """The writes of one mount. A file's writes come one after another: the kernel sees to that."""

    def __init__(self, context: Context, tell: Callable[[Inode], Awaitable[None]]) -> None:
        """*tell*: has the owner of a file know its size, and that nothing of it is on its way."""
        self._context = context
        self.leases = WriteLeases(context, self.settle, tell)
        self._gathered_bytes = 0  # of all files
        self._sent_bytes = 0  # likewise
        self.dirty: set[Inode] = set()

    async def write(
        self, handle: FileHandle, offset: int, data: bytes, now_ns: int, *, through: bool, reserved: bool = False
    ) -> None:
        """Take *data*; with *through* it is confirmed when this returns. Raises OSError, of earlier data, too.

        *reserved*: the owner has given this range to an append; with *through* only, and nothing gathered.
        """
        inode = handle.inode
        behind = inode.behind
        if behind is None:
            behind = inode.behind = Behind()
        self._raise_unknown(handle, behind)
        if not reserved:
            await self._prepare(inode, offset + len(data), wanted=not through)
        while behind.gathered and offset != behind.stop:
            with await behind.lock.taken():
                await self._send(inode, behind)
        alone, failures = not behind.pending, behind.failures
        if not behind.gathered:
            behind.start = offset
        behind.reserved = reserved
        behind.gathered.append(data)
        behind.stop = end = offset + len(data)
        self._gathered_bytes += len(data)
        inode.behind_end = max(inode.behind_end, end)
        self.note(inode, 0, now_ns)
        # no await between here and the last look at what is gathered, or who gives the lease back misses it
        if through or not self.leases.held(inode):
            await self.settle(inode)
            if behind.failures != failures and behind.error is not None:
                if alone and not inode.gone:  # nothing is lost but what this call says is not written
                    behind.failures = failures
                raise OSError(behind.error.errno or errno.EIO, behind.error.strerror)
        elif behind.start // CHUNK_SIZE_BYTES != end // CHUNK_SIZE_BYTES:  # a chunk is full
            with await behind.lock.taken():
                await self._send(inode, behind)
        elif self._gathered_bytes + self._sent_bytes > WRITE_BEHIND_ALL_BYTES:
            await self.settle(inode)

    async def _prepare(self, inode: Inode, end: int, *, wanted: bool) -> None:
        """Have the right to write up to *end*, with a lease if it is *wanted*. Raises OSError."""
        if inode.gone:
            return
        try:
            if not inode.entry.is_inline:
                await self.leases.prepare(inode, wanted=wanted)
            elif end > INLINE_DATA_MAX_BYTES:
                await self._outgrow(inode, wanted=wanted)
        except OSError as error:
            if not self.is_lost(inode, error):
                raise

    async def _outgrow(self, inode: Inode, *, wanted: bool) -> None:
        """Have the data of *inode* in chunks, with the right to write to them. Raises OSError."""
        before, asked = inode.entry.version, b""
        placement = self._context.placement_of(inode)

        def make(path: bytes) -> OutgrowRequest:
            nonlocal asked
            asked = path
            return OutgrowRequest(path, inode.fid, placement, wanted)

        sent_s = time.monotonic()
        reply = await self._context.about(inode, OUTGROW, make)
        inode.learn_own(metadentry.decode(reply.record), before)
        inode.unsynced_record = True
        self.leases.told(inode, asked, sent_s, leased=reply.leased)
        self._left_record(inode)

    def check_moved(self, inode: Inode, was_inline: bool) -> None:
        """Note where the data are that were in the record, if a request has moved them out of it."""
        if was_inline and not inode.entry.is_inline:
            self._left_record(inode)

    def _left_record(self, inode: Inode) -> None:
        """What was in the record is in its first chunk, and not on that daemon's disk."""
        inode.unsynced |= {self._context.chunk_owner(inode, 0)}

    async def settle(self, inode: Inode) -> None:
        """Wait until all that was written here is confirmed, or has failed; `check` says so."""
        behind = inode.behind
        if behind is None:
            return
        with await behind.lock.taken():
            await self._send(inode, behind)
            while behind.sent:
                await self._confirm(inode, behind)

    def check(self, handle: FileHandle, *, once: bool) -> None:
        """Raise the OSError of data that was lost after its write, to each who may have written, maybe *once*."""
        behind = handle.inode.behind
        if behind is not None and handle.writes:
            seen = handle.failures_seen
            if once:
                handle.failures_seen = behind.failures
            if seen != behind.failures and behind.error is not None:
                behind.told = behind.failures
                raise OSError(behind.error.errno or errno.EIO, behind.error.strerror)

    def _raise_unknown(self, handle: FileHandle, behind: Behind) -> None:
        """As `check`, for a write; it is told again at the end: Linux hides an error behind a part that went."""
        known = handle.failures_seen, handle.failures_raised
        if behind.failures not in known and behind.error is not None:
            handle.failures_raised = behind.failures
            raise OSError(behind.error.errno or errno.EIO, behind.error.strerror)

    async def drop(self, inode: Inode) -> None:
        """Forget what is gathered: the file has no name any more, and nobody will read it."""
        self.leases.holding.discard(inode)
        behind = inode.behind
        if behind is not None:
            self._take(behind)
            await self.settle(inode)
        self.clean(inode)

    def closed(self, inode: Inode) -> None:
        """Nobody has the file open any more, and all was published: most files are never written again."""
        if inode.opens:  # again: who writes now has what is to be forgotten
            return
        self.leases.holding.discard(inode)
        behind = inode.behind
        if behind is not None and not (behind.failures or behind.pending or behind.lock.held):
            inode.behind = None

    def clean(self, inode: Inode) -> None:
        """The owner knows of everything that is confirmed."""
        inode.dirty_size = inode.dirty_mtime_ns = 0
        inode.dirty_sparse = inode.dirty_unprivileged = False
        self._rest(inode)

    def note(self, inode: Inode, end: int, now_ns: int) -> None:
        """There is data up to *end*, written at *now_ns*, that the owner may not know of."""
        inode.dirty_size = max(end, inode.dirty_size)
        inode.dirty_mtime_ns = max(now_ns, inode.dirty_mtime_ns)
        inode.dirty = True
        self.dirty.add(inode)

    # --- sending

    async def _send(self, inode: Inode, behind: Behind) -> None:
        """Send what is gathered. The lock is held: who waits for it finds all of it sent."""
        start, reserved, written_ns = behind.start, behind.reserved, inode.dirty_mtime_ns
        data = self._take(behind)
        if not data:
            return
        behind.sending = True
        try:
            if inode.entry.is_inline and await self._fits(inode, behind, start, data):
                return
            if inode.write_right is None and not reserved:  # another node's writes have moved the data to chunks
                await self.leases.request(inode, behind=False, wanted=False)
            await self._send_chunks(inode, behind, start, data, written_ns, reserved=reserved)
        except OSError as error:
            self._failed(inode, behind, error)
        finally:
            behind.sending = False
            self._rest(inode)

    def _take(self, behind: Behind) -> bytes:
        pieces = behind.gathered
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)  # where memory is short it stays as it is
        behind.gathered = []
        self._gathered_bytes -= len(data)
        return data

    async def _fits(self, inode: Inode, behind: Behind, start: int, data: bytes) -> bool:
        """Whether *data* is in the file's record now; else its data are in chunks. Raises OSError."""
        if start + len(data) > INLINE_DATA_MAX_BYTES:
            await self._outgrow(inode, wanted=False)
            return False
        before = inode.entry.version
        mtime_ns, unprivileged = inode.dirty_mtime_ns, inode.dirty_unprivileged
        reply = await self._context.about(
            inode,
            WRITE_INLINE,
            lambda path: WriteInlineRequest(path, inode.fid, start, mtime_ns, unprivileged, data),
        )
        entry = metadentry.decode(reply.record)
        inode.unsynced_record = True
        if reply.written:
            inode.learn_own(entry, before)
            if not inode.dirty_size and inode.dirty_mtime_ns == mtime_ns and not behind.gathered:
                self.clean(inode)
            return True
        inode.learn(entry)
        self._left_record(inode)
        return False

    async def _send_chunks(
        self, inode: Inode, behind: Behind, start: int, data: bytes, written_ns: int, *, reserved: bool
    ) -> None:
        view = memoryview(data)
        for piece in chunks.pieces(start, len(data)):
            first = start + piece.start
            end = first + piece.length
            await self._wait_for_overlap(inode, behind, first, end)
            owner = self._context.chunk_owner(inode, piece.chunk)
            inode.unsynced |= {owner}
            part = view if piece.length == len(data) else view[piece.start : piece.start + piece.length]
            request = WriteChunkRequest(inode.fid, piece.chunk, piece.offset, part)
            call = self._context.pool.call(owner, WRITE_CHUNK, request)
            behind.sent.append(_Sent(call, first, end, 0 if reserved else end, written_ns))
            behind.sent_bytes += piece.length
            self._sent_bytes += piece.length
        while behind.sent and (
            behind.sent[0].call.done
            or behind.sent_bytes > WRITE_BEHIND_BYTES
            or len(behind.sent) > WRITE_BEHIND_CALLS
        ):
            await self._confirm(inode, behind)

    async def _wait_for_overlap(self, inode: Inode, behind: Behind, start: int, end: int) -> None:
        """Daemons may do writes that wait for something, or for a thread, in any order."""
        if any(sent.start < end and start < sent.end for sent in behind.sent):
            while behind.sent:
                await self._confirm(inode, behind)

    async def _confirm(self, inode: Inode, behind: Behind) -> None:
        """Wait for the oldest request. It is among those sent until it is confirmed: who reads waits for it."""
        sent = behind.sent[0]
        try:
            await sent.call
        except OSError as error:
            self._failed(inode, behind, error)
        else:
            # Of an append the size is known before: who saw zeros there must see that something has changed since.
            self.note(inode, sent.size, sent.written_ns if sent.size else time.time_ns())
        behind.sent.popleft()
        behind.sent_bytes -= sent.end - sent.start
        self._sent_bytes -= sent.end - sent.start
        self._rest(inode)

    # --- accounts

    def _rest(self, inode: Inode) -> None:
        """What is left to be said to the owner, after something was."""
        if inode.behind is None or not inode.behind.pending:
            inode.behind_end = 0
        if not (inode.behind_end or inode.dirty_size or inode.dirty_mtime_ns):
            inode.dirty = False
            self.dirty.discard(inode)

    def is_lost(self, inode: Inode, error: OSError) -> bool:
        """Whether *error* says that the file is nowhere to be found any more; `check` raises ESTALE then."""
        if error.errno not in (errno.ESTALE, errno.ENOENT):
            return False
        log.warning("file %#x lost its name elsewhere: %s", inode.fid, error)
        inode.gone = True
        self._fail(inode, OSError(errno.ESTALE, error.strerror))
        return True

    def lost(self, inode: Inode, reason: str) -> None:
        """What was written here and confirmed is not there any more; `check` raises EIO."""
        log.warning("file %#x: %s", inode.fid, reason)
        self._fail(inode, os_error(errno.EIO, reason))

    def _fail(self, inode: Inode, error: OSError) -> None:
        if inode.behind is None:
            inode.behind = Behind()
        inode.behind.failures += 1
        inode.behind.error = error

    def _failed(self, inode: Inode, behind: Behind, error: OSError) -> None:
        if self.is_lost(inode, error):
            return
        log.warning("write to file %#x: %s", inode.fid, error)
        self._fail(inode, error)
