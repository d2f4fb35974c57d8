"""Chunk storage with checksums: what is read is what was written, or EIO.

The sums are `sum_table`'s. While a thread changes blocks of a chunk, others that want the same blocks wait; a read
in a thread is held against the sums as they are when it ends, and made again if they changed meanwhile.
"""

import contextlib
import errno
import logging
import os
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import mmh3
import trio

from gkfs.audit_messages import AuditChunksReply
from gkfs.daemon import keys
from gkfs.daemon.block_sums import BLOCKS, SUM_BYTES, ChunkSums, decode, differing, sums_of, wrong
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.open_chunks import ChunkFile
from gkfs.daemon.room import Room
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.sum_table import SumTable
from gkfs.daemon.summed_io import Damaged, edge, edges, read_summed, sums_of_disk, sums_of_file, write_summed
from gkfs.errors import os_error
from gkfs.hostfile import Sync
from gkfs.limits import (
    CHECKSUM_BLOCK_BYTES,
    INLINE_IO_MAX_BYTES,
    OPEN_CHUNKS_MAX,
    SCAN_PAGE_RECORDS,
    SUMS_CALM_S,
    USAGE_ANSWER_S,
)
from gkfs.messages import Buffer

_log = logging.getLogger(__name__)
_TRIES: Final = 3  # of a read in a thread, whose blocks others change all the time; then nobody else runs
_NOTED_MAX: Final = 100_000  # damaged blocks that are told from new ones


class SummedStorage(ChunkStorage):
    """The chunks of one daemon, with checksums of all blocks."""

    def __init__(
        self,
        folder: Path,
        store: MetadataStore,
        epochs: tuple[int, int],
        room: Room | None = None,
        *,
        uses_direct_io: bool = True,
        sync: Sync = Sync.FSYNC,
        files_max: int = OPEN_CHUNKS_MAX,
    ) -> None:
        """*epochs*: see `SumTable`. Raises OSError."""
        self._sums = SumTable(store, *epochs)
        self._unsure_epoch = epochs[1]
        self._epoch = epochs[0]
        self._new: dict[int, bytes] = {}  # fid -> sums of what `write_new` wrote
        self._noted: set[tuple[int, int, int]] = set()  # damaged blocks that the log has
        super().__init__(folder, store, room, uses_direct_io=uses_direct_io, sync=sync, files_max=files_max)

    # --- writing

    def write(self, fid: int, chunk: int, offset: int, data: Buffer) -> int | Coroutine[Any, Any, int]:
        self._check_write(fid, chunk, offset, data)
        first, end = offset // CHECKSUM_BLOCK_BYTES, -(-(offset + len(data)) // CHECKSUM_BLOCK_BYTES)
        known = self._sums.find(fid, chunk)  # also those of a file that has vanished: what it had is damaged
        if known is not None:
            known.check(first, end)
        file = self._file_to_write(fid, chunk)
        sums = self._sums.change(fid, chunk, file.fd)
        try:
            # Before anything begins, also where a thread will write: then a mirror has not got it either.
            kept = edges(file.fd, offset, len(data), file.size, sums.of(first, end))
        except Damaged as damaged:
            raise self._damaged(fid, chunk, [damaged.block]) from None
        if len(data) > self._inline_write_max_bytes:
            guard = sums.begin(first, end, f"blocks of chunk {chunk} of {fid:x} are being written")
            self._write_begins(file, fid, len(data))
            return self._write_summed((fid, chunk), file, sums, offset, data, kept, guard)
        file.cached = True
        try:
            new = write_summed(file.fd, data, offset, *kept, self._write_small)
        except OSError:
            self._sum_again(file, sums, first, end)
            raise
        finally:
            self._note_size(file, offset, len(data))
        self._replace(fid, chunk, sums, first, new)
        return len(data)

    async def _write_summed(
        self,
        name: tuple[int, int],
        file: ChunkFile,
        sums: ChunkSums,
        offset: int,
        data: Buffer,
        kept: tuple[bytes, bytes],
        guard: Guard,
    ) -> int:
        first = offset // CHECKSUM_BLOCK_BYTES
        try:
            arguments = (file.fd, data, offset, *kept, self._write_large)
            new = await trio.to_thread.run_sync(write_summed, *arguments, limiter=self._threads)
            file.cached = False
            self._replace(*name, sums, first, new)
        except OSError:
            self._sum_again(file, sums, first, -(-(offset + len(data)) // CHECKSUM_BLOCK_BYTES))
            raise
        finally:
            sums.end(guard)
            self._note_size(file, offset, len(data))
            self._write_ends(file, name[0], len(data))
        return len(data)

    def _replace(self, fid: int, chunk: int, sums: ChunkSums, first: int, new: bytes) -> None:
        sums.replace(first, new)
        if self._noted:
            self._noted.difference_update((fid, chunk, first + index) for index in range(len(new) // SUM_BYTES))

    def _sum_again(self, file: ChunkFile, sums: ChunkSums, first: int, end: int) -> None:
        """After a write that failed: a part of it may be there."""
        with contextlib.suppress(OSError):  # then whoever reads it gets the disk's error
            start = first * CHECKSUM_BLOCK_BYTES
            found = sums_of(os.pread(file.fd, end * CHECKSUM_BLOCK_BYTES - start, start))
            sums.replace(first, ChunkSums(found, is_stored=False).of(0, end - first))

    def write_new(self, fid: int, data: Buffer) -> Coroutine[Any, Any, None] | None:
        self._new[fid] = sums_of(data)
        return super().write_new(fid, data)

    def claim(self, fid: int) -> None:
        self._store.put(keys.chunk(fid, 0), ChunkSums(self._new.pop(fid), is_stored=True).stored(self._epoch))

    # --- reading

    def read(self, fid: int, chunk: int, offset: int, length: int) -> Buffer | Coroutine[Any, Any, Buffer]:
        file = self._file_to_read(fid, chunk, offset, length)
        if fid in self._cuts:
            raise Blocked(self._cuts[fid])
        if file is None:
            return self._read_missing(fid, chunk, offset, length)
        sums = self._sums.get(fid, chunk, file.fd)
        first = offset // CHECKSUM_BLOCK_BYTES
        end = min(-(-(offset + length) // CHECKSUM_BLOCK_BYTES), max(self._blocks_of(file), sums.count))
        if end <= first:
            return b""
        sums.check(first, end)
        start = first * CHECKSUM_BLOCK_BYTES
        want = max(0, min(end * CHECKSUM_BLOCK_BYTES, file.size) - start)
        if want <= INLINE_IO_MAX_BYTES and (data := self._read_now(file, start, want)) is not None:
            bad = _bad_blocks(sums, first, end, sums_of(data))
            if bad:
                raise self._damaged(fid, chunk, bad)
            if start == offset and want <= length:
                return data
            return memoryview(data)[offset - start : offset - start + length]
        file.users += 1
        return self._read_summed((fid, chunk), file, sums, offset, length, (first, end))

    def _read_missing(self, fid: int, chunk: int, offset: int, length: int) -> Buffer:
        sums = self._sums.find(fid, chunk)
        if sums is None:
            return b""
        end = min(-(-(offset + length) // CHECKSUM_BLOCK_BYTES), sums.count)
        bad = _bad_blocks(sums, offset // CHECKSUM_BLOCK_BYTES, end, b"")
        if bad:
            raise self._damaged(fid, chunk, bad)
        return b""

    async def _read_summed(
        self,
        name: tuple[int, int],
        file: ChunkFile,
        sums: ChunkSums,
        offset: int,
        length: int,
        blocks: tuple[int, int],
    ) -> Buffer:
        start = blocks[0] * CHECKSUM_BLOCK_BYTES
        read = os.pread if file.cached else self._read_large
        file.cached = True
        try:
            for last_try in (False,) * (_TRIES - 1) + (True,):
                while (guard := sums.guard_of(*blocks)) is not None:
                    await guard.lifted.wait()
                want = max(0, min(blocks[1] * CHECKSUM_BLOCK_BYTES, file.size) - start)
                changes = sums.changes
                if last_try:
                    data, found = read_summed(os.pread, file.fd, want, start)
                else:
                    arguments = (read, file.fd, want, start)
                    data, found = await trio.to_thread.run_sync(read_summed, *arguments, limiter=self._threads)
                bad = _bad_blocks(sums, *blocks, found)
                if not bad:
                    break
                if sums.changes == changes:
                    raise self._damaged(*name, bad)
                read = os.pread
        finally:
            self._files.release(file)
        return data if start == offset and len(data) <= length else memoryview(data)[offset - start :][:length]

    def digests(self, items: list[tuple[int, int, int]]) -> Coroutine[Any, Any, list[bytes]]:
        plain = super().digests(items)  # checks what is asked for
        plain.close()
        return self._digests_of_read(items)

    async def _digests_of_read(self, items: list[tuple[int, int, int]]) -> list[bytes]:
        return [await self._digest(*item) for item in items]

    async def _digest(self, fid: int, chunk: int, length: int) -> bytes:
        while True:
            try:
                result = self.read(fid, chunk, 0, length)
                break
            except Blocked as blocked:
                await blocked.guard.lifted.wait()
        data = await result if isinstance(result, Coroutine) else result
        if self._files.get(fid, chunk, create=False) is None:
            return b""
        filled = bytes(data).ljust(length, b"\0")
        return await trio.to_thread.run_sync(mmh3.mmh3_x64_128_digest, filled, limiter=self._threads)

    # --- cutting

    def cut(self, fid: int, size: int) -> Coroutine[Any, Any, None] | None:
        if size == 0:
            self._new.pop(fid, None)
        return super().cut(fid, size)

    def _cut_now(self, key: bytes, size: int) -> None:
        with self._cutting(key, size):
            super()._cut_now(key, size)

    async def _cut_page(self, page: list[bytes], size: int) -> None:
        with contextlib.ExitStack() as stack:
            for key in page:
                stack.enter_context(self._cutting(key, size))
            await super()._cut_page(page, size)

    @contextlib.contextmanager
    def _cutting(self, key: bytes, size: int) -> Iterator[None]:
        """Around the cut of one chunk."""
        fid, chunk = keys.chunk_of_key(key)
        kept = keys.kept_bytes(key, size)
        if not kept:
            yield
            self._sums.drop(fid, chunk)
            return
        file = self._files.get(fid, chunk, create=False)
        if file is None:
            yield
            return
        sums = self._sums.change(fid, chunk, file.fd)
        first = kept // CHECKSUM_BLOCK_BYTES
        whole = kept % CHECKSUM_BLOCK_BYTES == 0
        new, is_right = (b"", True) if whole else edge(file.fd, kept, sums.of(first, first + 1))
        guard = sums.begin(first, BLOCKS, f"chunk {chunk} of {fid:x} is being cut")
        try:
            yield
            sums.cut(first)
            if not whole:
                sums.replace(first, new if is_right else wrong(new))  # what is left of a damaged block is damaged
        finally:
            sums.end(guard)

    # --- what is damaged

    def _damaged(self, fid: int, chunk: int, blocks: list[int]) -> OSError:
        """Notes that these blocks are not what was written; the error for who wanted one of them."""
        new = [block for block in blocks if (fid, chunk, block) not in self._noted]
        offset = blocks[0] * CHECKSUM_BLOCK_BYTES
        text = (
            f"chunk {chunk} of file {fid:x}: {len(blocks)} blocks, at {offset} the first, are not what was written"
        )
        if new:
            self.damaged_blocks += len(new)
            if len(self._noted) > _NOTED_MAX:
                self._noted.clear()
            self._noted.update((fid, chunk, block) for block in new)
            _log.error("%s: checksums differ in %s", text, self._files.path(fid, chunk))
        return os_error(errno.EIO, text)

    async def damage(self, after: bytes) -> AuditChunksReply:
        found: list[tuple[bytes, int, int]] = []
        checked = 0
        deadline_s = time.monotonic() + USAGE_ANSWER_S
        first, end = keys.table(keys.CHUNKS)
        for page in self._store.pages(max(first, after + b"\0") if after else first, end):
            for key, _ in page:
                bad = await self._check(*keys.chunk_of_key(key))
                checked += 1
                if bad:
                    found.append((key, len(bad), bad[0] * CHECKSUM_BLOCK_BYTES))
                if time.monotonic() > deadline_s:
                    return _audit_reply(found, checked, key)
        return _audit_reply(found, checked, b"")

    async def _check(self, fid: int, chunk: int) -> list[int]:
        """The blocks of a chunk that are not what was written, on the disk."""
        file = self._files.get(fid, chunk, create=False)
        if file is None:
            known = self._sums.find(fid, chunk)
            bad = _bad_blocks(known, 0, known.count, b"") if known is not None else []
        else:
            sums = self._sums.get(fid, chunk, file.fd)
            file.users += 1
            try:
                while True:
                    while (guard := sums.guard_of(0, BLOCKS)) is not None:
                        await guard.lifted.wait()
                    changes = sums.changes
                    found = await trio.to_thread.run_sync(sums_of_disk, file.fd, limiter=self._threads)
                    bad = _bad_blocks(sums, 0, max(sums.count, len(found) // SUM_BYTES), found)
                    if not bad or sums.changes == changes:
                        break
            finally:
                self._files.release(file)
        if bad:
            self._damaged(fid, chunk, bad)
        return bad

    # --- beside requests

    async def background(self) -> None:
        await self._sum_unsummed()
        while True:
            await trio.sleep(SUMS_CALM_S)
            self._store_calm()

    def _store_calm(self) -> None:
        with contextlib.suppress(OSError):  # the store has said so; another time
            self._sums.store_calm()

    async def _sum_unsummed(self) -> None:
        """Sum what an earlier run has left without sums that count."""
        for page in self._store.pages(*keys.table(keys.CHUNKS), SCAN_PAGE_RECORDS):
            for key, value in page:
                stored = decode(value)
                if value != keys.UNCLAIMED and (stored is None or stored.epoch <= self._unsure_epoch):
                    await self._sum_one(*keys.chunk_of_key(key))
            self._store_calm()
            await trio.lowlevel.checkpoint()

    async def _sum_one(self, fid: int, chunk: int) -> None:
        file = self._files.get(fid, chunk, create=False)
        if file is None or self._sums.known(fid, chunk) is not None:
            return
        file.users += 1
        try:
            # Only so that the next line finds it in memory.
            await trio.to_thread.run_sync(sums_of_file, file.fd, limiter=self._threads)
            if not file.dropped:
                self._sums.get(fid, chunk, file.fd)
        except OSError as error:
            _log.error("chunk %d of file %x cannot be summed: %s", chunk, fid, error.strerror)
        finally:
            self._files.release(file)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sums.store_all()
        super().close()

    @staticmethod
    def _blocks_of(file: ChunkFile) -> int:
        return min(BLOCKS, -(-file.size // CHECKSUM_BLOCK_BYTES))


def _bad_blocks(sums: ChunkSums, first: int, end: int, found: bytes) -> list[int]:
    """Which of the blocks [first, end) differ, where *found* are the sums of those that the file has."""
    if end <= first:
        return []
    there = ChunkSums(found, is_stored=True).of(0, end - first)
    return [first + index for index in differing(sums.of(first, end), there)]


def _audit_reply(found: list[tuple[bytes, int, int]], checked: int, after: bytes) -> AuditChunksReply:
    return AuditChunksReply(
        [key for key, _, _ in found],
        [count for _, count, _ in found],
        [offset for _, _, offset in found],
        checked,
        after,
    )
