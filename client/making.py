"""Writing to the ordinary file system: blocking calls, many files in one, for threads; see `ordinary`.

Of a file its time is set last: one that was left half-way has another than its source, and a second run finds it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final, NamedTuple

from gkfs.client.ordinary import READ_FLAGS, opened
from gkfs.client.scan import Attributes
from gkfs.messages import Buffer

_MAKE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class New(NamedTuple):
    """A file, symlink or special file to be made; *data* may end before the file does: the rest is a hole."""

    name: bytes
    what: Attributes
    data: Buffer = b""


def make_folder(path: bytes, mode: int = 0o700) -> int:
    """Make *path* and what is missing above it; how many were missing. Raises OSError: ENOTDIR."""
    parent, _, name = path.rstrip(b"/").rpartition(b"/")
    if not name:
        return 0
    above = 0
    try:
        with opened(parent or b"/") as base:
            return _make_folder_at(base, name, mode)
    except FileNotFoundError:
        above = make_folder(parent, mode)
    with opened(parent) as base:
        return above + _make_folder_at(base, name, mode)


def _make_folder_at(base: int, name: bytes, mode: int) -> int:
    try:
        os.mkdir(name, mode, dir_fd=base)
    except FileExistsError:
        found = os.stat(name, dir_fd=base, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, "is there, and no directory") from None
        if found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
            os.chmod(name, stat.S_IMODE(found.st_mode) | 0o700, dir_fd=base)  # gets its own mode in the end
        return 0
    return 1


def write_files(folder: bytes, items: Sequence[New], *, replace: bool) -> list[OSError | None]:
    """Make all *items*; where something is there already EEXIST, or with *replace* it goes. Raises OSError."""
    result: list[OSError | None] = []
    with opened(folder) as base:
        inherits = bool(os.fstat(base).st_mode & stat.S_ISGID)
        for item in items:
            try:
                if replace:
                    remove(base, item.name)
                _make(base, item, inherits)
                result.append(None)
            except OSError as error:
                result.append(error)
    return result


def remove(base: int, name: bytes) -> None:
    """Remove what is no directory, if it is there. Raises OSError: EISDIR."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=base)


def _make(base: int, item: New, inherits: bool) -> None:
    name, what, data = item
    kind = stat.S_IFMT(what.mode)
    if kind == stat.S_IFREG:
        fd = os.open(name, _MAKE_FLAGS, stat.S_IMODE(what.mode) & 0o777, dir_fd=base)
        try:
            if data:
                write_all(fd, data, 0)
            if what.size > len(data):
                os.ftruncate(fd, what.size)
            finish(fd, what, owned=not inherits, mode_set=True)
        finally:
            os.close(fd)
        return
    if kind == stat.S_IFLNK:
        os.symlink(what.target, name, dir_fd=base)
    elif kind == stat.S_IFSOCK:
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=base)
    else:
        os.mknod(name, kind | 0o600, what.rdev, dir_fd=base)
    finish_named(base, name, what)


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of *data* at *offset*. Raises OSError."""
    written = os.pwrite(fd, data, offset)
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)


def finish(fd: int, what: Attributes, *, owned: bool = False, mode_set: bool = False) -> None:
    """Give a file or folder all of *what* but its size, its time last. Raises OSError.

    *owned*: it has our own owner and group; *mode_set*: and the permissions of *what*, if they are ordinary.
    """
    mode = stat.S_IMODE(what.mode)
    if not owned or (what.uid, what.gid) != (os.geteuid(), os.getegid()):
        mode = _keep_owner(fd, what, mode)
        mode_set = False
    if not mode_set or mode & ~0o777:
        os.fchmod(fd, mode)
    for name, value in what.xattrs:
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(what.atime_ns, what.mtime_ns))


def _keep_owner(fd: int, what: Attributes, mode: int) -> int:
    """Owner and group as far as permitted; *mode* without what must not go with another owner."""
    try:
        os.fchown(fd, what.uid, what.gid)
        return mode
    except PermissionError:
        with contextlib.suppress(PermissionError):
            os.fchown(fd, -1, what.gid)
        return mode & 0o1777


def finish_named(base: int, name: bytes, what: Attributes) -> None:
    """Likewise a symlink or special file. Raises OSError."""
    mode = stat.S_IMODE(what.mode)
    try:
        os.chown(name, what.uid, what.gid, dir_fd=base, follow_symlinks=False)
    except PermissionError:
        mode &= 0o1777
    if not stat.S_ISLNK(what.mode):
        os.chmod(name, mode, dir_fd=base)
    path = b"/proc/self/fd/%d/%s" % (base, name)
    for key, value in what.xattrs:
        os.setxattr(path, key, value, follow_symlinks=False)
    os.utime(name, ns=(what.atime_ns, what.mtime_ns), dir_fd=base, follow_symlinks=False)


def finish_at(folder: bytes, name: bytes, what: Attributes) -> None:
    """Give what is called *name* its attributes. Raises OSError."""
    with opened(folder) as base:
        if not stat.S_ISREG(what.mode):
            finish_named(base, name, what)
            return
        fd = os.open(name, READ_FLAGS, dir_fd=base)
        try:
            finish(fd, what)
        finally:
            os.close(fd)


def finish_folder(path: bytes, what: Attributes) -> None:
    """Give a folder its attributes. Raises OSError."""
    with opened(path) as fd:
        finish(fd, what)


def begin_file(folder: bytes, name: bytes, size: int) -> bool:
    """Make a file of *size* bytes, to be written in place, of what is there; whether it was. Raises OSError."""
    with opened(folder) as base:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        was_there = True
        try:
            found = os.stat(name, dir_fd=base, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # other names of it keep their contents
                remove(base, name)
                was_there = False
            elif found.st_uid == os.geteuid():
                os.chmod(name, 0o600, dir_fd=base)  # gets its own in the end
        except FileNotFoundError:
            was_there = False
        fd = os.open(name, flags, 0o600, dir_fd=base)
        try:
            was_there = was_there and os.fstat(fd).st_blocks > 0
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
            if was_there:
                os.utime(fd)  # its old time might be its source's by now
        finally:
            os.close(fd)
    return was_there


def make_link(source: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> bool:
    """Give the file *source*, (folder, name), a name *target*, too; whether it was missing. Raises OSError."""
    with opened(source[0]) as here, opened(target[0]) as there:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(target[1], dir_fd=there, follow_symlinks=False)
            if os.path.samestat(found, os.stat(source[1], dir_fd=here, follow_symlinks=False)):
                return False
            remove(there, target[1])
        os.link(source[1], target[1], src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
    return True
