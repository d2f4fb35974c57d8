"""What daemons say when a file system keeps two copies (`--replicas 2`); see docs/replication.md.

A *shard* is what one index of the hostfile stands for: its records and its chunks. The process that was started as
daemon I has shard I at first; any process may have several, and copies of others. All numbers of processes are
indexes of the hostfile, too.
"""

from typing import Final, NamedTuple

from gkfs.messages import Buffer

NOBODY: Final = 0xFFFF  # in the place of a process


class View(NamedTuple):
    """Who answers for *shard*, who has its copy, and who decides between them if they cannot reach each other."""

    shard: int
    number: int  # from 1; whoever knows of a higher one knows better
    primary: int
    mirror: int  # or NOBODY
    witness: int  # or NOBODY

    @property
    def members(self) -> set[int]:
        return {self.primary, self.mirror, self.witness} - {NOBODY}


class CopyBeginRequest(NamedTuple):
    """Begin an empty copy of *shard*, in place of any that is there."""

    process: int  # that is asked: another one may answer under its address
    shard: int
    boot_epoch: int  # of the shard's superblock
    power_epoch: int  # likewise: which checksums nobody may rely on


class CopyRecordsRequest(NamedTuple):
    """Changes of the store; all up to one that is *last* happen at once, or not at all."""

    shard: int
    seq: int  # counts these requests from 1
    last: bool
    data: Buffer  # msgpack: key, value or None, key, ...


class CopyChunkRequest(NamedTuple):
    """What was written to a chunk."""

    shard: int
    fid: int
    chunk: int
    offset: int
    data: Buffer


class CopyCutRequest(NamedTuple):
    """The file was cut to *size* bytes."""

    shard: int
    fid: int
    size: int


class CopyReadRequest(NamedTuple):
    """What does the copy have of a chunk, where the original is damaged?"""

    shard: int
    fid: int
    chunk: int
    offset: int
    length: int


class CopyReadReply(NamedTuple):
    data: Buffer  # shorter than asked where the chunk ends or is missing


class CopyDoneRequest(NamedTuple):
    """The copy has everything the original had when it began, and all changes since."""

    shard: int


class CopyPingRequest(NamedTuple):
    """The primary is there."""

    shard: int


class ViewVoteRequest(NamedTuple):
    """May the shard have the view *wanted*, now that it has *base*? Each: number, primary, mirror, witness."""

    process: int  # that is asked: another one may answer under its address
    shard: int
    base: list[int]
    wanted: list[int]


class ViewVoteReply(NamedTuple):
    """*known*: the newest view that is decided, as far as this process knows."""

    granted: bool
    known: list[int]


class ViewNewsRequest(NamedTuple):
    """A view was decided; the rest is the hostfile's line of the shard."""

    shard: int
    view: list[int]
    host: str
    tcp: str
    unix: str


class LocateRequest(NamedTuple):
    """Where is *daemon* now? Clients ask, too, whose own hostfile may be out of date."""

    daemon: int


class LocateReply(NamedTuple):
    """What the daemon's hostfile says of it."""

    host: str
    tcp: str
    unix: str
