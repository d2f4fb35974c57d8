"""Checksums of the blocks of one chunk. Pure.

A chunk has 256 blocks of 4 KiB. The sum of a block is the first half of its XXH3 of 64 bits; what the chunk's file
lacks at its end counts as zeros, so a hole has the sum of zeros, and a file that grows by a hole keeps its sums.

In the chunk's entry of the index they stand behind a byte and the boot epoch in which they were stored:

    "x" | epoch, u16 big-endian | 4 bytes for each block up to the last that is not a hole

Any other value says nothing of the data: they are being changed, or were when the daemon was killed.
"""

import struct
from typing import Final, NamedTuple

import xxhash

from gkfs.daemon.guards import Blocked, Guard
from gkfs.limits import CHECKSUM_BLOCK_BYTES, CHUNK_SIZE_BYTES
from gkfs.messages import Buffer

BLOCKS: Final = CHUNK_SIZE_BYTES // CHECKSUM_BLOCK_BYTES
SUM_BYTES: Final = 4

_digest = xxhash.xxh3_64_digest
_HEAD: Final = struct.Struct(">cH")
_MARK: Final = b"x"
ZEROS: Final = _digest(bytes(CHECKSUM_BLOCK_BYTES))[:SUM_BYTES]


class Stored(NamedTuple):
    """What an entry of the index says."""

    epoch: int
    sums: bytes


def encode(stored: Stored) -> bytes:
    """The value of an entry."""
    return _HEAD.pack(_MARK, stored.epoch) + stored.sums


def decode(value: bytes) -> Stored | None:
    """What the value of an entry says, None if that is nothing."""
    if value[:1] != _MARK or len(value) < _HEAD.size or (len(value) - _HEAD.size) % SUM_BYTES:
        return None
    return Stored(_HEAD.unpack_from(value)[1], value[_HEAD.size :])


def sums_of(data: Buffer) -> bytes:
    """The sums of the blocks of *data*, which begin at a block; the last one is filled up with zeros."""
    view = memoryview(data)
    whole = len(view) // CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES
    found = [
        _digest(view[start : start + CHECKSUM_BLOCK_BYTES])[:SUM_BYTES]
        for start in range(0, whole, CHECKSUM_BLOCK_BYTES)
    ]
    if whole < len(view):
        found.append(_digest(bytes(view[whole:]).ljust(CHECKSUM_BLOCK_BYTES, b"\0"))[:SUM_BYTES])
    return b"".join(found)


def wrong(found: bytes) -> bytes:
    """A sum that what has the sum *found* does not have."""
    return bytes([found[0] ^ 1]) + found[1:]


def differing(first: bytes, second: bytes) -> list[int]:
    """Which of two equally long rows of sums differ."""
    if first == second:
        return []
    places = range(0, len(first), SUM_BYTES)
    return [
        place // SUM_BYTES
        for place in places
        if first[place : place + SUM_BYTES] != second[place : place + SUM_BYTES]
    ]


class ChunkSums:
    """The sums of one chunk, and which blocks threads are changing.

    *changes* grows with whatever happens to them. *is_stored*: the index says the same.
    """

    __slots__ = ("_busy", "_sums", "changes", "is_stored")

    def __init__(self, sums: bytes, *, is_stored: bool) -> None:
        self._sums = bytearray(sums)
        self._busy: list[tuple[int, int, Guard]] = []
        self.changes = 0
        self.is_stored = is_stored

    def stored(self, epoch: int) -> bytes:
        """For the index: without holes at the end."""
        sums = bytes(self._sums)
        end = len(sums)
        while end and sums[end - SUM_BYTES : end] == ZEROS:
            end -= SUM_BYTES
        return encode(Stored(epoch, sums[:end]))

    @property
    def count(self) -> int:
        """Blocks up to the last one that may be no hole."""
        return len(self._sums) // SUM_BYTES

    def of(self, first: int, end: int) -> bytes:
        """The sums of the blocks [first, end)."""
        found = bytes(self._sums[first * SUM_BYTES : end * SUM_BYTES])
        return found + ZEROS * (end - first - len(found) // SUM_BYTES)

    def replace(self, first: int, sums: bytes) -> None:
        """Set those of the blocks from *first* on."""
        self._sums += ZEROS * (first - self.count)
        self._sums[first * SUM_BYTES : first * SUM_BYTES + len(sums)] = sums
        self.changes += 1

    def cut(self, end: int) -> None:
        """Only the blocks before *end* remain."""
        del self._sums[end * SUM_BYTES :]
        self.changes += 1

    def begin(self, first: int, end: int, reason: str) -> Guard:
        """The blocks [first, end) are being changed, until `end`."""
        guard = Guard(reason)
        self._busy.append((first, end, guard))
        self.changes += 1
        return guard

    def end(self, guard: Guard) -> None:
        """What `begin` has said is over."""
        self._busy = [busy for busy in self._busy if busy[2] is not guard]
        self.changes += 1
        guard.lifted.set()

    @property
    def is_busy(self) -> bool:
        return bool(self._busy)

    def guard_of(self, first: int, end: int) -> Guard | None:
        """What keeps others from the blocks [first, end), if anything does."""
        for busy_first, busy_end, guard in self._busy:
            if first < busy_end and busy_first < end:
                return guard
        return None

    def check(self, first: int, end: int) -> None:
        """Raise Blocked while the blocks [first, end) are being changed."""
        if self._busy and (guard := self.guard_of(first, end)) is not None:
            raise Blocked(guard)
