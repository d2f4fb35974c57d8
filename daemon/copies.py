"""The mirror's half of two copies: the copies of other shards that this process keeps.

    ROOTDIR/copies/SHARD/{superblock.json, metadata/, chunks/}    laid out as a rootdir, since it may become one

A copy is the same kind of store and storage as the original, to which the original's changes happen in the same
order. What a commit of the original was is one commit here, with the number of the request it came in
(`keys.COPIED`), so that what is sent again after a break is not done twice. To take over, the copy is closed and a
daemon is started on it.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgpack
import trio

from gkfs.copy_messages import (
    CopyBeginRequest,
    CopyChunkRequest,
    CopyCutRequest,
    CopyDoneRequest,
    CopyPingRequest,
    CopyReadReply,
    CopyReadRequest,
    CopyRecordsRequest,
)
from gkfs.daemon import keys
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.session import Session
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.superblock import Ending, Superblock, is_used, plant
from gkfs.errors import GkfsError, os_error
from gkfs.hostfile import Sync
from gkfs.limits import COPY_SILENCE_S
from gkfs.messages import Buffer, Empty
from gkfs.operations import COPY_BEGIN, COPY_CHUNK, COPY_CUT, COPY_DONE, COPY_PING, COPY_READ, COPY_RECORDS

_log = logging.getLogger(__name__)

T = TypeVar("T")
_FOLDER: Final = "copies"
_PATIENCE_S: Final = 3 * COPY_SILENCE_S


class _Chunks(ChunkStorage):
    """The chunks of a copy. What nobody has claimed the original may be about to; a start of that cleans up."""

    def _forget_unclaimed(self, unclaimed: list[bytes]) -> None:
        pass


class Copy:
    """One copy. *complete*: it has everything; *heard_s*: when its primary was heard last, on trio's clock.

    *ending*: another one is about to take its place.
    """

    def __init__(self, folder: Path, sync: Sync, *, direct_io: bool) -> None:
        """Open the copy in *folder*, which has a superblock. Raises GkfsError, OSError."""
        self.folder = folder
        # A log that ends too early is no loss: what is missing then is sent again, or the copy is made anew.
        self.store = MetadataStore(folder / "metadata", ending=Ending.POWER, sync=sync)
        try:
            self.storage = _Chunks(folder / "chunks", self.store, uses_direct_io=direct_io, sync=sync)
        except BaseException:
            self.store.close()
            raise
        state = self.store.get(keys.COPIED)
        self.seq: int
        self.complete: bool
        self.seq, self.complete = msgpack.unpackb(state) if state else (0, False)
        self.heard_s = trio.current_time()
        self.client_id = b""  # of the connection that brings the changes; b"": the first one that does
        self._part: list[bytes | None] = []  # of a commit that has come in part
        self._parts = 0
        self.tasks = 0
        self.idle = trio.Event()
        self.ending = False

    def add(self, seq: int, last: bool, data: bytes) -> None:
        """Take COPY_RECORDS. Raises OSError: ESTALE when one before is missing."""
        due = self.seq + self._parts + 1
        if seq < due:
            return  # sent again
        if seq > due:
            raise os_error(errno.ESTALE, f"request {due} of the copy is missing, got {seq}")
        self._part += msgpack.unpackb(data)
        self._parts += 1
        if not last:
            return
        part, self._part, self._parts = self._part, [], 0
        # no await between here and the commit
        for key, value in zip(part[::2], part[1::2], strict=True):
            assert key is not None
            if value is None:
                self.store.delete(key)
            else:
                self.store.put(key, value)
        self._commit(seq)

    def finish(self) -> None:
        """It is complete from now on."""
        self.complete = True
        self._commit(self.seq)

    def _commit(self, seq: int) -> None:
        self.store.put(keys.COPIED, msgpack.packb((seq, self.complete)))
        self.store.commit()
        self.seq = seq

    async def until_idle(self) -> None:
        """Wait until no task works on it."""
        while self.tasks:
            self.idle = trio.Event()
            await self.idle.wait()

    async def become_original(self) -> None:
        """Close it as what a daemon leaves behind: it can be started on the folder. Raises OSError."""
        await self.until_idle()
        self.store.delete(keys.COPIED)
        self.store.commit()
        self.close()

    def close(self) -> None:
        """Close its files."""
        self.storage.close()
        self.store.close()


class Copies:
    """All copies of one process.

    *check_addressed*: raises OSError unless a request to that process is for this one. *is_needed*: a shard's copy
    is all there is but the original, or the original. *is_closed*: this process is to answer for the shard itself.
    """

    check_addressed: Callable[[int], None]
    is_needed: Callable[[int], bool]
    is_closed: Callable[[int], bool]

    def __init__(self, rootdir: Path, superblock: Superblock, nursery: trio.Nursery, *, direct_io: bool) -> None:
        """*superblock*: of the process. *nursery* is for removing what is not needed any more."""
        self._folder = rootdir / _FOLDER
        self._superblock = superblock
        self._nursery = nursery
        self._direct_io = direct_io
        self._copies: dict[int, Copy] = {}

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve the operations of copies."""
        dispatcher.serve(COPY_BEGIN, self.begin)
        dispatcher.serve(COPY_RECORDS, self.records)
        dispatcher.serve(COPY_CHUNK, self.chunk)
        dispatcher.serve(COPY_CUT, self.cut)
        dispatcher.serve(COPY_READ, self.read)
        dispatcher.serve(COPY_DONE, self.done)
        dispatcher.serve(COPY_PING, self.ping)

    def folder(self, shard: int) -> Path:
        return self._folder / str(shard)

    def resume(self, wanted: set[int], originals: set[int]) -> None:
        """Open the copies of the *wanted* shards that an earlier run has left; remove all but *originals*."""
        for folder in list(self._folder.glob("*")):
            shard = int(folder.name) if folder.name.isdigit() else -1
            try:
                if shard in wanted:
                    self._copies[shard] = copy = self._open(folder)
                    # Its primary may have been stopped with us, and take longer to be back.
                    copy.heard_s += _PATIENCE_S
                    continue
            except (GkfsError, OSError) as error:  # its primary will find that there is none, and make another
                _log.error("copy of shard %d: %s", shard, error)
            if shard not in originals:
                self._discard(folder)

    def _open(self, folder: Path) -> Copy:
        return Copy(folder, Sync(self._superblock.sync), direct_io=self._direct_io)

    def heard_all(self) -> None:
        """Begin to count the silence of all primaries anew."""
        for copy in self._copies.values():
            copy.heard_s = max(copy.heard_s, trio.current_time())

    def get(self, shard: int) -> Copy | None:
        return self._copies.get(shard)

    def drop(self, shard: int) -> None:
        """Remove the copy of *shard*, if there is one."""
        copy = self._copies.pop(shard, None)
        if copy is not None:
            copy.close()
            self._discard(copy.folder)

    def _discard(self, folder: Path) -> None:
        # Many files: what takes long must not make others take this process for dead.
        waste = folder.with_name(f"{folder.name}.{os.urandom(4).hex()}")
        folder.rename(waste)
        self._nursery.start_soon(trio.to_thread.run_sync, partial(shutil.rmtree, waste, ignore_errors=True))

    async def release(self, shard: int) -> Path:
        """The folder of what becomes the original; nothing more is added. Raises OSError; then try again."""
        copy = self._copies.get(shard)
        if copy is not None:
            await copy.become_original()
            del self._copies[shard]
        return self.folder(shard)

    def close(self) -> None:
        """Close all."""
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()

    # --- handlers

    def begin(self, session: Session, request: CopyBeginRequest) -> Empty | Coroutine[Any, Any, Empty]:
        self.check_addressed(request.process)
        if self.is_needed(request.shard):
            text = f"what there is of shard {request.shard} here is needed: it is all there is but the original"
            raise os_error(errno.EEXIST, text)
        old = self._copies.get(request.shard)
        if old is not None and old.tasks:
            old.client_id = session.client_id  # nothing more of who began it is taken
            old.ending = True  # nor of who begins another one
            return self._begin_when_idle(session, request, old)
        return self._begin(session, request)

    async def _begin_when_idle(self, session: Session, request: CopyBeginRequest, old: Copy) -> Empty:
        """Threads write to the files of *old*: what they have open must not become something else."""
        await old.until_idle()
        now = self._copies.get(request.shard)
        if now is not old and now is not None and now.client_id == session.client_id:
            return Empty()  # a repeat was faster
        reply = self.begin(session, request)
        return await reply if isinstance(reply, Coroutine) else reply

    def _begin(self, session: Session, request: CopyBeginRequest) -> Empty:
        _, shard, boot_epoch, power_epoch = request
        self.drop(shard)
        folder = self.folder(shard)
        if folder.exists():  # what could not be begun, or a daemon has left that had taken over, and was replaced
            if is_used(folder):
                raise os_error(errno.ESTALE, f"a daemon for shard {shard} is still ending here")
            self._discard(folder)
        folder.mkdir(parents=True, mode=0o700)
        original = replace(self._superblock, daemon_index=shard, boot_epoch=boot_epoch, port=0)
        plant(folder, replace(original, power_epoch=power_epoch))
        self._copies[request.shard] = copy = self._open(folder)
        copy.client_id = session.client_id
        _log.info("begins a copy of shard %d", request.shard)
        return Empty()

    def records(self, session: Session, request: CopyRecordsRequest) -> Empty:
        self._heard(session, request.shard).add(request.seq, request.last, bytes(request.data))
        return Empty()

    def chunk(self, session: Session, request: CopyChunkRequest) -> Empty | Coroutine[Any, Any, Empty]:
        copy = self._heard(session, request.shard)
        key = keys.chunk(request.fid, request.chunk)
        entry = copy.store.get(key)
        written = copy.storage.write(request.fid, request.chunk, request.offset, request.data)
        if entry and copy.store.get(key) != entry:
            copy.store.put_now(key, entry)  # the original's, with its checksums: a new file has emptied it
        return Empty() if isinstance(written, int) else _finish(_at_work(copy, written))

    def cut(self, session: Session, request: CopyCutRequest) -> Empty | Coroutine[Any, Any, Empty]:
        copy = self._heard(session, request.shard)
        work = copy.storage.cut(request.fid, request.size)
        if work is not None:
            return _finish(_at_work(copy, work))
        copy.store.commit()
        return Empty()

    def read(
        self, session: Session, request: CopyReadRequest
    ) -> CopyReadReply | Coroutine[Any, Any, CopyReadReply]:
        copy = self._heard(session, request.shard)
        data = copy.storage.read(request.fid, request.chunk, request.offset, request.length)
        return _read(_at_work(copy, data)) if isinstance(data, Coroutine) else CopyReadReply(data)

    def done(self, session: Session, request: CopyDoneRequest) -> Empty:
        self._heard(session, request.shard).finish()
        _log.info("has a complete copy of shard %d", request.shard)
        return Empty()

    def ping(self, session: Session, request: CopyPingRequest) -> Empty:
        copy = self._copies.get(request.shard)
        if copy is None or not copy.ending or copy.client_id != session.client_id:
            self._heard(session, request.shard)
        return Empty()  # also while its BEGIN waits

    def _heard(self, session: Session, shard: int) -> Copy:
        """The copy that *session* brings changes to. Raises OSError: ESTALE, also if another one does by now.

        The network may still have something of an earlier one, which would come over what was changed since.
        """
        copy = self._copies.get(shard)
        if copy is None:
            raise os_error(errno.ESTALE, f"no copy of shard {shard} is kept here")
        if self.is_closed(shard):
            # What is confirmed now would have the primary believe that nobody else answers.
            raise os_error(errno.ESTALE, f"process {self._superblock.daemon_index} takes shard {shard} over")
        if copy.client_id not in (b"", session.client_id):
            raise os_error(errno.ESTALE, f"the copy of shard {shard} here was begun by another connection")
        if copy.ending:
            raise os_error(errno.ESTALE, f"the copy of shard {shard} here is being begun anew")
        copy.client_id = session.client_id
        copy.heard_s = trio.current_time()
        return copy


async def _finish(work: Coroutine[Any, Any, Any]) -> Empty:
    await work
    return Empty()


async def _read(work: Coroutine[Any, Any, Buffer]) -> CopyReadReply:
    return CopyReadReply(await work)


def _at_work(copy: Copy, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """*work*, which counts from now on, not from when its task begins."""
    copy.tasks += 1

    async def count() -> T:
        try:
            return await work
        finally:
            copy.tasks -= 1
            copy.idle.set()

    return count()
