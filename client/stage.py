"""What stage-in and stage-out share: units of work that come from a coordinator, and what is told of them.

A mover does units beside each other (`Stage.do`). While it does one it finds more work: units that any mover may
do, or that a node should (`node`), ranges of one large file with what comes after the last of them (a *join*), and
items that the coordinator collects until all else is in place: names of files with several names, directories
whose times must come last. All of it travels as plain dictionaries; `gkfs.commands.staging` is the other side.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, NamedTuple

import mmh3

from gkfs import chunks, paths
from gkfs.client import ordinary
from gkfs.client.bulk import Bulk
from gkfs.client.crowd import Crowd
from gkfs.client.ordinary import SMALL_MAX_BYTES
from gkfs.client.scan import Attributes
from gkfs.errors import ExitStatus
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.metadentry import Metadentry

log = logging.getLogger(__name__)

Unit = dict[str, Any]
Tell = Callable[[Unit], None]
_UNITS_TOGETHER: Final = 16  # in one message, whatever length paths have: GANG_MESSAGE_MAX_BYTES
_ITEMS_TOGETHER: Final = 250  # likewise
_BATCHES_AT_ONCE: Final = 6  # of one unit
_CHUNKS_AT_ONCE: Final = 8  # likewise
BATCH_FILES: Final = 64  # small files opened, read or written by one call in a thread
BATCH_BYTES: Final = 4 << 20
SPAN_CHUNKS: Final = 64  # of a large file, moved by one node as one unit


class Plan(NamedTuple):
    """What was asked for."""

    checksum: bool = False  # compare contents, whatever sizes and times say
    verify: bool = False  # change nothing, say what differs
    tell_every_s: float = 0.1  # how far it is


class Stage:
    """One mover's work; *tell* sends a message to the coordinator."""

    def __init__(self, bulk: Bulk, plan: Plan, tell: Tell) -> None:
        self.bulk = bulk
        self.plan = plan
        self.stopping = False
        self.is_root = os.geteuid() == 0
        self._groups = {os.getegid(), *os.getgroups()}
        self._tell = tell
        self._counts = {"files": 0, "bytes": 0, "skipped": 0, "found_files": 0, "found_bytes": 0, "directories": 0}
        self._told_s = 0.0
        self.node = socket.gethostname()
        self.nodes = list(dict.fromkeys(address.host for _, address in sorted(bulk.hosts.daemons.items())))
        self.handlers: dict[str, Callable[[Unit], Awaitable[None]]] = {}

    # --- units

    async def do(self, unit: Unit) -> None:
        """Do one unit and say when it is done. Whatever fails is told; nothing is raised."""
        failed = False
        try:
            await self.handlers[unit["do"]](unit)
        except OSError as error:
            failed = True
            self.failed(unit.get("path", b""), error)
        except Exception as error:  # our mistake; the leader must not wait for ever
            log.exception("%s failed unexpectedly", unit["do"])
            failed = True
            self.failed(unit.get("path", b""), OSError(0, f"unexpected: {error!r}"))
        await self.bulk.touch_all()
        self.tell_counts()
        self._tell({"is": "done", "id": unit["id"], "failed": failed})

    def crowd(self) -> Crowd:
        """For the batches of one unit."""
        return self.bulk.crowd(_BATCHES_AT_ONCE)

    def more(self, *units: Unit) -> None:
        """Work for whoever is free."""
        for start in range(0, len(units), _UNITS_TOGETHER):
            self._tell({"is": "more", "units": list(units[start : start + _UNITS_TOGETHER])})

    def join(self, units: Sequence[Unit], then: Unit) -> None:
        """Work of which *then* follows the last, with its key "failed" set if one has failed."""
        self._tell({"is": "join", "units": list(units), "then": then})

    def collect(self, kind: str, items: Sequence[tuple[Any, Any]]) -> None:
        """Pairs of key and item, for a unit of that *kind* after everything else; there those of a key meet."""
        for start in range(0, len(items), _ITEMS_TOGETHER):
            some = [list(pair) for pair in items[start : start + _ITEMS_TOGETHER]]
            self._tell({"is": "items", "kind": kind, "items": some})

    # --- telling

    def count(self, **more: int) -> None:
        """Add to what is told of progress."""
        for name, number in more.items():
            self._counts[name] += number
        if time.monotonic() > self._told_s + self.plan.tell_every_s:
            self.tell_counts()

    def tell_counts(self) -> None:
        """Say now how far we are."""
        self._told_s = time.monotonic()
        if any(self._counts.values()):
            self._tell({"is": "progress", **self._counts})
            self._counts = dict.fromkeys(self._counts, 0)

    def failed(self, path: bytes, error: OSError) -> None:
        """One entry could not be moved; the rest goes on."""
        if error.errno == errno.ETIMEDOUT and not self.stopping:  # each of all others would take as long
            self.stopping = True
            self._tell({"is": "failed", "message": str(error.strerror), "status": int(ExitStatus.UNREACHABLE)})
        reason = os.strerror(error.errno) if error.errno else "failed"
        text = str(error.strerror or error)
        self._tell({"is": "error", "path": path, "text": text if reason in text else f"{reason}: {text}"})

    def differs(self, path: bytes, text: str) -> None:
        """`--verify` has found a difference."""
        self._tell({"is": "differs", "path": path, "text": text})

    def done_with(self, what: Attributes, *, moved: bool) -> None:
        """One entry is as it should be, because it was *moved*, or was so before."""
        if moved:
            self.count(files=1)
        else:
            self.count(skipped=1, bytes=what.size if stat.S_ISREG(what.mode) else 0)

    # --- what both directions need

    def owned(self, what: Attributes) -> Attributes:
        """*what* with an owner that this user may give, and without rights that must not go to another."""
        if self.is_root:
            return what
        uid, gid = os.geteuid(), what.gid if what.gid in self._groups else os.getegid()
        mode = what.mode if (uid, gid) == (what.uid, what.gid) else what.mode & ~(stat.S_ISUID | stat.S_ISGID)
        return what._replace(uid=uid, gid=gid, mode=mode)

    def difference(self, expected: Attributes, found: Attributes) -> str:
        """What of *found* is not as it should be, without contents; empty when nothing is."""
        if stat.S_IFMT(expected.mode) != stat.S_IFMT(found.mode):
            return "another type"
        if stat.S_ISREG(expected.mode) and expected.size != found.size:
            return f"{found.size} bytes, expected {expected.size}"
        if expected.target != found.target or not expected._replace(mtime_ns=0).is_as(found._replace(mtime_ns=0)):
            return "another target or device"
        if expected.mtime_ns != found.mtime_ns:
            return "another modification time"
        wrong = [
            name
            for name, one, other in (
                ("permissions", expected.mode, found.mode),
                ("owner", expected.uid, found.uid),
                ("group", expected.gid, found.gid),
                ("extended attributes", sorted(expected.xattrs), sorted(found.xattrs)),
            )
            if one != other and not (name == "permissions" and stat.S_ISLNK(expected.mode))
        ]
        return f"other {', '.join(wrong)}" if wrong else ""

    async def differing(self, folder: bytes, pairs: Sequence[tuple[bytes, Metadentry]]) -> dict[bytes, str]:
        """Where ordinary files, by name in *folder*, have other contents than records of the same size.

        What cannot be read is told, and counts as different. Raises OSError when there is no such folder.
        """
        result: dict[bytes, str] = {}
        small = {name: entry for name, entry in pairs if entry.size <= SMALL_MAX_BYTES}
        names = list(small)
        while names and not self.stopping:
            seen = await self.bulk.threads.run(ordinary.read_files, folder, names, BATCH_BYTES)
            names = names[len(seen) :]
            entries = [small[one.name] for one in seen]
            digests = await self.bulk.digests_of(entries)
            for one, entry, digest in zip(seen, entries, digests, strict=True):
                if one.error is not None:
                    self.failed(below(folder, one.name), one.error)
                    result[one.name] = "cannot be read"
                elif one.data is None:  # it has several names
                    result |= await self._differing_large(folder, one.name, entry)
                elif not is_of(digest, one.data):
                    result[one.name] = f"other contents, of {entry.size} bytes"
        for name, entry in pairs:
            if entry.size > SMALL_MAX_BYTES:
                result |= await self._differing_large(folder, name, entry)
        return result

    async def _differing_large(self, folder: bytes, name: bytes, entry: Metadentry) -> dict[bytes, str]:
        """As `differing`, of one file."""
        found: list[int] = []
        crowd = self.bulk.crowd(_BATCHES_AT_ONCE)
        try:
            fd = await self.bulk.threads.run(ordinary.open_file, below(folder, name))
            try:
                for chunk in range(chunks.count(entry.size)):
                    if not self.stopping and not found:
                        await crowd.start(self._compare(fd, entry, chunk, found))
                await crowd.finish()
            finally:
                await settled(crowd)
                os.close(fd)
        except OSError as error:
            self.failed(below(folder, name), error)
            return {name: "cannot be read"}
        return {name: f"other contents, in the MiB from byte {min(found)}"} if found else {}

    async def _compare(self, fd: int, entry: Metadentry, chunk: int, found: list[int]) -> None:
        offset = chunk * CHUNK_SIZE_BYTES
        length = min(CHUNK_SIZE_BYTES, entry.size - offset)
        data = await self.bulk.threads.run(ordinary.read_chunk, fd, offset, length, False)
        (digest,) = await self.bulk.digests_of([entry], chunk)
        if not is_of(digest, data):
            found.append(offset)

    def spans(self, fid: int, placement: int, size: int) -> Iterator[tuple[str, int, int]]:
        """Parts of a large file, (node, first chunk, end): each node moves those chunks of a span that it has."""
        step = SPAN_CHUNKS * len(self.nodes)
        total = chunks.count(size)
        for first in range(0, total, step):
            end = min(first + step, total)
            for node in self.nodes:
                if any(self.is_of(node, fid, placement, chunk) for chunk in range(first, end)):
                    yield node, first, end

    async def each_chunk(self, unit: Unit, move: Callable[[int], Coroutine[Any, None, None]]) -> None:
        """*move* the chunks of a range that lie on its node, some at once. Raises OSError."""
        crowd = self.bulk.crowd(_CHUNKS_AT_ONCE)
        try:
            for chunk in range(unit["first"], unit["end"]):
                if self.is_of(unit["node"], unit["fid"], unit["place"], chunk) and not self.stopping:
                    await crowd.start(move(chunk))
            await crowd.finish()
        finally:
            await settled(crowd)

    def is_of(self, node: str, fid: int, placement: int, chunk: int) -> bool:
        """Whether a chunk lies on *node*."""
        return (
            len(self.nodes) == 1
            or node == self.bulk.hosts.daemons[self.bulk.distributor.chunk_owner(fid, chunk, placement)].host
        )


def name_in(path: bytes) -> tuple[bytes, bytes]:
    """(folder, name) of a path of either side."""
    folder, _, name = path.rpartition(b"/")
    return folder or b"/", name


def below(folder: bytes, name: bytes) -> bytes:
    """The path of *name* in *folder*, on either side."""
    return paths.join(folder, name)


def is_of(digest: bytes, data: bytes | None) -> bool:
    """Whether *digest* is of *data*; b"": nothing is stored; None: a hole, which nothing stored is equal to."""
    if data is None:
        return not digest
    if not digest:
        return not data.strip(b"\0")
    return mmh3.mmh3_x64_128_digest(data) == digest


async def settled(crowd: Crowd) -> None:
    """Wait for what is still at work after something has failed."""
    with contextlib.suppress(OSError):
        await crowd.finish()


def not_a(what: str) -> OSError:
    """What stands in the way is not *what* it must be."""
    number = errno.ENOTDIR if what == "directory" else errno.EISDIR
    return OSError(number, f"what is there is {'no' if number == errno.ENOTDIR else 'a'} directory")
