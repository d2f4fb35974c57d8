"""A file compared with a bytearray byte by byte: reads, writes, mappings, truncations, by several handles."""

import mmap
import os
from pathlib import Path
from typing import Final

from tests.mount.calls import MIB, noise

FILE_MAX_BYTES: Final = 6 * MIB
_WRITE_MAX_BYTES: Final = 2 * MIB
_NOISE: Final = noise(_WRITE_MAX_BYTES + MIB, seed=7)
PAGE_BYTES: Final = mmap.PAGESIZE
# What each handle is opened with; it is opened when first used.
BUFFERED, SECOND, WRITE_ONLY, APPENDING, DIRECT = range(5)
FLAGS: Final = (os.O_RDWR, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_DIRECT)
READERS: Final = (BUFFERED, SECOND, APPENDING, DIRECT)
MAPPERS: Final = (BUFFERED, SECOND, DIRECT)
_READ_AND_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


class Wrong(AssertionError):
    """The file is not what it should be."""


def data(start: int, length: int) -> bytes:
    """What scripts write: a part of bytes that hardly repeat."""
    return _NOISE[start : start + length]


class File:
    """A file in *here*, called the same in *there*, and what should be in it.

    Every method makes sense at any time, so that calls can be left out: ranges are cut to the file where that is
    needed, and closed handles are opened. Raises Wrong, or the OSError of a call that should have worked.
    """

    def __init__(self, here: Path, there: Path, name: str = "file", filled: int = 0) -> None:
        self._sides = [here / name, there / name]
        self.content = bytearray(data(0, min(filled, _WRITE_MAX_BYTES)).ljust(filled, b"-"))
        self._sides[0].write_bytes(self.content)
        self._handles: dict[int, int] = {}
        self._views: dict[int, tuple[mmap.mmap, int]] = {}  # with their offsets in the file

    # --- calls

    def pread(self, handle: int, offset: int, length: int) -> None:
        """Read at an offset."""
        self._compare(f"pread by handle {handle}", offset, length, os.pread(self._fd(handle), length, offset))

    def pwrite(self, handle: int, offset: int, start: int, length: int) -> None:
        """Write at an offset."""
        assert handle != APPENDING
        _wrote_all(os.pwrite(self._fd(handle), data(start, length), offset), length)
        self._put(offset, data(start, length))

    def append(self, start: int, length: int) -> None:
        """Write at the end of the file, if it has not grown too long."""
        length = min(length, FILE_MAX_BYTES - len(self.content))
        if length > 0:
            _wrote_all(os.write(self._fd(APPENDING), data(start, length)), length)
            self._put(len(self.content), data(start, length))

    def load(self, handle: int, offset: int, length: int) -> None:
        """Read by a mapping that is there for this only."""
        if (end := self._cut(offset + length)) > offset:
            with self._mapped(handle, offset, end, mmap.PROT_READ) as view:
                found = view[offset % PAGE_BYTES :]
            self._compare(f"a mapping of handle {handle}", offset, end - offset, found)

    def store(self, handle: int, offset: int, start: int, length: int, msync: bool) -> None:
        """Write by a mapping that is there for this only; then it can be read."""
        if (end := self._cut(offset + length)) > offset:
            with self._mapped(handle, offset, end) as view:
                view[offset % PAGE_BYTES :] = data(start, end - offset)
                if msync:
                    view.flush()
            self._put(offset, data(start, end - offset))
            self.pread(SECOND, offset, end - offset)

    def map(self, view: int, handle: int, offset: int, length: int) -> None:
        """Make a mapping that stays."""
        self.unmap(view)
        if (end := self._cut(offset + length)) > offset:
            self._views[view] = (self._mapped(handle, offset, end), offset - offset % PAGE_BYTES)

    def unmap(self, view: int) -> None:
        """End a mapping that stays."""
        if view in self._views:
            self._views.pop(view)[0].close()

    def view_load(self, view: int, offset: int, length: int) -> None:
        """Read by a mapping that stays."""
        mapped, base, first, end = self._chosen(view, offset, length)
        if mapped is not None and first < end:
            self._compare(f"mapping {view}", first, end - first, mapped[first - base : end - base])

    def view_store(self, view: int, offset: int, start: int, length: int, msync: bool) -> None:
        """Write by a mapping that stays, with or without msync."""
        mapped, base, first, end = self._chosen(view, offset, length)
        if mapped is not None and first < end:
            mapped[first - base : end - base] = data(start, end - first)
            self._put(first, data(start, end - first))
            if msync:
                mapped.flush()

    def ftruncate(self, handle: int, size: int) -> None:
        """Set the size through a handle."""
        os.ftruncate(self._fd(handle), size)
        self._resize(size)

    def truncate(self, size: int) -> None:
        """Set the size by name."""
        os.truncate(self._sides[0], size)
        self._resize(size)

    def punch(self, handle: int, size: int) -> None:
        """Cut the file and make it as long as it was: zeros are left."""
        size, before = self._cut(size), len(self.content)
        self.ftruncate(handle, size)
        self.ftruncate(handle, before)
        self.pread(BUFFERED, max(0, size - 10), 5000)

    def reopen(self, handle: int, empty: bool = False) -> None:
        """Close a handle and open it, maybe with O_TRUNC."""
        if handle in self._handles:
            os.close(self._handles.pop(handle))
        if empty:
            self._handles[handle] = os.open(self._sides[0], FLAGS[handle] | os.O_TRUNC)
            self._resize(0)

    def fsync(self, handle: int) -> None:
        """What fsync does, and fstat by the same handle."""
        os.fsync(self._fd(handle))

    def move(self) -> None:
        """Close everything and go on elsewhere."""
        self.close()
        self._sides.reverse()

    def check(self, close: bool) -> None:
        """Everything is there on this node, and after close or fsync elsewhere."""
        if close:
            self.close()
        else:
            os.fsync(self._fd(BUFFERED))
        for side, where in zip(self._sides, ("here", "elsewhere"), strict=True):
            self._compare(f"the whole file, opened {where}", 0, FILE_MAX_BYTES * 2, side.read_bytes())

    def size(self, handle: int) -> None:
        """The size that a handle shows."""
        if (found := os.fstat(self._fd(handle)).st_size) != len(self.content):
            raise Wrong(f"fstat of handle {handle}: {found} bytes instead of {len(self.content)}")

    # ---

    def close(self) -> None:
        """Close all handles and mappings."""
        while self._views:
            self._views.popitem()[1][0].close()
        while self._handles:
            os.close(self._handles.popitem()[1])

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self._sides[0].unlink()

    def some_handle(self) -> int:
        """One that is open, if there is any."""
        return next(iter(self._handles), BUFFERED)

    def _fd(self, handle: int) -> int:
        if handle not in self._handles:
            self._handles[handle] = os.open(self._sides[0], FLAGS[handle])
        return self._handles[handle]

    def _mapped(self, handle: int, offset: int, end: int, protection: int = _READ_AND_WRITE) -> mmap.mmap:
        base = offset - offset % PAGE_BYTES
        return mmap.mmap(self._fd(handle), end - base, mmap.MAP_SHARED, protection, offset=base)

    def _chosen(self, view: int, offset: int, length: int) -> tuple[mmap.mmap | None, int, int, int]:
        """A mapping, where it begins, and a range that *offset* chooses, as far as mapping and file go."""
        if view not in self._views:
            self.map(view, BUFFERED, offset, MIB)
        if view not in self._views:
            return None, 0, 0, 0  # the offset is beyond the file
        mapped, base = self._views[view]
        first = base + offset % len(mapped)
        return mapped, base, first, self._cut(min(first + length, base + len(mapped)))

    def _cut(self, end: int) -> int:
        return min(end, len(self.content))

    def _put(self, offset: int, written: bytes) -> None:
        if offset > len(self.content):
            self._resize(offset)
        self.content[offset : offset + len(written)] = written

    def _resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))

    def _compare(self, what: str, offset: int, length: int, found: bytes) -> None:
        expected = self.content[offset : offset + length]
        if found != expected:
            raise Wrong(f"{what}: {difference(offset, expected, found)}")


def _wrote_all(written: int, length: int) -> None:
    if written != length:
        raise Wrong(f"{written} of {length} bytes were written")


def difference(offset: int, expected: bytes | bytearray, found: bytes) -> str:
    """Where *found* in a file at *offset* differs first, with the bytes around."""
    pairs = zip(expected, found, strict=False)
    first = next((number for number, (one, other) in enumerate(pairs) if one != other), -1)
    if first < 0:
        return f"{len(found)} bytes instead of {len(expected)} from {offset} on, equal as far as both go"
    wrong = sum(one != other for one, other in zip(expected, found, strict=False))
    around = slice(max(0, first - 16), first + 32)
    return (
        f"differs first at {offset + first}, in {wrong} bytes of {len(expected)} (found {len(found)}); "
        f"from {offset + around.start} on\nexpected {expected[around].hex(' ', 8)}\n"
        f"found    {found[around].hex(' ', 8)}"
    )
