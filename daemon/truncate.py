"""TRUNCATE, and the requests for chunks on this daemon.

Growing a file touches only its record. When it shrinks, the record gets the new size together with a note of what
is to be cut; the chunks are cut at their daemons; then the note goes. Meanwhile the file's size does not change
otherwise, see `reclaim`.
"""

import errno
from collections.abc import Coroutine
from typing import Any

import msgpack

from gkfs import paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards
from gkfs.daemon.inline_data import InlineData
from gkfs.daemon.leases import Leases
from gkfs.daemon.peers import Peers, first_error
from gkfs.daemon.reclaim import Cut, Reclaimer, truncation
from gkfs.daemon.records import Records
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import FILE_SIZE_MAX_BYTES, INLINE_DATA_MAX_BYTES
from gkfs.messages import (
    AllocatedReply,
    AllocatedRequest,
    Buffer,
    CutChunksRequest,
    Empty,
    ReadChunkReply,
    ReadChunkRequest,
    RecordReply,
    SyncChunksRequest,
    TruncateRequest,
    WriteChunkReply,
    WriteChunkRequest,
)
from gkfs.metadentry import FLAG_SPARSE
from gkfs.operations import CUT_CHUNKS


class Truncation:
    """The handler of TRUNCATE."""

    def __init__(
        self,
        store: MetadataStore,
        records: Records,
        guards: Guards,
        distributor: Distributor,
        peers: Peers,
        reclaimer: Reclaimer,
        inline_data: InlineData,
        leases: Leases,
    ) -> None:
        self._store = store
        self._inline_data = inline_data
        self._leases = leases
        self._records = records
        self._guards = guards
        self._distributor = distributor
        self._peers = peers
        self._reclaimer = reclaimer

    def truncate(
        self, session: Session, request: TruncateRequest
    ) -> RecordReply | Coroutine[Any, Any, RecordReply]:
        found, entry = self._records.for_change(request.path, request.fid)
        name = paths.printable(request.path)
        if not entry.is_regular or request.size < 0:
            raise os_error(errno.EINVAL, f"{name}: mode {entry.mode:o} cannot have {request.size} bytes")
        if max(request.size, request.known_size) > FILE_SIZE_MAX_BYTES:
            raise os_error(errno.EFBIG, f"{name}: {request.size} bytes")
        self._guards.check_fid(entry.fid)
        self._leases.check_file(request.path, session.client_id)
        if entry.is_inline and request.size <= INLINE_DATA_MAX_BYTES:
            return self._inline_data.resized(found, entry, request.size, request.now_ns)
        entry = self._inline_data.moved_out(entry)
        cut = truncation(entry, request.size, request.known_size)
        flags = entry.flags | FLAG_SPARSE if request.size > entry.size else entry.flags
        if request.size == 0:
            flags &= ~FLAG_SPARSE
        entry = entry.changed(size=request.size, mtime_ns=request.now_ns, ctime_ns=request.now_ns, flags=flags)
        if cut is None:
            return RecordReply(self._records.replace(found, entry))
        # Noted and held before any other request can be executed.
        record = self._records.replace(found, entry)
        self._store.put(keys.cut(entry.fid), msgpack.packb(cut))
        self._guards.hold_cut(entry.fid)
        return self._cut(entry.fid, cut, record)

    async def _cut(self, fid: int, cut: Cut, record: bytes) -> RecordReply:
        if self._store.get(keys.cut(fid)) is None:
            self._guards.lift_cut(fid)
            problem = f"file {fid:x}: the change of its record could not be committed"
            raise os_error(self._store.failed_with, problem)
        try:
            await self._store.noted()
        except OSError:
            self._reclaimer.finish_later(fid, cut)
            raise
        owners = cut.owners(fid, self._distributor)
        outcomes = await self._peers.call_all(owners, CUT_CHUNKS, CutChunksRequest(fid, cut.size))
        error = first_error(outcomes)
        if error is not None:
            # The size has changed; until all chunks have followed, nobody may grow the file into them.
            self._reclaimer.finish_later(fid, cut)
            raise error
        self._reclaimer.truncated(fid, cut)
        return RecordReply(record)


class Chunks:
    """The handlers for chunks."""

    def __init__(self, storage: ChunkStorage) -> None:
        self._storage = storage

    def write(
        self, session: Session, request: WriteChunkRequest
    ) -> WriteChunkReply | Coroutine[Any, Any, WriteChunkReply]:
        length = self._storage.write(*request)
        return WriteChunkReply(length) if isinstance(length, int) else _write_reply(length)

    def read(
        self, session: Session, request: ReadChunkRequest
    ) -> ReadChunkReply | Coroutine[Any, Any, ReadChunkReply]:
        data = self._storage.read(*request)
        if isinstance(data, Coroutine):
            return _read_reply(data)
        return ReadChunkReply(data)

    def cut(self, session: Session, request: CutChunksRequest) -> Empty | Coroutine[Any, Any, Empty]:
        if request.size < 0:
            raise os_error(errno.EINVAL, f"file {request.fid:x}: cannot cut to {request.size} bytes")
        work = self._storage.cut(request.fid, request.size)
        return Empty() if work is None else _empty_reply(work)

    async def allocated(self, session: Session, request: AllocatedRequest) -> AllocatedReply:
        return AllocatedReply(await self._storage.allocated(request.fid))

    def sync(self, session: Session, request: SyncChunksRequest) -> Coroutine[Any, Any, Empty]:
        return _empty_reply(self._storage.sync(request.fid))


async def _write_reply(work: Coroutine[Any, Any, int]) -> WriteChunkReply:
    return WriteChunkReply(await work)


async def _read_reply(work: Coroutine[Any, Any, Buffer]) -> ReadChunkReply:
    return ReadChunkReply(await work)


async def _empty_reply(work: Coroutine[Any, Any, None]) -> Empty:
    await work
    return Empty()
