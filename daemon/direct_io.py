"""Large pieces of chunks go between memory and disk without the page cache; steps that a thread may do.

Each page that a new MiB takes in the page cache has to be found, zeroed and given back: 3 ms of processor time for
each MiB written and 1 ms for each read, where direct I/O takes 0.2 (docs/decisions/0010-direct-io.md).
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gkfs.buffers import BLOCK_BYTES, aligned, is_aligned
from gkfs.daemon.chunk_files import write_all
from gkfs.limits import DIRECT_IO_MIN_BYTES
from gkfs.messages import Buffer

_PROBE: Final = "direct_io.probe"


def works_in(folder: Path) -> bool:
    """Whether the file system of *folder* can do it; False also when that cannot be tried."""
    path = folder / _PROBE
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_DIRECT, 0o600)
        try:
            return os.pwrite(fd, aligned(BLOCK_BYTES), 0) == BLOCK_BYTES
        finally:
            os.close(fd)
    except OSError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def write_large(fd: int, data: Buffer, offset: int) -> None:
    """Write all of *data* at *offset*; through the page cache what is no whole block. Raises OSError."""
    length = len(data) // BLOCK_BYTES * BLOCK_BYTES
    if offset % BLOCK_BYTES or length < DIRECT_IO_MIN_BYTES:
        write_all(fd, data, offset)
        return
    view = memoryview(data)
    whole = view[:length]
    if not is_aligned(whole):
        copy = aligned(length)
        copy[:] = whole
        whole = copy
    written = _directly(fd, os.O_WRONLY, lambda direct: os.pwrite(direct, whole, offset))
    if written < len(data):
        write_all(fd, view[written:], offset + written)


def read_large(fd: int, length: int, offset: int) -> Buffer:
    """Up to *length* bytes at *offset*; less at the end of the file. Raises OSError."""
    if offset % BLOCK_BYTES or length < DIRECT_IO_MIN_BYTES:
        return os.pread(fd, length, offset)
    buffer = aligned(-(-length // BLOCK_BYTES) * BLOCK_BYTES)
    count = _directly(fd, os.O_RDONLY, lambda direct: os.preadv(direct, [buffer], offset))
    return buffer[: min(count, length)]


def _directly(fd: int, flags: int, transfer: Callable[[int], int]) -> int:
    # A descriptor of its own: others use *fd* at the same time.
    direct = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_DIRECT)
    try:
        return transfer(direct)
    finally:
        os.close(direct)
