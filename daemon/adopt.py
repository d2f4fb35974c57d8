"""ADOPT: the half of a rename that happens where the target is; see `rename` for the whole.

It decides the rename: all checks of the target and the replacement are one step. The answer is kept under the
intent's name until FORGET_INTENT, so that a repeat, even after a restart, gets the same one. It never waits for
what is in progress here, but answers EBUSY: whoever coordinates tries again.
"""

import errno
from collections.abc import Coroutine
from typing import Any

import msgpack

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Blocked, Guards, busy
from gkfs.daemon.intents import Intent
from gkfs.daemon.leases import Leases
from gkfs.daemon.links import Links
from gkfs.daemon.moves import Moves
from gkfs.daemon.name_leases import NameLeases
from gkfs.daemon.opens import Opens
from gkfs.daemon.parents import Parents
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.writers import Writers
from gkfs.errors import os_error
from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, Empty
from gkfs.metadentry import Metadentry
from gkfs.peer_messages import AdoptReply, AdoptRequest, ForgetIntentRequest


class Adoption:
    """The handlers of ADOPT and FORGET_INTENT."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        moves: Moves,
        parents: Parents,
        opens: Opens,
        links: Links,
        leases: Leases,
        name_leases: NameLeases,
        writers: Writers,
    ) -> None:
        self._store = store
        self._leases = leases
        self._name_leases = name_leases
        self._writers = writers
        self._guards = guards
        self._moves = moves
        self._parents = parents
        self._opens = opens
        self._links = links
        self._drops: list[Intent] = []  # noted by the `replace` that is running; its caller takes them

    def adopt(self, session: Session, request: AdoptRequest) -> AdoptReply | Coroutine[Any, Any, AdoptReply]:
        known = self._store.get(keys.adopted(request.intent))
        if known is not None:
            return AdoptReply(*msgpack.unpackb(known))
        if self._parents.need_verification(request.path, request.parent_fid):
            return self._adopt_verified(request)
        if self._replaces_link(request.path):
            return self._adopt_over_link(request)
        return self._adopt(request)

    async def _adopt_verified(self, request: AdoptRequest) -> AdoptReply:
        await self._parents.verify(request.path, request.parent_fid)
        known = self._store.get(keys.adopted(request.intent))  # by a repeat that was faster
        return await self._adopt_over_link(request) if known is None else AdoptReply(*msgpack.unpackb(known))

    async def _adopt_over_link(self, request: AdoptRequest) -> AdoptReply:
        # no await between here and the commit
        reply = self._adopt(request)
        drops, self._drops = self._drops, []
        self._store.commit()
        for intent in drops:
            await self._links.drop(intent)
        return reply

    def replaces_here(self, path: bytes) -> bool:
        """Whether nobody else is concerned when a file takes the place of *path*: no tree, no link count."""
        record = self._store.get(paths.key(path))
        return record is None or not (metadentry.is_link_record(record) or metadentry.is_directory_record(record))

    def _replaces_link(self, path: bytes) -> bool:
        """Whether *path* is one of several names of a file, whose link count is kept elsewhere."""
        record = self._store.get(paths.key(path))
        return record is not None and metadentry.is_link_record(record)

    def _adopt(self, request: AdoptRequest) -> AdoptReply:
        # no await between here and the put of the reply: what happened and the answer are one
        entry = metadentry.decode(request.record)
        if entry.is_directory and self._guards.tree_lock(request.intent) is None:
            raise os_error(errno.EBUSY, f"{paths.printable(request.path)}: the rename was given up")
        try:
            if self._guards.active:
                self._guards.check_change(request.path, request.intent)
            if request.flags & RENAME_EXCHANGE:
                self._leave(request.path)
            reply = self.replace(request)
        except Blocked as blocked:
            raise busy(blocked.guard) from None
        self._store.put(keys.adopted(request.intent), msgpack.packb(reply))
        if not (entry.is_directory or entry.is_link):
            self._writers.file_came(entry.fid, request.path)
        return reply

    def _leave(self, path: bytes) -> None:
        """What is at *path* goes to another daemon. Raises Blocked while somebody has the lease to write to it."""
        record = self._store.get(paths.key(path))
        if record is not None and not metadentry.is_link_record(record):
            self._writers.leave(metadentry.fid_of(record))

    def replace(self, request: AdoptRequest) -> AdoptReply:
        """Give the record its new path. Raises OSError (EEXIST, ENOENT, ENOTDIR, EISDIR), Blocked.

        That a replaced directory is empty, and stays so, is what the lock of its tree is for.
        """
        key = paths.key(request.path)
        entry = metadentry.decode(request.record)
        existing = self._store.get(key)
        if request.flags & RENAME_EXCHANGE:
            return self._exchange(request, entry, existing)
        if existing is None:
            self._parents.check(request.path, request.parent_fid)
            self._name_leases.enter(request.path, request.client_id)
            self._name_leases.came(request.path)
            reply = AdoptReply(0, False, b"")
        else:
            old = metadentry.decode(existing)
            self._check_replaceable(request, entry, old)
            if old.fid == entry.fid:
                return AdoptReply(old.fid, False, b"")  # two names of one file: both stay
            reply = AdoptReply(old.fid, self._replaced(old, request), b"")
        self._put(request, entry)
        return reply

    def _put(self, request: AdoptRequest, entry: Metadentry) -> None:
        self._store.put(paths.key(request.path), request.record)
        self._store.count_entry(entry.mode, 1)
        if entry.is_directory:
            self._leases.moved(request.path, request.client_id)
        else:
            self._moves.file_came(entry.fid, request.path)
            if not entry.is_link:
                self._writers.is_at(entry.fid, request.path)

    def _check_replaceable(self, request: AdoptRequest, entry: Metadentry, old: Metadentry) -> None:
        name = paths.printable(request.path)
        if request.flags & RENAME_NOREPLACE:
            raise os_error(errno.EEXIST, name)
        if old.is_directory != entry.is_directory:
            raise os_error(errno.EISDIR if old.is_directory else errno.ENOTDIR, name)
        self._leases.check_entry(old, request.path, request.client_id)

    def _exchange(self, request: AdoptRequest, entry: Metadentry, existing: bytes | None) -> AdoptReply:
        """Half of an exchange: the source's record comes here, what was here goes out with the reply."""
        name = paths.printable(request.path)
        if existing is None:
            raise os_error(errno.ENOENT, name)
        old = metadentry.decode(existing)
        if old.is_directory:
            if self._guards.tree_lock(request.intent) is None:
                raise os_error(errno.EISDIR, name)  # the coordinator did not know, and locks the trees now
            self._leases.check_change(request.path, request.client_id)
        if old.fid == entry.fid:
            return AdoptReply(old.fid, False, b"")
        if not old.is_link:
            old = old.changed(ctime_ns=request.now_ns)
        self._store.count_entry(old.mode, -1)
        self._put(request, entry)
        if not old.is_directory:
            self._moves.note_file(old.fid, request.source)
        return AdoptReply(old.fid, False, metadentry.encode(old))

    def _replaced(self, old: Metadentry, request: AdoptRequest) -> bool:
        """Whether the entry that loses its name stays, nameless, for who asks."""
        self._store.count_entry(old.mode, -1)
        if old.is_directory:
            return False
        if old.is_link:
            drop = self._links.note_drop(old.fid, request.client_id, request.open_fid, request.now_ns)
            self._drops.append(drop)
            return False
        return self._opens.discard(request.client_id, old, request.open_fid, request.now_ns)

    def forget(self, session: Session, request: ForgetIntentRequest) -> Empty:
        self._store.delete(keys.adopted(request.intent))
        return Empty()
