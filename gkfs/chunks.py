"""From a byte range of a file to pieces of chunks. Pure arithmetic.

A file is cut into chunks of `CHUNK_SIZE_BYTES`; chunk *i* holds the bytes ``[i * size, (i + 1) * size)``.
"""

from collections.abc import Iterator
from typing import NamedTuple

from gkfs.limits import CHUNK_SIZE_BYTES


class Piece(NamedTuple):
    """The part of a byte range that lies in one chunk."""

    chunk: int  # its index
    offset: int  # within the chunk, bytes
    length: int  # bytes, at least 1
    start: int  # of this piece within the range, bytes


def pieces(offset: int, length: int, chunk_size: int = CHUNK_SIZE_BYTES) -> Iterator[Piece]:
    """Cut ``[offset, offset + length)`` at the chunk borders, in ascending order.

    >>> [tuple(p) for p in pieces(6, 10, chunk_size=8)]
    [(0, 6, 2, 0), (1, 0, 8, 2)]
    """
    start = 0
    while start < length:
        index, within = divmod(offset + start, chunk_size)
        count = min(chunk_size - within, length - start)
        yield Piece(index, within, count, start)
        start += count


def count(size: int, chunk_size: int = CHUNK_SIZE_BYTES) -> int:
    """How many chunks a file of *size* bytes has.

    >>> count(0), count(1), count(1 << 20), count((1 << 20) + 1)
    (0, 1, 1, 2)
    """
    return -(-size // chunk_size)
