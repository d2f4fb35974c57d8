"""RMDIR: a directory's record is on one daemon, its children may be on all.

The owner of the record asks every daemon to *seal* the directory: to forbid creations in it, if it is empty there.
If all agree the record goes, and the seals stay: a fid is never reused, so that whoever still takes the
directory for a parent gets ENOENT. If one refuses, the seals are lifted. While this is undecided, creations in
the directory wait.

What survives a death: each daemon stores its seal before it agrees; the owner stores an intent before it asks,

    SEALING   some may have sealed, the record is there     -> after a restart the seals are lifted
    REMOVED   the record is gone (written with its removal) -> the daemons are told until all know

so a daemon that dies while it is undecided finds its seal again and is told in the end. An owner that never comes
back leaves the directory undecided: creations in it fail with EBUSY, as all that needs a lost daemon fails.
"""

import errno
import logging
import random
from collections.abc import Coroutine
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents, keys
from gkfs.daemon.background import persist
from gkfs.daemon.guards import Blocked, Guards, busy
from gkfs.daemon.intents import Intent
from gkfs.daemon.leases import Leases
from gkfs.daemon.parents import Parents
from gkfs.daemon.peers import Peers, failures, first_error
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import LOCK_WAIT_S, RETRY_FIRST_S
from gkfs.messages import Empty, RmdirRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import RMDIR, SEAL, UNSEAL
from gkfs.peer_messages import SealRequest, UnsealRequest

_log = logging.getLogger(__name__)

_KIND: Final = "rmdir"
_SEALING: Final = "sealing"
_REMOVED: Final = "removed"

UNDECIDED: Final = b"?"  # values of a seal
DECIDED: Final = b""


class Removal:
    """The handlers of RMDIR, SEAL and UNSEAL."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        parents: Parents,
        daemon_count: int,
        peers: Peers,
        sessions: Sessions,
        leases: Leases,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._leases = leases
        self._guards = guards
        self._parents = parents
        self._all = range(daemon_count)
        self._peers = peers
        self._sessions = sessions
        self._nursery = nursery

    # --- at the owner of the directory's record

    def rmdir(self, session: Session, request: RmdirRequest) -> Empty | Coroutine[Any, Any, Empty]:
        path = request.path
        if path == paths.ROOT:
            raise os_error(errno.EBUSY, "the root cannot be removed")
        if self._guards.active:
            self._guards.check_change(path)
        self._parents.check(path, request.parent_fid)
        key = paths.key(path)
        record = self._store.get(key)
        if record is None:
            raise os_error(errno.ENOENT, paths.printable(path))
        entry = metadentry.decode(record)
        if not entry.is_directory:
            raise os_error(errno.ENOTDIR, paths.printable(path))
        self._check_empty(path)
        self._leases.check_change(path, session.client_id)
        verified = not self._parents.need_verification(path, request.parent_fid)
        if verified and len(self._all) == 1:
            # no await between here and the commit of the batch: nobody needs to be asked
            self._store.put(keys.seal(entry.fid), DECIDED)
            self._delete(key, entry)
            return Empty()
        self._guards.hold_path(path, "is being removed")
        return self._remove(session.client_id, session.seq, request, entry, verified=verified)

    async def _remove(
        self, client_id: bytes, seq: int, request: RmdirRequest, entry: Metadentry, *, verified: bool
    ) -> Empty:
        path = request.path
        intent = Intent(intents.new_name(), _KIND, _SEALING, [path, entry.fid])
        try:
            if not verified:  # while *path* is held, nothing above it can be renamed any more
                await self._parents.verify(path, request.parent_fid)
            intents.put(self._store, intent)
            self._store.commit()
        except OSError:
            self._guards.lift_path(path)
            raise
        error = await self._seal_all(SealRequest(path, entry.fid))
        if error is None:
            # no await between here and the commit; the path was held, so its record is what it was
            try:
                self._delete(paths.key(path), entry)
                intents.put(self._store, intent._replace(state=_REMOVED))
                self._sessions.answer(client_id, seq, RMDIR, Empty())
                self._store.commit()
            except OSError as failure:
                self._sessions.unanswer(client_id, seq)
                error = failure
            else:
                self._guards.lift_path(path)
                self._tell_later(intent.name, entry.fid, removed=True, held=None)
                return Empty()
        await self._unseal(intent.name, path, entry.fid)
        raise error

    async def _seal_all(self, request: SealRequest) -> OSError | None:
        """Have every daemon seal the directory; those that a rename keeps from it are asked again."""
        deadline_s = trio.current_time() + LOCK_WAIT_S
        remaining = set(self._all)
        while True:
            outcomes = await self._peers.call_all(remaining, SEAL, request)
            error = first_error({index: found for index, found in outcomes.items() if not _is_busy(found)})
            remaining = {index for index, found in outcomes.items() if _is_busy(found)}
            if error is not None or not remaining:
                return error
            if trio.current_time() > deadline_s:
                return first_error(outcomes)
            await trio.sleep(RETRY_FIRST_S * (1 + random.random()))

    def _delete(self, key: bytes, entry: Metadentry) -> None:
        self._store.delete(key)
        self._store.count_entry(entry.mode, -1)

    async def _unseal(self, name: bytes, path: bytes, fid: int) -> None:
        """Lift the seals; the path stays held until all are lifted, which may be later in the background."""
        outcomes = await self._peers.call_all(self._all, UNSEAL, UnsealRequest(fid, False))
        if first_error(outcomes) is None:
            self._forget(name)
            self._guards.lift_path(path)
        else:
            self._tell_later(name, fid, removed=False, held=path)

    def _tell_later(self, name: bytes, fid: int, *, removed: bool, held: bytes | None) -> None:
        """Tell every daemon what was decided, however long it takes; then lift the guard of *held*."""
        remaining = set(self._all)

        async def tell() -> bool:
            nonlocal remaining
            remaining = failures(await self._peers.call_all(remaining, UNSEAL, UnsealRequest(fid, removed)))
            if remaining:
                return False
            self._forget(name)
            if held is not None:
                self._guards.lift_path(held)
            return True

        self._nursery.start_soon(persist, f"decision on directory {fid:x}", tell)

    def _forget(self, name: bytes) -> None:
        try:
            intents.delete(self._store, name)
            self._store.commit()
        except OSError as error:
            _log.warning("intent of a finished removal stays: %s", error.strerror)  # a restart repeats its end

    # --- at every daemon

    def seal(self, session: Session, request: SealRequest) -> Empty:
        # no await between here and the commit of the batch: nothing is created between check and seal
        if self._guards.active:  # the lock of a rename that was given up may be gone from the directory's owner
            try:
                self._guards.check_copied(request.path)
            except Blocked as blocked:  # not to be waited for here: the seal would come after its end
                raise busy(blocked.guard) from None
        self._check_empty(request.path)
        key = keys.seal(request.fid)
        if self._store.get(key) != DECIDED:
            self._store.put(key, UNDECIDED)
            self._guards.hold_seal(request.fid)
        return Empty()

    def unseal(self, session: Session, request: UnsealRequest) -> Empty:
        key = keys.seal(request.fid)
        if request.removed:
            self._store.put(key, DECIDED)
        elif self._store.get(key) == UNDECIDED:
            self._store.delete(key)
        self._guards.lift_seal(request.fid)
        return Empty()

    def _check_empty(self, path: bytes) -> None:
        found = self._store.scan(*paths.children_range(path), 1)
        if found:
            child = paths.printable(paths.path_of_key(found[0][0]))
            raise os_error(errno.ENOTEMPTY, f"{paths.printable(path)} has {child}")

    # --- after a restart

    def resume(self) -> None:
        """Take up what an earlier run left undecided or untold."""
        for page in self._store.pages(*keys.table(keys.SEALS)):
            for key, value in page:
                if value == UNDECIDED:
                    self._guards.hold_seal(keys.fid_of_key(key))
        for intent in intents.load(self._store, _KIND):
            path, fid = intent.fields
            removed = intent.state == _REMOVED
            if not removed:
                self._guards.hold_path(path, "its removal is being undone")
            self._tell_later(intent.name, fid, removed=removed, held=None if removed else path)


def _is_busy(outcome: Empty | OSError) -> bool:
    return isinstance(outcome, OSError) and outcome.errno == errno.EBUSY
