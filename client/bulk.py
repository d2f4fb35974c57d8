"""A client without a mount: whole trees are moved by talking to the daemons directly.

    bulk.run(hostfile, work)        work(bulk) is a coroutine on the pump, see `gkfs.client.pump`

Calls that are queued in one round of the pump leave together, so that what matters is how many are in flight:
start many coroutines (`Crowd`), and have each await its own replies. What blocks goes into `threads`.

To all others this is one more client: entries it makes show at once, times and link counts of their directories
once `touch_all` has returned, and a large file that is being written is held (`holding`) as an open one is.
"""

import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import mmh3
import outcome
import trio

from gkfs import chunks, hostfile, metadentry, paths
from gkfs.bulk_messages import ChecksumRequest, PutReply, PutRequest
from gkfs.channel import Call
from gkfs.client.crowd import Crowd, Threads
from gkfs.client.pool import Pool
from gkfs.client.pump import Pump
from gkfs.client.scan import Attributes, Scan
from gkfs.distributor import Distributor
from gkfs.errors import first_of, os_error
from gkfs.hostfile import Hostfile
from gkfs.limits import (
    CHECKSUMS_MAX,
    CHUNK_SIZE_BYTES,
    HOLD_FILES,
    HOLD_RENEW_S,
    MOVES_FOLLOWED,
    REQUEST_TIMEOUT_S,
)
from gkfs.messages import (
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    Buffer,
    DetachRequest,
    ExtendRequest,
    HoldRequest,
    LinkRequest,
    LookupReply,
    LookupRequest,
    OutgrowReply,
    OutgrowRequest,
    ReadChunkReply,
    ReadChunkRequest,
    RecordReply,
    ReleaseRequest,
    RemovexattrRequest,
    SetattrRequest,
    SetxattrRequest,
    StatRequest,
    TouchRequest,
    TruncateRequest,
    UnlinkRequest,
    WriteChunkReply,
    WriteChunkRequest,
)
from gkfs.metadentry import Metadentry
from gkfs.operations import (
    CHECKSUM,
    DETACH,
    EXTEND,
    HOLD,
    LINK,
    LOOKUP,
    OUTGROW,
    PUT,
    READ_CHUNK,
    RELEASE,
    REMOVEXATTR,
    SETATTR,
    SETXATTR,
    STAT,
    TOUCH,
    TRUNCATE,
    UNLINK,
    WRITE_CHUNK,
    Operation,
    Q,
    R,
)

log = logging.getLogger(__name__)

T = TypeVar("T")
_GONE: Final = (errno.ENOENT, errno.ESTALE)
_THREADS: Final = 8  # calls of a slow file system at once
_SET_ALL: Final = SET_MODE | SET_UID | SET_GID | SET_ATIME | SET_MTIME


class Put(NamedTuple):
    """What became of `Bulk.put`."""

    fid: int
    existing: bytes  # record of what is there already, and was left as it is; b"": created


def run(
    path: Path, work: Callable[["Bulk"], Coroutine[Any, None, T]], *, timeout_s: float = REQUEST_TIMEOUT_S
) -> T:
    """Connect to all daemons of the hostfile *path* and do *work*. Raises GkfsError, and what *work* raises.

    HOSTFILE, UNREACHABLE or VERSION when there is no connection to all daemons.
    """
    hosts = hostfile.read_complete(path)

    async def main() -> outcome.Outcome[T]:
        bulk = Bulk(hosts, path, timeout_s)
        try:
            try:
                await bulk.pool.connect()
            except BaseExceptionGroup as group:
                raise first_of(group) from None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bulk.pool.maintain)
                nursery.start_soon(bulk.renew_holds)
                result = await outcome.acapture(bulk.pump.drive, work(bulk))  # outside of groups of exceptions
                nursery.cancel_scope.cancel()
        finally:
            bulk.close()
        return result

    return trio.run(main).unwrap()


class Bulk:
    """Calls to all daemons. Those that return a `Call` are queued at once; await it for the reply.

    All may raise OSError when awaited: what the operation's row in `gkfs.operations` says, ETIMEDOUT.
    """

    def __init__(self, hosts: Hostfile, path: Path, timeout_s: float) -> None:
        self.hosts = hosts
        self.pump = Pump()
        self.pool = Pool(self.pump, hosts, path, os.urandom(16), timeout_s)
        self.distributor = Distributor(hosts.daemon_count)
        self.threads = Threads(self.pump, _THREADS)
        self._touched: dict[bytes, tuple[int, int, int]] = {}  # path of a directory: fid, mtime_ns, subdirectories
        self._holding: dict[int, tuple[bytes, int]] = {}  # by fid: path, and how many blocks hold it
        self._held: set[int] = set()  # of *_holding*: the daemon was told

    def close(self) -> None:
        """Disconnect; calls still waiting fail."""
        self.threads.close()
        self.pool.close()
        self.pump.close()

    def crowd(self, limit: int) -> Crowd:
        """At most *limit* coroutines beside each other."""
        return Crowd(self.pump, limit)

    def about(self, path: bytes, operation: Operation[Q, R], request: Q) -> Call[R]:
        """Ask the owner of *path*, or of an inode address."""
        return self.pool.call(self.distributor.path_owner(path), operation, request)

    # --- entries

    def begin_put(self, path: bytes, parent_fid: int, what: Attributes, data: Buffer = b"") -> Call[PutReply]:
        """Create *path* with all of *what*, a file with its first chunk, unless something is there already.

        The caller notes it for the directory (see `note`).
        """
        kind = stat.S_IFMT(what.mode)
        regular = kind == stat.S_IFREG
        request = PutRequest(
            path,
            parent_fid,
            what.mode,
            what.uid,
            what.gid,
            what.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            what.size if regular else 0,
            what.sparse and regular,
            what.atime_ns,
            what.mtime_ns,
            time.time_ns(),
            what.target,
            [part for pair in what.xattrs for part in pair],
            data,
        )
        return self.about(path, PUT, request)

    async def put(self, path: bytes, parent_fid: int, what: Attributes, data: Buffer = b"") -> Put:
        """As `begin_put`, noted for the directory's times and link count."""
        reply = await self.begin_put(path, parent_fid, what, data)
        if not reply.record:
            self.note(paths.split(path)[0], parent_fid, 1 if stat.S_ISDIR(what.mode) else 0)
        return Put(reply.fid, reply.record)

    def begin_lookup(self, path: bytes) -> Call[LookupReply]:
        """What stands under the name *path*, a link included; a directory's is leased like any client's."""
        return self.about(path, LOOKUP, LookupRequest(path))

    def place_of(self, path: bytes, entry: Metadentry) -> bytes:
        """Where the record of *entry*, which has the name *path*, is: there, or at its inode address."""
        return paths.inode_address(entry.fid) if entry.nlink > 1 and not entry.is_directory else path

    async def lookup(self, path: bytes) -> Metadentry:
        """The record of *path*, also of a file with several names. ENOENT when there is none."""
        for _ in range(MOVES_FOLLOWED):
            record = (await self.begin_lookup(path)).record
            if not metadentry.is_link_record(record):
                return metadentry.decode(record)
            entry = await self.linked(metadentry.fid_of(record))
            if entry is not None:
                return entry
        raise os_error(errno.ESTALE, f"{paths.printable(path)} changes all the time")

    async def linked(self, fid: int) -> Metadentry | None:
        """The record of a file with several names; None when its last name has just gone."""
        address = paths.inode_address(fid)
        try:
            return metadentry.decode((await self.about(address, STAT, StatRequest(address, fid))).record)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return None

    async def link(self, source: bytes, fid: int, path: bytes, parent_fid: int) -> None:
        """Give the file *fid*, one of whose names is *source*, the name *path*, too. EEXIST when it is taken."""
        await self.about(source, DETACH, DetachRequest(source, fid))
        address = paths.inode_address(fid)
        await self.about(address, LINK, LinkRequest(fid, path, parent_fid, time.time_ns()))
        self.note(paths.split(path)[0], parent_fid)

    async def unlink(self, path: bytes, parent_fid: int) -> None:
        """Remove a name that is not a directory's; parent_fid as for `note`."""
        await self.about(path, UNLINK, UnlinkRequest(path, 0, 0, time.time_ns()))
        self.note(paths.split(path)[0], parent_fid)

    def set_attributes(self, path: bytes, fid: int, what: Attributes) -> Call[RecordReply]:
        """Set mode, owner and times; *path* may be an inode address."""
        mode = stat.S_IMODE(what.mode)
        times = what.atime_ns, what.mtime_ns, time.time_ns()
        return self.about(path, SETATTR, SetattrRequest(path, fid, _SET_ALL, mode, what.uid, what.gid, *times))

    def set_xattr(self, path: bytes, fid: int, name: bytes, value: bytes) -> Call[RecordReply]:
        """Set one extended attribute."""
        return self.about(path, SETXATTR, SetxattrRequest(path, fid, name, value, time.time_ns()))

    def remove_xattr(self, path: bytes, fid: int, name: bytes) -> Call[RecordReply]:
        """Remove one extended attribute; ENODATA when there is none of that name."""
        return self.about(path, REMOVEXATTR, RemovexattrRequest(path, fid, name, time.time_ns()))

    # --- times and link counts of directories

    def note(self, directory: bytes, fid: int, subdirectories: int = 0) -> None:
        """An entry of *directory* came or went, of its directories so many; `touch_all` tells its owner."""
        _, _, before = self._touched.get(directory, (fid, 0, 0))
        self._touched[directory] = (fid, time.time_ns(), before + subdirectories)

    async def touch_all(self) -> None:
        """Tell the owners what was noted, and wait until they know."""
        noted, self._touched = self._touched, {}
        calls = [
            (path, self.about(path, TOUCH, TouchRequest(path, fid, mtime_ns, subdirectories)))
            for path, (fid, mtime_ns, subdirectories) in noted.items()
        ]
        for path, call in calls:
            try:
                await call
            except OSError as error:
                if error.errno not in _GONE:  # removed meanwhile: nothing left to touch
                    log.warning("times of directory %s: %s", paths.printable(path), error)

    # --- data

    def write(self, fid: int, placement: int, offset: int, data: Buffer) -> list[Call[WriteChunkReply]]:
        """Write *data*, which must stay unchanged until the last reply. The record does not learn of it."""
        view = memoryview(data)
        calls = []
        for piece in chunks.pieces(offset, len(data)):
            owner = self.distributor.chunk_owner(fid, piece.chunk, placement)
            part = view[piece.start : piece.start + piece.length]
            calls.append(
                self.pool.call(owner, WRITE_CHUNK, WriteChunkRequest(fid, piece.chunk, piece.offset, part))
            )
        return calls

    def read(self, fid: int, placement: int, chunk: int, length: int) -> Call[ReadChunkReply]:
        """The first *length* bytes of a chunk; shorter where it ends or is missing: the rest is a hole."""
        owner = self.distributor.chunk_owner(fid, chunk, placement)
        return self.pool.call(owner, READ_CHUNK, ReadChunkRequest(fid, chunk, 0, length))

    def extend(self, path: bytes, fid: int, size: int, *, sparse: bool) -> Call[RecordReply]:
        """The file has at least *size* bytes now; with *sparse* it may have holes."""
        return self.about(path, EXTEND, ExtendRequest(path, fid, size, time.time_ns(), sparse, False, True, True))

    def truncate(self, path: bytes, fid: int, size: int) -> Call[RecordReply]:
        """Set the size; no byte beyond is in any chunk when it returns."""
        return self.about(path, TRUNCATE, TruncateRequest(path, fid, size, 0, time.time_ns()))

    async def digests(self, items: Sequence[tuple[int, int, int, int]]) -> list[bytes]:
        """Checksums of (fid, placement, chunk, bytes from its begin), see `ChecksumRequest`."""
        by_owner: dict[int, list[int]] = {}
        for number, (fid, placement, chunk, _) in enumerate(items):
            by_owner.setdefault(self.distributor.chunk_owner(fid, chunk, placement), []).append(number)
        calls = []
        for owner, numbers in by_owner.items():
            for start in range(0, len(numbers), CHECKSUMS_MAX):
                some = numbers[start : start + CHECKSUMS_MAX]
                request = ChecksumRequest(*([items[number][field] for number in some] for field in (0, 2, 3)))
                calls.append((some, self.pool.call(owner, CHECKSUM, request)))
        result = [b""] * len(items)
        for some, call in calls:
            for number, digest in zip(some, (await call).digests, strict=True):
                result[number] = digest
        return result

    async def digests_of(self, entries: Sequence[Metadentry], chunk: int = 0) -> list[bytes]:
        """As `digests`, of one chunk of each file; of one that is in its record no daemon is asked."""
        offset = chunk * CHUNK_SIZE_BYTES
        stored = [entry for entry in entries if not entry.is_inline]
        found = iter(
            await self.digests(
                [(one.fid, one.placement, chunk, min(CHUNK_SIZE_BYTES, one.size - offset)) for one in stored]
            )
        )
        return [mmh3.mmh3_x64_128_digest(one.data) if one.is_inline else next(found) for one in entries]

    def outgrow(self, path: bytes, fid: int) -> Call[OutgrowReply]:
        """Have the data of a file in chunks, so that `write` may be used."""
        return self.about(path, OUTGROW, OutgrowRequest(path, fid, 0))

    @contextmanager
    def holding(self, path: bytes, fid: int) -> Iterator[None]:
        """Within the block the file counts as open here: removed by others, it keeps its data until the end."""
        self._holding[fid] = (path, self._holding.get(fid, (path, 0))[1] + 1)
        try:
            yield
        finally:
            times = self._holding.pop(fid)[1] - 1
            if times:
                self._holding[fid] = (path, times)
            elif fid in self._held:
                self._held.discard(fid)
                self.about(path, RELEASE, ReleaseRequest(fid))  # if it fails the daemon finds out by itself

    async def renew_holds(self) -> None:
        """Say every `HOLD_RENEW_S` what is held; runs for ever."""
        while True:
            await trio.sleep(HOLD_RENEW_S)
            by_owner: dict[int, HoldRequest] = {}
            for fid, (path, _) in self._holding.items():
                request = by_owner.setdefault(self.distributor.path_owner(path), HoldRequest([], []))
                request.paths.append(path)
                request.fids.append(fid)
                self._held.add(fid)
            for owner, request in by_owner.items():
                for start in range(0, len(request.fids), HOLD_FILES):
                    end = start + HOLD_FILES
                    self.pool.call(owner, HOLD, HoldRequest(request.paths[start:end], request.fids[start:end]))

    # --- whole trees

    def scan(self, daemon: int, directory: bytes) -> Scan:
        """All records below *directory* that are on *daemon*."""
        return Scan(self.pool, daemon, directory)
