"""What is kept of an entry wherever it is moved to, and the walk over all records of a tree at one daemon."""

import os
import stat
from typing import Any, Final, NamedTuple, Self

from gkfs import metadentry, paths
from gkfs.bulk_messages import ScanReply, ScanRequest
from gkfs.channel import Call
from gkfs.client.pool import Pool
from gkfs.metadentry import Metadentry, Xattrs
from gkfs.operations import SCAN

_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)


class Attributes(NamedTuple):
    """All of an entry but its name and data. Times in ns since the epoch, *mode* with the file type."""

    mode: int
    uid: int
    gid: int
    rdev: int
    size: int  # of a regular file, bytes
    atime_ns: int
    mtime_ns: int
    target: bytes = b""  # of a symlink
    xattrs: Xattrs = ()
    sparse: bool = False

    @classmethod
    def of_stat(cls, found: os.stat_result, target: bytes = b"", xattrs: Xattrs = ()) -> Self:
        """Those of a file of another file system."""
        times = found.st_atime_ns, found.st_mtime_ns
        return cls(found.st_mode, found.st_uid, found.st_gid, found.st_rdev, found.st_size, *times, target, xattrs)

    def is_as(self, other: "Attributes") -> bool:
        """Whether a copy with *other* is complete, judging as rsync does: by type, size and time."""
        return (
            stat.S_IFMT(self.mode) == stat.S_IFMT(other.mode)
            and self.mtime_ns == other.mtime_ns
            and (self.size == other.size or not stat.S_ISREG(self.mode))
            and (self.rdev == other.rdev or stat.S_IFMT(self.mode) not in _DEVICES)
            and self.target == other.target
        )

    def is_owned_as(self, other: "Attributes") -> bool:
        """Whether permissions, owner and extended attributes are those of *other*."""
        return (self.mode, self.uid, self.gid, sorted(self.xattrs)) == (
            other.mode,
            other.uid,
            other.gid,
            sorted(other.xattrs),
        )

    @classmethod
    def of_entry(cls, entry: Metadentry) -> Self:
        """Those of a record."""
        sparse = bool(entry.flags & metadentry.FLAG_SPARSE)
        times = entry.atime_ns, entry.mtime_ns
        return cls(
            entry.mode,
            entry.uid,
            entry.gid,
            entry.rdev,
            entry.size,
            *times,
            entry.target,
            entry.xattrs,
            sparse,
        )


def from_fields(fields: list[Any]) -> Attributes:
    """Attributes that travelled as a list."""
    what = Attributes(*fields)
    return what._replace(xattrs=tuple((name, value) for name, value in what.xattrs))


class Scan:
    """Pages of (path, record); the next one is asked for while the last one is being worked on."""

    def __init__(self, pool: Pool, daemon: int, directory: bytes) -> None:
        self._pool = pool
        self._daemon = daemon
        self._directory = directory
        self._next: Call[ScanReply] | None = self._ask(b"")

    async def page(self) -> list[tuple[bytes, bytes]]:
        """The next page: direct children of the directory before all that is deeper; empty at the end."""
        if self._next is None:
            return []
        reply = await self._next
        self._next = self._ask(reply.keys[-1]) if reply.more and reply.keys else None
        return [(paths.path_of_key(key), record) for key, record in zip(reply.keys, reply.records, strict=True)]

    def _ask(self, after: bytes) -> Call[ScanReply]:
        return self._pool.call(self._daemon, SCAN, ScanRequest(self._directory, after))
