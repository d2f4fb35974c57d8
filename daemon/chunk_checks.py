"""The checks of chunks: each belongs to a file, is where readers look for it, and ends with the file. Pure."""

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gkfs.daemon import keys
from gkfs.daemon.faults import Change, CutFile, Fault, Kind, Repair, file_name
from gkfs.distributor import Distributor
from gkfs.limits import CHUNK_SIZE_BYTES

_NO_DATA: Final = -1  # in place of a size: the record is of something that has no chunks
_SIZE_MAX: Final = (1 << 63) - 1
_NAME: Final = re.compile(rb"([0-9a-f]{2})/([0-9a-f]{16})\.([0-9a-f]{8})")


class FileTable:
    """Size and placement of every file, by fid: 18 bytes each."""

    def __init__(self) -> None:
        self._fids = array("Q")
        self._sizes = array("q")
        self._placements = array("H")

    def add(self, fid: int, size: int, placement: int, *, has_chunks: bool) -> None:
        """Note a record."""
        self._fids.append(fid)
        self._sizes.append(min(size, _SIZE_MAX) if has_chunks else _NO_DATA)
        self._placements.append(placement)

    def sort(self) -> list[int]:
        """Make `find` work; returns the fids that were added more than once."""
        order = sorted(range(len(self._fids)), key=self._fids.__getitem__)
        self._fids = array("Q", map(self._fids.__getitem__, order))
        self._sizes = array("q", map(self._sizes.__getitem__, order))
        self._placements = array("H", map(self._placements.__getitem__, order))
        fids = iter(self._fids)
        before = next(fids, 0)
        twice: dict[int, None] = {}
        for fid in fids:
            if fid == before:
                twice[fid] = None
            before = fid
        return list(twice)

    def has(self, fid: int) -> bool:
        """Whether there is a record of *fid*, of whatever type."""
        place = bisect_left(self._fids, fid)
        return place < len(self._fids) and self._fids[place] == fid

    def find(self, fid: int) -> tuple[int, int] | None:
        """(size, placement) of a regular file, or None."""
        place = bisect_left(self._fids, fid)
        if place == len(self._fids) or self._fids[place] != fid or self._sizes[place] == _NO_DATA:
            return None
        return self._sizes[place], self._placements[place]


class _Garbage(NamedTuple):
    chunks: int
    size_bytes: int


class ChunkChecks:
    """Takes the chunk indexes and the chunk files of all daemons; *cuts* are files that are being cut."""

    def __init__(self, distributor: Distributor, files: FileTable, cuts: set[int]) -> None:
        self._distributor = distributor
        self._files = files
        self._cuts = cuts
        self._garbage: dict[tuple[int, int], _Garbage] = {}
        self.ends: dict[int, int] = {}  # of files with data beyond their size: where it ends
        self.faults: list[Fault] = []
        self.count = 0
        self.used_bytes: dict[int, int] = {}  # by daemon

    def take_index(self, daemon: int, index: Iterable[bytes], sizes: Iterable[int]) -> None:
        """A part of a daemon's chunk index, with the sizes of the files; -1: there is none."""
        for key, size_bytes in zip(index, sizes, strict=True):
            fid, chunk = keys.chunk_of_key(key)
            size_bytes = max(0, size_bytes)
            self.count += 1
            self.used_bytes[daemon] = self.used_bytes.get(daemon, 0) + size_bytes
            if fid in self._cuts:
                continue
            file = self._files.find(fid)
            if file is None:
                known = self._garbage.get((fid, daemon), _Garbage(0, 0))
                self._garbage[fid, daemon] = _Garbage(known.chunks + 1, known.size_bytes + size_bytes)
                continue
            self._check(daemon, fid, chunk, size_bytes, file)

    def _check(self, daemon: int, fid: int, chunk: int, size_bytes: int, file: tuple[int, int]) -> None:
        file_bytes, placement = file
        where = f"chunk {chunk} of {file_name(fid)}"
        owner = self._distributor.chunk_owner(fid, chunk, placement)
        if owner != daemon:
            self.faults.append(Fault(Kind.MISPLACED, where, daemon, f"belongs to daemon {owner}", fid))
        if size_bytes > CHUNK_SIZE_BYTES:
            facts = f"{size_bytes} bytes, a chunk has at most {CHUNK_SIZE_BYTES}"
            self.faults.append(Fault(Kind.OVERLONG, where, daemon, facts, fid))
        end = chunk * CHUNK_SIZE_BYTES + min(size_bytes, CHUNK_SIZE_BYTES)
        if size_bytes and end > file_bytes:
            self.ends[fid] = max(end, self.ends.get(fid, 0))

    def take_files(self, daemon: int, names: Iterable[bytes], sizes: Iterable[int], *, may_remove: bool) -> None:
        """Files among a daemon's chunks that its index does not know."""
        for name, size_bytes in zip(names, sizes, strict=True):
            parsed = _NAME.fullmatch(name)
            fid, chunk = (int(parsed[2], 16), int(parsed[3], 16)) if parsed else (0, 0)
            if parsed is None or not fid or int(parsed[1], 16) != (fid + chunk) & 0xFF:
                facts = f"{size_bytes} bytes, not a chunk"
                text = "chunks/" + name.decode(errors="backslashreplace")
                self.faults.append(Fault(Kind.FOREIGN, text, daemon, facts))
                continue
            is_known = self._files.has(fid)
            repairs: tuple[Repair, ...] = (Change(daemon, keys.chunk(fid, chunk), None, b""),)
            if not is_known:
                repairs = (*repairs, CutFile(daemon, fid)) if may_remove else ()
            facts = f"a file of {size_bytes} bytes that the index does not know" + (
                "" if is_known else ", of no record"
            )
            where = f"chunk {chunk} of {file_name(fid)}"
            self.faults.append(Fault(Kind.UNINDEXED, where, daemon, facts, fid, repairs))

    def finish(self, *, may_remove: bool, grow: Callable[[int, int], Fault]) -> list[Fault]:
        """All faults found; *grow* makes the one of a file with data up to an offset beyond its size."""
        for (fid, daemon), garbage in self._garbage.items():
            is_known = self._files.has(fid)  # as something without data, by now
            repairs = (CutFile(daemon, fid),) if may_remove and not is_known else ()
            record = "a record without chunks" if is_known else "no record"
            facts = f"{garbage.chunks} chunks, {garbage.size_bytes} bytes, of {record}"
            self.faults.append(Fault(Kind.GARBAGE, file_name(fid), daemon, facts, fid, repairs))
        return self.faults + [grow(fid, end) for fid, end in self.ends.items()]
