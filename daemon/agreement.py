"""How processes agree on who answers for which shard: they ask for votes, vote (`gkfs.daemon.views`), and tell.

What a process is told goes into its hostfile: who cannot find a shard any more reads that again. A process is
found under the address of the shard it was started for. Another one may have taken that over, and answers there:
a request for a vote says whose it wants, and nobody else gives it.
"""

import errno
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import trio

from gkfs import hostfile
from gkfs.copy_messages import NOBODY, View, ViewNewsRequest, ViewVoteReply, ViewVoteRequest
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.peers import Peers
from gkfs.daemon.session import Session
from gkfs.daemon.views import Views, first_views
from gkfs.errors import ExitStatus, GkfsError, os_error
from gkfs.handshake import CLIENT_ID_BYTES
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import POLL_INTERVAL_S, RECONNECT_MAX_S, VOTE_TIMEOUT_S
from gkfs.messages import Empty
from gkfs.operations import VIEW_NEWS, VIEW_VOTE

_log = logging.getLogger(__name__)

_TELL_TRIES = 60


class Agreement:
    """One process's part: *own* is the process. *leading*: the shards it answers for, or is about to."""

    def __init__(
        self,
        own: int,
        rootdir: Path,
        access: Access,
        hosts_path: Path,
        daemon_count: int,
        nursery: trio.Nursery,
    ) -> None:
        """Raises GkfsError (ROOTDIR)."""
        self.own = own
        self.views = Views(rootdir)
        self.leading: set[int] = set()
        self.begun = trio.Event()  # the views are known
        self.give_up: Callable[[int], bool] = _nothing_to_give_up
        self._hosts_path = hosts_path
        self._daemon_count = daemon_count
        self._peers = Peers(own, access, self.locate, _execute, nursery, os.urandom(CLIENT_ID_BYTES), role="copy")

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve what processes ask each other."""
        dispatcher.serve(VIEW_VOTE, self.vote)
        dispatcher.serve(VIEW_NEWS, self.news)

    async def begin(self) -> None:
        """Wait until all daemons have been started once; then everybody knows the first views."""
        while len(self.views.all()) != self._daemon_count:
            try:
                hosts = await trio.to_thread.run_sync(hostfile.read_addresses, self._hosts_path)
                if hosts.complete:
                    self.views.begin(first_views(hosts.daemons))
                    break
            except (GkfsError, OSError) as error:
                _log.debug("the first views: %s", error)
            await trio.sleep(POLL_INTERVAL_S)
        self.begun.set()

    def check_addressed(self, process: int) -> None:
        """Raise OSError (ESTALE) unless a request to *process* is for this one."""
        if process != self.own:
            raise os_error(errno.ESTALE, f"process {process} does not answer here, {self.own} does")

    # --- votes

    def vote(
        self, session: Session, request: ViewVoteRequest
    ) -> ViewVoteReply | Coroutine[Any, Any, ViewVoteReply]:
        """The handler of VIEW_VOTE. Asked for the view that there is, the primary says whether it leads."""
        self.check_addressed(request.process)
        base, wanted = View(request.shard, *request.base), View(request.shard, *request.wanted)
        if wanted == base:
            self.views.learn(base)
            leads = base.primary == self.own and base.shard in self.leading
            return self._reply(base.shard, granted=leads and self.views.of(base.shard) == base)
        is_new = self.views.voted(base.shard, wanted.number) != wanted
        if is_new and self.own == base.witness and wanted.primary != base.primary:
            return self._vote_unless_led(base, wanted)
        return self._vote(base, wanted)

    async def _vote_unless_led(self, base: View, wanted: View) -> ViewVoteReply:
        """Else a mirror that hears nobody, and is heard, gets our vote and never knows: the shard is closed."""
        if self.views.is_alive(base.primary):
            reply = await self._ask(base.primary, base, base, VOTE_TIMEOUT_S / 2)
            if reply is not None and reply.granted:
                return self._reply(base.shard, granted=False)
        return self._vote(base, wanted)

    def _vote(self, base: View, wanted: View) -> ViewVoteReply:
        # no await here
        deposes_us = wanted.primary != self.own and base.shard in self.leading
        # Who has lost its disk has lost its votes, too; it never answers for what it was started for (`leading`).
        may_vote = self.views.has_opened(self.own) and not deposes_us
        if may_vote and self.views.gives_in(self.own, base, wanted):
            may_vote = self.give_up(base.shard)  # first: who has given in must not take over with it
        granted = may_vote and self.views.vote(self.own, base, wanted)
        if not may_vote:
            self.views.learn(base)
        return self._reply(base.shard, granted=granted)

    def _reply(self, shard: int, *, granted: bool) -> ViewVoteReply:
        known = self.views.of(shard)
        return ViewVoteReply(granted, list(known[1:]) if known else [])

    async def agree(self, base: View, wanted: View) -> bool:
        """Whether a view follows *base* by our vote and those of others; `views` says which. It may be another
        than *wanted*: what this process has voted for before is brought to an end."""
        wanted = self.views.voted(base.shard, wanted.number) or wanted  # one vote for each number
        try:
            if base.mirror == NOBODY:
                if not self.views.decide(self.own, base, wanted):
                    return False
            elif (
                not self.views.vote(self.own, base, wanted)
                or not await self._has_votes(base, wanted)
                or self.views.voted(base.shard, wanted.number) != wanted  # we have given in meanwhile
                or not self.views.learn(wanted)  # no await since we have looked
            ):
                return False
        except OSError as error:
            _log.error("shard %d: view %d: %s", base.shard, wanted.number, error)
            return False
        _log.warning("shard %d: view %d: %s", base.shard, wanted.number, _in_words(wanted))
        return True

    async def _has_votes(self, base: View, wanted: View) -> bool:
        """Whether enough of the other members are for *wanted*; learns what they know better."""
        missing = min(2, len(base.members)) - 1

        async def ask(process: int) -> None:
            nonlocal missing
            reply = await self._ask(process, base, wanted)
            if reply is not None and reply.granted:
                missing -= 1
                if not missing:
                    nursery.cancel_scope.cancel()

        if missing:
            async with trio.open_nursery() as nursery:
                for process in base.members - {self.own}:
                    nursery.start_soon(ask, process)
        return missing <= 0

    async def _ask(self, process: int, base: View, wanted: View, timeout_s: float = 0.0) -> ViewVoteReply | None:
        request = ViewVoteRequest(process, base.shard, list(base[1:]), list(wanted[1:]))
        try:
            reply = await self._peers.call(process, VIEW_VOTE, request, timeout_s or VOTE_TIMEOUT_S)
            if reply.known and not reply.granted:
                self.views.learn(View(base.shard, *reply.known))
        except OSError as error:
            _log.debug("process %d: %s", process, error)
            return None
        return reply

    async def answers(self, process: int, view: View) -> bool:
        """Whether *process* is there; then it knows *view*, or we know what it knows better."""
        return self.views.is_alive(process) and await self._ask(process, view, view) is not None

    # --- news

    async def tell(self, view: View, address: DaemonAddress, on_told: Callable[[int], None]) -> None:
        """Tell all others of *view*, again and again while it is the newest; calls *on_told* for each."""

        async def one(process: int) -> None:
            tries = 0
            while self.views.of(view.shard) == view and (process in view.members or tries < _TELL_TRIES):
                if await self.tell_one(process, view, address):
                    on_told(process)
                    return
                tries += 1
                await trio.sleep(RECONNECT_MAX_S)

        async with trio.open_nursery() as nursery:
            for process in self.alive():
                nursery.start_soon(one, process)

    async def tell_one(self, process: int, view: View, address: DaemonAddress) -> bool:
        """Whether *process* knows *view* now."""
        request = ViewNewsRequest(view.shard, list(view[1:]), *address[1:])
        try:
            await self._peers.call(process, VIEW_NEWS, request, VOTE_TIMEOUT_S)
        except OSError:
            return False
        return True

    def news(self, session: Session, request: ViewNewsRequest) -> Empty:
        """The handler of VIEW_NEWS."""
        view = View(request.shard, *request.view)
        self.views.learn(view)
        if self.views.of(request.shard) != view:
            return Empty()  # there is newer news
        address = DaemonAddress(request.shard, request.host, request.tcp, request.unix)
        hostfile.append(self._hosts_path, address)
        return Empty()

    # --- the others

    def alive(self) -> list[int]:
        """Processes that can be asked, but for this one; the next ones first."""
        others = [(self.own + step) % self._daemon_count for step in range(1, self._daemon_count)]
        return [process for process in others if self.views.is_alive(process)]

    async def elsewhere(self) -> list[int]:
        """Of those alive, the ones on other hosts than this one; all of them where there is one host only."""
        try:
            found = await trio.to_thread.run_sync(hostfile.read_addresses, self._hosts_path)
        except GkfsError as error:
            _log.error("%s", error)
            return []
        alive = [process for process in self.alive() if process in found.daemons]
        hosts = {index: found.daemons[index].host for index in [*alive, self.own] if index in found.daemons}
        if len({address.host for address in found.daemons.values()}) == 1:
            return alive
        return [process for process in alive if hosts[process] != hosts.get(self.own)]

    async def locate(self, process: int) -> DaemonAddress:
        """Where *process* is. Raises GkfsError."""
        found = await trio.to_thread.run_sync(hostfile.read_addresses, self._hosts_path)
        if process not in found.daemons:
            raise GkfsError(f"daemon {process} is not in the hostfile yet", ExitStatus.UNREACHABLE)
        return found.daemons[process]


async def _execute(operation: object, request: object) -> None:
    raise AssertionError(f"a process does not ask itself: {operation} {request}")


def _nothing_to_give_up(_: int) -> bool:
    return True


def _in_words(view: View) -> str:
    mirror = "no mirror" if view.mirror == NOBODY else f"mirror {view.mirror}"
    witness = "no witness" if view.witness == NOBODY else f"witness {view.witness}"
    return f"primary {view.primary}, {mirror}, {witness}"
