"""One mover's share of `gkfs unpack`: segments of containers, made files again.

Each member is compared with its checksum: before it is made when it fits one chunk, else while it is written. The
containers are read ahead in threads while hundreds of requests to the daemons are in flight.
"""

import stat
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

from gkfs import container, metadentry, paths
from gkfs.channel import Call
from gkfs.client.bulk import Bulk
from gkfs.client.files import Input
from gkfs.client.packing import Progress, Report
from gkfs.client.scan import Attributes
from gkfs.container import Check, Damaged, Entry, Segment
from gkfs.errors import ExitStatus, GkfsError
from gkfs.limits import CHUNK_SIZE_BYTES, PACK_FILES_AT_ONCE, PACK_WRITES_AHEAD_BYTES
from gkfs.messages import Buffer, DetachRequest, LinkRequest, TouchRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import DETACH, LINK, TOUCH

_ZEROS: Final = bytes(CHUNK_SIZE_BYTES)

Pieces = list[tuple[int, Buffer]]  # where in the file, data


class _Place(NamedTuple):
    """Where the chunks of a file are."""

    fid: int
    placement: int
    is_new: bool


class Unpacker:
    """Unpacks to below *subtree* from *folder*; *report* tells the coordinator.

    *replace*: what is there already becomes what the pack holds. Raises GkfsError that names container and file.
    """

    def __init__(self, bulk: Bulk, subtree: bytes, folder: Path, replace: bool, report: Report) -> None:
        self._bulk = bulk
        self._subtree = subtree
        self._folder = folder
        self._replace = replace
        self._inputs: dict[str, Input] = {}
        self._subdirectories: dict[bytes, int] = {}  # made before their parent, by that
        self._crowd = bulk.crowd(PACK_FILES_AT_ONCE)
        self._begun_bytes = 0  # by the crowd, since all was done
        self._progress = Progress(report)

    async def segment(self, name: str, segment: Segment, *, of: str) -> None:
        """Make what is in *segment* of the container *name*; *of*: "directories", "links", or "files".

        What has not ended yet ends in `settle`.
        """
        try:
            index = self._input(f"{name}.index")
            where = segment.index_offset, segment.index_bytes, 0
            entries = container.decode_block(bytes(await index.read(*where)), segment)
            for entry in entries:
                kind = "links" if entry.link else "directories" if _is_directory(entry) else "files"
                if kind == of:
                    await self._entry(self._input(f"{name}.tar"), entry, segment)
        except Damaged as error:
            raise GkfsError(f"{self._folder / name}.tar: {error}", ExitStatus.PACK) from None
        except OSError as error:
            raise GkfsError(f"{error.filename or self._folder / name}: {error.strerror or error}") from None

    async def settle(self) -> None:
        """Wait until all that was begun is done."""
        await self._crowd.finish()
        self._progress.tell()

    async def touch(self) -> None:
        """Have parents count the directories made here before them, when all directories are there."""
        calls = [
            (path, self._bulk.about(path, TOUCH, TouchRequest(path, 0, 0, count)))
            for path, count in self._subdirectories.items()
        ]
        self._subdirectories = {}
        for path, call in calls:
            await self._asked(call, path)

    def close(self) -> None:
        """No more of it."""
        for file in self._inputs.values():
            file.close()

    # --- members

    async def _entry(self, file: Input, entry: Entry, segment: Segment) -> None:
        if entry.size > CHUNK_SIZE_BYTES:
            await self._large(file, entry, segment)
            return
        check = Check(entry)
        pieces: Pieces = []
        for piece in container.pieces(entry, CHUNK_SIZE_BYTES):
            data = await file.read(piece.offset, piece.length, segment.end)
            check.take(piece, data)
            if piece.start >= 0:
                pieces.append((piece.start, data))
        check.finish()
        self._begun_bytes += entry.size
        if self._begun_bytes > PACK_WRITES_AHEAD_BYTES:
            await self._crowd.finish()
            self._begun_bytes = entry.size
        await self._crowd.start(self._make(entry, pieces))

    async def _make(self, entry: Entry, pieces: Pieces) -> None:
        path = self._path(entry)
        try:
            if entry.link:
                await self._link(path, entry)
            else:
                head = pieces.pop(0)[1] if pieces and pieces[0][0] == 0 else b""
                place = await self._create(path, entry, head)
                calls = [call for start, data in pieces for call in self._write(place, start, data)]
                for call in [*calls, *self._fill_holes(place, entry)]:
                    await call
        except OSError as error:
            raise GkfsError(f"{paths.printable(path)}: {error.strerror or error}") from None
        self._progress.add(not entry.link and not _is_directory(entry) and entry.start == 0, entry.size)

    async def _large(self, file: Input, entry: Entry, segment: Segment) -> None:
        """A file, or part of one, of several chunks: written while it is being read."""
        path = self._path(entry)
        check = Check(entry)
        place: _Place | None = None
        ahead: deque[tuple[Call[Any], int]] = deque()
        ahead_bytes = 0
        for piece in container.pieces(entry, CHUNK_SIZE_BYTES):
            data = await file.read(piece.offset, piece.length, segment.end)
            check.take(piece, data)
            if piece.start < 0:
                continue
            try:
                if place is None:
                    head = data if piece.start == 0 else b""
                    place = await self._create(path, entry, head)
                    ahead += [(call, 0) for call in self._fill_holes(place, entry)]
                    if head:
                        continue
                ahead += [(call, piece.length) for call in self._write(place, piece.start, data)]
                ahead_bytes += piece.length
                while ahead_bytes > PACK_WRITES_AHEAD_BYTES:
                    call, length = ahead.popleft()
                    await call
                    ahead_bytes -= length
            except OSError as error:
                raise GkfsError(f"{paths.printable(path)}: {error.strerror or error}") from None
            self._progress.add(0, piece.length)
        check.finish()
        if place is None:  # all of it is a hole
            place = await self._asked(self._create(path, entry, b""), path)
            ahead += [(call, 0) for call in self._fill_holes(place, entry)]
        for call, _ in ahead:
            await self._asked(call, path)
        self._progress.add(entry.start == 0, sum(length for _, length in container.holes(entry)))

    async def _create(self, path: bytes, entry: Entry, head: Buffer) -> _Place:
        """Make the entry with its first bytes *head*, or make what is there fit for it."""
        what = Attributes.of_entry(metadentry.decode(entry.record))
        what = what._replace(sparse=what.sparse or entry.extents is not None)
        put = await self._bulk.begin_put(path, 0, what, head)
        if not put.record:
            if stat.S_ISDIR(what.mode):
                await self._count_in(paths.split(path)[0])
            owner = self._bulk.distributor.path_owner(path)
            return _Place(put.fid, metadentry.head_on(owner), True)
        found = await self._bulk.lookup(path)
        if entry.is_part and not self._replace:  # another part of it was here first
            place = _Place(found.fid, found.placement, True)
        else:
            place = await self._fit(path, entry, what, found)
        if head:
            for call in self._write(place, 0, head):
                await call
        return place

    async def _count_in(self, parent: bytes) -> None:
        """Have *parent* count one more directory in it: now, or in `touch` if it is not there yet."""
        try:
            await self._bulk.about(parent, TOUCH, TouchRequest(parent, 0, 0, 1))
        except FileNotFoundError:
            self._subdirectories[parent] = self._subdirectories.get(parent, 0) + 1

    async def _fit(self, path: bytes, entry: Entry, what: Attributes, found: Metadentry) -> _Place:
        """Make what is at *path* already fit for the entry."""
        name = paths.printable(path)
        is_directory = stat.S_ISDIR(what.mode)
        if not self._replace and entry.path:
            raise GkfsError(f"{name} is there already")
        if found.is_directory != is_directory:
            raise GkfsError(f"{name} is there already, and is {'a' if found.is_directory else 'no'} directory")
        if not is_directory and not (found.is_regular and stat.S_ISREG(what.mode)):
            await self._bulk.unlink(path, 0)
            put = await self._bulk.begin_put(path, 0, what)
            return _Place(put.fid, metadentry.head_on(self._bulk.distributor.path_owner(path)), True)
        record = self._bulk.place_of(path, found)
        if not is_directory and found.size != what.size:
            await self._bulk.truncate(record, found.fid, what.size)
        for key, value in what.xattrs:
            if (key, value) not in found.xattrs:
                await self._bulk.set_xattr(record, found.fid, key, value)
        for key in dict(found.xattrs).keys() - dict(what.xattrs).keys():
            await self._bulk.remove_xattr(record, found.fid, key)
        if not is_directory:
            found = metadentry.decode((await self._bulk.outgrow(record, found.fid)).record)
        await self._bulk.set_attributes(record, found.fid, what)
        return _Place(found.fid, found.placement, False)

    async def _link(self, path: bytes, entry: Entry) -> None:
        target = paths.join(self._subtree, entry.link)
        fid = (await self._bulk.lookup(target)).fid
        if self._replace:
            try:
                if (await self._bulk.lookup(path)).fid == fid:
                    return
                await self._bulk.unlink(path, 0)
            except FileNotFoundError:
                pass
        await self._bulk.about(target, DETACH, DetachRequest(target, fid))
        address = paths.inode_address(fid)
        await self._bulk.about(address, LINK, LinkRequest(fid, path, 0, time.time_ns()))

    # --- small helpers

    def _path(self, entry: Entry) -> bytes:
        return paths.join(self._subtree, entry.path) if entry.path else self._subtree

    def _input(self, name: str) -> Input:
        if name not in self._inputs:
            self._inputs[name] = Input(self._folder / name, self._bulk.pump, self._bulk.threads)
        return self._inputs[name]

    def _write(self, place: _Place, start: int, data: Buffer) -> list[Call[Any]]:
        return list(self._bulk.write(place.fid, place.placement, start, data))

    def _fill_holes(self, place: _Place, entry: Entry) -> list[Call[Any]]:
        """Zeros where a file that was there already may have had data."""
        if place.is_new:
            return []
        calls = []
        for offset, length in container.holes(entry):
            start = entry.start + offset - entry.data
            for begin in range(start, start + length, CHUNK_SIZE_BYTES):
                count = min(CHUNK_SIZE_BYTES, start + length - begin)
                calls += self._write(place, begin, memoryview(_ZEROS)[:count])
        return calls

    async def _asked(self, work: Any, path: bytes) -> Any:
        try:
            return await work
        except OSError as error:
            raise GkfsError(f"{paths.printable(path)}: {error.strerror or error}") from None


def _is_directory(entry: Entry) -> bool:
    return bool(entry.record) and metadentry.is_directory_record(entry.record)
