"""Removing chunks, wherever they are, of files whose record is gone or has been shortened.

What is to be cut is written down with the change of the record that makes it necessary, and forgotten when every
daemon concerned has done it: a daemon that dies in between goes on when it starts again. The note is

    msgpack (size, placement, end): cut the file to *size*; its chunks before index *end* may exist, 0: any may

Two ways lead here. Dead files (size 0, end 0) are cut in the background, many at a time; that may take as long as
it takes. Truncations are awaited by `truncate`; those that a restart finds unfinished keep their file's size
from changing until they are done, so that nothing written after them is destroyed.
"""

import logging
from collections import deque
from typing import NamedTuple

import msgpack
import trio

from gkfs.chunks import count
from gkfs.daemon import keys
from gkfs.daemon.background import persist
from gkfs.daemon.guards import Blocked, Guards
from gkfs.daemon.peers import Peers, failures
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.limits import CHUNK_SIZE_BYTES, SCAN_PAGE_RECORDS
from gkfs.messages import CutChunksRequest
from gkfs.metadentry import PLACEMENT_HASHED, PLACEMENT_HEAD, Metadentry
from gkfs.operations import CUT_CHUNKS

_log = logging.getLogger(__name__)

_FILES_PER_TURN = 16  # cut on this daemon before others may run


class Cut(NamedTuple):
    """The note under a file's cut key."""

    size: int
    placement: int
    end: int

    def owners(self, fid: int, distributor: Distributor) -> set[int]:
        """The daemons that may hold something to cut."""
        if self.end:
            first = self.size // CHUNK_SIZE_BYTES
            return distributor.chunk_owners(fid, first, self.end, self.placement)
        if PLACEMENT_HASHED != self.placement < PLACEMENT_HEAD:
            return {self.placement - 1}
        return set(range(distributor.daemon_count))


class Reclaimer:
    """Cuts of files whose records are on this daemon."""

    def __init__(
        self,
        own_index: int,
        store: MetadataStore,
        storage: ChunkStorage,
        guards: Guards,
        distributor: Distributor,
        peers: Peers,
        nursery: trio.Nursery,
    ) -> None:
        self._own_index = own_index
        self._store = store
        self._storage = storage
        self._guards = guards
        self._distributor = distributor
        self._peers = peers
        self._nursery = nursery
        self._queues: dict[int, deque[int]] = {}  # by daemon: dead files it has to cut
        self._remaining: dict[int, set[int]] = {}  # by file: daemons that have not

    # --- dead files

    def add(self, entry: Metadentry) -> None:
        """Have the chunks of a file without record removed; noted with the next commit."""
        if not entry.is_regular or entry.is_inline:
            return
        # Its size says little: writers publish it late. So everyone is asked.
        cut = Cut(0, entry.placement, 0)
        self._store.put(keys.cut(entry.fid), msgpack.packb(cut))
        self._enqueue(entry.fid, cut)

    def _enqueue(self, fid: int, cut: Cut) -> None:
        owners = cut.owners(fid, self._distributor)
        self._remaining[fid] = owners
        for daemon in owners:
            queue = self._queues.get(daemon)
            if queue is None:
                queue = self._queues[daemon] = deque()
                self._nursery.start_soon(self._work_off, daemon, queue)
            queue.append(fid)

    async def _work_off(self, daemon: int, queue: deque[int]) -> None:
        """Cut the files in *queue* at *daemon* until there are none, as many at once as there are."""

        async def cut_queued() -> bool:
            while queue:
                count = min(len(queue), SCAN_PAGE_RECORDS)
                batch = [queue.popleft() for _ in range(count)]
                failed = batch
                try:
                    await self._store.noted()
                    failed = await self._cut_dead(daemon, [fid for fid in batch if self._is_noted(fid)])
                finally:
                    queue.extend(failed)
                if failed:
                    _log.info("chunks of %d removed files are still to be cut at daemon %d", len(failed), daemon)
                    return False
            del self._queues[daemon]
            return True

        await persist("removed files", cut_queued)

    async def _cut_dead(self, daemon: int, batch: list[int]) -> list[int]:
        """Cut all files of *batch* at *daemon*; returns those that failed. Raises OSError before any was cut."""
        if daemon == self._own_index:
            failed = await self._cut_here(batch)
        else:
            requests = [CutChunksRequest(fid, 0) for fid in batch]
            outcomes = await self._peers.call_many(daemon, CUT_CHUNKS, requests)
            failed = [batch[number] for number, outcome in enumerate(outcomes) if isinstance(outcome, OSError)]
        self._cut_done(daemon, set(batch).difference(failed))
        return failed

    def _is_noted(self, fid: int) -> bool:
        """Whether the removal of *fid* was committed; if not, its record is still there."""
        if self._store.get(keys.cut(fid)) is not None:
            return True
        self._remaining.pop(fid, None)
        return False

    async def _cut_here(self, batch: list[int]) -> list[int]:
        """Cut files on this daemon, without the cost of calls; returns those that failed."""
        failed: list[int] = []
        uncommitted: list[int] = []
        for number, fid in enumerate(batch):
            try:
                work = self._storage.cut(fid, 0)
                if work is not None:
                    self._commit_cuts(uncommitted, failed)
                    await work
            except (OSError, Blocked) as error:
                # Nothing is taken back: what was removed of it, and of those before, is.
                _log.info("chunks of removed file %x: %s", fid, error)
                failed.append(fid)
                continue
            uncommitted.append(fid)
            if number % _FILES_PER_TURN == 0:
                self._commit_cuts(uncommitted, failed)
                await trio.lowlevel.checkpoint()
        self._commit_cuts(uncommitted, failed)
        return failed

    def _commit_cuts(self, uncommitted: list[int], failed: list[int]) -> None:
        """Commit that the files *uncommitted* have no chunks here; if that fails they are to be cut again."""
        if not self._commit():
            failed += uncommitted
        uncommitted.clear()

    def _cut_done(self, daemon: int, fids: set[int]) -> None:
        """Note that *daemon* has cut *fids*. Commits; when that fails, a restart cuts once more."""
        for fid in fids:
            remaining = self._remaining[fid]
            remaining.discard(daemon)
            if not remaining:
                del self._remaining[fid]
                self._store.delete(keys.cut(fid))
        self._commit()

    def _commit(self) -> bool:
        try:
            self._store.commit()
        except OSError as error:
            _log.warning("notes of removed chunks: %s", error.strerror)
            return False
        return True

    # --- truncations

    def truncated(self, fid: int, cut: Cut) -> None:
        """Every daemon has done *cut*: lift the guard, and forget the note unless it is a removal's by now."""
        if self._store.get(keys.cut(fid)) == msgpack.packb(cut):
            self._store.delete(keys.cut(fid))
            self._commit()
        self._guards.lift_cut(fid)

    def finish_later(self, fid: int, cut: Cut) -> None:
        """Do *cut* in the background, however long it takes; the file stays guarded until then."""
        owners = cut.owners(fid, self._distributor)

        async def cut_remaining() -> bool:
            nonlocal owners
            outcomes = await self._peers.call_all(owners, CUT_CHUNKS, CutChunksRequest(fid, cut.size))
            owners = failures(outcomes)
            if not owners:
                self.truncated(fid, cut)
            return not owners

        self._nursery.start_soon(persist, f"truncation of file {fid:x}", cut_remaining)

    # --- after a restart

    def resume(self) -> None:
        """Go on with what an earlier run of the daemon has left."""
        for page in self._store.pages(*keys.table(keys.CUTS)):
            for key, value in page:
                fid, cut = keys.fid_of_key(key), Cut(*msgpack.unpackb(value))
                if cut.end:
                    self._guards.hold_cut(fid)
                    self.finish_later(fid, cut)
                else:
                    self._enqueue(fid, cut)


def truncation(entry: Metadentry, size: int, known_size: int) -> Cut | None:
    """What must be cut so that *entry* has *size* bytes; None when no byte beyond can exist."""
    largest = max(entry.size, known_size)
    if largest <= size:
        return None
    return Cut(size, entry.placement, count(largest))
