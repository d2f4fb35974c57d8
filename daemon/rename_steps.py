"""What renames of files and of directory trees share: intents, the source's half, work that must be finished.

The states of an intent say which steps may have been done; `rename` has the sequence.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from gkfs import metadentry, paths
from gkfs.daemon import intents
from gkfs.daemon.background import persist
from gkfs.daemon.guards import Guards
from gkfs.daemon.intents import Intent
from gkfs.daemon.leases import Leases
from gkfs.daemon.moves import Moves
from gkfs.daemon.peers import Peers
from gkfs.daemon.plan import Plan
from gkfs.daemon.session import Sessions
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.writers import Writers
from gkfs.distributor import Distributor
from gkfs.messages import RenameReply
from gkfs.metadentry import is_directory_record
from gkfs.operations import ADOPT, FORGET_INTENT, RENAME
from gkfs.peer_messages import AdoptReply, ForgetIntentRequest

_log = logging.getLogger(__name__)

KIND: Final = "rename"
LOCKING: Final = "locking"
UNDOING: Final = "undoing"
ADOPTING: Final = "adopting"
DROPPING: Final = "dropping"
DONE: Final = "done"

End = Callable[[Plan], Awaitable[bool]]  # returns whether it is done; may be repeated until it is


class RenameSteps:
    """Steps at the coordinator, which is the owner of the source."""

    def __init__(
        self,
        store: MetadataStore,
        guards: Guards,
        moves: Moves,
        distributor: Distributor,
        peers: Peers,
        sessions: Sessions,
        leases: Leases,
        writers: Writers,
        nursery: trio.Nursery,
    ) -> None:
        self.store = store
        self.guards = guards
        self.distributor = distributor
        self.peers = peers
        self._moves = moves
        self._sessions = sessions
        self._leases = leases
        self._writers = writers
        self._nursery = nursery

    def owner(self, plan: Plan) -> int:
        """The daemon of the target."""
        return self.distributor.path_owner(plan.target)

    async def adopt(self, plan: Plan) -> AdoptReply:
        """Have the target's owner decide, or say what it has decided. Raises OSError."""
        return await self.peers.call(self.owner(plan), ADOPT, plan.adopt_request())

    # --- the source

    def hold(self, plan: Plan) -> None:
        """Keep others from changing the source until `lift`."""
        request = plan.client_id, plan.seq
        self.guards.hold_path(plan.source, "is being renamed", exchange=plan.is_exchange, request=request)

    def hold_alone(self, plan: Plan) -> None:
        """`hold`. Raises Blocked while somebody may write to the file without its being here."""
        if not plan.tree and not metadentry.is_link_record(plan.record):
            self._writers.leave(plan.fid)
        self.hold(plan)

    def lift(self, plan: Plan) -> None:
        self.guards.lift_path(plan.source)

    def leave_source(self, plan: Plan, reply: AdoptReply) -> None:
        """The other half of what was adopted; two names of one file both stay."""
        if reply.replaced_fid == plan.fid:
            return
        key = paths.key(plan.source)
        self.store.count_entry(metadentry.decode(plan.record).mode, -1)
        if plan.is_exchange:
            entry = metadentry.decode(reply.record)
            self.store.put(key, reply.record)
            self.store.count_entry(entry.mode, 1)
            if entry.is_directory:
                self._leases.moved(plan.source, plan.client_id)
            else:
                self._moves.file_came(entry.fid, plan.source)
                if not entry.is_link:
                    self._writers.file_came(entry.fid, plan.source)
        else:
            self.store.delete(key)
        if not plan.tree:
            self._moves.note_file(plan.fid, plan.target)

    def leave_adopted(self, plan: Plan, reply: AdoptReply, state: str) -> None:
        """`leave_source`, with the state that says so, and with the reply to the client. Raises OSError."""
        # no await between here and the commit: these are one
        self.leave_source(plan, reply)
        self._sessions.answer(plan.client_id, plan.seq, RENAME, client_reply(plan, reply))
        try:
            self.note(plan, state)
        except OSError:
            self._sessions.unanswer(plan.client_id, plan.seq)
            raise

    # --- the intent

    def note(self, plan: Plan, state: str) -> None:
        """Store the state, with whatever else is to be committed. Raises OSError."""
        intents.put(self.store, Intent(plan.name, KIND, state, list(plan)))
        self.store.commit()

    def note_or_lift(self, plan: Plan, state: str) -> None:
        """`note` the first state; when that fails, nothing has begun. Raises OSError."""
        try:
            self.note(plan, state)
        except OSError:
            self.lift(plan)
            raise

    def give_up(self, plan: Plan) -> None:
        """Nothing has happened, or everything was undone."""
        self._forget(plan)
        self.lift(plan)

    def _forget(self, plan: Plan) -> None:
        try:
            intents.delete(self.store, plan.name)
            self.store.commit()
        except OSError as error:
            _log.warning("intent of a finished rename stays: %s", error.strerror)  # a restart repeats its end

    async def forget_adoption(self, plan: Plan) -> bool:
        """Have the target's owner forget its answer, then forget the intent."""
        await self.peers.call(self.owner(plan), FORGET_INTENT, ForgetIntentRequest(plan.name))
        self._forget(plan)
        return True

    # --- ends that must be reached

    def later(self, plan: Plan, end: End) -> None:
        """Reach *end* in the background, however long it takes."""
        what = f"rename of {paths.printable(plan.source)} to {paths.printable(plan.target)}"
        self._nursery.start_soon(persist, what, partial(end, plan))

    async def now_or_later(self, plan: Plan, end: End) -> None:
        """Try to reach *end*, and go on in the background if that fails."""
        try:
            done = await end(plan)
        except OSError as error:
            _log.info("rename of %s: %s", paths.printable(plan.source), error.strerror)
            done = False
        if not done:
            self.later(plan, end)


def client_reply(plan: Plan, reply: AdoptReply) -> RenameReply:
    """What the client is told."""
    directory = plan.is_exchange and reply.record != b"" and is_directory_record(reply.record)
    return RenameReply(plan.record, reply.replaced_fid, reply.kept, directory)


class AdoptionUnknown(TimeoutError):
    """ADOPT was sent and not answered."""
