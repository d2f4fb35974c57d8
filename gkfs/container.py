"""Containers of a pack: tar archives with an index beside them. Pure; docs/container_format.md has an example.

A container is a sequence of members, each a header (`gkfs.pax`), data, and zeros up to a whole block, and at the
end two blocks of zeros. Its index is a file of *index blocks*; each describes one *segment*, a range of the
container that is unpacked by itself, and at its end is a table of the segments. What the index says of a member
(`Entry`) is all that it takes to make the file again: tar headers are written for other programs, not read here.

Digests make a tree: the manifest has that of the table, the table those of the blocks, a block its members'.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

import mmh3
import msgpack

from gkfs import pax
from gkfs.limits import FILE_SIZE_MAX_BYTES, PACK_INDEX_ENTRIES, PACK_PIECE_BYTES, PACK_SEGMENT_BYTES
from gkfs.messages import Buffer
from gkfs.metadentry import Metadentry, decode

MAGIC: Final = b"gkfspck1"  # the first bytes of an index
_GAP = bytes(pax.BLOCK_BYTES)

_SEGMENT_TYPES: Final = (int, int, int, int, int, bytes)
_ENTRY_TYPES: Final = (bytes, bytes, bytes, int, int, int, int, type(None), bytes)
_HOLED_ENTRY_TYPES: Final = (bytes, bytes, bytes, int, int, int, int, list, bytes)

Extents = tuple[tuple[int, int], ...]


class Damaged(Exception):
    """A pack is not as it was written; the text says what is where."""


class Entry(NamedTuple):
    """One member. Numbers are bytes.

    *record*: `gkfs.metadentry`; b"" for a further name of a file. *link*: the first name of that file, else b"".
    *extents*: (offset within the data, length) of what is no hole, None when nothing is.
    """

    path: bytes  # below the subtree that was packed; b"" is that itself
    record: bytes
    link: bytes
    offset: int  # of the header, in the container
    header_bytes: int  # 0: tar cannot hold it, only the index knows it
    start: int  # of the data, in the file: not 0 for a part of a large one
    size: int  # of the data
    extents: Extents | None
    digest: bytes  # of the header, the extents, and the zeros behind the data

    @property
    def data(self) -> int:
        """Where the data begins in the container."""
        return self.offset + self.header_bytes

    @property
    def end(self) -> int:
        """Where the next member begins."""
        return self.data + pax.padded(self.size)

    @property
    def is_part(self) -> bool:
        """Whether the rest of the file is elsewhere."""
        return bool(self.record) and not self.link and self.size < decode(self.record).size


class Segment(NamedTuple):
    """A range of a container, and where in the index it is described."""

    first: int
    end: int
    entries: int
    index_offset: int
    index_bytes: int
    digest: bytes  # of the index block


class Finished(NamedTuple):
    """A container as the manifest describes it."""

    size: int
    entries: int
    index_bytes: int
    table_offset: int  # in the index; it ends where the index does
    digest: bytes  # of the table


class ContainerWriter:
    """Writes one container: *put* gets an offset and bytes of it, *put_index* the next bytes of the index.

    Members one after another: `add`, or `begin`, then `data` and `hole`, then `end`. What is skipped as a hole is
    never put. *put* must take or copy what it gets.
    """

    def __init__(self, put: Callable[[int, Buffer], None], put_index: Callable[[bytes], object]) -> None:
        self._put = put
        self._put_index = put_index
        self.position = 0
        self._entries: list[Entry] = []  # of the segment under way
        self._first = 0  # of that segment
        self._count = 0
        self._segments: list[Segment] = []
        self._index_bytes = 0
        self._entry: Entry  # under way
        self._left = 0  # of its data
        self._extents: list[tuple[int, int]] = []
        self._hash = mmh3.mmh3_x64_128()
        self._append_index(MAGIC)

    def add(self, path: bytes, record: bytes, data: Buffer = b"") -> None:
        """A whole file, directory, symbolic link or special file."""
        self.begin(path, record, size=len(data))
        if data:
            self.data(data)
        self.end()

    def link(self, path: bytes, target: bytes, entry: Metadentry) -> None:
        """A further name *path* of the file *target*, whose record is *entry*."""
        head = pax.header(path, entry, link=target)
        self._open(Entry(path, b"", target, self.position, len(head), 0, 0, None, b""), head)
        self.end()

    def begin(
        self, path: bytes, record: bytes, *, start: int = 0, size: int = 0, name: bytes | None = None
    ) -> None:
        """A member of *size* bytes, which begin at *start* of the file; *name*: what tar shall call it."""
        entry = decode(record)
        head = b""
        if pax.can_hold(entry.mode):
            head = pax.header((path or b".") if name is None else name, entry, size)
        self._open(Entry(path, record, b"", self.position, len(head), start, size, None, b""), head)

    def data(self, data: Buffer) -> None:
        """The next bytes of the member."""
        self._extend(len(data))
        self._hash.update(data)
        self._put(self.position, data)
        self.position += len(data)

    def hole(self, length: int) -> None:
        """The next *length* bytes of the member are zeros."""
        self._left -= length
        self.position += length

    def end(self) -> None:
        """The member is complete."""
        if self._left:
            raise ValueError(f"{self._entry.path!r}: {self._left} bytes of the member are missing")
        entry = self._entry
        rest = entry.end - self.position
        if rest:
            self._hash.update(_GAP[:rest])
            self._put(self.position, _GAP[:rest])
            self.position += rest
        extents = None if self._extents == [(0, entry.size)] or not entry.size else tuple(self._extents)
        self._entries.append(entry._replace(extents=extents, digest=self._hash.digest()))
        if len(self._entries) >= PACK_INDEX_ENTRIES or self.position - self._first >= PACK_SEGMENT_BYTES:
            self._close_segment()

    def finish(self) -> Finished:
        """The container is complete."""
        self._close_segment()
        self._put(self.position, pax.END)
        self.position += len(pax.END)
        table = msgpack.packb([tuple(segment) for segment in self._segments])
        offset = self._index_bytes
        self._append_index(table)
        return Finished(self.position, self._count, self._index_bytes, offset, digest(table))

    def _open(self, entry: Entry, head: bytes) -> None:
        self._entry = entry
        self._left = entry.size
        self._extents = []
        self._hash = mmh3.mmh3_x64_128(head)
        if head:
            self._put(self.position, head)
            self.position += len(head)

    def _extend(self, length: int) -> None:
        offset = self._entry.size - self._left
        self._left -= length
        if self._extents and sum(self._extents[-1]) == offset:
            offset, before = self._extents.pop()
            length += before
        self._extents.append((offset, length))

    def _close_segment(self) -> None:
        if not self._entries:
            return
        block = msgpack.packb([tuple(entry) for entry in self._entries])
        count = len(self._entries)
        where = (self._first, self.position, count, self._index_bytes, len(block))
        self._segments.append(Segment(*where, digest(block)))
        self._append_index(block)
        self._count += count
        self._entries = []
        self._first = self.position

    def _append_index(self, data: bytes) -> None:
        self._put_index(data)
        self._index_bytes += len(data)


def digest(data: Buffer) -> bytes:
    """The checksum used all over a pack: 128 bits of mmh3."""
    return mmh3.mmh3_x64_128_digest(data)


def decode_table(table: bytes, expected: bytes) -> list[Segment]:
    """The segments of a container. Raises Damaged unless *expected* is the table's digest."""
    segments = [Segment(*fields) for fields in _decode(table, expected, _SEGMENT_TYPES)]
    for before, segment in pairwise(segments):
        if segment.first != before.end:
            raise Damaged(f"the index: a segment at {segment.first} behind one that ends at {before.end}")
    return segments


def decode_block(block: bytes, segment: Segment) -> list[Entry]:
    """The members in *segment*. Raises Damaged."""
    entries = [Entry(*fields) for fields in _decode(block, segment.digest, _ENTRY_TYPES, _HOLED_ENTRY_TYPES)]
    return [_checked(entry, segment) for entry in entries]


def _checked(entry: Entry, segment: Segment) -> Entry:
    """*entry*, of which only the types are known to be right. Raises Damaged."""
    if not segment.first <= entry.offset <= entry.end <= segment.end:
        raise damaged(entry, f"it is not within its segment, {segment.first} to {segment.end}")
    if entry.start + entry.size > FILE_SIZE_MAX_BYTES:
        raise damaged(entry, f"{entry.size} bytes at {entry.start} of a file")
    try:
        if not entry.link:
            decode(entry.record)
    except ValueError as error:
        raise damaged(entry, str(error)) from None
    if entry.extents is None:
        return entry
    position = 0
    extents: list[tuple[int, int]] = []
    unchecked: Iterable[Any] = entry.extents
    for extent in unchecked:
        if not (isinstance(extent, list) and tuple(map(type, extent)) == (int, int) and extent[0] >= position):
            raise damaged(entry, f"an extent {extent!r:.80} after {position}")
        offset, length = extent
        position = offset + length
        if length <= 0 or position > entry.size:
            raise damaged(entry, f"{length} bytes at {offset} of {entry.size}")
        extents.append((offset, length))
    return entry._replace(extents=tuple(extents))


class Piece(NamedTuple):
    """Bytes of a container that belong to a member. *start*: where in the file, -1 if no data."""

    offset: int
    length: int
    start: int


def pieces(entry: Entry, piece: int) -> Iterator[Piece]:
    """All bytes of a member but holes, in order: header, data cut at multiples of *piece* of the file, zeros."""
    yield Piece(entry.offset, entry.header_bytes, -1)
    for begin, length in ((0, entry.size),) if entry.extents is None else entry.extents:
        offset, end = begin, begin + length
        while offset < end:
            count = min(end - offset, piece - (entry.start + offset) % piece)
            yield Piece(entry.data + offset, count, entry.start + offset)
            offset += count
    yield Piece(entry.data + entry.size, entry.end - entry.data - entry.size, -1)


class Check:
    """Compares a member with its digest: `take` each piece in order, then `finish`."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._hash = mmh3.mmh3_x64_128()

    def take(self, piece: Piece, data: Buffer) -> None:
        """What was read of *piece*. Raises Damaged when it is too short."""
        if len(data) < piece.length:
            end = piece.offset + len(data)
            raise damaged(self._entry, f"the container ends at {end}")
        self._hash.update(data)

    def finish(self) -> None:
        """Raise Damaged unless the member is as it was written."""
        if self._hash.digest() != self._entry.digest:
            raise damaged(self._entry, "its checksum is wrong")


def check_member(entry: Entry, read: Callable[[int, int], Buffer]) -> None:
    """Raise Damaged unless all of the member is as it was written, holes excepted.

    *read* gives bytes of the container by offset and length; piece by piece, so that memory is bounded.
    """
    check = Check(entry)
    for piece in pieces(entry, PACK_PIECE_BYTES):
        check.take(piece, read(piece.offset, piece.length) if piece.length else b"")
    check.finish()


def holes(entry: Entry) -> Iterator[tuple[int, int]]:
    """(offset in the container, length) of the holes in a member."""
    position = 0
    for offset, length in ((0, entry.size),) if entry.extents is None else entry.extents:
        if offset > position:
            yield entry.data + position, offset - position
        position = offset + length
    if entry.size > position:
        yield entry.data + position, entry.size - position


def damaged(entry: Entry, what: str) -> Damaged:
    """That *what* is wrong with the member."""
    return Damaged(f"{_name(entry)} at {entry.offset}: {what}")


def part_name(path: bytes, number: int, count: int) -> bytes:
    """What tar calls part *number* (from 1) of a large file; in the order of the names they give the file."""
    folder, slash, name = path.rpartition(b"/")
    ending = b".gkfs-part-%06d-of-%06d" % (number, count)
    return folder + slash + name[: 255 - len(ending)] + ending


def _decode(data: bytes, expected: bytes, *types: tuple[type, ...]) -> list[list[Any]]:
    """The items of a list, each with fields of one of *types*, no number below 0. Raises Damaged."""
    if digest(data) != expected:
        raise Damaged("the index: its checksum is wrong")
    # A right digest says that it is as somebody wrote it, not who.
    try:
        items = msgpack.unpackb(data)
    except Exception as error:  # msgpack raises several unrelated types
        raise Damaged(f"the index: {error}") from None
    if not isinstance(items, list):
        raise Damaged(f"the index: {type(items).__name__} in place of a list")
    for item in items:
        if not isinstance(item, list) or tuple(map(type, item)) not in types:
            raise Damaged("the index: an item with wrong fields")
        if any(field < 0 for field in item if type(field) is int):
            raise Damaged("the index: a number below 0")
    return items


def _name(entry: Entry) -> str:
    return entry.path.decode("utf-8", "backslashreplace") or "."
