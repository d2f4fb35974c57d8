r"""Paths of the namespace: absolute, canonical byte strings. Pure.

The root is ``b"/"``; everything else is ``b"/a/b"``: no empty, ``.`` or ``..`` component, no trailing
slash, any byte but NUL and ``/`` in a name.

A record's key is ``parent + NUL + name``, so that the children of one directory lie together:

>>> key(b"/a/b")
b'/a\x00b'
>>> key(b"/")
b'\x00'

The children of ``/a`` are the keys in ``[b"/a\0", b"/a\1")``; everything deeper is in ``[b"/a/", b"/a0")``,
``0`` being the byte after ``/``. No name holds a NUL and no path but the root's parent is empty, so keys
are unique and sort between ``\0`` and ``/``-strings; first bytes 0x01-0x1f are free for other tables.

A file with several names has its record under none of them but under its *inode address*, the byte 0x09 and
the fid in 16 hexadecimal digits. An address is used like a path wherever a record is meant, and is its own key.
"""

import errno

from gkfs.errors import os_error
from gkfs.limits import KEY_PATH_MAX_BYTES, NAME_MAX_BYTES

ROOT: bytes = b"/"
_SLASH = ROOT[0]
_ADDRESS_MARK = b"\x09"


def join(parent: bytes, name: bytes) -> bytes:
    """The path of *name* in the directory *parent*."""
    return parent + name if parent == ROOT else parent + b"/" + name


def split(path: bytes) -> tuple[bytes, bytes]:
    """(parent, name) of a path; the root is (b"", b"")."""
    if path == ROOT:
        return b"", b""
    parent, _, name = path.rpartition(b"/")
    return parent or ROOT, name


def key(path: bytes) -> bytes:
    """The metadata key of *path*, or of an inode address."""
    if path == ROOT:
        return b"\0"
    parent, _, name = path.rpartition(b"/")
    if parent:
        return parent + b"\0" + name
    return ROOT + b"\0" + name if path[0] == _SLASH else path


def inode_address(fid: int) -> bytes:
    """Where the record of the file *fid* is once it has several names."""
    return b"%s%016x" % (_ADDRESS_MARK, fid)


def is_address(path: bytes) -> bool:
    """Whether *path* is an inode address."""
    return path[:1] == _ADDRESS_MARK


def path_of_key(record_key: bytes) -> bytes:
    """The inverse of `key`."""
    parent, _, name = record_key.partition(b"\0")
    return join(parent, name) if parent else ROOT


def children_range(directory: bytes) -> tuple[bytes, bytes]:
    """Keys [first, end) of the direct children of *directory*."""
    return directory + b"\0", directory + b"\1"


def deeper_range(directory: bytes) -> tuple[bytes, bytes]:
    """Keys [first, end) of all that lies deeper than the direct children of *directory*."""
    if directory == ROOT:
        return b"/\1", b"0"  # after the direct children, up to the last key that starts with a slash
    return directory + b"/", directory + b"0"


def is_below(path: bytes, directory: bytes) -> bool:
    """Whether *path* lies in the subtree of *directory*, the directory itself not included."""
    return path != ROOT and (directory == ROOT or path.startswith(directory + b"/"))


def is_within(path: bytes, directory: bytes) -> bool:
    """Whether *path* is *directory* or lies below it."""
    return path == directory or is_below(path, directory)


def rebase(path: bytes, source: bytes, target: bytes) -> bytes:
    """*path*, which is *source* or lies below it, as it is called once *source* has become *target*."""
    return target + path[len(source) :]


def check_name(name: bytes) -> None:
    """Raise OSError unless *name* can name a directory entry: ENAMETOOLONG above 255 bytes, else EINVAL."""
    if len(name) > NAME_MAX_BYTES:
        raise os_error(errno.ENAMETOOLONG, f"name of {len(name)} bytes, at most {NAME_MAX_BYTES} allowed")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise os_error(errno.EINVAL, f"{name!r} is not a name")


def check_path(path: bytes) -> None:
    """Raise OSError unless *path* is canonical: the form in which paths travel.

    ENAMETOOLONG for a component above 255 or a path above `KEY_PATH_MAX_BYTES`, EINVAL for any other fault.
    """
    if len(path) > KEY_PATH_MAX_BYTES:
        raise os_error(errno.ENAMETOOLONG, f"path of {len(path)} bytes, at most {KEY_PATH_MAX_BYTES} allowed")
    if path == ROOT:
        return
    if not path.startswith(b"/") or b"\0" in path:
        raise os_error(errno.EINVAL, f"{path[:80]!r} is not a path of the namespace")
    for name in path[1:].split(b"/"):
        check_name(name)


def printable(path: bytes) -> str:
    """*path* for messages and logs; bytes that are not UTF-8 as escapes."""
    if is_address(path):
        return f"file {path[1:].lstrip(b'0').decode()}"
    return path.decode("utf-8", "backslashreplace")
