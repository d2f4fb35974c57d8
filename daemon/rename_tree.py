"""The coordinator's part of renaming a directory tree, or of exchanging it with something else.

See `rename` for the whole, and `tree` for what each daemon does.
"""

import errno

from gkfs import metadentry, paths
from gkfs.daemon.parents import Parents
from gkfs.daemon.peers import first_error
from gkfs.daemon.plan import Plan
from gkfs.daemon.rename_steps import (
    ADOPTING,
    DONE,
    DROPPING,
    LOCKING,
    UNDOING,
    AdoptionUnknown,
    End,
    RenameSteps,
    client_reply,
)
from gkfs.errors import os_error
from gkfs.limits import TREE_TIMEOUT_S
from gkfs.messages import RENAME_NOREPLACE, RenameReply, StatRequest
from gkfs.operations import STAT, TREE, UNSEAL, Operation, Q, R
from gkfs.peer_messages import (
    TREE_COPY,
    TREE_DROP,
    TREE_LOCK,
    TREE_UNDO,
    AdoptReply,
    TreeRequest,
    UnsealRequest,
)


class TreeRenaming:
    """Renames of trees; the source's path is held from the first step to the last."""

    def __init__(self, steps: RenameSteps, parents: Parents) -> None:
        self._steps = steps
        self._parents = parents
        self._all = range(steps.distributor.daemon_count)

    async def rename(self, plan: Plan, source_parent_fid: int, finish_adoption: End) -> RenameReply:
        """Do *plan*. Raises OSError; *finish_adoption* is for when it is unknown whether the target has it."""
        steps = self._steps
        steps.note_or_lift(plan, LOCKING)
        try:
            await self._check_target(plan)
            await self._step(plan, TREE_LOCK)
            await self._verify_parents(plan, source_parent_fid)
            await self._step(plan, TREE_COPY)
            steps.note(plan, ADOPTING)
            reply = await self._adopt(plan)
        except AdoptionUnknown:
            steps.later(plan, finish_adoption)
            raise
        except OSError:
            await steps.now_or_later(plan, self.undo)
            raise
        try:
            plan = self._leave(plan, reply)
        except OSError:
            steps.later(plan, finish_adoption)
            raise
        await steps.now_or_later(plan, self.drop)
        return client_reply(plan, reply)

    async def _verify_parents(self, plan: Plan, source_parent_fid: int) -> None:
        """Raise OSError unless both are what the client takes them for: it will change their link counts.

        After the lock, so that no other rename can move them any more.
        """
        if plan.parent_fid:
            await self._parents.verify(plan.target, plan.parent_fid)
        if source_parent_fid and source_parent_fid != plan.parent_fid:
            await self._parents.verify(plan.source, source_parent_fid)

    async def finish(self, plan: Plan, reply: AdoptReply) -> bool:
        """Act on the answer to an ADOPT that was repeated."""
        return await self.drop(self._leave(plan, reply))

    def _leave(self, plan: Plan, reply: AdoptReply) -> Plan:
        if not plan.is_exchange:
            plan = plan._replace(replaced_fid=reply.replaced_fid)
        if self._steps.store.get(paths.key(plan.source)) is not None:  # else this is repeated: the drop failed
            self._steps.leave_adopted(plan, reply, DROPPING)
        return plan

    async def _check_target(self, plan: Plan) -> None:
        """Fail early where ADOPT would; it checks again."""
        name = paths.printable(plan.target)
        try:
            found = await self._steps.peers.call(self._steps.owner(plan), STAT, StatRequest(plan.target, 0))
        except FileNotFoundError:
            if plan.is_exchange:
                raise
            return
        if plan.flags & RENAME_NOREPLACE:
            raise os_error(errno.EEXIST, name)
        if not plan.is_exchange and not metadentry.is_directory_record(found.record):
            raise os_error(errno.ENOTDIR, name)

    async def _adopt(self, plan: Plan) -> AdoptReply:
        try:
            return await self._steps.adopt(plan)
        except TimeoutError as error:
            raise AdoptionUnknown(error.errno, error.strerror) from None

    async def _step(self, plan: Plan, step: str) -> None:
        """Have every daemon do *step*. Raises OSError."""
        await self._ask_all(
            TREE, TreeRequest(plan.name, plan.source, plan.target, step, plan.is_exchange, plan.client_id)
        )

    async def _ask_all(self, operation: Operation[Q, R], request: Q) -> None:
        outcomes = await self._steps.peers.call_all(self._all, operation, request, TREE_TIMEOUT_S)
        error = first_error(outcomes)
        if error is not None:
            raise error

    async def drop(self, plan: Plan) -> bool:
        """Remove what is left of the old tree, and the locks, everywhere."""
        if plan.replaced_fid:
            # Before the locks go: who still has the replaced directory open must not create in its successor.
            await self._ask_all(UNSEAL, UnsealRequest(plan.replaced_fid, True))
        await self._step(plan, TREE_DROP)
        self._steps.note(plan, DONE)
        self._steps.lift(plan)
        self._steps.later(plan, self._steps.forget_adoption)
        return True

    async def undo(self, plan: Plan) -> bool:
        """Take back locks and copies everywhere."""
        self._steps.note(plan, UNDOING)  # before the first is taken back: ADOPT must not be sent again
        await self._step(plan, TREE_UNDO)
        self._steps.give_up(plan)
        return True
