"""Reading the ordinary file system: blocking calls, many files in one, for threads.

A batch opens its folder once and works relative to it, so that paths may be longer than the kernel takes. What
fails is told file by file; a batch does not end for one file's sake.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from gkfs.client.scan import Attributes
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.metadentry import Xattrs

SMALL_MAX_BYTES: Final = CHUNK_SIZE_BYTES  # moved whole, in one request
_PATH_PIECE_BYTES: Final = 4000  # of a path the kernel takes 4095
_NO_XATTRS: Final = (errno.ENOTSUP, errno.EPERM, errno.EACCES)
READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Listed(NamedTuple):
    """A folder's entries: regular files by name only, everything else with what is known of it."""

    files: list[bytes]
    folders: list[tuple[bytes, Attributes]]
    others: list["Seen"]  # symlinks and special files
    errors: list[tuple[bytes, OSError]]


class Seen(NamedTuple):
    """A file that was looked at; *data* None: it was not read, because it is large or need not be."""

    name: bytes
    what: Attributes | None = None
    inode: tuple[int, int] = (0, 0)  # device and number
    links: int = 1
    data: bytes | None = None
    error: OSError | None = None


@contextlib.contextmanager
def opened(folder: bytes) -> Iterator[int]:
    """A descriptor of *folder* to work relative to. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    base: int | None = None
    try:
        while len(folder) > _PATH_PIECE_BYTES:
            cut = folder.rindex(b"/", 0, _PATH_PIECE_BYTES)
            inner = os.open(folder[: cut + 1], flags, dir_fd=base)
            if base is not None:
                os.close(base)
            base, folder = inner, folder[cut + 1 :]
        inner = os.open(folder or b".", flags, dir_fd=base)
        if base is not None:
            os.close(base)
        base = inner
        yield base
    finally:
        if base is not None:
            os.close(base)


# --- reading


def list_folder(folder: bytes) -> Listed:
    """What is in *folder*. Raises OSError when it cannot be read."""
    listed = Listed([], [], [], [])
    with opened(folder) as base, os.scandir(base) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)  # listed by descriptor, names are text
            try:
                if entry.is_file(follow_symlinks=False):
                    listed.files.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    listed.folders.append((name, look(base, name)))
                else:
                    found = os.stat(name, dir_fd=base, follow_symlinks=False)
                    listed.others.append(_seen(name, found, _attributes(base, name, found), None))
            except OSError as error:
                listed.errors.append((name, error))
    return listed


def look(base: int | None, name: bytes) -> Attributes:
    """Attributes of what is called *name*, not followed if it is a symlink. Raises OSError."""
    return _attributes(base, name, os.stat(name, dir_fd=base, follow_symlinks=False))


def _attributes(base: int | None, name: bytes, found: os.stat_result) -> Attributes:
    target = os.readlink(name, dir_fd=base) if stat.S_ISLNK(found.st_mode) else b""
    return Attributes.of_stat(found, target, _xattrs_by_name(base, name, found.st_mode))


def look_at_all(folder: bytes, names: Sequence[bytes]) -> list[Seen]:
    """Each of *names* in *folder*, unread. Raises OSError when there is no such folder."""
    result = []
    with opened(folder) as base:
        for name in names:
            try:
                found = os.stat(name, dir_fd=base, follow_symlinks=False)
                result.append(_seen(name, found, _attributes(base, name, found), None))
            except OSError as error:
                result.append(Seen(name, error=error))
    return result


def read_files(folder: bytes, names: Sequence[bytes], room_bytes: int) -> list[Seen]:
    """Read small files with one name, look at all others; ends early after *room_bytes*. Raises OSError."""
    result = []
    with opened(folder) as base:
        for name in names:
            try:
                seen = _read_file(base, name)
            except OSError as error:
                seen = Seen(name, error=error)
            result.append(seen)
            room_bytes -= len(seen.data or b"")
            if room_bytes < 0:
                break
    return result


def _read_file(base: int, name: bytes) -> Seen:
    fd = os.open(name, READ_FLAGS, dir_fd=base)
    try:
        found = os.fstat(fd)
        what = Attributes.of_stat(found, b"", xattrs_of(fd))
        if found.st_size > SMALL_MAX_BYTES:
            what = what._replace(sparse=has_holes(fd, found))
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_size > SMALL_MAX_BYTES:
            return _seen(name, found, what, None)
        data = read_exactly(fd, found.st_size, 0) if found.st_size else b""
    finally:
        os.close(fd)
    return _seen(name, found, what, data)


def open_file(path: bytes) -> int:
    """A descriptor to read the regular file *path*. Raises OSError."""
    folder, _, name = path.rpartition(b"/")
    with opened(folder or b"/") as base:
        return os.open(name, READ_FLAGS, dir_fd=base)


def open_for_change(path: bytes) -> int:
    """A descriptor to change a file in place. Raises OSError."""
    folder, _, name = path.rpartition(b"/")
    with opened(folder or b"/") as base:
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=base)


def read_chunk(fd: int, offset: int, length: int, sparse: bool) -> bytes | None:
    """A range of a file; None where a file that is *sparse* has a hole. Raises OSError."""
    if sparse and is_hole(fd, offset, length):
        return None
    return read_exactly(fd, length, offset)


def has_holes(fd: int, found: os.stat_result) -> bool:
    """Whether a file, of which *found* is known, has holes that are worth to be kept. Raises OSError."""
    return found.st_blocks * 512 < found.st_size and os.lseek(fd, 0, os.SEEK_HOLE) < found.st_size


def is_hole(fd: int, offset: int, length: int) -> bool:
    """Whether there is no data in a range of a file. Raises OSError."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data up to the end
            raise
        return True


def read_exactly(fd: int, length: int, offset: int) -> bytes:
    """*length* bytes from *offset*. Raises OSError, EIO when the file ends before: it has just been cut."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, "became shorter while it was read")
        data += more
    return data


def _seen(name: bytes, found: os.stat_result, what: Attributes, data: bytes | None) -> Seen:
    return Seen(name, what, (found.st_dev, found.st_ino), found.st_nlink, data)


def xattrs_of(fd: int) -> Xattrs:
    """Extended attributes that can be kept: those of users, and for root trusted ones. Raises OSError."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    kept = [name for name in names if name.startswith(("user.", "trusted."))]
    return tuple((os.fsencode(name), os.getxattr(fd, name)) for name in kept)


def _xattrs_by_name(base: int | None, name: bytes, mode: int) -> Xattrs:
    """Likewise of a folder or special file; symlinks have none that users set."""
    if stat.S_ISDIR(mode):
        fd = os.open(name, READ_FLAGS | os.O_DIRECTORY, dir_fd=base)
        try:
            return xattrs_of(fd)
        finally:
            os.close(fd)
    path = name if base is None else b"/proc/self/fd/%d/%s" % (base, name)
    try:
        names = [key for key in os.listxattr(path, follow_symlinks=False) if key.startswith(("user.", "trusted."))]
        return tuple((os.fsencode(key), os.getxattr(path, key, follow_symlinks=False)) for key in names)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
