"""Who else writes to a file, and so whether what is written here may be on its way when a write returns.

Before chunks of a file are written its daemon is told; that holds for `WRITE_RIGHT_S` (see `gkfs.daemon.writers`).
Who is alone gets a lease. For half of it, counted from before the request left, writes are gathered and not waited
for: nothing stays gathered for longer than `SIZE_FLUSH_DELAY_S`, so it has left before the lease is over. Who goes
on writing has the lease renewed beside. When somebody else wants to write, the answer is no: then what is on its
way is waited for, and the daemon told.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.client.pump import Lock
from gkfs.limits import WRITE_LEASE_RENEW_S, WRITE_LEASE_S, WRITE_RIGHT_S
from gkfs.messages import WriteLeaseRequest
from gkfs.operations import WRITE_LEASE

log = logging.getLogger(__name__)

_About = Callable[[Inode], Awaitable[None]]

_BEHIND_S = WRITE_LEASE_S / 2
_WRITES_BEFORE_ASKING = 2  # since the lease was given back: who syncs each write does not need it


class WriteRight:
    """What this node may do with one file, on the monotonic clock."""

    __slots__ = ("ask_from_s", "asked_s", "behind_until_s", "lock", "path", "until_s", "writes")

    def __init__(self) -> None:
        self.lock = Lock()  # one request after another
        self.path = b""  # where the record was
        self.until_s = 0.0  # it may write
        self.behind_until_s = 0.0  # without waiting; 0: the lease was refused, or given back
        self.asked_s = 0.0
        self.ask_from_s = 0.0  # after a refusal
        self.writes = 0  # since the last question or the end of the lease


class WriteLeases:
    """Those of one mount. *settle* waits until nothing of a file is on its way; *tell* says that, and the size."""

    def __init__(self, context: Context, settle: _About, tell: _About) -> None:
        self._context = context
        self._settle = settle
        self._tell = tell
        self.holding: set[Inode] = set()  # open files whose lease was not given back; it may have run out

    async def prepare(self, inode: Inode, *, wanted: bool) -> None:
        """Have the right to write; `held` says then whether with the lease that is *wanted*. Raises OSError."""
        right = inode.write_right
        if right is None:
            right = inode.write_right = WriteRight()
        now_s = time.monotonic()
        if right.until_s <= now_s or right.path != self._context.inodes.path(inode):
            await self._declare(inode, right, wanted=wanted)
            return
        if not wanted:
            return
        right.writes += 1
        if right.behind_until_s > now_s:
            if right.asked_s + WRITE_LEASE_RENEW_S <= now_s:
                self.renew(inode)
        elif right.writes >= _WRITES_BEFORE_ASKING and right.ask_from_s <= now_s:
            self._start(inode, right, behind=False)

    def held(self, inode: Inode) -> bool:
        """Whether what is written now need not be waited for."""
        right = inode.write_right
        return right is not None and right.behind_until_s > time.monotonic()

    def granted(self, inode: Inode) -> bool:
        """Whether the daemon may let others wait for this node."""
        right = inode.write_right
        return (
            right is not None and right.behind_until_s > 0.0 and right.asked_s + WRITE_LEASE_S > time.monotonic()
        )

    def renew(self, inode: Inode) -> None:
        """Ask for more of the lease, if there is one, beside."""
        right = inode.write_right
        if right is not None and right.behind_until_s:
            self._start(inode, right, behind=True)

    def told(self, inode: Inode, path: bytes, sent_s: float, *, leased: bool) -> None:
        """The daemon knows that this node writes, by a request about *path* that left at *sent_s*."""
        right = inode.write_right
        if right is None:
            right = inode.write_right = WriteRight()
        right.path = path
        right.until_s = sent_s + WRITE_RIGHT_S - WRITE_LEASE_S
        right.behind_until_s = sent_s + _BEHIND_S if leased else 0.0
        right.asked_s = sent_s
        right.ask_from_s = 0.0 if leased else sent_s + WRITE_LEASE_S
        right.writes = 0
        if leased and inode.opens:
            self.holding.add(inode)
        else:
            self.holding.discard(inode)

    async def give_back(self, inode: Inode, tell: Callable[[], Awaitable[None]], *, leaves: bool) -> None:
        """Have nothing on its way, and let *tell* say so to the daemon. Raises OSError.

        With *leaves* it says that this node is no writer any more.
        """
        right = inode.write_right
        if right is None:
            await tell()
            return
        with await right.lock.taken():
            right.behind_until_s = 0.0  # what comes now is waited for
            right.writes = 0
            self.holding.discard(inode)
            if leaves:
                right.until_s = 0.0
            await self._settle(inode)
            await tell()

    async def _declare(self, inode: Inode, right: WriteRight, *, wanted: bool) -> None:
        with await right.lock.taken():
            if right.until_s > time.monotonic() and right.path == self._context.inodes.path(inode):
                return  # another write has
            if right.behind_until_s:
                right.behind_until_s = 0.0
                await self._settle(inode)
            await self.request(inode, behind=False, wanted=wanted)

    def _start(self, inode: Inode, right: WriteRight, *, behind: bool) -> None:
        if not right.lock.held:
            self._context.pool.pump.start(self._ask(inode, right, behind=behind))

    async def _ask(self, inode: Inode, right: WriteRight, *, behind: bool) -> None:
        with await right.lock.taken():
            try:
                if not behind and right.behind_until_s:  # what a lease that ran out let be sent may be on its way
                    right.behind_until_s = 0.0
                    await self._settle(inode)
                if not await self.request(inode, behind=behind, wanted=True) and behind:
                    await self._settle(inode)
                    await self._tell(inode)  # who appends goes behind it
                    await self.request(inode, behind=False, wanted=True)
            except OSError as error:  # it runs out
                log.info("write lease of file %#x: %s", inode.fid, error)

    async def request(self, inode: Inode, *, behind: bool, wanted: bool) -> bool:
        """Say that this node writes, and whether something is on its way; whether it has the lease now."""
        asked = b""

        def make(path: bytes) -> WriteLeaseRequest:
            nonlocal asked
            asked = path
            return WriteLeaseRequest(path, inode.fid, behind, wanted)

        sent_s = time.monotonic()
        reply = await self._context.about(inode, WRITE_LEASE, make)
        self.told(inode, asked, sent_s, leased=reply.leased)
        return reply.leased
