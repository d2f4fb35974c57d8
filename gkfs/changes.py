"""What requests make of a record: attributes and extended attributes. Pure.

The daemon applies them to what it stores, the client to what it remembers of a removed entry that is still open.
"""

import errno
import stat
from typing import Any, Final

from gkfs.errors import os_error
from gkfs.limits import XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX_BYTES
from gkfs.messages import (
    DROP_SET_ID,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    RemovexattrRequest,
    SetattrRequest,
    SetxattrRequest,
)
from gkfs.metadentry import Metadentry, Xattrs, without_set_id

_SET_ALL: Final = DROP_SET_ID | SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_MTIME
_XATTR_OVERHEAD_BYTES: Final = 8  # of each, in the record


def with_written(
    entry: Metadentry, end: int, mtime_ns: int, *, unprivileged: bool = False, **more: Any
) -> Metadentry:
    """*entry* after data were written up to *end* at *mtime_ns*; *unprivileged*: not by root. *more*: fields."""
    return entry.changed(
        size=max(entry.size, end),
        mtime_ns=max(entry.mtime_ns, mtime_ns),
        ctime_ns=max(entry.ctime_ns, mtime_ns),
        mode=without_set_id(entry.mode) if unprivileged else entry.mode,
        **more,
    )


def with_attributes(entry: Metadentry, request: SetattrRequest) -> Metadentry:
    """*entry* after a SETATTR. Raises OSError (EINVAL)."""
    which = request.which
    if which & ~_SET_ALL:
        raise os_error(errno.EINVAL, f"file {entry.fid:x}: attributes {which:#x}")
    mode = entry.mode
    if which & (SET_UID | SET_GID | DROP_SET_ID):
        mode = without_set_id(mode)
    if which & SET_MODE:
        mode = stat.S_IFMT(mode) | stat.S_IMODE(request.mode)
    return entry.changed(
        mode=mode,
        uid=request.uid if which & SET_UID else entry.uid,
        gid=request.gid if which & SET_GID else entry.gid,
        atime_ns=request.atime_ns if which & SET_ATIME else entry.atime_ns,
        mtime_ns=request.mtime_ns if which & SET_MTIME else entry.mtime_ns,
        ctime_ns=request.now_ns,
    )


def with_xattr(entry: Metadentry, request: SetxattrRequest) -> Metadentry:
    """*entry* after a SETXATTR. Raises OSError: EINVAL, ENOSPC above `XATTRS_MAX_BYTES` together."""
    xattrs = (*_others(entry.xattrs, request.name), (request.name, request.value))
    check_xattrs(entry.fid, xattrs)
    return entry.changed(xattrs=xattrs, ctime_ns=request.now_ns)


def check_xattrs(fid: int, xattrs: Xattrs) -> None:
    """Raise OSError unless the file *fid* may have these: EINVAL, ENOSPC above `XATTRS_MAX_BYTES` together."""
    size_bytes = 0
    for name, value in xattrs:
        if not 0 < len(name) <= XATTR_NAME_MAX_BYTES or len(value) > XATTR_VALUE_MAX_BYTES or b"\0" in name:
            raise os_error(errno.EINVAL, f"attribute {name[:40]!r}, {len(name)} bytes, of {len(value)} bytes")
        size_bytes += len(name) + len(value) + _XATTR_OVERHEAD_BYTES
    if size_bytes > XATTRS_MAX_BYTES:
        raise os_error(
            errno.ENOSPC,
            f"file {fid:x}: {size_bytes} bytes of extended attributes, at most {XATTRS_MAX_BYTES} allowed",
        )


def without_xattr(entry: Metadentry, request: RemovexattrRequest) -> Metadentry:
    """*entry* after a REMOVEXATTR. Raises OSError (ENODATA)."""
    xattrs = _others(entry.xattrs, request.name)
    if len(xattrs) == len(entry.xattrs):
        raise os_error(errno.ENODATA, f"file {entry.fid:x}: {request.name!r}")
    return entry.changed(xattrs=xattrs, ctime_ns=request.now_ns)


def _others(xattrs: Xattrs, name: bytes) -> Xattrs:
    return tuple(pair for pair in xattrs if pair[0] != name)
