"""Brings chunks to the disk, several of a file at once: a disk's journal writes once for all who wait for it.

One after another, each fdatasync(2) waits for a write of the journal of its own: 1.8 ms for each chunk just
written, where four at once take 0.08 (256 chunks of 1 MiB, ext4 on an SSD).
"""

import os
from collections.abc import Callable

import trio

from gkfs.daemon.open_chunks import OpenChunks
from gkfs.daemon.unsynced import Unsynced
from gkfs.limits import SYNCS_AT_ONCE


class Syncer:
    """Of one daemon. *all_chunks*: those of a file."""

    def __init__(
        self,
        files: OpenChunks,
        unsynced: Unsynced,
        threads: trio.CapacityLimiter,
        all_chunks: Callable[[int], set[int]],
    ) -> None:
        self._files = files
        self._unsynced = unsynced
        self._threads = threads
        self._all_chunks = all_chunks
        self._running: dict[int, trio.Event] = {}  # by file

    async def sync(self, fid: int) -> None:
        """What was written to *fid* here before is on the disk when this returns. Raises OSError.

        Who comes while another syncs the file waits for that: some of what it means is not on the disk before.
        """
        while (running := self._running.get(fid)) is not None:
            await running.wait()
        done = self._running[fid] = trio.Event()
        # no await between here and the line above
        try:
            known = self._unsynced.take(fid)
            await self._sync_all(fid, self._all_chunks(fid) if known is None else known)
        finally:
            del self._running[fid]
            done.set()

    async def _sync_all(self, fid: int, chunks: set[int]) -> None:
        """All of *chunks* are tried; those that fail will be again, by the next sync."""
        left = sorted(chunks, reverse=True)
        failed: list[OSError] = []

        async def work() -> None:
            while left:
                chunk = left.pop()
                try:
                    await self._sync_one(fid, chunk)
                except BaseException as error:
                    self._unsynced.note(fid, chunk)
                    if not isinstance(error, OSError):
                        raise
                    failed.append(error)

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(SYNCS_AT_ONCE, len(left))):
                    nursery.start_soon(work)
        finally:
            for chunk in left:
                self._unsynced.note(fid, chunk)
        if failed:
            raise failed[0]

    async def _sync_one(self, fid: int, chunk: int) -> None:
        file = self._files.get(fid, chunk, create=False)
        if file is None:
            return
        file.users += 1
        try:
            await trio.to_thread.run_sync(os.fdatasync, file.fd, limiter=self._threads)
        finally:
            self._files.release(file)
