"""Memory for large pieces of data: kept by the process, and such as disks reach in one piece.

A MiB of ordinary memory is 256 pages of 4 KiB, wherever they are, and a disk is told of each. Memory in huge pages
is one piece: read at two to three times the rate, for half the processor time (docs/decisions/0018-huge-pages.md).
"""

import contextlib
import ctypes
import mmap
import weakref
from typing import Final, NamedTuple

from gkfs.limits import CHUNK_SIZE_BYTES, DIRECT_IO_MIN_BYTES, LARGE_BUFFERS_KEPT

BLOCK_BYTES: Final = 4096  # what direct I/O asks of addresses, offsets and lengths; no disk in use asks for more
_HUGE_PAGE_BYTES: Final = 2 << 20
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def keep_large_buffers() -> None:
    """Keep 1 MiB buffers in the heap: mapping and unmapping one for each request costs a fifth of the CPU."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 8 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def aligned(length: int) -> memoryview:
    """*length* bytes that begin at a multiple of `BLOCK_BYTES`; what is in them is undefined.

    They are used again when nothing refers to them any more. Raises MemoryError.
    """
    if DIRECT_IO_MIN_BYTES <= length <= CHUNK_SIZE_BYTES:
        return _pool.take()[:length]
    memory = bytearray(length + BLOCK_BYTES)
    start = -address(memory) % BLOCK_BYTES
    return memoryview(memory)[start : start + length]


def is_aligned(data: bytes | bytearray | memoryview) -> bool:
    """Whether *data*, which is not empty, begins at a multiple of `BLOCK_BYTES`; False if that cannot be known."""
    try:
        return address(data) % BLOCK_BYTES == 0
    except TypeError:  # read-only
        return False


def address(data: bytes | bytearray | memoryview | mmap.mmap) -> int:
    """Where *data* begins in memory. Raises TypeError: it is read-only."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


_Reference = weakref.ref[ctypes.Array[ctypes.c_char]]


class _Place(NamedTuple):
    """Room for one chunk in a huge page, which goes back to the system with the last of its places."""

    memory: mmap.mmap
    offset: int


class _Pool:
    """Places, free and lent; of the free ones *kept* stay.

    For all threads: each step on the list and the dictionary is atomic.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._free: list[_Place] = []
        self._lent: dict[int, tuple[_Reference, _Place]] = {}
        self._room = ctypes.c_char * CHUNK_SIZE_BYTES

    def take(self) -> memoryview:
        try:
            place = self._free.pop()
        except IndexError:
            place, *others = _map_huge_page()
            self._free += others
        holder = self._room.from_buffer(place.memory, place.offset)
        reference = weakref.ref(holder, self._came_back)  # every view of the memory holds the holder
        self._lent[id(reference)] = reference, place
        return memoryview(holder).cast("B")

    def _came_back(self, reference: _Reference) -> None:
        place = self._lent.pop(id(reference))[1]
        if len(self._free) < self._kept:
            self._free.append(place)


def _map_huge_page() -> list[_Place]:
    try:
        # Twice the size: the system need not begin at a multiple. Nothing is taken for what is not used.
        memory = mmap.mmap(-1, 2 * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {_HUGE_PAGE_BYTES} bytes: {error.strerror}") from None
    with contextlib.suppress(OSError):  # a system without huge pages gives ordinary ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -address(memory) % _HUGE_PAGE_BYTES
    return [_Place(memory, start + offset) for offset in range(0, _HUGE_PAGE_BYTES, CHUNK_SIZE_BYTES)]


_pool: Final = _Pool(LARGE_BUFFERS_KEPT)
