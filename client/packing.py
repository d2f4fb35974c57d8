"""One mover's share of `gkfs pack`: records and data of daemons, written into one container.

Reads are asked for in the order in which the container holds them and taken in that order, hundreds of requests
ahead. What others have to decide on is told and not packed: directories and names of files with several names go
into the container of the tree, and large files are shared among all movers.
"""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gkfs import metadentry, paths
from gkfs.channel import Call
from gkfs.client.bulk import Bulk
from gkfs.client.files import Output
from gkfs.container import ContainerWriter, Finished, part_name
from gkfs.errors import GkfsError
from gkfs.hashing import path_hash
from gkfs.limits import (
    CHUNK_SIZE_BYTES,
    PACK_READS_AHEAD,
    PACK_READS_AHEAD_BYTES,
    PACK_REPORT_S,
)
from gkfs.messages import Buffer, ReadChunkReply
from gkfs.metadentry import Metadentry

Report = Callable[[dict[str, Any]], None]


class Progress:
    """What a mover has done, told now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._files = self._bytes = 0  # since it was told
        self._next_s = 0.0

    def add(self, files: int, count: int) -> None:
        """So many files and bytes more are done."""
        self._files += files
        self._bytes += count
        if time.monotonic() > self._next_s:
            self.tell()

    def tell(self) -> None:
        """Tell it now, if there is anything."""
        if self._files or self._bytes:
            self._report({"is": "progress", "files": self._files, "bytes": self._bytes})
            self._files = self._bytes = 0
            self._next_s = time.monotonic() + PACK_REPORT_S


class Share(NamedTuple):
    """The part of a daemon's records that is one mover's: those whose path's hash gives *own* modulo *of*."""

    daemon: int
    own: int
    of: int

    def has(self, path: bytes) -> bool:
        """Whether *path* is among them."""
        return self.of == 1 or path_hash(path) // 7 % self.of == self.own  # not as the paths are placed


class _Read(NamedTuple):
    """One piece of a member, on its way. *call*: None when its data, if any, are in its record."""

    path: bytes
    record: bytes
    entry: Metadentry
    name: bytes | None
    start: int
    size: int  # of the member
    call: Call[ReadChunkReply] | None
    length: int
    is_first: bool
    is_last: bool


class Packer:
    """Packs below *subtree* into the container *name* in *folder*; *report* tells the coordinator.

    Raises GkfsError that names the file, or the container.
    """

    def __init__(
        self, bulk: Bulk, subtree: bytes, folder: Path, name: str, split_bytes: int, report: Report
    ) -> None:
        self._bulk = bulk
        self._subtree = subtree
        self._split_bytes = split_bytes
        self._report = report
        self._container = folder / f"{name}.tar"
        self._index_path = folder / f"{name}.index"
        self._out = Output(self._container, bulk.pump, bulk.threads)
        self._index = Output(self._index_path, bulk.pump, bulk.threads)
        self._index_bytes = 0
        self._writer = ContainerWriter(self._out.put, self._put_index)
        self._reads: deque[_Read] = deque()
        self._ahead_bytes = 0
        self._has_hole = False
        self._progress = Progress(report)

    async def scan(self, share: Share) -> None:
        """Pack what is in *share*, and tell of what is left to others."""
        if self._bulk.distributor.path_owner(self._subtree) == share.daemon and share.has(self._subtree):
            top = await self._asked(self._bulk.lookup(self._subtree), paths.printable(self._subtree))
            self._report(
                {"is": "found", "directories": [(b"", metadentry.encode(top))], "linked": [], "large": []}
            )
        scan = self._bulk.scan(share.daemon, self._subtree)
        while page := await self._asked(scan.page(), f"daemon {share.daemon}"):
            directories: list[tuple[bytes, bytes]] = []
            linked: list[tuple[bytes, int]] = []
            large: list[tuple[bytes, bytes]] = []
            for path, record in page:
                if not share.has(path):
                    continue
                below = self._below(path)
                if metadentry.is_link_record(record):
                    linked.append((below, metadentry.fid_of(record)))
                    continue
                entry = metadentry.decode(record)
                if entry.is_directory:
                    directories.append((below, record))
                elif entry.is_regular and self._split_bytes and entry.size > self._split_bytes:
                    large.append((below, record))
                else:
                    await self._add(below, record, entry)
            if directories or linked or large:
                self._report({"is": "found", "directories": directories, "linked": linked, "large": large})

    async def part(self, path: bytes, record: bytes, number: int, count: int) -> None:
        """Pack part *number* (from 1) of *count* of a large file."""
        start = (number - 1) * self._split_bytes
        entry = metadentry.decode(record)
        size = min(self._split_bytes, entry.size - start)
        await self._add(path, record, entry, start, size, part_name(path, number, count))

    async def linked(self, path: bytes, fid: int) -> bytes:
        """Pack a file with several names under *path*; its record."""
        entry = await self._asked(self._bulk.linked(fid), paths.printable(path))
        if entry is None:
            raise GkfsError(f"{paths.printable(paths.join(self._subtree, path))} vanished while it was packed")
        entry = entry._replace(nlink=1)
        record = metadentry.encode(entry)
        await self._add(path, record, entry)
        return metadentry.without_inline(record)

    async def settle(self) -> None:
        """Wait for all reads that are under way."""
        while self._reads:
            await self._take()
        self._progress.tell()

    async def finish(self) -> Finished:
        """Complete container and index; they are on the disk when it returns."""
        await self.settle()
        finished = self._writer.finish()
        for path, out in ((self._container, self._out), (self._index_path, self._index)):
            await self._asked(out.close(), str(path))
        return finished

    def _below(self, path: bytes) -> bytes:
        return path[len(self._subtree) + (self._subtree != paths.ROOT) :]

    def _put_index(self, data: bytes) -> None:
        self._index.put(self._index_bytes, data)
        self._index_bytes += len(data)

    async def _asked(self, work: Any, what: str) -> Any:
        try:
            return await work
        except OSError as error:
            raise GkfsError(f"{what}: {error.strerror or error}") from None

    async def _add(
        self,
        path: bytes,
        record: bytes,
        entry: Metadentry,
        start: int = 0,
        size: int | None = None,
        name: bytes | None = None,
    ) -> None:
        """Ask for the data of a member; it is written when they are there."""
        if size is None:
            size = entry.size if entry.is_regular else 0
        if not size or entry.is_inline:
            record = metadentry.without_inline(record)
            self._reads.append(_Read(path, record, entry, name, start, size, None, size, True, True))
            size = 0
        end = start + size
        for offset in range(start, end, CHUNK_SIZE_BYTES):
            length = min(CHUNK_SIZE_BYTES, end - offset)
            call = self._bulk.read(entry.fid, entry.placement, offset // CHUNK_SIZE_BYTES, length)
            is_first, is_last = offset == start, offset + length == end
            self._reads.append(_Read(path, record, entry, name, start, size, call, length, is_first, is_last))
            self._ahead_bytes += length
            while self._ahead_bytes > PACK_READS_AHEAD_BYTES:
                await self._take()
        while len(self._reads) > PACK_READS_AHEAD:
            await self._take()

    async def _take(self) -> None:
        """Wait for the oldest read and write what it brings."""
        read = self._reads.popleft()
        data: Buffer = read.entry.data
        if read.call is not None:
            data = (await self._asked(read.call, paths.printable(read.path))).data
        self._ahead_bytes -= read.length
        if read.is_first:
            self._writer.begin(read.path, read.record, start=read.start, size=read.size, name=read.name)
            self._has_hole = False
        if data:
            self._writer.data(data)
        if len(data) < read.length:
            self._writer.hole(read.length - len(data))
            self._has_hole = True
        if read.is_last:
            self._writer.end()
            if self._has_hole and not read.entry.flags & metadentry.FLAG_SPARSE:
                await self._look_again(read)
        self._progress.add(int(read.is_last and read.start == 0), read.length)
        await self._asked(self._out.settle(), str(self._container))

    async def _look_again(self, read: _Read) -> None:
        """Where a file that has no holes lacks data it was removed or cut meanwhile."""
        path = paths.join(self._subtree, read.path)
        try:
            now = await self._bulk.lookup(path)
        except OSError as error:
            raise GkfsError(f"{paths.printable(path)} changed while it was packed: {error.strerror}") from None
        if (now.fid, now.size) != (read.entry.fid, read.entry.size):
            raise GkfsError(f"{paths.printable(path)} changed while it was packed")
