"""Chunk storage with checksums and a mirror: what a disk has damaged is mended from the copy.

The copy's blocks are held against the sums that are here, so that nothing comes back that is not what was written.
"""

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from gkfs.daemon import keys
from gkfs.daemon.block_sums import ChunkSums, sums_of
from gkfs.daemon.mirrored_storage import MirroredStorage, kept
from gkfs.daemon.summed_io import edge
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.limits import CHECKSUM_BLOCK_BYTES, CHUNK_SIZE_BYTES
from gkfs.messages import Buffer

_log = logging.getLogger(__name__)

_EDGES = 2  # damaged blocks that one write may overwrite in part

T = TypeVar("T")
Result = Buffer | Coroutine[Any, Any, Buffer]


class _DamagedError(OSError):
    """These blocks of a chunk are not what was written."""

    def __init__(self, error: OSError, fid: int, chunk: int, blocks: list[int]) -> None:
        super().__init__(error.errno, error.strerror)
        self.fid = fid
        self.chunk = chunk
        self.blocks = blocks


class MirroredSummedStorage(MirroredStorage, SummedStorage):
    """Both; the checksums reach the mirror as part of the index."""

    def _damaged(self, fid: int, chunk: int, blocks: list[int]) -> _DamagedError:
        return _DamagedError(super()._damaged(fid, chunk, blocks), fid, chunk, blocks)

    def _shows_damage(self, fid: int, chunk: int) -> bool:
        sums = self._sums.find(fid, chunk)
        return sums is not None and sums.is_stored  # else the copy's data would be taken as they are

    def read(self, fid: int, chunk: int, offset: int, length: int) -> Result:
        again = partial(super().read, fid, chunk, offset, length)
        try:
            result = again()
        except _DamagedError as damage:
            return self._after_mending(damage, again)
        return self._mended(result, again) if isinstance(result, Coroutine) else result

    async def _mended(self, work: Coroutine[Any, Any, Buffer], again: Callable[[], Result]) -> Buffer:
        try:
            return await work
        except _DamagedError as damage:
            return await self._after_mending(damage, again)

    async def _after_mending(self, damage: _DamagedError, again: Callable[[], T | Coroutine[Any, Any, T]]) -> T:
        for _ in range(_EDGES):
            if not await self._mend(damage.fid, damage.chunk, damage.blocks):
                raise damage
            try:
                result = again()
                return await result if isinstance(result, Coroutine) else result
            except _DamagedError as other:
                damage = other
        raise damage

    def write(self, fid: int, chunk: int, offset: int, data: Buffer) -> int | Coroutine[Any, Any, int]:
        try:
            return super().write(fid, chunk, offset, data)
        except _DamagedError as damage:  # a part of a block is overwritten, and the rest is damaged
            return self._after_mending(damage, partial(super().write, fid, chunk, offset, kept(data)))

    def cut(self, fid: int, size: int) -> Coroutine[Any, Any, None] | None:
        damage = self._damage_at(fid, size)
        return super().cut(fid, size) if damage is None else self._cut_mended(damage, fid, size)

    def _damage_at(self, fid: int, size: int) -> _DamagedError | None:
        """What is wrong with the block that a cut to *size* keeps a part of. Raises OSError, Blocked."""
        chunk, kept_bytes = divmod(size, CHUNK_SIZE_BYTES)
        block = kept_bytes // CHECKSUM_BLOCK_BYTES
        if kept_bytes % CHECKSUM_BLOCK_BYTES == 0 or (sums := self._sums.find(fid, chunk)) is None:
            return None
        sums.check(block, block + 1)
        file = self._files.get(fid, chunk, create=False)
        if file is None or edge(file.fd, kept_bytes, sums.of(block, block + 1))[1]:
            return None
        return self._damaged(fid, chunk, [block])

    async def _cut_mended(self, damage: _DamagedError, fid: int, size: int) -> None:
        await self._mend(damage.fid, damage.chunk, damage.blocks)  # if that fails, what is kept stays damaged
        work = super().cut(fid, size)
        if work is not None:
            await work
        self._store.commit()

    async def _check(self, fid: int, chunk: int) -> list[int]:
        bad = await super()._check(fid, chunk)
        if bad and await self._mend(fid, chunk, bad):
            return await super()._check(fid, chunk)
        return bad

    async def _mend(self, fid: int, chunk: int, blocks: list[int]) -> bool:
        """Write what the mirror has of *blocks*, ascending, in their place; whether that may have helped."""
        start = blocks[0] * CHECKSUM_BLOCK_BYTES
        length = (blocks[-1] + 1) * CHECKSUM_BLOCK_BYTES - start
        known = self._sums.find(fid, chunk)
        changes = known.changes if known is not None else 0
        try:
            data = memoryview(await self.mirror.read(fid, chunk, start, length))
            # no await between here and the last write: the sums that the copy's blocks are held against stay
            sums = self._sums.find(fid, chunk)
            if sums is None or sums is not known or sums.changes != changes or sums.is_busy:
                return True  # it was written or cut meanwhile, or is being: look again
            right = 0
            for block in blocks:
                offset = block * CHECKSUM_BLOCK_BYTES
                piece = data[offset - start : offset - start + CHECKSUM_BLOCK_BYTES]
                if _fits(sums, block, piece):
                    self._put(fid, chunk, offset, piece)
                    right += 1
        except OSError as error:
            _log.error("chunk %d of file %x cannot be mended: %s", chunk, fid, error.strerror)
            return False
        wrong = len(blocks) - right
        text = "chunk %d of file %x: %d blocks were mended from the copy, %d are damaged in both"
        _log.log(logging.ERROR if wrong else logging.WARNING, text, chunk, fid, right, wrong)
        return not wrong

    def _put(self, fid: int, chunk: int, offset: int, piece: memoryview) -> None:
        """Write a block that has the sum which the index says: that stays, so it holds after a crash, too."""
        key = keys.chunk(fid, chunk)
        entry = self._store.get(key)
        file = self._file_to_write(fid, chunk)
        if entry is not None and self._store.get(key) != entry:
            self._store.put_now(key, entry)  # the file had vanished, and making it has emptied this
        try:
            self._write_small(file.fd, piece, offset)
        finally:
            self._note_size(file, offset, len(piece))
        self._noted.discard((fid, chunk, offset // CHECKSUM_BLOCK_BYTES))


def _fits(sums: ChunkSums, block: int, piece: memoryview) -> bool:
    return len(piece) > 0 and sums_of(piece) == sums.of(block, block + 1)
