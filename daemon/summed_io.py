"""Reading and writing of chunk files with the sums of what is read and written; steps that a thread may do."""

import os
from collections.abc import Callable
from typing import Final

from gkfs.daemon.block_sums import SUM_BYTES, ZEROS, sums_of
from gkfs.daemon.chunk_files import Write
from gkfs.limits import CHECKSUM_BLOCK_BYTES, CHUNK_SIZE_BYTES
from gkfs.messages import Buffer

_BLOCK: Final = CHECKSUM_BLOCK_BYTES


class Damaged(Exception):
    """A block of the chunk is not what it was when it was written."""

    def __init__(self, block: int) -> None:
        super().__init__(block)
        self.block = block


def read_summed(read: Callable[[int, int, int], Buffer], fd: int, length: int, start: int) -> tuple[Buffer, bytes]:
    """What *read* finds, and the sums of its blocks. Raises OSError."""
    data = read(fd, length, start)
    return data, sums_of(data)


def sums_of_file(fd: int) -> bytes:
    """The sums of all there is. Raises OSError."""
    return sums_of(os.pread(fd, CHUNK_SIZE_BYTES, 0))


def sums_of_disk(fd: int) -> bytes:
    """The same; what is in the page cache and clean is read again. Raises OSError."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return sums_of_file(fd)


def edges(fd: int, offset: int, length: int, size: int, old: bytes) -> tuple[bytes, bytes]:
    """The first and the last of the blocks, whose sums are *old*, that *length* bytes at *offset* touch.

    *size* is the file's. b"" for one that is overwritten as a whole, or that there is nothing of. Raises OSError;
    Damaged when of a block that is overwritten in part the rest is not what it was, or is missing.
    """
    end = offset + length
    head, tail = offset % _BLOCK, end % _BLOCK
    first, last = offset // _BLOCK, (end - 1) // _BLOCK
    before = _block(fd, first, old[:SUM_BYTES]) if head else b""
    if not tail:
        return before, b""
    if head and first == last:
        return before, before
    if size > last * _BLOCK:
        return before, _block(fd, last, old[-SUM_BYTES:])
    if old[-SUM_BYTES:] != ZEROS:
        raise Damaged(last)
    return before, b""


def write_summed(fd: int, data: Buffer, offset: int, before: bytes, after: bytes, write: Write) -> bytes:
    """Write *data* at *offset* by *write*; the new sums of the blocks that has touched.

    *before* and *after* are their `edges`. Raises OSError.
    """
    write(fd, data, offset)
    if not before and not after:
        return sums_of(data)
    end = offset + len(data)
    head, tail = offset % _BLOCK, end % _BLOCK
    view = memoryview(data)
    if offset // _BLOCK == (end - 1) // _BLOCK:
        return sums_of(b"".join((before[:head], view, after[tail:])))
    begin = (_BLOCK - head) % _BLOCK
    middle = view[begin : len(view) - tail]
    parts = [sums_of(before[:head] + view[:begin])] if head else []
    parts.append(sums_of(middle))
    if tail:
        parts.append(sums_of(b"".join((view[len(view) - tail :], after[tail:]))))
    return b"".join(parts)


def edge(fd: int, kept: int, old: bytes) -> tuple[bytes, bool]:
    """The sum that the block with byte *kept* has when the chunk ends before it, and whether its sum is *old* now.

    Raises OSError.
    """
    data = os.pread(fd, _BLOCK, kept // _BLOCK * _BLOCK)
    return sums_of(data[: kept % _BLOCK].ljust(_BLOCK, b"\0")), sums_of(data.ljust(_BLOCK, b"\0")) == old


def _block(fd: int, index: int, expected: bytes) -> bytes:
    data = os.pread(fd, _BLOCK, index * _BLOCK).ljust(_BLOCK, b"\0")
    if sums_of(data) != expected:
        raise Damaged(index)
    return data
