"""Which files are open here, and telling the daemons so, see `gkfs.daemon.opens`.

A daemon keeps a file that loses its last name as long as somebody has it open. It is told once in `HOLD_RENEW_S`
which files these are: for a file that is opened and closed in between nothing is sent.
"""

import contextlib
import logging
from collections.abc import Iterator

from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.client.pump import Gate
from gkfs.limits import HOLD_FILES, MOVES_FOLLOWED
from gkfs.messages import HoldReply, HoldRequest, ReleaseRequest
from gkfs.operations import HOLD, RELEASE

log = logging.getLogger(__name__)


class Holds:
    """The open files of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.open_files: set[Inode] = set()
        self._asked: set[int] = set()  # daemons that have not answered yet

    def opened(self, inode: Inode) -> None:
        """One more handle; from now on an unlink through this mount keeps the file."""
        if not inode.opens:
            inode.held_path = self._context.inodes.path(inode)
        inode.opens += 1
        self.open_files.add(inode)

    def closed(self, inode: Inode) -> bool:
        """One handle less; whether it was the last one."""
        inode.opens -= 1
        if not inode.opens:
            self.open_files.discard(inode)
        return not inode.opens

    async def release(self, inode: Inode) -> None:
        """The last handle is closed: the daemon need not keep the file, if it was asked to."""
        if not (inode.held or inode.kept):
            return
        kept, inode.held, inode.kept = inode.kept, False, False
        call = self._context.call_owner(self._context.inodes.path(inode), RELEASE, ReleaseRequest(inode.fid))
        if kept:  # else the daemon finds out by itself if it fails
            await call

    async def renew(self) -> None:
        """Tell the daemons what is open."""
        by_owner: dict[int, list[tuple[bytes, Inode]]] = {}
        for inode in self.open_files:
            if not inode.gone:
                inode.held = True
                path = self._context.inodes.path(inode)
                by_owner.setdefault(self._context.distributor.path_owner(path), []).append((path, inode))
        for owner, files in by_owner.items():
            if owner not in self._asked:  # else it is slow or away: once is enough
                self._context.pool.pump.start(self._renew_at(owner, files))

    async def _renew_at(self, owner: int, files: list[tuple[bytes, Inode]]) -> None:
        self._asked.add(owner)
        try:
            for start in range(0, len(files), HOLD_FILES):
                some = files[start : start + HOLD_FILES]
                lost = set((await self._hold(owner, some)).lost)
                for path, inode in some:
                    if inode.fid not in lost:
                        inode.held_path = path
                    elif inode.opens:
                        await self._find(path, inode)
        except OSError as error:
            log.info("open files: %s", error)
        finally:
            self._asked.discard(owner)

    def _hold(self, owner: int, files: list[tuple[bytes, Inode]]) -> Call[HoldReply]:
        request = HoldRequest([path for path, _ in files], [inode.fid for _, inode in files])
        return self._context.pool.call(owner, HOLD, request)

    async def _find(self, path: bytes, inode: Inode) -> None:
        """A file is no longer where it was: say so to whoever has it now, for as long as it can be followed."""
        for _ in range(MOVES_FOLLOWED):
            if not await self._context.follow(inode, path):
                return
            path = self._context.inodes.path(inode)
            reply = await self._hold(self._context.distributor.path_owner(path), [(path, inode)])
            if not reply.lost:
                inode.held_path = path
                return


@contextlib.contextmanager
def leaving(inode: Inode | None) -> Iterator[None]:
    """Have those who open *inode* wait until the block ends: its daemon keeps no file that was not open before."""
    if inode is None or inode.opens or inode.leaving is not None:
        yield
        return
    inode.leaving = []
    try:
        yield
    finally:
        gates, inode.leaving = inode.leaving, None
        for gate in gates:
            gate.open()


async def still_there(inode: Inode) -> None:
    """Wait while *inode* may be about to go. To be called before it counts as open."""
    while inode.leaving is not None:
        gate = Gate()
        inode.leaving.append(gate)
        await gate
