"""What a process does so that every shard has two copies: it leads, mirrors, votes and takes over.

- For each shard that it answers for, `lead` finds a mirror, gives it everything, and has the view changed when
  the mirror or the witness is silent.
- For each copy that it keeps, `run` has the view changed, and a daemon started on the copy, when its primary is
  silent.
- It votes (`gkfs.daemon.views`), and puts what it is told of new views into its hostfile: who cannot find a shard
  any more reads that again.

A primary that has been replaced finds out by asking for votes, or being told; nothing has left it since its mirror
confirmed nothing any more (`gkfs.daemon.mirror`). It stops.
"""

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from gkfs import hostfile
from gkfs.copy_messages import NOBODY, View, ViewNewsRequest, ViewVoteReply, ViewVoteRequest
from gkfs.daemon.copies import Copies
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.mirror import Mirror
from gkfs.daemon.mirrored_storage import MirroredStorage
from gkfs.daemon.peers import Peers
from gkfs.daemon.session import Session
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.superblock import Rootdir
from gkfs.daemon.views import Views, first_views
from gkfs.errors import GkfsError, os_error
from gkfs.handshake import CLIENT_ID_BYTES
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import (
    COPY_PING_S,
    COPY_SILENCE_S,
    POLL_INTERVAL_S,
    RECONNECT_MAX_S,
    VOTE_TIMEOUT_S,
)
from gkfs.messages import Empty
from gkfs.operations import STATUS, VIEW_NEWS, VIEW_VOTE

_log = logging.getLogger(__name__)

_EVERY_KEY = (b"\0", b"\xff")
_TELL_TRIES = 60


class _Awake:
    """Tells the silence of others from our own absence: a frozen process, a busy node."""

    def __init__(self) -> None:
        self._looked_s = trio.current_time()

    def was_away(self) -> bool:
        """Whether the last look, which should be every `COPY_PING_S`, was long ago."""
        before_s, self._looked_s = self._looked_s, trio.current_time()
        return self._looked_s > before_s + COPY_SILENCE_S / 2


@dataclass(frozen=True)
class Shard:
    """A shard that this process answers for, and where."""

    index: int
    boot_epoch: int
    power_epoch: int
    mirror: Mirror
    store: MetadataStore
    storage: MirroredStorage
    address: DaemonAddress


class Failover:
    """One process's part. `run` it, and `lead` each shard that it answers for."""

    def __init__(
        self,
        own: int,
        rootdir: Rootdir,
        access: Access,
        hosts_path: Path,
        daemon_count: int,
        nursery: trio.Nursery,
        start: Callable[[int, Path], Awaitable[None]],
        *,
        direct_io: bool,
    ) -> None:
        """*start* has a daemon answer for a shard from a folder. Raises GkfsError (ROOTDIR)."""
        self._own = own
        self._access = access
        self._hosts_path = hosts_path
        self._daemon_count = daemon_count
        self._nursery = nursery
        self._start = start
        self._views = Views(rootdir.path)
        self._copies = Copies(rootdir.path, rootdir.superblock, nursery, direct_io=direct_io)
        self._peers = Peers(own, access, self._locate, _execute, nursery, os.urandom(CLIENT_ID_BYTES), role="copy")
        self._begun = trio.Event()
        self._shards: dict[int, Shard] = {}
        self._hosts: dict[int, str] = {}  # of processes
        views = self._views.all()
        self._taken = {view.shard for view in views if view.primary == own} - {own}  # over, in an earlier run
        self._copies.resume({view.shard for view in views if view.mirror == own}, self._taken)

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve what processes ask each other."""
        self._copies.register(dispatcher, self._is_needed)
        dispatcher.serve(VIEW_VOTE, self._vote)
        dispatcher.serve(VIEW_NEWS, self._news)

    def view(self, shard: int) -> View | None:
        """The newest known view of *shard*."""
        return self._views.of(shard)

    def close(self) -> None:
        """Close the copies."""
        self._copies.close()

    # --- the views

    async def run(self) -> None:
        """Take part until cancelled."""
        await self._begin()
        for shard in self._taken:
            await self._start(shard, self._copies.folder(shard))
        await self._watch()

    async def _begin(self) -> None:
        """Wait until all daemons have been started once; then everybody knows the first views."""
        while True:
            try:
                hosts = await trio.to_thread.run_sync(hostfile.read_addresses, self._hosts_path)
            except GkfsError:
                hosts = None
            if hosts is not None and hosts.complete:
                break
            await trio.sleep(POLL_INTERVAL_S)
        self._hosts = {index: address.host for index, address in hosts.daemons.items()}
        if len(self._views.all()) != self._daemon_count:
            self._views.begin(first_views(hosts.daemons))
        self._begun.set()

    def _vote(self, session: Session, request: ViewVoteRequest) -> ViewVoteReply:
        base, wanted = View(request.shard, *request.base), View(request.shard, *request.wanted)
        deposes_us = wanted.primary != self._own and request.shard in self._shards
        granted = not deposes_us and self._views.vote(self._own, base, wanted)
        known = self._views.of(request.shard)
        return ViewVoteReply(granted, list(known[1:]) if known else [])

    async def _agree(self, base: View, wanted: View) -> bool:
        """Whether *wanted* follows *base*, by our vote and those of others. Else `view` may say what does."""
        wanted = self._views.voted(base.shard, wanted.number) or wanted  # one vote for each number
        if not self._views.vote(self._own, base, wanted):
            return False
        if not await self._has_votes(base, wanted) or not self._views.learn(wanted):
            return False
        _log.warning("shard %d: view %d: %s", base.shard, wanted.number, _in_words(wanted))
        return True

    async def _has_votes(self, base: View, wanted: View) -> bool:
        """Whether enough of the other members are for *wanted*; learns what they know better."""
        request = ViewVoteRequest(base.shard, list(base[1:]), list(wanted[1:]))
        missing = min(2, len(base.members)) - 1

        async def ask(process: int) -> None:
            nonlocal missing
            try:
                reply = await self._peers.call(process, VIEW_VOTE, request, VOTE_TIMEOUT_S)
            except OSError:
                return
            if reply.granted:
                missing -= 1
                if not missing:
                    nursery.cancel_scope.cancel()
            elif reply.known:
                self._views.learn(View(base.shard, *reply.known))

        if missing:
            async with trio.open_nursery() as nursery:
                for process in base.members - {self._own}:
                    nursery.start_soon(ask, process)
        return missing <= 0

    async def _tell(self, view: View, address: DaemonAddress) -> None:
        """Tell all others of *view*, again and again while it is the newest."""

        async def one(process: int) -> None:
            for _ in range(_TELL_TRIES):
                if self._views.of(view.shard) != view:
                    return
                try:
                    request = ViewNewsRequest(view.shard, list(view[1:]), *address[1:])
                    await self._peers.call(process, VIEW_NEWS, request, VOTE_TIMEOUT_S)
                    return
                except OSError:
                    await trio.sleep(RECONNECT_MAX_S)

        async with trio.open_nursery() as nursery:
            for process in self._alive():
                nursery.start_soon(one, process)

    def _news(self, session: Session, request: ViewNewsRequest) -> Empty:
        view = View(request.shard, *request.view)
        self._views.learn(view)
        if self._views.of(request.shard) != view:
            return Empty()  # there is newer news
        address = DaemonAddress(request.shard, request.host, request.tcp, request.unix)
        hostfile.append(self._hosts_path, address)
        return Empty()

    def _is_needed(self, shard: int) -> bool:
        """Whether we would take *shard* over: nobody may begin its copy anew before that is decided otherwise."""
        view, copy = self._views.of(shard), self._copies.get(shard)
        return view is not None and view.mirror == self._own and copy is not None and copy.complete

    def _alive(self) -> list[int]:
        """Processes that can be asked, but for this one; those on other hosts, the next ones first."""
        others = [(self._own + step) % self._daemon_count for step in range(1, self._daemon_count)]
        return [process for process in others if self._views.is_alive(process)]

    # --- leading

    async def lead(self, shard: Shard, on_open: Callable[[], None]) -> None:
        """Answer for *shard*, and keep it mirrored; calls *on_open* when it may. Returns when it was replaced."""
        await self._begun.wait()
        view = self._newest(shard)
        self._shards[shard.index] = shard
        try:
            is_new = view.number == 1 and shard.boot_epoch == 1 and view.mirror != NOBODY
            if is_new and await self._copied_to(shard, view.mirror):
                shard.mirror.count()  # nothing leaves before there are two
            # What an earlier run did last its mirror may not know.
            while not shard.mirror.counts and (view := self._newest(shard)).primary == self._own:
                if view.mirror == NOBODY:
                    break
                await self._agree(view, view._replace(number=view.number + 1, mirror=NOBODY))
                await trio.sleep(POLL_INTERVAL_S)
            if self._newest(shard).primary == self._own:
                shard.mirror.open()
                on_open()
                self._nursery.start_soon(self._tell, self._newest(shard), shard.address)
                await self._keep_mirrored(shard)
        finally:
            del self._shards[shard.index]
        shard.mirror.close()

    def _newest(self, shard: Shard) -> View:
        view = self._views.of(shard.index)
        assert view is not None
        return view

    async def _keep_mirrored(self, shard: Shard) -> None:
        asked_s = 0.0
        awake = _Awake()
        while (view := self._newest(shard)).primary == self._own:
            if awake.was_away():
                shard.mirror.forgive()
            if view.mirror == NOBODY:
                if shard.mirror.is_attached:
                    shard.mirror.detach()
                await self._find_mirror(shard, view)
            elif shard.mirror.failure is not None or shard.mirror.silent_s > COPY_SILENCE_S:
                _log.warning("shard %d: mirror %d is silent", shard.index, view.mirror)
                await self._agree(view, view._replace(number=view.number + 1, mirror=NOBODY))
            elif trio.current_time() > asked_s + COPY_SILENCE_S and not await self._answers(view.witness):
                wanted = view._replace(number=view.number + 1, witness=self._other(view.mirror))
                if wanted.witness != view.witness:
                    await self._agree(view, wanted)
                asked_s = trio.current_time()
            await trio.sleep(COPY_PING_S)

    async def _answers(self, process: int) -> bool:
        if process == NOBODY:
            return True
        try:
            await self._peers.call(process, STATUS, Empty(), VOTE_TIMEOUT_S)
        except OSError:
            return False
        return True

    def _other(self, mirror: int) -> int:
        """A witness beside us and *mirror*."""
        return next((process for process in self._alive() if process != mirror), NOBODY)

    async def _find_mirror(self, shard: Shard, view: View) -> None:
        one_host = len(set(self._hosts.values())) == 1
        candidates = [p for p in self._alive() if one_host or self._hosts[p] != self._hosts[self._own]]
        candidates.sort(key=lambda process: process == view.witness)
        for process in candidates:
            if not await self._copied_to(shard, process):
                continue
            witness = view.witness if view.witness not in (NOBODY, process) else self._other(process)
            shard.mirror.count()  # before it can be decided
            wanted = View(shard.index, view.number + 1, self._own, process, witness)
            while self._newest(shard) == view and shard.mirror.failure is None:
                if await self._agree(view, wanted):
                    self._nursery.start_soon(self._tell, self._newest(shard), shard.address)
                    return
                await trio.sleep(POLL_INTERVAL_S)
            return

    async def _copied_to(self, shard: Shard, process: int) -> bool:
        """Give *process* everything, and all changes from now on; False when it does not take it."""
        mirror = shard.mirror
        locate = partial(self._locate, process)
        mirror.attach(f"mirror {process} of shard {shard.index}", locate, self._access, self._nursery)
        error: OSError | None = os_error(errno.ETIMEDOUT, f"process {process} is silent")

        async def give_up() -> None:
            while True:
                await trio.sleep(COPY_PING_S)
                if mirror.silent_s > COPY_SILENCE_S:
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            try:
                await _ship_all(shard)
                error = None
            except OSError as failure:
                error = failure
            nursery.cancel_scope.cancel()
        if error is not None:
            _log.warning("shard %d: no copy at %d: %s", shard.index, process, error.strerror)
            mirror.detach()
        return error is None

    # --- mirroring

    async def _watch(self) -> None:
        """Take over shards whose primary is silent; drop copies that are not needed any more."""
        awake = _Awake()
        while True:
            await trio.sleep(COPY_PING_S)
            now_s = trio.current_time()
            if awake.was_away():
                self._copies.heard_all()
            for view in self._views.all():
                copy = self._copies.get(view.shard)
                if copy is None or now_s < copy.heard_s + COPY_SILENCE_S:
                    continue
                if view.mirror != self._own:
                    if not copy.tasks:
                        self._copies.drop(view.shard)
                elif copy.complete:
                    await self._take_over(view)

    async def _take_over(self, view: View) -> None:
        _log.warning("shard %d: primary %d is silent", view.shard, view.primary)
        wanted = View(view.shard, view.number + 1, self._own, NOBODY, view.witness)
        if not await self._agree(view, wanted) or self._views.of(view.shard) != wanted:
            return
        await self._start(view.shard, await self._copies.release(view.shard))

    async def _locate(self, process: int) -> DaemonAddress:
        found = await trio.to_thread.run_sync(hostfile.read_addresses, self._hosts_path)
        return found.daemons[process]


async def _ship_all(shard: Shard) -> None:
    """Raises OSError."""
    await shard.mirror.begin(shard.boot_epoch, shard.power_epoch)
    for page in shard.store.pages(*_EVERY_KEY):
        shard.mirror.commit(dict(page))  # no await since it was read
        await shard.mirror.flushed()
    await shard.storage.copy_all()
    await shard.mirror.done()


async def _execute(operation: object, request: object) -> None:
    raise AssertionError(f"a process does not ask itself: {operation} {request}")


def _in_words(view: View) -> str:
    mirror = "no mirror" if view.mirror == NOBODY else f"mirror {view.mirror}"
    witness = "no witness" if view.witness == NOBODY else f"witness {view.witness}"
    return f"primary {view.primary}, {mirror}, {witness}"
