"""What one key and one record must look like, whatever else is there. Pure."""

import stat
from collections.abc import Iterator
from typing import Final

from gkfs import paths
from gkfs.daemon.faults import Kind
from gkfs.limits import FILE_SIZE_MAX_BYTES, NAME_MAX_BYTES, SYMLINK_TARGET_MAX_BYTES
from gkfs.metadentry import FLAG_INLINE, FLAG_LINK, FLAG_SPARSE, PLACEMENT_HEAD, ROOT_FID, Metadentry

_TYPES: Final = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
)
_DEVICES: Final = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_FLAGS: Final = FLAG_LINK | FLAG_SPARSE | FLAG_INLINE


def bad_key(key: bytes) -> str:
    """Why *key* is no key of a path; empty when it is. That its directory is there is another question."""
    if key == b"\0":
        return ""
    _, zero, name = key.partition(b"\0")
    if not zero or not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        return "the key is of no path"
    if len(name) > NAME_MAX_BYTES:
        return f"a name of {len(name)} bytes"
    return ""


def bad_record(path: bytes, entry: Metadentry, daemon_count: int) -> Iterator[tuple[Kind, str]]:
    """What is wrong with the record of *path*, or of an inode address."""
    kind = stat.S_IFMT(entry.mode)
    if kind not in _TYPES:
        yield Kind.TYPE, f"mode {entry.mode:o} has no file type"
    elif kind == stat.S_IFDIR and (entry.is_link or paths.is_address(path)):
        yield Kind.TYPE, "a directory with several names"
    elif path == paths.ROOT and kind != stat.S_IFDIR:
        yield Kind.TYPE, f"mode {entry.mode:o}, the root is a directory"
    if not entry.fid or (entry.fid == ROOT_FID) != (path == paths.ROOT):
        yield Kind.FID, f"fid {entry.fid:x}"
    if entry.flags & ~_FLAGS or (entry.is_link and paths.is_address(path)):
        yield Kind.TYPE, f"flags {entry.flags:#x}"
    if entry.is_link:
        if entry != entry.link():
            yield Kind.TYPE, "a link that says more than type and fid"
        return
    head = entry.placement >= PLACEMENT_HEAD
    daemon = entry.placement - (PLACEMENT_HEAD if head else 1)
    if daemon >= daemon_count:
        yield Kind.PLACEMENT, f"{'the first chunk' if head else 'all chunks'} on daemon {daemon} of {daemon_count}"
    if entry.rdev and kind not in _DEVICES:
        yield Kind.DEVICE, f"device number {entry.rdev:#x}, mode {entry.mode:o}"
    if kind in _TYPES:
        yield from _bad_size(kind, entry)


def _bad_size(kind: int, entry: Metadentry) -> Iterator[tuple[Kind, str]]:
    if entry.is_inline and kind != stat.S_IFREG:
        yield Kind.TYPE, f"flags {entry.flags:#x}, mode {entry.mode:o}"
    elif len(entry.data) != (entry.size if entry.is_inline else 0):
        yield Kind.SIZE, f"{len(entry.data)} bytes of data in the record, size {entry.size}"
    if kind == stat.S_IFLNK:
        if len(entry.target) != entry.size or not 0 < entry.size <= SYMLINK_TARGET_MAX_BYTES:
            yield Kind.TARGET, f"a target of {len(entry.target)} bytes, size {entry.size}"
        return
    if entry.target:
        yield Kind.TARGET, f"a target of {len(entry.target)} bytes, mode {entry.mode:o}"
    if entry.size > (FILE_SIZE_MAX_BYTES if kind == stat.S_IFREG else 0):
        yield Kind.SIZE, f"{entry.size} bytes, mode {entry.mode:o}"
