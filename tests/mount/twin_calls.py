"""The calls that are made on two trees: what `os` lacks, users to make them as, and how a call looks in a script.

Besides the functions of `os`, a call may be any of `FUNCTIONS`. Those that combine several calls do so because
only then something is promised, or to keep what they return comparable.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

# Times before it were set by a test, and must be the same; later ones are of the moment of a call.
EXPLICIT_BEFORE_NS: Final = 1_500_000_000 * 10**9
USUAL_UMASK: Final = 0o022
EXCHANGE: Final = 2
# Instead of a time, for `utimensat`.
NOW_NS: Final = -1
OMIT_NS: Final = -2

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_SYMLINK_FOLLOW: Final = 0x400
_UTIME: Final = {NOW_NS: (1 << 30) - 1, OMIT_NS: (1 << 30) - 2}
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Descriptor(NamedTuple):
    """Number of a file that was opened in both trees."""

    number: int


class Filling(NamedTuple):
    """Data to write: one letter, repeated."""

    letter: int
    length: int


class Failure(NamedTuple):
    """How a call failed."""

    name: str


class User(NamedTuple):
    """Who makes a call."""

    uid: int
    gid: int
    groups: tuple[int, ...]


ROOT: Final = User(0, 0, ())
# They share a group, which is the first one's second.
SOMEBODY: Final = User(1000, 1000, (1000, 2000))
SOMEBODY_ELSE: Final = User(2000, 2000, (2000,))


class Call(NamedTuple):
    """One call that was made in both trees, and what the local disk answered."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    node: int
    user: User
    umask: int
    result: Any


@contextmanager
def made_by(user: User, umask: int) -> Iterator[None]:
    """The block's calls are those of *user*, with this umask. For all threads of the process."""
    old_umask = os.umask(umask)
    try:
        if user == ROOT:
            yield
            return
        groups = os.getgroups()
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
        try:
            yield
        finally:
            os.seteuid(ROOT.uid)
            os.setegid(ROOT.gid)
            os.setgroups(groups)
    finally:
        os.umask(old_umask)


# --- attributes


def attributes(status: os.stat_result) -> dict[str, object]:
    """What must agree, and the inode number. The sizes of directories mean something else on every file system."""
    found: dict[str, object] = {"mode": stat.filemode(status.st_mode), "owner": (status.st_uid, status.st_gid)}
    found["links"] = status.st_nlink
    found["device"] = status.st_rdev
    found["mtime_ns"] = shown_time(status.st_mtime_ns)
    if not stat.S_ISDIR(status.st_mode):
        found["size"] = status.st_size
    found["inode"] = status.st_ino
    return found


def shown_time(time_ns: int) -> int | str:
    """A time that was set, or "now"."""
    return time_ns if time_ns < EXPLICIT_BEFORE_NS else "now"


def utimensat(path: str, atime_ns: int, mtime_ns: int, follow: bool) -> tuple[int | str | None, int | str]:
    """utimensat(2), with `NOW_NS` and `OMIT_NS`. The times then, but no atime that reading may have moved."""
    values: list[int] = []
    for time_ns in (atime_ns, mtime_ns):
        values += [0, _UTIME[time_ns]] if time_ns in _UTIME else divmod(time_ns, 10**9)
    times = (ctypes.c_long * 4)(*values)
    _checked(_libc.utimensat(_AT_FDCWD, os.fsencode(path), times, 0 if follow else _AT_SYMLINK_NOFOLLOW))
    found = os.stat(path, follow_symlinks=follow)
    return None if atime_ns == OMIT_NS else shown_time(found.st_atime_ns), shown_time(found.st_mtime_ns)


def futimens(descriptor: int, atime_ns: int, mtime_ns: int) -> tuple[int, int]:
    """futimens(3), and the times then."""
    os.utime(descriptor, ns=(atime_ns, mtime_ns))
    found = os.fstat(descriptor)
    return found.st_atime_ns, found.st_mtime_ns


def listxattr(file: str | int, follow_symlinks: bool = True) -> list[str]:
    """The names that all file systems have in common: not those of security modules."""
    names = os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=follow_symlinks)
    return sorted(name for name in names if name.startswith(("user.", "trusted.")))


# --- names


def listdir(path: str) -> list[tuple[str, str]]:
    """Names and types of the entries, as the listing itself shows them."""
    with os.scandir(path) as entries:
        return sorted((entry.name, _listed_type(entry)) for entry in entries)


def _listed_type(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def linkat(old: str, new: str, follow: bool) -> None:
    """linkat(2): `os.link` cannot follow symbolic links."""
    flags = _AT_SYMLINK_FOLLOW if follow else 0
    _checked(_libc.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


def link_descriptor(descriptor: int, new: str) -> None:
    """A new name for an open file, which may have none at all."""
    linkat(f"/proc/self/fd/{descriptor}", new, follow=True)


def renameat2(old: str, new: str, flags: int) -> None:
    """renameat2(2), which `os` does not have."""
    _checked(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags))


def access(path: str, mode: int) -> bool:
    """Whether whoever makes the call may; not the real user, who is root always."""
    return os.access(path, mode, effective_ids=True)


# --- contents


def write_file(path: str, flags: int, data: bytes) -> int:
    """Open, write, close."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


def read_file(path: str) -> bytes:
    """All of it."""
    return _read_all(path)


def read_again(descriptor: int) -> bytes:
    """All of an open file, through an open of its own, so that the kernel does not answer from memory."""
    return _read_all(f"/proc/self/fd/{descriptor}")


def _read_all(path: str) -> bytes:
    with open(path, "rb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        return file.readall()


def write_and_sync(descriptor: int, data: bytes) -> int:
    """From when on other nodes see it."""
    written = os.write(descriptor, data)
    os.fsync(descriptor)
    return written


def pwrite_and_sync(descriptor: int, data: bytes, offset: int) -> int:
    """From when on other nodes see it."""
    written = os.pwrite(descriptor, data, offset)
    os.fsync(descriptor)
    return written


def _checked(answer: int) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_OWN: Final[tuple[Callable[..., Any], ...]] = (
    access,
    futimens,
    link_descriptor,
    linkat,
    listdir,
    listxattr,
    pwrite_and_sync,
    read_again,
    read_file,
    renameat2,
    utimensat,
    write_and_sync,
    write_file,
)
FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {function.__name__: function for function in _OWN} | {
    "open": lambda path, flags, mode: os.open(path, flags | os.O_NONBLOCK, mode),  # a fifo's open would wait
    "stat": lambda path: attributes(os.stat(path)),
    "lstat": lambda path: attributes(os.lstat(path)),
    "fstat": lambda descriptor: attributes(os.fstat(descriptor)),
    "symlink": lambda target, path: os.symlink(os.fsdecode(target), path),
    "statvfs": lambda path: os.statvfs(path).f_namemax,
}


def made(function: Callable[..., Any], arguments: list[Any], options: dict[str, Any]) -> Any:
    """What a call returns, or how it fails."""
    try:
        return function(*arguments, **options)
    except OSError as error:
        return Failure(errno.errorcode.get(error.errno or 0, str(error)))


# --- in a script


def line(call: Call) -> str:
    """*call* as a line of Python."""
    shown = [_argument(call.name, position, argument) for position, argument in enumerate(call.arguments)]
    shown += [f"{option}={value!r}" for option, value in call.options.items()]
    module = "os" if hasattr(os, call.name) else "twin_calls"
    result = f"{module}.{call.name}({', '.join(shown)})"
    if isinstance(call.result, Descriptor):
        result = f"fd{call.result.number} = {result}"
    remarks = []
    if isinstance(call.result, Failure):
        result = f"with suppress(OSError): {result}"
        remarks.append(call.result.name)
    if call.node:
        remarks.append(f"on node {call.node}")
    if call.user != ROOT:
        remarks.append(f"as user {call.user.uid} of groups {(call.user.gid, *call.user.groups)}")
    if call.umask != USUAL_UMASK:
        remarks.append(f"umask {call.umask:03o}")
    return f"{result}  # {', '.join(remarks)}" if remarks else result


def _argument(name: str, position: int, argument: Any) -> str:
    match argument:
        case Descriptor():
            return f"fd{argument.number}"
        case Filling():
            return f"{bytes([argument.letter])!r} * {argument.length}"
        case int() if name in ("open", "write_file") and position == 1:
            return " | ".join(
                [_ACCESS[argument & os.O_ACCMODE], *(flag for flag in _FLAGS if argument & _FLAGS[flag])]
            )
        case int() if (name, position) in _OCTAL:
            return oct(argument)
    return repr(argument)


_OCTAL: Final = {("open", 2), ("mkdir", 1), ("chmod", 1), ("fchmod", 1), ("mknod", 1)}
_ACCESS: Final = ("os.O_RDONLY", "os.O_WRONLY", "os.O_RDWR")
_FLAGS: Final = {
    "os.O_CREAT": os.O_CREAT,
    "os.O_EXCL": os.O_EXCL,
    "os.O_TRUNC": os.O_TRUNC,
    "os.O_APPEND": os.O_APPEND,
    "os.O_NOFOLLOW": os.O_NOFOLLOW,
    "os.O_DIRECTORY": os.O_DIRECTORY,
}


def shown_result(result: Any) -> str:
    """A result, cut where it is long."""
    if isinstance(result, bytes) and len(result) > 80:
        return f"{len(result)} bytes, {result[:40]!r}...{result[-40:]!r}"
    return repr(result)
