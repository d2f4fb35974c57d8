"""RENAME: source and target may have different owners; the owner of the source coordinates.

A file whose target has the same owner moves in one write. Else, and for directories, the steps are

    file: intent ADOPTING -> ADOPT at the target's owner -> source and intent go, DONE -> FORGET_INTENT
    directory: intent LOCKING -> lock and copy the tree (see `tree`) -> intent ADOPTING -> ADOPT -> source goes,
               DROPPING -> old tree dropped and unlocked everywhere -> DONE -> FORGET_INTENT

and each is stored before the next begins. ADOPT decides: it replaces the target atomically, and its owner keeps
the answer under the intent's name, so that asking again tells what happened. Before it the rename can be undone
(UNDOING), after it it can only be finished; at no moment is the entry under neither name. Who coordinates holds
the source's path from the first step to the last. A restart goes on from the stored state.

Renames that cross refuse each other with EBUSY instead of waiting; the coordinator then undoes its own, waits
for a random moment and tries again, for `LOCK_WAIT_S` at most.
"""

import errno
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents
from gkfs.daemon.adopt import Adoption
from gkfs.daemon.background import persist
from gkfs.daemon.guards import Guards
from gkfs.daemon.intents import Intent
from gkfs.daemon.leases import Leases
from gkfs.daemon.moves import Moves
from gkfs.daemon.parents import Parents
from gkfs.daemon.peers import Peers, first_error
from gkfs.daemon.plan import Plan
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.distributor import Distributor
from gkfs.errors import os_error
from gkfs.limits import LOCK_WAIT_S, TREE_TIMEOUT_S
from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, RenameReply, RenameRequest, StatRequest
from gkfs.operations import ADOPT, FORGET_INTENT, RENAME, STAT, TREE, UNSEAL, Operation, Q, R
from gkfs.peer_messages import (
    TREE_COPY,
    TREE_DROP,
    TREE_LOCK,
    TREE_UNDO,
    AdoptReply,
    ForgetIntentRequest,
    TreeRequest,
    UnsealRequest,
)

_log = logging.getLogger(__name__)

_KIND: Final = "rename"
_LOCKING: Final = "locking"
_UNDOING: Final = "undoing"
_ADOPTING: Final = "adopting"
_DROPPING: Final = "dropping"
_DONE: Final = "done"

_RETRY_MIN_S: Final = 0.01  # between attempts of a rename that met another one
_RETRY_SPREAD_S: Final = 0.2


class Renaming:
    """The handler of RENAME."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        moves: Moves,
        own_index: int,
        distributor: Distributor,
        peers: Peers,
        parents: Parents,
        adoption: Adoption,
        sessions: Sessions,
        leases: Leases,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._leases = leases
        self._guards = guards
        self._moves = moves
        self._own_index = own_index
        self._distributor = distributor
        self._all = range(distributor.daemon_count)
        self._peers = peers
        self._parents = parents
        self._adoption = adoption
        self._sessions = sessions
        self._nursery = nursery

    def rename(self, session: Session, request: RenameRequest) -> RenameReply | Coroutine[Any, Any, RenameReply]:
        plan = self._plan(session, session.seq, request)
        if request.source == request.target:
            if request.flags & RENAME_NOREPLACE:
                raise os_error(errno.EEXIST, paths.printable(request.target))
            return RenameReply(self._source_record(request.source), 0, False)
        if not plan.is_directory and self._owner(plan) == self._own_index:
            if self._guards.active:
                self._guards.check_change(plan.target)
            verified = not self._parents.need_verification(plan.target, plan.parent_fid)
            if verified and not self._adoption.replaces_link(plan.target):
                return self._rename_here(plan)
        self._hold(plan)
        return self._run(session, request, plan)

    def _hold(self, plan: Plan) -> None:
        self._guards.hold_path(plan.source, "is being renamed", exchange=plan.is_exchange)

    def _plan(self, session: Session, seq: int, request: RenameRequest) -> Plan:
        """What is to be done. Raises OSError or Blocked."""
        source, target = request.source, request.target
        names = f"{paths.printable(source)} -> {paths.printable(target)}"
        if request.flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise os_error(errno.EINVAL, f"{names}: flags {request.flags:#x}")
        if paths.ROOT in (source, target):
            raise os_error(errno.EBUSY, f"{names}: the root stays where it is")
        if paths.is_below(target, source):
            raise os_error(errno.EINVAL, f"{names}: a directory cannot move into itself")
        if self._guards.active:
            self._guards.check_change(source)
        entry = metadentry.decode(self._source_record(source))
        if entry.is_directory and request.flags & RENAME_EXCHANGE:
            raise os_error(errno.EINVAL, f"{names}: directories cannot be exchanged")
        if entry.is_directory and paths.is_below(source, target):
            raise os_error(errno.ENOTEMPTY, names)
        if entry.is_directory:
            self._leases.check_change(source, session.client_id)
        if not entry.is_link:
            entry = entry.changed(ctime_ns=request.now_ns)
        return Plan(
            intents.new_name(),
            source,
            target,
            request.target_parent_fid,
            request.flags,
            request.open_fid,
            session.client_id,
            request.now_ns,
            metadentry.encode(entry),
            seq,
        )

    def _source_record(self, source: bytes) -> bytes:
        record = self._store.get(paths.key(source))
        if record is None:
            raise os_error(errno.ENOENT, paths.printable(source))
        return record

    def _owner(self, plan: Plan) -> int:
        return self._distributor.path_owner(plan.target)

    def _rename_here(self, plan: Plan) -> RenameReply:
        # no await between here and the commit of the batch: both names change as one
        reply = self._adoption.replace(plan.adopt_request())
        self._leave_source(plan, reply)
        return _reply(plan, reply)

    def _leave_source(self, plan: Plan, reply: AdoptReply) -> None:
        """The other half of what was adopted; two names of one file both stay."""
        if reply.replaced_fid == plan.fid:
            return
        if plan.is_exchange:
            self._store.put(paths.key(plan.source), reply.record)
        else:
            self._store.delete(paths.key(plan.source))
            self._store.count_entry(metadentry.decode(plan.record).mode, -1)
        if not plan.is_directory:
            self._moves.note_file(plan.fid, plan.target)

    # --- with other daemons; the source's path is held

    async def _run(self, session: Session, request: RenameRequest, plan: Plan) -> RenameReply:
        deadline_s = trio.current_time() + LOCK_WAIT_S
        while True:
            try:
                if plan.is_directory:
                    return await self._rename_tree(plan)
                return await self._rename_file(plan)
            except OSError as error:
                if error.errno != errno.EBUSY or trio.current_time() > deadline_s:
                    raise
            await trio.sleep(_RETRY_MIN_S + random.random() * _RETRY_SPREAD_S)
            plan = self._plan(session, plan.seq, request)
            self._hold(plan)

    async def _rename_file(self, plan: Plan) -> RenameReply:
        self._note_or_lift(plan, _ADOPTING)
        try:
            reply = await self._peers.call(self._owner(plan), ADOPT, plan.adopt_request())
        except TimeoutError:
            # It may have happened; the end of it follows when the daemon answers again.
            self._later(plan, self._finish_adoption)
            raise
        except OSError:
            self._give_up(plan)
            raise
        self._finish_file(plan, reply)
        return _reply(plan, reply)

    async def _rename_tree(self, plan: Plan) -> RenameReply:
        self._note_or_lift(plan, _LOCKING)
        try:
            await self._check_target(plan)
            await self._tree_step(plan, TREE_LOCK)
            if plan.parent_fid:
                # After the lock, so that no other rename can move the parent any more.
                await self._parents.verify(plan.target, plan.parent_fid)
            await self._tree_step(plan, TREE_COPY)
            self._note(plan, _ADOPTING)
            reply = await self._adopt_tree(plan)
        except _AdoptionUnknown:
            self._later(plan, self._finish_adoption)
            raise
        except OSError:
            await self._now_or_later(plan, self._undo)
            raise
        plan = plan._replace(replaced_fid=reply.replaced_fid)
        try:
            self._delete_tree_source(plan, reply)
        except OSError:
            self._later(plan, self._finish_adoption)
            raise
        await self._now_or_later(plan, self._drop)
        return _reply(plan, reply)

    async def _check_target(self, plan: Plan) -> None:
        """Fail early where ADOPT would; it checks again."""
        name = paths.printable(plan.target)
        try:
            found = await self._peers.call(self._owner(plan), STAT, StatRequest(plan.target, 0))
        except FileNotFoundError:
            return
        if plan.flags & RENAME_NOREPLACE:
            raise os_error(errno.EEXIST, name)
        if not metadentry.decode(found.record).is_directory:
            raise os_error(errno.ENOTDIR, name)

    async def _tree_step(self, plan: Plan, step: str) -> None:
        """Have every daemon do *step*. Raises OSError."""
        await self._ask_all(TREE, TreeRequest(plan.name, plan.source, plan.target, step))

    async def _ask_all(self, operation: Operation[Q, R], request: Q) -> None:
        error = first_error(await self._peers.call_all(self._all, operation, request, TREE_TIMEOUT_S))
        if error is not None:
            raise error

    async def _adopt_tree(self, plan: Plan) -> AdoptReply:
        try:
            return await self._peers.call(self._owner(plan), ADOPT, plan.adopt_request())
        except TimeoutError as error:
            raise _AdoptionUnknown(error.errno, error.strerror) from None

    # --- the ends. Each returns whether it is done; it may be repeated until it is, also after a restart.

    def _later(self, plan: Plan, end: Callable[[Plan], Awaitable[bool]]) -> None:
        """Reach *end* in the background, however long it takes."""
        what = f"rename of {paths.printable(plan.source)} to {paths.printable(plan.target)}"
        self._nursery.start_soon(persist, what, partial(end, plan))

    async def _now_or_later(self, plan: Plan, end: Callable[[Plan], Awaitable[bool]]) -> None:
        """Try to reach *end*, and go on in the background if that fails."""
        try:
            done = await end(plan)
        except OSError as error:
            _log.info("rename of %s: %s", paths.printable(plan.source), error.strerror)
            done = False
        if not done:
            self._later(plan, end)

    async def _finish_adoption(self, plan: Plan) -> bool:
        """Have the target's owner say whether it has adopted, then act on it."""
        try:
            reply = await self._peers.call(self._owner(plan), ADOPT, plan.adopt_request())
        except TimeoutError:
            return False
        except OSError as error:
            _log.info("rename of %s does not happen: %s", paths.printable(plan.source), error.strerror)
            if plan.is_directory:
                return await self._undo(plan)
            self._give_up(plan)
            return True
        if plan.is_directory:
            plan = plan._replace(replaced_fid=reply.replaced_fid)
            self._delete_tree_source(plan, reply)
            return await self._drop(plan)
        self._finish_file(plan, reply)
        return True

    def _give_up(self, plan: Plan) -> None:
        """Nothing has happened, or everything was undone."""
        self._forget(plan)
        self._guards.lift_path(plan.source)

    def _finish_file(self, plan: Plan, reply: AdoptReply) -> None:
        try:
            self._leave_adopted(plan, reply, _DONE)
        except OSError:
            self._later(plan, self._finish_adoption)
            raise
        self._guards.lift_path(plan.source)
        self._later(plan, self._forget_adoption)

    def _delete_tree_source(self, plan: Plan, reply: AdoptReply) -> None:
        if self._store.get(paths.key(plan.source)) is not None:  # else this is repeated, since the drop failed
            self._leave_adopted(plan, reply, _DROPPING)

    def _leave_adopted(self, plan: Plan, reply: AdoptReply, state: str) -> None:
        """What is adopted goes here, with the state that says so, and with the reply to the client."""
        # no await between here and the commit: these are one
        self._leave_source(plan, reply)
        self._sessions.answer(plan.client_id, plan.seq, RENAME, _reply(plan, reply))
        try:
            self._note(plan, state)
        except OSError:
            self._sessions.unanswer(plan.client_id, plan.seq)
            raise

    async def _drop(self, plan: Plan) -> bool:
        """Remove the old tree and the locks everywhere."""
        if plan.replaced_fid:
            # Before the locks go: who still has the replaced directory open must not create in its successor.
            await self._ask_all(UNSEAL, UnsealRequest(plan.replaced_fid, True))
        await self._tree_step(plan, TREE_DROP)
        self._note(plan, _DONE)
        self._guards.lift_path(plan.source)
        self._later(plan, self._forget_adoption)
        return True

    async def _undo(self, plan: Plan) -> bool:
        """Take back locks and copies everywhere."""
        self._note(plan, _UNDOING)  # before the first is taken back: from here on ADOPT must not be sent again
        await self._tree_step(plan, TREE_UNDO)
        self._give_up(plan)
        return True

    async def _forget_adoption(self, plan: Plan) -> bool:
        """Have the target's owner forget its answer, then forget the intent."""
        await self._peers.call(self._owner(plan), FORGET_INTENT, ForgetIntentRequest(plan.name))
        self._forget(plan)
        return True

    # --- the intent

    def _note(self, plan: Plan, state: str) -> None:
        """Store the state, with whatever else is to be committed. Raises OSError."""
        intents.put(self._store, Intent(plan.name, _KIND, state, list(plan)))
        self._store.commit()

    def _note_or_lift(self, plan: Plan, state: str) -> None:
        try:
            self._note(plan, state)
        except OSError:
            self._guards.lift_path(plan.source)
            raise

    def _forget(self, plan: Plan) -> None:
        try:
            intents.delete(self._store, plan.name)
            self._store.commit()
        except OSError as error:
            _log.warning("intent of a finished rename stays: %s", error.strerror)  # a restart repeats its end

    def resume(self) -> None:
        """Go on with the renames of an earlier run, from the state each had reached."""
        for intent in intents.load(self._store, _KIND):
            plan = Plan(*intent.fields)
            if intent.state == _DONE:
                self._later(plan, self._forget_adoption)
                continue
            self._hold(plan)
            end = {_ADOPTING: self._finish_adoption, _DROPPING: self._drop}.get(intent.state, self._undo)
            self._later(plan, end)


def _reply(plan: Plan, reply: AdoptReply) -> RenameReply:
    return RenameReply(plan.record, reply.replaced_fid, reply.kept)


class _AdoptionUnknown(TimeoutError):
    """ADOPT was sent and not answered."""
