"""What a directory rename does at every daemon: lock two subtrees, copy records, drop or undo.

Each daemon holds a part of the records below the source. In the steps of `gkfs.messages.TreeRequest`,

    lock   nothing below source, and neither target nor anything below it, may change here from now on; refused
           with ENOTEMPTY if anything is below the target, so that all that will be there is ours
    copy   records below source are sent, under their new paths, to those paths' owners (PUT_RECORDS)
    drop   records below source go; the lock ends
    undo   records below target go; the lock ends

In an exchange what is below the target goes below the source at the same time, and target need not be empty.
Copies are staged under the exchange's name (table 0b) until drop, which removes the old records and then puts
them in place; meanwhile nobody reads what is below either path. Undo forgets what is staged.

All may be repeated. A lock is stored, so that a restart does not lift it: only the coordinator knows which of drop
and undo is right, and a wrong guess would lose a tree. When the coordinator never comes back, requests below
either path fail with EBUSY after `LOCK_WAIT_S`; nothing hangs.
"""

import errno
from collections.abc import Coroutine, Iterator
from typing import Any

import msgpack
import trio

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards, TreeLock
from gkfs.daemon.moves import Moves
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.peers import Peers, first_error
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.writers import Writers
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import KEY_PATH_MAX_BYTES, SCAN_PAGE_RECORDS, TREE_BATCH_BYTES, TREES_UNDONE_MAX
from gkfs.messages import Empty
from gkfs.operations import PUT_RECORDS
from gkfs.peer_messages import TREE_COPY, TREE_DROP, TREE_LOCK, TREE_UNDO, PutRecordsRequest, TreeRequest


class Trees:
    """The handlers of TREE and PUT_RECORDS."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        name_leases: NameLeases,
        moves: Moves,
        writers: Writers,
        distributor: Distributor,
        peers: Peers,
    ) -> None:
        self._store = store
        self._guards = guards
        self._name_leases = name_leases
        self._moves = moves
        self._writers = writers
        self._distributor = distributor
        self._peers = peers
        self._undone: dict[bytes, None] = {}  # intents, oldest first

    def tree(self, session: Session, request: TreeRequest) -> Empty | Coroutine[Any, Any, Empty]:
        if request.step == TREE_LOCK:
            return self._lock(request)
        lock = self._guards.tree_lock(request.intent)
        if request.step == TREE_COPY:
            if lock is None:
                raise _given_up(request.source)
            return self._copy(request.intent, lock)
        if request.step not in (TREE_DROP, TREE_UNDO):
            raise os_error(errno.EINVAL, f"step {request.step!r}")
        if request.step == TREE_UNDO:
            self._undone[request.intent] = None
            if len(self._undone) > TREES_UNDONE_MAX:
                del self._undone[next(iter(self._undone))]
        if lock is None:
            return Empty()  # done before, or never locked here
        return self._end(request.intent, lock, request.step)

    def _lock(self, request: TreeRequest) -> Empty:
        # no await between here and the commit of the batch
        if request.intent in self._undone:  # while this waited: nobody would take the lock back
            raise _given_up(request.source)
        if self._guards.tree_lock(request.intent) is not None:
            return Empty()
        conflict = self._guards.tree_conflict(request.source, request.target)
        if conflict is not None:
            raise os_error(errno.EBUSY, conflict)
        # Deeper ones as well: they may be here without a child. What is below the target later is ours to undo.
        if not request.exchange and any(self._store.scan(first, end, 1) for first, end in _below(request.target)):
            raise os_error(errno.ENOTEMPTY, paths.printable(request.target))
        source, target, exchange = request.source, request.target, request.exchange
        self._writers.leave_within((source, target) if exchange else (source,))
        self._name_leases.end_within((source, target), request.client_id)
        self._store.put(keys.tree_lock(request.intent), msgpack.packb([source, target, exchange, False]))
        self._guards.lock_tree(request.intent, source, target, exchange=exchange)
        return Empty()

    # --- copy

    async def _copy(self, intent: bytes, lock: TreeLock) -> Empty:
        ways = [(lock.source, lock.target)]
        if lock.exchange:
            ways.append((lock.target, lock.source))
        for old, new in ways:
            for first, end in _below(old):
                for page in self._store.pages(first, end):
                    await self._send_page(intent, old, new, page)
        return Empty()

    async def _send_page(self, intent: bytes, old: bytes, new: bytes, page: list[tuple[bytes, bytes]]) -> None:
        """Put the records of *page*, which are below *old*, below *new*. Raises OSError."""
        by_owner: dict[int, list[tuple[bytes, bytes]]] = {}
        for key, record in page:
            path = paths.rebase(paths.path_of_key(key), old, new)
            if len(path) > KEY_PATH_MAX_BYTES:
                raise os_error(errno.ENAMETOOLONG, paths.printable(path))
            by_owner.setdefault(self._distributor.path_owner(path), []).append((path, record))
        outcomes: dict[int, OSError | None] = {}

        async def send(owner: int) -> None:
            outcomes[owner] = await self._send_records(intent, owner, by_owner[owner])

        async with trio.open_nursery() as nursery:
            for owner in by_owner:
                nursery.start_soon(send, owner)
        error = first_error(outcomes)
        if error is None and self._guards.tree_lock(intent) is None:
            error = _given_up(old)
        if error is not None:
            raise error

    async def _send_records(self, intent: bytes, owner: int, records: list[tuple[bytes, bytes]]) -> OSError | None:
        for batch in _batches(records):
            request = PutRecordsRequest(intent, [path for path, _ in batch], [record for _, record in batch])
            try:
                await self._peers.call(owner, PUT_RECORDS, request)
            except OSError as error:
                return error
        return None

    def put_records(self, session: Session, request: PutRecordsRequest) -> Empty:
        lock = self._guards.tree_lock(request.intent)
        if lock is None or request.intent in self._undone:  # what is there by now is not looked at again
            raise os_error(errno.EBUSY, "the rename was given up")
        if len(request.paths) != len(request.records):
            raise os_error(errno.EINVAL, f"{len(request.paths)} paths, {len(request.records)} records")
        for path in request.paths:
            paths.check_path(path)
        modes = [metadentry.decode(record).mode for record in request.records]
        for path, record, mode in zip(request.paths, request.records, modes, strict=True):
            key = paths.key(path)
            if lock.exchange:
                self._store.put(keys.staged(request.intent, key), record)
                continue
            if self._store.get(key) is None:
                self._store.count_entry(mode, 1)
            self._store.put(key, record)
        return Empty()

    # --- drop and undo

    async def _end(self, intent: bytes, lock: TreeLock, step: str) -> Empty:
        if lock.exchange:
            await self._end_exchange(intent, lock, step)
        elif step == TREE_DROP:
            self._moves.note_directory(lock.source, lock.target)
            self._writers.files_came()
            await self._remove_below(lock.source)
        else:
            await self._remove_below(lock.target)
        # no await between here and the unlock
        self._store.delete(keys.tree_lock(intent))
        self._store.commit()
        if self._guards.tree_lock(intent) is not None:  # else a repeat was faster
            self._guards.unlock_tree(intent)
        return Empty()

    async def _remove_below(self, directory: bytes) -> None:
        for first, end in _below(directory):
            while page := self._store.scan(first, end, SCAN_PAGE_RECORDS):
                for key, record in page:
                    self._store.delete(key)
                    self._store.count_entry(metadentry.decode(record).mode, -1)
                self._store.commit()
                await trio.lowlevel.checkpoint()

    async def _end_exchange(self, intent: bytes, lock: TreeLock, step: str) -> None:
        drop = step == TREE_DROP
        if drop:
            self._moves.note_exchange(lock.source, lock.target)
            self._writers.files_came()
            stored = self._store.get(keys.tree_lock(intent))
            if stored is None:
                return  # a repeat was faster
            if not msgpack.unpackb(stored)[3]:
                await self._remove_below(lock.source)
                await self._remove_below(lock.target)
                # From here on what is below is new, and must not be removed if this is repeated.
                self._store.put(
                    keys.tree_lock(intent), msgpack.packb([lock.source, lock.target, lock.exchange, True])
                )
                self._store.commit()
        while page := self._store.scan(*keys.staged_range(intent), SCAN_PAGE_RECORDS):
            for key, record in page:
                self._store.delete(key)
                if drop:
                    self._store.put(keys.key_of_staged(key), record)
                    self._store.count_entry(metadentry.decode(record).mode, 1)
            self._store.commit()
            await trio.lowlevel.checkpoint()

    def resume(self) -> None:
        """Set the locks of an earlier run again."""
        for key, value in self._store.scan(*keys.table(keys.TREE_LOCKS), SCAN_PAGE_RECORDS):
            source, target, exchange, _ = msgpack.unpackb(value)
            self._guards.lock_tree(key[1:], source, target, exchange=exchange)


def _below(directory: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The key ranges of everything below *directory*."""
    yield paths.children_range(directory)
    yield paths.deeper_range(directory)


def _batches(records: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """*records* in lists of at most `TREE_BATCH_BYTES`, or of one."""
    batch: list[tuple[bytes, bytes]] = []
    room_bytes = TREE_BATCH_BYTES
    for path, record in records:
        room_bytes -= len(path) + len(record)
        if room_bytes < 0 and batch:
            yield batch
            batch, room_bytes = [], TREE_BATCH_BYTES - len(path) - len(record)
        batch.append((path, record))
    if batch:
        yield batch


def _given_up(source: bytes) -> OSError:
    return os_error(errno.EBUSY, f"the rename of {paths.printable(source)} was given up")
