"""Memory for large pieces of data: kept by the process, and placed where disks can reach it directly."""

import ctypes
from typing import Final

BLOCK_BYTES: Final = 4096  # what direct I/O asks of addresses, offsets and lengths; no disk in use asks for more
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


def keep_large_buffers() -> None:
    """Keep 1 MiB buffers in the heap: mapping and unmapping one for each request costs a fifth of the CPU."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 8 << 20)
    libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def aligned(length: int) -> memoryview:
    """*length* bytes of new memory that begins at a multiple of `BLOCK_BYTES`."""
    memory = bytearray(length + BLOCK_BYTES)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % BLOCK_BYTES
    return memoryview(memory)[start : start + length]


def is_aligned(data: bytes | bytearray | memoryview) -> bool:
    """Whether *data*, which is not empty, begins at a multiple of `BLOCK_BYTES`; False if that cannot be known."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(data)) % BLOCK_BYTES == 0
    except TypeError:  # read-only
        return False
