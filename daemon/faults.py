"""What can be wrong with a file system, and what mends it. Pure; `inspection` finds it, docs/cli.md explains it.

A repair is safe: it loses no byte that a name leads to, and it is refused when what it is based on has changed.
"""

from enum import StrEnum
from typing import NamedTuple

from gkfs import paths


class Kind(StrEnum):
    """Kinds of faults."""

    GARBLED = "garbled"  # a key of no table, or a value that is no record
    OWNER = "owner"  # a record on a daemon that nobody asks for it
    PARENT = "parent"  # a directory with something in it is missing, or is none
    TYPE = "type"
    FID = "fid"
    DUPLICATE = "duplicate"  # a fid in two records
    LINKS = "links"  # a wrong link count
    DANGLING = "dangling"  # a link without inode record
    UNLINKED = "unlinked"  # an inode record without link
    TARGET = "target"
    SIZE = "size"
    DEVICE = "device"
    PLACEMENT = "placement"
    BEYOND = "beyond"  # data after the end of the file
    GARBAGE = "garbage"  # chunks of no file
    MISPLACED = "misplaced"  # a chunk on a daemon that nobody asks for it
    OVERLONG = "overlong"
    UNINDEXED = "unindexed"  # a chunk file that the index does not know
    CHECKSUM = "checksum"  # a chunk that is not what was written
    FOREIGN = "foreign"  # a file among the chunks that is none
    HOLDER = "holder"
    SEALED = "sealed"  # a directory that was removed and is there
    COUNTER = "counter"
    UNFINISHED = "unfinished"  # work over several daemons that has not ended


class Change(NamedTuple):
    """Set a key of one daemon's store from *old* to *new*; None stands for its absence."""

    daemon: int
    key: bytes
    old: bytes | None
    new: bytes | None


class CutFile(NamedTuple):
    """Remove all chunks of a file on one daemon."""

    daemon: int
    fid: int


class MakeDirectory(NamedTuple):
    """Make a directory that should be there, unless it is."""

    path: bytes


Repair = Change | CutFile | MakeDirectory


class Fault(NamedTuple):
    """One fault. *fid* or *path* is what must be looked at closely; *repairs*, in this order, mend it."""

    kind: Kind
    where: str
    daemon: int
    facts: str
    fid: int = 0
    repairs: tuple[Repair, ...] = ()
    path: bytes = b""

    @property
    def identity(self) -> tuple[str, str, int]:
        """What stays the same when the same fault is found again."""
        # Of two kinds a first look does not know the daemon.
        return self.kind, self.where, -1 if self.kind in (Kind.BEYOND, Kind.DUPLICATE) else self.daemon

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}, daemon {self.daemon}: {self.facts}"


class Summary(NamedTuple):
    """What was looked at."""

    records: int = 0  # all: of paths, of files with several names, of files without a name
    files: int = 0  # names of anything but directories
    directories: int = 0
    links: int = 0  # names of files with several
    orphans: int = 0
    chunks: int = 0
    chunk_bytes: int = 0
    verified: int = 0  # chunks whose checksums were held against the disk


def key_name(key: bytes) -> str:
    """How a key is called in messages: the path whose key it is, or its bytes."""
    if key == paths.key(paths.ROOT) or (key[:1] == paths.ROOT and b"\0" in key):
        return paths.printable(paths.path_of_key(key))
    if paths.is_address(key):
        return paths.printable(key)
    return f"key {key.hex()}"


def file_name(fid: int) -> str:
    """How a file without a path is called in messages."""
    return f"file {fid:x}"
