"""The files and folders of chunk storage: names, and steps that a thread may do."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import mmh3

from gkfs.limits import CHECKSUM_BLOCK_BYTES
from gkfs.messages import Buffer

Write = Callable[[int, Buffer, int], None]  # to a descriptor data at an offset; raises OSError

_FOLDERS: Final = 256
# ext4 (FS_IOC_GETFLAGS and SETFLAGS of linux/fs.h): folders below are unrelated and get block groups of their own.
_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_DIRECTORY: Final = 0x00020000


def file_name(fid: int, chunk: int) -> str:
    """The name of a chunk's file below the folder of the chunks."""
    return f"{(fid + chunk) & 0xFF:02x}/{fid:016x}.{chunk:08x}"


def cut_files(work: list[tuple[str, int]]) -> int:
    """`cut_file` for each (path, bytes kept); returns how many bytes that freed. Raises OSError."""
    return sum(cut_file(path, kept) for path, kept in work)


def cut_files_durably(work: list[tuple[str, int]]) -> int:
    """As `cut_files`, and it is on the disk, too."""
    freed = cut_files(work)
    for path, kept in work:
        if kept:
            with contextlib.suppress(FileNotFoundError):
                _sync(path)
    for folder in {os.path.dirname(path) for path, kept in work if not kept}:
        _sync(folder)
    return freed


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def cut_file(path: str, kept: int) -> int:
    """Remove the chunk file, or what is beyond its first *kept* bytes; returns how many bytes that freed."""
    try:
        size = os.stat(path).st_size
        if kept == 0:
            os.unlink(path)
            return size
        if size > kept:
            os.truncate(path, kept)
            return size - kept
    except FileNotFoundError:
        pass
    return 0


def write_file(path: str, data: Buffer, write: Write) -> None:
    """Make the chunk file *path*, which must not exist. Raises OSError; then a part of it may be there."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        write(fd, data, 0)
    finally:
        os.close(fd)


def read_file(path: str) -> bytes:
    """All of the chunk file *path*; b"" when there is none. Raises OSError."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except FileNotFoundError:
        return b""


def read_readable(path: str) -> tuple[bytes, list[int]]:
    """The chunk file *path*, zeros where its blocks cannot be read, and which these are. Raises OSError."""
    pieces: list[bytes] = []
    unreadable: list[int] = []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for offset in range(0, size, CHECKSUM_BLOCK_BYTES):
            length = min(CHECKSUM_BLOCK_BYTES, size - offset)
            try:
                piece = os.pread(file.fileno(), length, offset)
            except OSError:
                piece = b""
                unreadable.append(offset // CHECKSUM_BLOCK_BYTES)
            pieces.append(piece.ljust(length, b"\0"))
    return b"".join(pieces), unreadable


def digest_files(work: list[tuple[str, int]]) -> list[bytes]:
    """Checksum of the first bytes of each (path, bytes), zeros behind its end; b"" if missing. Raises OSError."""
    buffer = bytearray(max((length for _, length in work), default=0))
    return [_digest(path, memoryview(buffer)[:length]) for path, length in work]


def _digest(path: str, view: memoryview) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        filled = 0
        while filled < len(view) and (count := os.preadv(fd, [view[filled:]], filled)):
            filled += count
    finally:
        os.close(fd)
    view[filled:] = bytes(len(view) - filled)
    return mmh3.mmh3_x64_128_digest(view)


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of *data* at *offset*. Raises OSError."""
    written = os.pwrite(fd, data, offset)
    if written < len(data):  # a disk about to be full: the rest says why
        view = memoryview(data)
        while written < len(view):
            written += os.pwrite(fd, view[written:], offset + written)


def durably(write: Write) -> Write:
    """*write*, and when it returns the data are on the disk."""

    def write_durably(fd: int, data: Buffer, offset: int) -> None:
        write(fd, data, offset)
        os.fdatasync(fd)

    return write_durably


def make_folders(folder: Path) -> None:
    """Make *folder* and the folders in it that spread the chunks. Raises OSError."""
    if (folder / f"{_FOLDERS - 1:02x}").is_dir():
        return
    folder.mkdir(exist_ok=True)
    _spread_folders(folder)
    for number in range(_FOLDERS):
        (folder / f"{number:02x}").mkdir(exist_ok=True)


def _spread_folders(folder: Path) -> None:
    # Without it ext4 creates files many times slower where others were just deleted; other file systems refuse.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_DIRECTORY))
    finally:
        os.close(fd)
