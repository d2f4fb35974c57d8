"""Chunk storage: every chunk that lives here is a file under rootdir/chunks.

    chunks/<two digits>/<fid, 16 digits>.<chunk, 8 digits>     (hexadecimal)

The two digits are the low byte of fid + chunk: one large file or many small ones spread over 256 folders.
Holes read as zeros: a chunk that does not exist, or ends early, is returned short.

Small I/O happens at once, large in a thread. An operation that needs a thread returns a coroutine, which the
caller must start; what was said before it starts (this file's writes are in flight, this cut is coming) already
holds. Between cuts and writes of one file there is an order on this daemon: a cut waits for the writes in flight
and new writes wait for the cut, so that no byte removed by it comes back.
"""

import contextlib
import errno
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import trio

from gkfs.audit_messages import AuditChunksReply
from gkfs.daemon import direct_io, keys
from gkfs.daemon.chunk_files import (
    Write,
    cut_file,
    cut_files,
    cut_files_durably,
    digest_files,
    durably,
    make_folders,
    write_all,
    write_file,
)
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.open_chunks import ChunkFile, OpenChunks
from gkfs.daemon.room import Room
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.syncer import Syncer
from gkfs.daemon.unsynced import Unsynced
from gkfs.errors import os_error
from gkfs.hostfile import Sync
from gkfs.limits import (
    CHUNK_INDEX_MAX,
    CHUNK_SIZE_BYTES,
    INLINE_COLD_READ_MAX_BYTES,
    INLINE_CUT_CHUNKS,
    INLINE_IO_MAX_BYTES,
    IO_THREADS,
    OPEN_CHUNKS_MAX,
    SCAN_PAGE_RECORDS,
    SLOW_DISK_READ_S,
    SLOW_DISK_SPELL_S,
    STAT_CHUNKS,
)
from gkfs.messages import Buffer

_FID_MAX: Final = (1 << 64) - 1


class ChunkStorage:
    """The chunks of one daemon. How much there is of them, and may be, *room* knows.

    *damaged_blocks*: found since the start. Without checksums, see `summed_storage`, nobody knows.
    """

    damaged_blocks = 0

    def __init__(
        self,
        folder: Path,
        store: MetadataStore,
        room: Room | None = None,
        *,
        uses_direct_io: bool = True,
        sync: Sync = Sync.FSYNC,
        files_max: int = OPEN_CHUNKS_MAX,
    ) -> None:
        """Open the storage in *folder*, created when missing; *files_max* stay open. Raises OSError."""
        self._store = store
        make_folders(folder)
        self.room = room or Room(folder, store)
        self._files = OpenChunks(str(folder), store, files_max)
        self._threads = trio.CapacityLimiter(IO_THREADS)
        self._writes: dict[int, int] = {}  # fid -> writes in threads
        self._writes_done = trio.Event()  # replaced each time it is set
        self._cuts: dict[int, Guard] = {}
        self._unsynced = Unsynced()
        self._syncer = Syncer(self._files, self._unsynced, self._threads, lambda fid: self._all_chunks(fid, 0))
        self._disk_slow_until_s = 0.0  # on perf_counter's clock; small reads that may wait for it use threads
        direct = uses_direct_io and direct_io.works_in(folder)
        self._write_large: Write = direct_io.write_large if direct else write_all
        self._write_small: Write = write_all
        self._cut_files = cut_files
        self._inline_write_max_bytes = INLINE_IO_MAX_BYTES
        self._ignores_sync = sync is Sync.NONE
        if sync is Sync.COMMIT:
            self._write_large, self._write_small = durably(self._write_large), durably(write_all)
            self._cut_files = cut_files_durably
            self._inline_write_max_bytes = 0  # who waits for the disk does so in a thread
        self._read_large = direct_io.read_large if direct else os.pread
        self._count_bytes()

    # --- reading and writing

    def write(self, fid: int, chunk: int, offset: int, data: Buffer) -> int | Coroutine[Any, Any, int]:
        """Write *data* at *offset* within a chunk; returns its length. *data* must stay unchanged until done.

        Raises OSError: EINVAL beyond the chunk, ENOSPC, EDQUOT, EIO; Blocked while the file is being cut.
        """
        self._check_write(fid, chunk, offset, data)
        file = self._file_to_write(fid, chunk)
        if len(data) <= self._inline_write_max_bytes:
            file.cached = True
            try:
                write_all(file.fd, data, offset)
            finally:
                self._note_size(file, offset, len(data))
            return len(data)
        self._write_begins(file, fid, len(data))
        return self._write_in_thread(file, fid, offset, data)

    def _check_write(self, fid: int, chunk: int, offset: int, data: Buffer) -> None:
        if not _exists(fid, chunk, offset) or not 0 < len(data) <= CHUNK_SIZE_BYTES - offset:
            raise os_error(errno.EINVAL, f"chunk {chunk} of {fid:x}: cannot write {len(data)} bytes at {offset}")
        if fid in self._cuts:
            raise Blocked(self._cuts[fid])
        self._check_room(fid, chunk, offset, len(data))

    def _file_to_write(self, fid: int, chunk: int) -> ChunkFile:
        file = self._files.get(fid, chunk, create=True)
        assert file is not None
        self._unsynced.note(fid, chunk)
        return file

    def read(self, fid: int, chunk: int, offset: int, length: int) -> Buffer | Coroutine[Any, Any, Buffer]:
        """Up to *length* bytes from *offset* within a chunk; less where the chunk ends. Raises OSError."""
        file = self._file_to_read(fid, chunk, offset, length)
        if file is None or offset >= file.size:
            return b""
        length = min(length, file.size - offset)
        if length <= INLINE_IO_MAX_BYTES and (data := self._read_now(file, offset, length)) is not None:
            return data
        file.users += 1
        return self._read_in_thread(file, offset, length)

    def _file_to_read(self, fid: int, chunk: int, offset: int, length: int) -> ChunkFile | None:
        if not _exists(fid, chunk, offset) or not 0 <= length <= CHUNK_SIZE_BYTES - offset:
            raise os_error(errno.EINVAL, f"chunk {chunk} of {fid:x}: cannot read {length} bytes at {offset}")
        return self._files.get(fid, chunk, create=False)

    def _read_now(self, file: ChunkFile, offset: int, length: int) -> Buffer | None:
        """Bytes that the file has, if that takes no thread."""
        buffer = bytearray(length)
        file.cached = True
        try:
            if os.preadv(file.fd, [buffer], offset, os.RWF_NOWAIT) == length:
                return buffer
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
        # Not all of it is in the page cache.
        if length <= INLINE_COLD_READ_MAX_BYTES and time.perf_counter() >= self._disk_slow_until_s:
            return self._read_from_disk(file, offset, length)
        return None

    def write_new(self, fid: int, data: Buffer) -> Coroutine[Any, Any, None] | None:
        """Write the begin of a file that nobody knows yet, up to a chunk; `claim` must follow, or `cut`.

        *data* must stay unchanged until done. Raises OSError: EINVAL, ENOSPC, EDQUOT, EIO.
        """
        if not _exists(fid, 0, 0) or not 0 < len(data) <= CHUNK_SIZE_BYTES:
            raise os_error(errno.EINVAL, f"file {fid:x}: cannot begin with {len(data)} bytes")
        self.room.take(len(data))
        self._store.put_now(keys.chunk(fid, 0), keys.UNCLAIMED)
        self._unsynced.note(fid, 0)
        if len(data) > INLINE_IO_MAX_BYTES:
            return self._write_new_in_thread(fid, data)
        try:
            write_file(self._files.path(fid, 0), data, self._write_small)
        finally:
            self.add_found(fid, 0)
        return None

    async def _write_new_in_thread(self, fid: int, data: Buffer) -> None:
        try:
            path = self._files.path(fid, 0)
            await trio.to_thread.run_sync(write_file, path, data, self._write_large, limiter=self._threads)
        finally:
            self.add_found(fid, 0)

    def claim(self, fid: int) -> None:
        """What `write_new` wrote is a file's from the next commit on, in which its record must be, too."""
        self._store.put(keys.chunk(fid, 0), b"")

    def digests(self, items: list[tuple[int, int, int]]) -> Coroutine[Any, Any, list[bytes]]:
        """Checksums of (fid, chunk, length), see `ChecksumRequest`. Raises OSError."""
        for fid, chunk, length in items:
            if not _exists(fid, chunk, 0) or not 0 <= length <= CHUNK_SIZE_BYTES:
                raise os_error(errno.EINVAL, f"chunk {chunk} of {fid:x}: no checksum of {length} bytes")
        work = [(self._files.path(fid, chunk), length) for fid, chunk, length in items]
        return trio.to_thread.run_sync(digest_files, work, limiter=self._threads)

    async def sync(self, fid: int) -> None:
        """Bring what was written to *fid* here to the disk. Raises OSError."""
        if not self._ignores_sync:
            await self._syncer.sync(fid)

    async def allocated(self, fid: int) -> int:
        """Bytes of the local disk that the chunks of *fid* take here, without holes. Raises OSError."""
        total = 0
        for page in self._store.pages(*keys.chunk_range(fid, 0), STAT_CHUNKS):
            for key, _ in page:
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(self._files.path(*keys.chunk_of_key(key))).st_blocks * 512
            await trio.lowlevel.checkpoint()
        return total

    def _check_room(self, fid: int, chunk: int, offset: int, length: int) -> None:
        """Raise OSError (ENOSPC, EDQUOT) unless this may be written: always where a chunk is, and has no holes."""
        try:
            self.room.take(length)
        except OSError:
            try:
                found = os.stat(self._files.path(fid, chunk))
            except FileNotFoundError:
                found = None
            if found is None or offset + length > found.st_size or found.st_blocks * 512 < found.st_size:
                raise

    # --- cutting

    def cut(self, fid: int, size: int) -> Coroutine[Any, Any, None] | None:
        """Remove every byte of *fid* from file offset *size* on. Its index entries go with the next commit.

        Raises OSError; Blocked while another cut of the file is under way. A coroutine commits by itself.
        """
        if fid in self._cuts:
            raise Blocked(self._cuts[fid])
        first = size // CHUNK_SIZE_BYTES
        if fid not in self._writes:
            found = self._store.scan(*keys.chunk_range(fid, first), INLINE_CUT_CHUNKS + 1)
            if len(found) <= INLINE_CUT_CHUNKS:
                # no await between here and the last removal: no write can come in between
                for key, _ in found:
                    self._cut_now(key, size)
                return None
        self._cuts[fid] = Guard(f"chunks of file {fid:x} are being cut")
        return self._cut_in_thread(fid, size)

    def _cut_now(self, key: bytes, size: int) -> None:
        fid, chunk = keys.chunk_of_key(key)
        self._files.drop(fid, chunk)
        self.room.chunks_bytes -= self._cut_files([(self._files.path(fid, chunk), keys.kept_bytes(key, size))])
        self._forget(key, size)

    async def _cut_in_thread(self, fid: int, size: int) -> None:
        try:
            while fid in self._writes:
                await self._writes_done.wait()
            while True:
                found = self._store.scan(*keys.chunk_range(fid, -(-size // CHUNK_SIZE_BYTES)), SCAN_PAGE_RECORDS)
                if not found:
                    break
                await self._cut_page([key for key, _ in found], size)
            if size % CHUNK_SIZE_BYTES:
                await self._cut_page([keys.chunk(fid, size // CHUNK_SIZE_BYTES)], size)
        finally:
            self._cuts.pop(fid).lifted.set()

    async def _cut_page(self, page: list[bytes], size: int) -> None:
        work = [(self._files.path(*keys.chunk_of_key(key)), keys.kept_bytes(key, size)) for key in page]
        for key in page:
            self._files.drop(*keys.chunk_of_key(key))
        freed = await trio.to_thread.run_sync(self._cut_files, work, limiter=self._threads)
        self.room.chunks_bytes -= freed
        for key in page:
            self._files.drop(*keys.chunk_of_key(key))  # a reader may have opened it again, with its old size
            self._forget(key, size)
        self._store.commit()

    def _forget(self, key: bytes, size: int) -> None:
        fid, chunk = keys.chunk_of_key(key)
        if keys.kept_bytes(key, size) == 0:
            self._store.delete(key)
            self._unsynced.forget(fid, chunk)
        else:
            self._unsynced.note(fid, chunk)

    # --- for others

    async def background(self) -> None:
        """What is to be done beside requests, until cancelled."""

    async def damage(self, after: bytes) -> AuditChunksReply:
        """What of the chunks behind *after*, a key of the index, is not as it was written; see the message."""
        return AuditChunksReply([], [], [], 0, b"")

    def add_found(self, fid: int, chunk: int) -> None:
        """Count a file that was not made by `write`, whatever there is of it."""
        with contextlib.suppress(FileNotFoundError):
            self.room.chunks_bytes += os.stat(self._files.path(fid, chunk)).st_size

    def close(self) -> None:
        """Close all files; no thread may be working."""
        self._files.close()

    # --- in threads

    async def _write_in_thread(self, file: ChunkFile, fid: int, offset: int, data: Buffer) -> int:
        # Not abandoned on cancellation: the thread works on the descriptor and the buffer.
        try:
            await trio.to_thread.run_sync(self._write_large, file.fd, data, offset, limiter=self._threads)
            file.cached = False
        finally:
            self._note_size(file, offset, len(data))
            self._write_ends(file, fid, len(data))
        return len(data)

    def _write_begins(self, file: ChunkFile, fid: int, size_bytes: int) -> None:
        file.users += 1
        self.room.writing_bytes += size_bytes
        self._writes[fid] = self._writes.get(fid, 0) + 1

    def _write_ends(self, file: ChunkFile, fid: int, size_bytes: int) -> None:
        self._files.release(file)
        self.room.writing_bytes -= size_bytes
        self._one_is_written(fid)

    def _one_is_written(self, fid: int) -> None:
        self._writes[fid] -= 1
        if not self._writes[fid]:
            del self._writes[fid]
            self._writes_done.set()
            self._writes_done = trio.Event()

    async def _read_in_thread(self, file: ChunkFile, offset: int, length: int) -> Buffer:
        read = os.pread if file.cached else self._read_large
        file.cached = True
        try:
            return await trio.to_thread.run_sync(read, file.fd, length, offset, limiter=self._threads)
        finally:
            self._files.release(file)

    def _read_from_disk(self, file: ChunkFile, offset: int, length: int) -> Buffer:
        # A thread would take longer than an SSD does, and five times the processor's time.
        started_s = time.perf_counter()
        data = os.pread(file.fd, length, offset)
        ended_s = time.perf_counter()
        if ended_s - started_s > SLOW_DISK_READ_S:
            self._disk_slow_until_s = ended_s + SLOW_DISK_SPELL_S
        return data

    # --- accounts

    def _note_size(self, file: ChunkFile, offset: int, length: int) -> None:
        # Also after a failed write, which may have written a part.
        if offset + length > file.size:
            size = os.fstat(file.fd).st_size
            self.room.chunks_bytes += size - file.size
            file.size = size

    def _all_chunks(self, fid: int, first: int) -> set[int]:
        found: set[int] = set()
        for page in self._store.pages(*keys.chunk_range(fid, first)):
            found.update(keys.chunk_of_key(key)[1] for key, _ in page)
        return found

    def _count_bytes(self) -> None:
        unclaimed: list[bytes] = []
        for page in self._store.pages(*keys.table(keys.CHUNKS)):
            self._unsynced.note_all()  # an earlier run may have left them so
            for key, value in page:
                with contextlib.suppress(FileNotFoundError):
                    self.room.chunks_bytes += os.stat(self._files.path(*keys.chunk_of_key(key))).st_size
                if value == keys.UNCLAIMED:
                    unclaimed.append(key)
        self._forget_unclaimed(unclaimed)

    def _forget_unclaimed(self, unclaimed: list[bytes]) -> None:
        for key in unclaimed:
            self.room.chunks_bytes -= cut_file(self._files.path(*keys.chunk_of_key(key)), 0)
            self._store.delete(key)
        self._store.commit()


def _exists(fid: int, chunk: int, offset: int) -> bool:
    return 0 < fid <= _FID_MAX and 0 <= chunk <= CHUNK_INDEX_MAX and offset >= 0
