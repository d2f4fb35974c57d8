"""Opening every kind of object as several users, and every call on what was opened, as on a local disk."""

import errno
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from gkfs.limits import FILE_SIZE_MAX_BYTES
from tests.mount import twin_calls
from tests.mount.call_matrix import Matrix, matrix_of
from tests.mount.calls import fails, opened
from tests.mount.conftest import Both
from tests.mount.matrix_tree import EVERYTHING, LONGEST, MEMBER, OTHER, OWNER
from tests.mount.twin_calls import ROOT, User

pytestmark = pytest.mark.parametrize("file_system", [2], ids=["2-daemons"], indirect=True)

_ACCESS: Final = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
_CREATION: Final = (0, os.O_CREAT, os.O_CREAT | os.O_EXCL)
_REST: Final = (0, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW)
_USERS: Final = (ROOT, OWNER, MEMBER, OTHER)


@pytest.fixture
def matrix(both: Both) -> Iterator[Matrix]:
    """The trees, and their comparison at the end."""
    with matrix_of(both) as found:
        yield found


def _tried(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What it returns, or how it fails."""
    return twin_calls.made(call, list(arguments), options)


def _open(path: str, flags: int) -> tuple[Any, ...]:
    """Open it, and what can be done then."""
    if path.startswith("fifo"):
        flags |= os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    try:
        return _tried(os.read, descriptor, 4), _tried(os.write, descriptor, b"+"), _position(descriptor)
    finally:
        os.close(descriptor)


def _position(descriptor: int) -> Any:
    return _tried(os.lseek, descriptor, 0, os.SEEK_CUR)


def _can_be_opened(path: str, flags: int) -> bool:
    """Mounts are nodev."""
    return path != "device" or bool(flags & (os.O_EXCL | os.O_PATH | os.O_DIRECTORY))


_OPENED: Final = (
    *("file", "private", "closed", "set-id-all", "read-only", "root's", "fifo", "socket", "device"),
    *("to-file", "to-folder", "dangling", "loop", "through", "empty", "full/inner", "blind/inner", "locked/inner"),
    *("sticky/inner", "sticky/root's", "new", "blind/new", "locked/new", "sticky/new", "group/new", "file/x"),
)


@pytest.mark.parametrize("user", [OWNER, OTHER], ids=["owner", "other"])
def test_opening_in_every_way(user: User, matrix: Matrix) -> None:
    rest_of = _REST if user == OWNER else (0, os.O_NOFOLLOW)
    for path in _OPENED:
        for access, creation, end, rest in itertools.product(_ACCESS, _CREATION, (0, os.O_TRUNC), rest_of):
            flags = access | creation | end | rest
            if _can_be_opened(path, flags):
                matrix.call(_open, path, flags, user=user, looks=not (access or creation or end))


def test_opening_everything(matrix: Matrix) -> None:
    ways = (
        *(os.O_RDONLY, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT, os.O_PATH),
        *(os.O_RDONLY | os.O_DIRECTORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_PATH | os.O_NOFOLLOW),
        *(os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, os.O_WRONLY | os.O_CREAT | os.O_DIRECTORY, 3),
    )
    for path in EVERYTHING:
        for user in _USERS:
            for flags in ways:
                if _can_be_opened(path, flags):
                    matrix.call(_open, path, flags, user=user, looks=flags in (os.O_RDONLY, os.O_PATH))


# --- set-id bits


@pytest.mark.parametrize("how", ["write", "ftruncate", "O_TRUNC", "truncate", "write nothing", "O_APPEND"])
def test_set_id_bits_after_writing(how: str, matrix: Matrix) -> None:
    for path, mode, user in itertools.product(
        ("file", "set-id-all", "foreign"), (0o6777, 0o4666, 0o2676, 0o6666, 0o7767), (ROOT, OWNER, MEMBER, OTHER)
    ):
        if user != ROOT and mode & 0o2010 == 0o2000 and (path == "foreign" or user == OTHER):
            continue  # set-group-id without execution stays on a mount: see docs/consistency.md
        matrix.call(_written, path, mode, how, user, user=user)


def _written(path: str, mode: int, how: str, user: User) -> int:
    os.seteuid(0)
    os.chmod(path, mode)
    os.seteuid(user.uid)
    if how == "truncate":
        os.truncate(path, 3)
    else:
        flags = {"O_TRUNC": os.O_TRUNC, "O_APPEND": os.O_APPEND}.get(how, 0)
        descriptor = os.open(path, os.O_WRONLY | flags)
        if how == "ftruncate":
            os.ftruncate(descriptor, 3)
        elif how != "O_TRUNC":
            os.write(descriptor, b"" if how == "write nothing" else b"x")
        os.close(descriptor)
    return os.stat(path).st_mode


# --- calls on descriptors

_RANGES = ((0, 10), (5, 100), (-1, 5), (0, 0), (0, -1), (20, 5))
_ON_DESCRIPTORS: Final[tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...]] = (
    (os.read, (3,)),
    (os.pread, (3, 2)),
    (os.pread, (3, -1)),
    (os.pread, (3, 1 << 40)),
    (os.write, (b"x",)),
    (os.pwrite, (b"x", 3)),
    (os.pwrite, (b"x", -1)),
    (os.pwrite, (b"", 100)),
    *((os.ftruncate, (size,)) for size in (0, 5, 10, 5000, 1 << 40, -1)),
    (os.fsync, ()),
    (os.fdatasync, ()),
    (os.fchmod, (0o600,)),
    (os.fchown, (-1, 2000)),
    (os.fchown, (0, -1)),
    (os.utime, ()),
    (os.setxattr, ("user.a", b"1")),
    (twin_calls.listxattr, ()),
    (os.fchdir, ()),
    (os.fstatvfs, ()),
    *((os.posix_fallocate, given) for given in _RANGES),
    *(
        (os.lseek, (offset, whence))
        for offset in (0, 5, -1, -11, 1 << 40)
        for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, 9)
    ),
)


def _on_descriptor(path: str, flags: int, call: Callable[..., Any], arguments: tuple[Any, ...], user: User) -> Any:
    """Root opens the file, somebody makes the call."""
    os.seteuid(0)
    descriptor = os.open(path, flags)
    try:
        os.seteuid(user.uid)
        found = call(descriptor, *arguments)
        return found if call is not os.fstatvfs else found.f_namemax
    finally:
        os.seteuid(0)
        os.close(descriptor)


# Where the C library cannot do by writing what a mount leaves to it.
_NO_FALLBACK: Final = (("file", os.O_WRONLY), ("file", os.O_RDWR | os.O_APPEND))


def test_calls_on_descriptors(matrix: Matrix) -> None:
    files = [("file", way) for way in (*_ACCESS, os.O_RDWR | os.O_APPEND, os.O_PATH)]
    files += [("empty", os.O_RDONLY), ("empty", os.O_PATH), ("fifo", os.O_RDWR | os.O_NONBLOCK)]
    files += [
        ("to-file", os.O_PATH | os.O_NOFOLLOW),
        ("socket", os.O_PATH),
        ("fifo", os.O_RDONLY | os.O_NONBLOCK),
    ]
    for path, flags in files:
        for call, arguments in _ON_DESCRIPTORS:
            for user in (ROOT, OTHER):
                if path == "empty" and call is os.lseek:
                    continue  # positions in directories are a file system's own
                if call is os.posix_fallocate and (path, flags) in _NO_FALLBACK:
                    continue
                matrix.call(_on_descriptor, path, flags, call, arguments, user, user=user)


# --- what has no name any more


def _removed_directory(current: bool) -> dict[str, Any]:
    """What can be done in it."""
    descriptor = os.open("empty", os.O_RDONLY)
    if current:
        os.chdir("empty")
    os.rmdir("../empty" if current else "empty")
    inside: dict[str, Any] = {} if current else {"dir_fd": descriptor}
    old: dict[str, Any] = {} if current else {"src_dir_fd": descriptor}
    new: dict[str, Any] = {} if current else {"dst_dir_fd": descriptor}
    top = "../" if current else ""
    try:
        return {
            "listdir": _tried(os.listdir, descriptor),
            "links": os.fstat(descriptor).st_nlink,
            "stat": _tried(lambda: os.stat(".", **inside).st_nlink),
            "missing": _tried(os.stat, "x", **inside),
            "create": _tried(os.open, "x", os.O_CREAT | os.O_RDWR, **inside),
            "mkdir": _tried(os.mkdir, "x", **inside),
            "mknod": _tried(os.mknod, "x", **inside),
            "symlink": _tried(os.symlink, "x", "x", **inside),
            "link": _tried(os.link, f"{top}file", "x", **new),
            "rename": _tried(os.rename, f"{top}file", "x", **new),
            "rename a directory": _tried(os.rename, f"{top}full", "x", **new),
            "rename out": _tried(os.rename, "x", "y", **old),
            "unlink": _tried(os.unlink, "x", **inside),
            "rmdir": _tried(os.rmdir, "x", **inside),
            "rmdir .": _tried(os.rmdir, ".", **inside),
            "open": _tried(lambda: os.close(os.open(".", os.O_RDONLY, **inside))),
            "fsync": _tried(os.fsync, descriptor),
            "fchmod": _tried(os.fchmod, descriptor, 0o700),
            "fchown": _tried(os.fchown, descriptor, 5, 6),
            "utime": _tried(os.utime, descriptor, ns=(1, 2)),
            "then": [*os.fstat(descriptor)[:1], *os.fstat(descriptor)[3:6], os.fstat(descriptor).st_mtime_ns],
            "getxattr": _tried(os.getxattr, descriptor, "user.a"),
            "setxattr": _tried(os.setxattr, descriptor, "user.b", b"b"),
            "getxattr of it": _tried(os.getxattr, descriptor, "user.b"),
            "removexattr": _tried(os.removexattr, descriptor, "user.a"),
            "listxattr": _tried(twin_calls.listxattr, descriptor),
            "statvfs": _tried(lambda: os.fstatvfs(descriptor).f_namemax),
            "access": _tried(os.access, ".", os.W_OK, **inside),
            "fchdir": _tried(os.fchdir, descriptor),
        }
    finally:
        os.close(descriptor)


def _removed_file(path: str, flags: int, replaced: bool) -> dict[str, Any]:
    """What can be done with it."""
    descriptor = os.open(path, flags)
    own = f"/proc/self/fd/{descriptor}"
    if replaced:
        os.rename("read-only", path)
    else:
        os.unlink(path)
    try:
        return {
            "write": _tried(os.pwrite, descriptor, b"more", 100),
            "ftruncate": _tried(os.ftruncate, descriptor, 50),
            "read": _tried(os.pread, descriptor, 200, 0),
            "fchmod": _tried(os.fchmod, descriptor, 0o611),
            "fchown": _tried(os.fchown, descriptor, 5, 6),
            "utime": _tried(os.utime, descriptor, ns=(1, 2)),
            "status": _tried(lambda: twin_calls.attributes(os.fstat(descriptor)) | {"inode": 0}),
            "setxattr": _tried(os.setxattr, descriptor, "user.a", b"1"),
            "getxattr": _tried(os.getxattr, descriptor, "user.a"),
            "removexattr": _tried(os.removexattr, descriptor, "user.a"),
            "listxattr": _tried(twin_calls.listxattr, descriptor),
            "link": _tried(twin_calls.linkat, own, "new", True),
            # Nobody tells a mount what is open with O_PATH, so that such a file is gone.
            "open": flags & os.O_PATH or _tried(lambda: os.close(os.open(own, os.O_RDONLY))),
            "chmod": _tried(os.chmod, own, 0o644),
            "readlink": _tried(os.readlink, "", dir_fd=descriptor),
            "fsync": _tried(os.fsync, descriptor),
            "statvfs": _tried(lambda: os.fstatvfs(descriptor).f_namemax),
            "links": os.fstat(descriptor).st_nlink,
        }
    finally:
        os.close(descriptor)


def test_what_has_no_name_any_more(matrix: Matrix) -> None:
    for current in (False, True):
        matrix.call(_removed_directory, current)
    for path in ("file", "twin-1", "to-file", "fifo", "socket", "closed", LONGEST):
        for replaced in (False, True):
            matrix.call(_removed_file, path, os.O_PATH | os.O_NOFOLLOW, replaced)
            if path in ("file", "twin-1", "closed", LONGEST):
                for access in _ACCESS:
                    matrix.call(_removed_file, path, access, replaced)


# --- sockets and programs


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def _connect_to(path: str, user: User) -> None:
    """To somebody who listens; by root, and of group 2000."""
    os.seteuid(0)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        os.chmod(path, 0o660)
        os.chown(path, 0, 2000)
        os.seteuid(user.uid)
        client.connect(path)


def test_sockets(matrix: Matrix) -> None:
    for path in EVERYTHING:
        if 0 < len(path) < 100:  # a socket's path has at most 107 bytes, and without any it gets a name elsewhere
            for user in _USERS:
                matrix.call(_bind, path, user=user)
                matrix.call(_connect, path, user=user, looks=True)
    for path in ("new", "group/new", "sticky/new", "blind/new"):
        for user in _USERS:
            matrix.call(_connect_to, path, user, user=user)


def _write_to_a_running_program() -> list[Any]:
    shutil.copyfile(shutil.which("sleep") or "/bin/sleep", "new")
    os.chmod("new", 0o755)
    with subprocess.Popen(["./new", "60"]) as running:
        found = [_tried(os.open, "new", flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC)]
        found.append(_tried(os.truncate, "new", 0))
        found.append(_tried(os.rename, "new", "empty/new"))
        running.kill()
    descriptor = os.open("empty/new", os.O_WRONLY)
    found.append(_tried(subprocess.call, ["empty/new", "0"]))
    os.close(descriptor)
    found.append(_tried(subprocess.call, ["empty/new", "0"]))
    os.chmod("empty/new", 0o644)
    found.append(_tried(subprocess.call, ["empty/new", "0"]))
    return found


def test_a_running_program_is_not_written(matrix: Matrix) -> None:
    matrix.call(_write_to_a_running_program)


# --- on a mount only


def test_a_mount_point_is_busy(both: Both, file_system: Any) -> None:
    mountdir = file_system.mounts[0]
    found = [
        _tried(os.rmdir, mountdir),
        _tried(os.rmdir, f"{mountdir}/."),
        _tried(os.rename, mountdir, f"{mountdir}-new"),
        _tried(os.rename, both.mounted, both.local / "new"),
        _tried(os.unlink, mountdir),
    ]
    assert [failure.name for failure in found] == ["EBUSY", "EINVAL", "EBUSY", "EXDEV", "EISDIR"]


def test_the_largest_file(both: Both) -> None:
    path = both.mounted / "file"
    path.touch()
    os.truncate(path, FILE_SIZE_MAX_BYTES)
    assert path.stat().st_size == FILE_SIZE_MAX_BYTES == 1 << 52
    with fails(errno.EFBIG):
        os.truncate(path, FILE_SIZE_MAX_BYTES + 1)
    with opened(path, os.O_RDWR) as file:
        with fails(errno.EFBIG):
            os.pwrite(file, b"x", FILE_SIZE_MAX_BYTES)
        assert os.pwrite(file, b"x", FILE_SIZE_MAX_BYTES - 1) == 1
        assert os.pread(file, 2, FILE_SIZE_MAX_BYTES - 1) == b"x"
    os.truncate(path, 0)
    assert path.stat().st_size == 0


def test_a_mount_has_no_files_without_name(both: Both) -> None:
    with fails(errno.EOPNOTSUPP):
        os.open(both.mounted, os.O_TMPFILE | os.O_RDWR)
