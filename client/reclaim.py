"""Has the kernel forget the oldest files once it refers to more of them than it may."""

import errno
import logging
from typing import Final

import pyfuse3
import trio

from gkfs.client.inodes import InodeTable
from gkfs.limits import INODES_CHECK_S

log = logging.getLogger(__name__)

# The kernel takes a name once nobody works in its directory, which ends when our answers do.
_END_S: Final = 5.0


class Reclaim:
    """Keeps what the kernel refers to near *inodes_max*; it says in its own time (FORGET) what it gave back."""

    def __init__(self, inodes: InodeTable, inodes_max: int) -> None:
        self._inodes = inodes
        self._inodes_max = inodes_max
        self._ended = False
        self._idle = trio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Look every `INODES_CHECK_S`, until `end`."""
        while not self._ended:
            await trio.sleep(INODES_CHECK_S)
            oldest = self._inodes.oldest(len(self._inodes) - self._inodes_max)
            names = [(inode.parent.fid, inode.name) for inode in oldest if inode.parent is not None]
            if names and not self._ended:
                self._idle = trio.Event()
                # The kernel may wait for a request that this process is to answer: never in the pump's thread.
                await trio.to_thread.run_sync(self._forget, names, self._idle, trio.lowlevel.current_trio_token())

    async def end(self) -> None:
        """Wait, at most `_END_S`, until no thread of it uses the FUSE session, and have none begin.

        A session must not be unmounted before: the kernel would be in the midst of a name for a request that
        nobody answers any more, or the library in a session that is no longer there.
        """
        self._ended = True
        with trio.CancelScope(deadline=trio.current_time() + _END_S, shield=True):
            await self._idle.wait()

    def _forget(self, names: list[tuple[int, bytes]], idle: trio.Event, token: trio.lowlevel.TrioToken) -> None:
        try:
            for parent_fid, name in names:
                if self._ended:
                    return
                try:
                    pyfuse3.invalidate_entry(parent_fid, name)
                except OSError as error:
                    if error.errno != errno.ENOENT:  # that one is forgotten already
                        log.warning("the kernel does not forget %r of directory %d: %s", name, parent_fid, error)
        finally:
            token.run_sync_soon(idle.set)
