"""statfs: the sum over all daemons, those that share one local file system counted once, up to their limits."""

import time

from pyfuse3 import StatvfsData

from gkfs import capacity
from gkfs.client.context import Context
from gkfs.limits import NAME_MAX_BYTES
from gkfs.messages import Empty
from gkfs.operations import STATUS

_BLOCK_BYTES = 4096
_REUSE_S = 1.0  # df and programs that watch space ask often; every answer asks all daemons


class Space:
    """Answers statfs; an answer is reused for a second."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answer = StatvfsData()
        self._valid_until_s = 0.0

    async def statfs(self) -> StatvfsData:
        """Blocks and files of the whole file system."""
        if time.monotonic() >= self._valid_until_s:
            self._answer = await self._ask()
            self._valid_until_s = time.monotonic() + _REUSE_S
        return self._answer

    async def _ask(self) -> StatvfsData:
        pool = self._context.pool
        calls = [pool.call(index, STATUS, Empty()) for index in range(self._context.distributor.daemon_count)]
        replies = [await call for call in calls]
        free_bytes, total_bytes = capacity.together(replies)
        entries = sum(reply.files + reply.directories for reply in replies)
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = _BLOCK_BYTES
        answer.f_blocks = total_bytes // _BLOCK_BYTES
        answer.f_bfree = answer.f_bavail = free_bytes // _BLOCK_BYTES
        # Records need space, not inodes; a free block can hold several. Never fewer than the blocks, as btrfs.
        answer.f_ffree = answer.f_favail = answer.f_bfree
        answer.f_files = entries + answer.f_ffree
        answer.f_namemax = NAME_MAX_BYTES
        return answer
