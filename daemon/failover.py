"""What a process does so that every shard has two copies: it leads, mirrors, votes and takes over.

- For each shard that it answers for, `lead` keeps it mirrored (`gkfs.daemon.leading`).
- For each copy that it keeps, `run` has the view changed, and a daemon started on the copy, when its primary is
  silent.
- It votes, and takes note of new views (`gkfs.daemon.agreement`).

A primary that has been replaced stops.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from gkfs.copy_messages import NOBODY, View
from gkfs.daemon.agreement import Agreement
from gkfs.daemon.copies import Copies, Copy
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.leading import Awake, Leader, Shard
from gkfs.daemon.superblock import Rootdir
from gkfs.errors import GkfsError
from gkfs.keyfile import Access
from gkfs.limits import COPY_PING_S, COPY_SILENCE_S, RECONNECT_MAX_S

_log = logging.getLogger(__name__)


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
        """*start* has a daemon answer for a shard from a folder, or raises GkfsError, OSError.

        Raises GkfsError (ROOTDIR).
        """
        self._own = own
        self._access = access
        self._nursery = nursery
        self._start = start
        self._awake = Awake()
        self._agreement = Agreement(own, rootdir.path, access, hosts_path, daemon_count, nursery)
        self._views = self._agreement.views
        self._copies = Copies(rootdir.path, rootdir.superblock, nursery, direct_io=direct_io)
        self._copies.check_addressed = self._agreement.check_addressed
        self._copies.is_needed = self._is_needed
        self._copies.is_closed = self._is_closed
        self._agreement.give_up = self._give_up
        self._answered: set[int] = set()  # shards of others that a daemon has been started for, or is being
        self._taking: set[int] = set()  # shards that are being taken over
        views = self._views.all()
        taken = {view.shard for view in views if view.primary == own} - {own}  # over, in an earlier run
        self._copies.resume({view.shard for view in views if view.mirror == own}, taken)

    def register(self, dispatcher: Dispatcher) -> None:
        """Have *dispatcher* serve what processes ask each other."""
        self._copies.register(dispatcher)
        self._agreement.register(dispatcher)

    def view(self, shard: int) -> View | None:
        """The newest known view of *shard*."""
        return self._views.of(shard)

    def close(self) -> None:
        """Close the copies."""
        self._copies.close()

    def _is_needed(self, shard: int) -> bool:
        """Whether what is here of *shard* is the original, or we would take it over.

        Nobody may begin that anew before something else is decided.
        """
        view, copy = self._views.of(shard), self._copies.get(shard)
        if view is None:
            return False
        return view.primary == self._own or (view.mirror == self._own and copy is not None and copy.complete)

    def _is_closed(self, shard: int) -> bool:
        """Whether we answer for *shard* ourselves, or have voted for that: nobody else is helped to."""
        view, pending = self._views.of(shard), self._views.pending(shard)
        return self._own in (view and view.primary, pending and pending.primary)

    async def lead(self, shard: Shard, on_open: Callable[[], None]) -> None:
        """Answer for *shard*, and keep it mirrored; calls *on_open* when it may. Returns when it was replaced."""
        await Leader(shard, self._agreement, self._access, self._awake, self._nursery).run(on_open)

    async def run(self) -> None:
        """Take part until cancelled."""
        self._nursery.start_soon(self._awake.run)
        await self._agreement.begin()
        heard_us_s = self._awake.away_until_s
        while True:
            self._awake.look()
            if self._awake.away_until_s > heard_us_s:
                heard_us_s = self._awake.away_until_s
                self._copies.heard_all()
            for view in self._views.all():
                self._look_after(view, self._copies.get(view.shard))
            await trio.sleep(COPY_PING_S)

    def _look_after(self, view: View, copy: Copy | None) -> None:
        """Take a shard over whose primary is silent; drop a copy that is not needed any more."""
        shard = view.shard
        if view.primary == self._own:
            if shard not in (self._own, *self._answered):
                self._answered.add(shard)
                self._nursery.start_soon(self._answer_for, shard)
            return
        self._answered.discard(shard)
        if copy is not None and shard not in self._taking:
            if view.mirror == self._own:
                if self._is_due(copy, shard):
                    self._taking.add(shard)
                    self._nursery.start_soon(self._take_over, view, copy)
            elif _is_silent(copy) and not copy.tasks:
                self._drop(shard)

    def _is_due(self, copy: Copy, shard: int) -> bool:
        """Whether *shard* is to be taken over. Who has voted for that goes on, also when the primary is heard."""
        return copy.complete and (_is_silent(copy) or self._is_closed(shard))

    def _give_up(self, shard: int) -> bool:
        """Remove the copy of *shard*: of what came since this process wanted to take over some was refused.

        False when it has to be tried again. Raises OSError.
        """
        copy = self._copies.get(shard)
        if copy is not None and copy.tasks:
            return False
        self._copies.drop(shard)
        return True

    def _drop(self, shard: int) -> None:
        try:
            self._copies.drop(shard)
        except OSError as error:
            _log.error("copy of shard %d: %s", shard, error)

    async def _take_over(self, view: View, copy: Copy) -> None:
        try:
            if not self._is_due(copy, view.shard):
                return  # it was heard just now
            # no await between here and the vote
            _log.warning("shard %d: primary %d is silent", view.shard, view.primary)
            wanted = View(view.shard, view.number + 1, self._own, NOBODY, view.witness)
            await self._agreement.agree(view, wanted)
        finally:
            self._taking.discard(view.shard)
        newest = self._views.of(view.shard)
        assert newest is not None
        self._look_after(newest, None)

    async def _answer_for(self, shard: int) -> None:
        """Have a daemon started for what we have taken over, now or in an earlier run."""
        while (view := self._views.of(shard)) is not None and view.primary == self._own:
            try:
                await self._start(shard, await self._copies.release(shard))
                return
            except (GkfsError, OSError) as error:
                _log.error("cannot take over shard %d: %s", shard, error)
            await trio.sleep(RECONNECT_MAX_S)


def _is_silent(copy: Copy) -> bool:
    return trio.current_time() >= copy.heard_s + COPY_SILENCE_S
