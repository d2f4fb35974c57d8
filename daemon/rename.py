"""RENAME: source and target may have different owners; the owner of the source coordinates.

A file whose target has the same owner moves in one write. Else, and for directories, the steps are

    file: intent ADOPTING -> ADOPT at the target's owner -> source and intent go, DONE -> FORGET_INTENT
    directory: intent LOCKING -> lock and copy the tree (see `tree`) -> intent ADOPTING -> ADOPT -> source goes,
               DROPPING -> old tree dropped and unlocked everywhere -> DONE -> FORGET_INTENT

and each is stored before the next begins. With RENAME_EXCHANGE, ADOPT answers with what the target was, and that
is put where the source was; nobody sees the source meanwhile. ADOPT decides: it replaces the target atomically,
and its owner keeps the answer under the intent's name, so that asking again tells what happened. Before it the
rename can be undone (UNDOING), after it it can only be finished; at no moment is the entry under neither name.
Who coordinates holds the source's path from the first step to the last. A restart goes on from the stored state.

Renames that cross refuse each other with EBUSY instead of waiting; the coordinator then undoes its own, waits
for a random moment and tries again, for `LOCK_WAIT_S` at most.
"""

import errno
import logging
import random
from collections.abc import Coroutine
from typing import Any, Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents
from gkfs.daemon.adopt import Adoption
from gkfs.daemon.leases import Leases
from gkfs.daemon.parents import Parents
from gkfs.daemon.plan import Plan
from gkfs.daemon.records import Records
from gkfs.daemon.rename_steps import ADOPTING, DONE, DROPPING, KIND, RenameSteps, client_reply
from gkfs.daemon.rename_tree import TreeRenaming
from gkfs.daemon.session import Session
from gkfs.errors import os_error
from gkfs.limits import LOCK_WAIT_S
from gkfs.messages import RENAME_EXCHANGE, RENAME_NOREPLACE, RenameReply, RenameRequest
from gkfs.peer_messages import AdoptReply

_log = logging.getLogger(__name__)

_RETRY_MIN_S: Final = 0.01  # between attempts of a rename that met another one
_RETRY_SPREAD_S: Final = 0.2


class Renaming:
    """The handler of RENAME."""

    def __init__(
        self,
        own_index: int,
        records: Records,
        steps: RenameSteps,
        parents: Parents,
        adoption: Adoption,
        leases: Leases,
    ) -> None:
        self._own_index = own_index
        self._records = records
        self._steps = steps
        self._trees = TreeRenaming(steps, parents)
        self._parents = parents
        self._adoption = adoption
        self._leases = leases

    def rename(self, session: Session, request: RenameRequest) -> RenameReply | Coroutine[Any, Any, RenameReply]:
        plan = self._plan(session, session.seq, request)
        if request.source == request.target:
            if request.flags & RENAME_NOREPLACE:
                raise os_error(errno.EEXIST, paths.printable(request.target))
            return RenameReply(self._records.at(request.source), 0, False, False)
        if not plan.tree and self._steps.owner(plan) == self._own_index:
            if self._steps.guards.active:
                self._steps.guards.check_change(plan.target)
            verified = not (
                self._parents.need_verification(plan.target, plan.parent_fid)
                or self._parents.need_verification(plan.source, request.source_parent_fid)
            )
            if verified and self._adoption.replaces_here(plan.target):
                return self._rename_here(plan)
        self._steps.hold_alone(plan)
        return self._run(session, request, plan)

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
        if self._steps.guards.active:
            self._steps.guards.check_change(source)
        entry = metadentry.decode(self._records.at(source))
        if paths.is_below(source, target) and (entry.is_directory or request.flags & RENAME_EXCHANGE):
            number = errno.EINVAL if request.flags & RENAME_EXCHANGE else errno.ENOTEMPTY
            raise os_error(number, names)
        self._leases.check_entry(entry, source, session.client_id)
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
            tree=entry.is_directory,
        )

    def _rename_here(self, plan: Plan) -> RenameReply:
        # no await between here and the commit of the batch: both names change as one
        reply = self._adoption.replace(plan.adopt_request())
        self._steps.leave_source(plan, reply)
        return client_reply(plan, reply)

    # --- with other daemons; the source's path is held

    async def _run(self, session: Session, request: RenameRequest, plan: Plan) -> RenameReply:
        deadline_s = trio.current_time() + LOCK_WAIT_S
        tree = plan.tree
        while True:
            try:
                if tree:
                    return await self._trees.rename(
                        plan._replace(tree=True), request.source_parent_fid, self._finish_adoption
                    )
                return await self._rename_file(plan, request.source_parent_fid)
            except OSError as error:
                if error.errno == errno.EISDIR and plan.is_exchange and not tree:
                    tree = True  # the target turns out to be one
                elif error.errno != errno.EBUSY or trio.current_time() > deadline_s:
                    raise
                else:
                    await trio.sleep(_RETRY_MIN_S + random.random() * _RETRY_SPREAD_S)
            plan = self._plan(session, plan.seq, request)
            self._steps.hold_alone(plan)

    async def _rename_file(self, plan: Plan, source_parent_fid: int) -> RenameReply:
        if self._parents.need_verification(plan.source, source_parent_fid):
            try:  # while the source is held, nothing above it can be renamed any more
                await self._parents.verify(plan.source, source_parent_fid)
            except OSError:
                self._steps.lift(plan)
                raise
        self._steps.note_or_lift(plan, ADOPTING)
        try:
            reply = await self._steps.adopt(plan)
        except TimeoutError:
            # It may have happened; the end of it follows when the daemon answers again.
            self._steps.later(plan, self._finish_adoption)
            raise
        except OSError:
            self._steps.give_up(plan)
            raise
        self._finish_file(plan, reply)
        return client_reply(plan, reply)

    def _finish_file(self, plan: Plan, reply: AdoptReply) -> None:
        try:
            self._steps.leave_adopted(plan, reply, DONE)
        except OSError:
            self._steps.later(plan, self._finish_adoption)
            raise
        self._steps.lift(plan)
        self._steps.later(plan, self._steps.forget_adoption)

    async def _finish_adoption(self, plan: Plan) -> bool:
        """Have the target's owner say whether it has adopted, then act on it."""
        try:
            reply = await self._steps.adopt(plan)
        except TimeoutError:
            return False
        except OSError as error:
            _log.info("rename of %s does not happen: %s", paths.printable(plan.source), error.strerror)
            if plan.tree:
                return await self._trees.undo(plan)
            self._steps.give_up(plan)
            return True
        if plan.tree:
            return await self._trees.finish(plan, reply)
        self._finish_file(plan, reply)
        return True

    def resume(self) -> None:
        """Go on with the renames of an earlier run, from the state each had reached."""
        for intent in intents.load(self._steps.store, KIND):
            plan = Plan(*intent.fields)
            if intent.state == DONE:
                self._steps.later(plan, self._steps.forget_adoption)
                continue
            self._steps.hold(plan)
            end = {ADOPTING: self._finish_adoption, DROPPING: self._trees.drop}.get(intent.state, self._trees.undo)
            self._steps.later(plan, end)
