"""What who answers for a shard does so that there are two copies of it.

It finds a mirror, gives it everything, and has the view changed when the mirror or the witness is silent. A
primary that has been replaced finds out by asking for votes; nothing has left it since its mirror has confirmed
something last (`gkfs.daemon.mirror`).
"""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from gkfs.copy_messages import NOBODY, View
from gkfs.daemon.agreement import Agreement
from gkfs.daemon.mirror import Mirror
from gkfs.daemon.mirrored_storage import MirroredStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.superblock import Ending
from gkfs.errors import GkfsError, os_error
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import COPY_PING_S, COPY_SILENCE_S, RECONNECT_MAX_S, START_TIMEOUT_S

_log = logging.getLogger(__name__)

_EVERY_KEY = (b"\0", b"\xff")
_ASK_AGAIN_S = 0.1  # for votes, who answers nothing before it has them
_WITNESSES_MAX = 3  # asked at a time


class Awake:
    """Tells the silence of others from our own absence: a frozen process, a busy node."""

    def __init__(self) -> None:
        self._looked_s = trio.current_time()
        self.away_until_s = self._looked_s  # when the last absence ended

    def look(self) -> None:
        """Whoever is about to judge others looks first; `run` has looked `COPY_PING_S` ago."""
        now_s = trio.current_time()
        if now_s > self._looked_s + COPY_SILENCE_S / 2:
            self.away_until_s = now_s
        self._looked_s = now_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await trio.sleep(COPY_PING_S)


@dataclass(frozen=True)
class Shard:
    """A shard that this process answers for, and where. *ending*: how its last run has ended."""

    index: int
    boot_epoch: int
    power_epoch: int
    ending: Ending
    mirror: Mirror
    store: MetadataStore
    storage: MirroredStorage
    address: DaemonAddress


class Leader:
    """Leads one shard: `run` it."""

    def __init__(
        self, shard: Shard, agreement: Agreement, access: Access, awake: Awake, nursery: trio.Nursery
    ) -> None:
        """*nursery* is for what goes on beside it."""
        self._shard = shard
        self._index = shard.index
        self._mirror = shard.mirror
        self._agreement = agreement
        self._views = agreement.views
        self._own = agreement.own
        self._access = access
        self._awake = awake
        self._nursery = nursery
        self._refused = False  # by the last process that was asked to have a copy: it needs what it has

    @property
    def _view(self) -> View:
        view = self._views.of(self._index)
        assert view is not None
        return view

    @property
    def _leads(self) -> bool:
        return self._view.primary == self._own

    async def run(self, on_open: Callable[[], None]) -> None:
        """Answer for the shard, and keep it mirrored; calls *on_open* when it may. Returns when it is replaced."""
        await self._agreement.begun.wait()
        await self._give_way()
        self._agreement.leading.add(self._index)
        try:
            if await self._may_open():
                self._mirror.open()
                await self._announce(on_open)
                self._tell()
                await self._keep_mirrored()
        finally:
            self._agreement.leading.discard(self._index)
        self._mirror.close()

    # --- before it answers

    async def _give_way(self) -> None:
        """After a power failure what came last may be missing here. The mirror has it, and may take over."""
        deadline_s = trio.current_time() + 2 * COPY_SILENCE_S
        while (
            self._shard.ending is Ending.POWER
            and self._leads
            and self._view.mirror != NOBODY
            and self._views.has_opened(self._index)
            and trio.current_time() < deadline_s
        ):
            for process in (self._view.mirror, self._view.witness):
                await self._agreement.answers(process, self._view)  # and says if it knows better
            await trio.sleep(COPY_PING_S)

    async def _may_open(self) -> bool:
        """Wait until nobody else can answer; False when somebody else does."""
        if self._index == self._own and not self._views.has_opened(self._index):
            await self._make_first_copy()
            if self._leads and (self._refused or self._view.number > 1):
                _log.error("daemon %d has lost what it had: the copy of it takes its place", self._index)
                return False
        while self._leads:
            try:
                self._views.open(self._index)
                break
            except OSError as error:
                _log.error("shard %d: %s", self._index, error)
                await trio.sleep(RECONNECT_MAX_S)
        # What an earlier run did last its mirror may not know.
        while not self._mirror.counts and self._leads:
            view = self._view
            if view.mirror == NOBODY and self._views.pending(self._index) is None:
                break
            if not await self._agreement.agree(view, _alone(view)):
                await trio.sleep(_ASK_AGAIN_S)
        return self._leads

    async def _make_first_copy(self) -> None:
        """Nothing leaves before there are two. Those who are to have them know if this is not the first time."""
        deadline_s = trio.current_time() + START_TIMEOUT_S
        while self._leads and trio.current_time() < deadline_s:
            first = self._view
            for process in (first.mirror, first.witness):
                await self._agreement.answers(process, first)
            if self._view != first or first.number > 1 or not self._views.is_alive(first.mirror):
                return
            if await self._copied_to(first.mirror) and await self._counted():
                self._mirror.is_decided = True
                return
            if self._refused:
                return
            await trio.sleep(_ASK_AGAIN_S)

    async def _announce(self, on_open: Callable[[], None]) -> None:
        async def again() -> None:
            while self._leads:
                await trio.sleep(RECONNECT_MAX_S)
                try:
                    on_open()
                    return
                except GkfsError as error:
                    _log.error("%s", error)

        try:
            on_open()
        except GkfsError as error:
            _log.error("%s", error)
            self._nursery.start_soon(again)

    # --- while it answers

    async def _keep_mirrored(self) -> None:
        asked_s = trio.current_time()
        heard_us_s = self._awake.away_until_s
        while self._leads:
            view, mirror = self._view, self._mirror
            self._awake.look()
            if self._awake.away_until_s > heard_us_s:
                heard_us_s = self._awake.away_until_s
                mirror.forgive()
            if (pending := self._views.pending(self._index)) is not None:
                await self._agree(view, pending)  # whoever is heard again: nobody votes twice
            elif view.mirror == NOBODY:
                if mirror.is_attached:
                    mirror.detach()
                await self._find_mirror(view)
            elif mirror.process != view.mirror or mirror.failure is not None or mirror.silent_s > COPY_SILENCE_S:
                _log.warning("shard %d: mirror %d is silent", self._index, view.mirror)
                await self._agree(view, _alone(view))
            elif trio.current_time() > asked_s + COPY_SILENCE_S:
                await self._check_witness(view)
                asked_s = trio.current_time()
            await trio.sleep(COPY_PING_S)

    async def _agree(self, view: View, wanted: View) -> bool:
        """Whether *wanted* follows *view* now."""
        await self._agreement.agree(view, wanted)
        newest = self._view
        if newest != view and newest.primary == self._own:
            if newest.mirror == NOBODY:
                self._mirror.detach()
            self._tell()
        return newest == wanted

    def _tell(self) -> None:
        view = self._view

        def on_told(process: int) -> None:
            if process == view.mirror == self._mirror.process and self._view == view:
                self._mirror.is_decided = True

        self._nursery.start_soon(self._agreement.tell, view, self._shard.address, on_told)

    async def _check_witness(self, view: View) -> None:
        if view.witness == NOBODY or await self._agreement.answers(view.witness, view):
            return
        others = [process for process in self._agreement.alive() if process not in view[3:]]
        for process in others[:_WITNESSES_MAX]:
            if await self._agreement.answers(process, view):
                _log.warning("shard %d: witness %d is silent", self._index, view.witness)
                await self._agree(view, view._replace(number=view.number + 1, witness=process))
                return

    async def _find_mirror(self, view: View) -> None:
        candidates = await self._agreement.elsewhere()
        candidates.sort(key=lambda process: process == view.witness)
        for process in candidates:
            # Who knows the view does not insist on a copy that is of no use any more.
            if not await self._agreement.answers(process, view) or not await self._copied_to(process):
                continue
            if not await self._counted():  # before it can be decided
                continue
            wanted = View(self._index, view.number + 1, self._own, process, self._witness(view.witness, process))
            while self._view == view and self._mirror.failure is None:
                if await self._agree(view, wanted):
                    return
                await trio.sleep(_ASK_AGAIN_S)
            self._mirror.detach()  # it is not what was decided
            return

    def _witness(self, known: int, mirror: int) -> int:
        """A witness beside us and *mirror*, the *known* one if it can be."""
        others = [process for process in self._agreement.alive() if process != mirror]
        return known if known in others else next(iter(others), NOBODY)

    # --- a new copy

    async def _copied_to(self, process: int) -> bool:
        """Give *process* everything, and all changes from now on; False when it does not take it."""
        mirror = self._mirror
        locate = partial(self._agreement.locate, process)
        mirror.attach(process, locate, self._access, self._nursery)
        error: OSError | None = os_error(errno.ETIMEDOUT, f"process {process} is silent")

        async def give_up() -> None:
            while True:
                await trio.sleep(COPY_PING_S)
                if mirror.silent_s > COPY_SILENCE_S:
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            try:
                await _ship_all(self._shard)
                error = None
            except OSError as failure:
                error = failure
            nursery.cancel_scope.cancel()
        self._refused = error is not None and error.errno == errno.EEXIST
        if error is not None:
            _log.warning("shard %d: no copy at %d: %s", self._index, process, error.strerror)
            mirror.detach()
        return error is None

    async def _counted(self) -> bool:
        """From now on nothing leaves that the mirror has not, nor has anything left; False when it is silent."""
        self._mirror.count()
        try:
            with trio.fail_after(COPY_SILENCE_S):
                await self._mirror.flushed(0)  # what has left before may still be on the way there
        except (OSError, trio.TooSlowError) as error:
            _log.warning("shard %d: no copy at %d: %s", self._index, self._mirror.process, error)
            self._mirror.detach()
            return False
        return True


async def _ship_all(shard: Shard) -> None:
    """Raises OSError."""
    await shard.mirror.begin(shard.boot_epoch, shard.power_epoch)
    for page in shard.store.pages(*_EVERY_KEY):
        shard.mirror.commit(dict(page))  # no await since it was read
        await shard.mirror.flushed()
    await shard.storage.copy_all()
    await shard.mirror.done()


def _alone(view: View) -> View:
    return view._replace(number=view.number + 1, mirror=NOBODY)
