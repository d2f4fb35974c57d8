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
from gkfs.daemon.leases import Leases
from gkfs.daemon.parents import Parents
from gkfs.daemon.reclaim import Reclaimer
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.messages import RENAME_NOREPLACE, AdoptReply, AdoptRequest, Empty, ForgetIntentRequest
from gkfs.metadentry import Metadentry


class Adoption:
    """The handlers of ADOPT and FORGET_INTENT."""

    def __init__(
        self, store: MetadataStore, guards: Guards, parents: Parents, reclaimer: Reclaimer, leases: Leases
    ) -> None:
        self._store = store
        self._leases = leases
        self._guards = guards
        self._parents = parents
        self._reclaimer = reclaimer

    def adopt(self, session: Session, request: AdoptRequest) -> AdoptReply | Coroutine[Any, Any, AdoptReply]:
        known = self._store.get(keys.adopted(request.intent))
        if known is not None:
            return AdoptReply(*msgpack.unpackb(known))
        if self._parents.need_verification(request.path, request.parent_fid):
            return self._adopt_verified(request)
        return self._adopt(request)

    async def _adopt_verified(self, request: AdoptRequest) -> AdoptReply:
        await self._parents.verify(request.path, request.parent_fid)
        known = self._store.get(keys.adopted(request.intent))  # by a repeat that was faster
        return self._adopt(request) if known is None else AdoptReply(*msgpack.unpackb(known))

    def _adopt(self, request: AdoptRequest) -> AdoptReply:
        # no await between here and the put of the reply: what happened and the answer are one
        entry = metadentry.decode(request.record)
        if entry.is_directory and self._guards.tree_lock(request.intent) is None:
            raise os_error(errno.EBUSY, f"{paths.printable(request.path)}: the rename was given up")
        try:
            if self._guards.active:
                self._guards.check_change(request.path, request.intent)
            reply = self.replace(request)
        except Blocked as blocked:
            raise busy(blocked.guard) from None
        self._store.put(keys.adopted(request.intent), msgpack.packb(reply))
        return reply

    def replace(self, request: AdoptRequest) -> AdoptReply:
        """Give the record its new path. Raises OSError (EEXIST, ENOENT, ENOTDIR, EISDIR), Blocked.

        That a replaced directory is empty, and stays so, is what the lock of its tree is for.
        """
        name = paths.printable(request.path)
        key = paths.key(request.path)
        entry = metadentry.decode(request.record)
        existing = self._store.get(key)
        if existing is None:
            self._parents.check(request.path, request.parent_fid)
            reply = AdoptReply(0, False)
        else:
            old = metadentry.decode(existing)
            if request.flags & RENAME_NOREPLACE:
                raise os_error(errno.EEXIST, name)
            if old.is_directory != entry.is_directory:
                raise os_error(errno.EISDIR if old.is_directory else errno.ENOTDIR, name)
            if old.is_directory:
                self._leases.check_change(request.path, request.client_id)
            reply = AdoptReply(old.fid, self._replaced(old, request))
        self._store.put(key, request.record)
        self._store.count_entry(entry.mode, 1)
        return reply

    def _replaced(self, old: Metadentry, request: AdoptRequest) -> bool:
        """Whether the entry that loses its name stays as an orphan."""
        self._store.count_entry(old.mode, -1)
        if old.is_directory:
            return False
        return self._reclaimer.discard(request.client_id, old, request.open_fid, request.now_ns)

    def forget(self, session: Session, request: ForgetIntentRequest) -> Empty:
        self._store.delete(keys.adopted(request.intent))
        return Empty()
