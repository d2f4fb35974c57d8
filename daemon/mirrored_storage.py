"""Chunk storage that tells a mirror what it does."""

import errno
import logging
from collections.abc import Coroutine
from typing import Any

import trio

from gkfs.daemon import keys
from gkfs.daemon.chunk_files import read_file, read_readable
from gkfs.daemon.guards import Guard
from gkfs.daemon.mirror import Mirror
from gkfs.daemon.storage import ChunkStorage
from gkfs.limits import INLINE_IO_MAX_BYTES
from gkfs.messages import Buffer

_log = logging.getLogger(__name__)


class MirroredStorage(ChunkStorage):
    """The same, and every change is shipped to its *mirror* when it begins."""

    mirror: Mirror

    def write(self, fid: int, chunk: int, offset: int, data: Buffer) -> int | Coroutine[Any, Any, int]:
        self.mirror.check_backlog()
        work = super().write(fid, chunk, offset, data)
        self.mirror.wrote(fid, chunk, offset, kept(data))
        return work

    def write_new(self, fid: int, data: Buffer) -> Coroutine[Any, Any, None] | None:
        work = super().write_new(fid, data)
        self.mirror.wrote(fid, 0, 0, kept(data))
        if work is None:
            return None
        self._writes[fid] = self._writes.get(fid, 0) + 1  # a copy that begins now must not read a part of it
        return self._written_new(fid, work)

    async def _written_new(self, fid: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._one_is_written(fid)

    def cut(self, fid: int, size: int) -> Coroutine[Any, Any, None] | None:
        work = super().cut(fid, size)
        self.mirror.cut(fid, size)
        return work

    async def copy_all(self) -> None:
        """Ship every chunk there is. Raises OSError, also when the mirror is given up."""
        for page in self._store.pages(*keys.table(keys.CHUNKS)):
            for key, _ in page:
                await self._copy(*keys.chunk_of_key(key))
                await self.mirror.flushed()

    async def _copy(self, fid: int, chunk: int) -> None:
        while fid in self._cuts:
            await self._cuts[fid].lifted.wait()
        # What is written meanwhile would be shipped before what was read before it.
        self._cuts[fid] = Guard(f"a chunk of file {fid:x} is being copied")
        try:
            while fid in self._writes:
                await self._writes_done.wait()
            data = await self._read_to_copy(fid, chunk)
            if data:
                self.mirror.wrote(fid, chunk, 0, data)
        finally:
            self._cuts.pop(fid).lifted.set()

    async def _read_to_copy(self, fid: int, chunk: int) -> bytes:
        """All of a chunk. Raises OSError."""
        path = self._files.path(fid, chunk)
        try:
            return await trio.to_thread.run_sync(read_file, path, limiter=self._threads)
        except OSError as error:
            _log.error("chunk %d of file %x, %s: %s", chunk, fid, path, error.strerror)
            if error.errno != errno.EIO or not self._shows_damage(fid, chunk):
                raise
        # A sector that is gone must not keep all the rest from having a second copy.
        data, unreadable = await trio.to_thread.run_sync(read_readable, path, limiter=self._threads)
        _log.error("chunk %d of file %x: %d blocks cannot be copied", chunk, fid, len(unreadable))
        return data

    def _shows_damage(self, fid: int, chunk: int) -> bool:
        """Whether who has the copy would see that a block of it is not what was written."""
        return False


def kept(data: Buffer) -> Buffer:
    """*data*, which stays as it is."""
    # What a thread writes belongs to its request and stays; the rest may be a part of something that is reused.
    return data if len(data) > INLINE_IO_MAX_BYTES else bytes(data)
