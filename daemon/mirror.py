"""The primary's half of two copies: what changes goes to the mirror, and nothing leaves before it is there.

What changes is shipped in the order in which it happened, without waiting: commits of the store (`commit`),
writes and cuts of chunks (`MirroredStorage`). What leaves, replies and calls to other daemons, is held until the
mirror has confirmed all that was shipped by then (`send`, `settled`), so that whoever takes over knows all that
anybody was told.

Nothing leaves either when the mirror has not confirmed anything for `COPY_LEASE_S`: it may have taken over.
Between losing a mirror and having the next one complete there is none, and nothing is held.

A new mirror gets no changes before it has confirmed that its copy has begun: what it had before could take them
for its own. All that is there by then comes with the pages and chunks that follow.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgpack
import trio

from gkfs.channel import Call
from gkfs.copy_messages import (
    NOBODY,
    CopyBeginRequest,
    CopyChunkRequest,
    CopyCutRequest,
    CopyDoneRequest,
    CopyPingRequest,
    CopyReadRequest,
    CopyRecordsRequest,
)
from gkfs.daemon.guards import Blocked, Guard
from gkfs.daemon.peers import Locate, Peer
from gkfs.errors import os_error
from gkfs.keyfile import Access
from gkfs.limits import (
    COPY_BACKLOG_BYTES,
    COPY_LEASE_S,
    COPY_PART_BYTES,
    COPY_PING_S,
    COPY_SILENCE_S,
    COPY_WINDOW_BYTES,
)
from gkfs.messages import Buffer
from gkfs.operations import (
    COPY_BEGIN,
    COPY_CHUNK,
    COPY_CUT,
    COPY_DONE,
    COPY_PING,
    COPY_READ,
    COPY_RECORDS,
    Operation,
)

_log = logging.getLogger(__name__)

Changes = Mapping[bytes, bytes | None]
_PINGS_MAX = 4  # on the way: more tell nobody more
_HELD_LEAST = 1024  # held pieces among which those for nobody are looked for


class Target(Protocol):
    """Where replies go."""

    def send(self, pieces: list[Buffer]) -> None:
        """Send encoded replies."""


class Shipment:
    """Something on its way to the mirror."""

    __slots__ = ("at_s", "call", "size_bytes")

    def __init__(self, call: Call[Any], at_s: float, size_bytes: int) -> None:
        self.call = call
        self.at_s = at_s
        self.size_bytes = size_bytes


class Mirror:
    """The way from one shard to its mirror. It begins *closed*: what leaves is held until `open`."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._peer: Peer | None = None
        self._scope = trio.CancelScope()
        self._seq = 0  # of COPY_RECORDS
        self._is_open = False
        self._counts = False  # what leaves waits for the mirror
        self._shipped = self._confirmed = 0
        self._is_asked = self._has_begun = False  # its copy: changes go to what has begun
        self._pings = 0  # on the way
        self._on_the_way: deque[Shipment] = deque()
        self._bytes_on_the_way = 0
        self._backlog: Guard | None = None  # for who waits until there is less
        self._held: deque[tuple[int, Target | trio.Event, list[Buffer]]] = deque()  # first: *_shipped* then
        self._look_at = _HELD_LEAST  # so many held: are all still wanted?
        self._confirmed_s = 0.0  # when what was confirmed last had been shipped
        self._forgiven_s = 0.0
        self._progress = trio.Event()  # replaced each time it is set
        self.process = NOBODY  # where what is shipped goes
        self.is_decided = False  # it is the mirror of the view, and knows
        self.failure: OSError | None = None  # why what was shipped is of no use any more

    # --- what leaves

    @property
    def may_leave(self) -> bool:
        """Whether the mirror knows all that has happened here, and has not taken over."""
        if not self._counts:
            return self._is_open
        return (
            self._is_open
            and self._confirmed == self._shipped
            and trio.current_time() < self._confirmed_s + COPY_LEASE_S
        )

    def send(self, target: Target, pieces: list[Buffer]) -> None:
        """Send *pieces* as soon as what they tell of is safe."""
        if self.may_leave:
            target.send(pieces)
        else:
            self._held.append((self._shipped, target, pieces))
            if len(self._held) >= self._look_at:
                self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        """Clients give up, connect anew and ask again: what is for a broken connection would only take memory."""
        self._held = deque(held for held in self._held if not getattr(held[1], "broken", False))
        self._look_at = max(_HELD_LEAST, 2 * len(self._held))

    async def settled(self) -> None:
        """Wait until everything that has happened by now is safe; as long as it takes."""
        if not self.may_leave:
            event = trio.Event()
            self._held.append((self._shipped, event, []))
            await event.wait()

    def open(self) -> None:
        """This process answers for the shard."""
        self._is_open = True
        self._release()

    def close(self) -> None:
        """It does not answer any more: what is held never leaves."""
        self._is_open = False
        self._held.clear()
        self._scope.cancel()
        self._peer = None
        self._has_begun = False

    def _release(self) -> None:
        if not self._is_open:
            return
        if self._counts and trio.current_time() >= self._confirmed_s + COPY_LEASE_S:
            return
        while self._held and (not self._counts or self._held[0][0] <= self._confirmed):
            _, target, pieces = self._held.popleft()
            if isinstance(target, trio.Event):
                target.set()
            else:
                target.send(pieces)

    # --- the stream

    @property
    def counts(self) -> bool:
        """Whether what leaves waits for the mirror."""
        return self._counts

    @property
    def copies(self) -> int:
        """How many complete copies there are, the one here included. One that nobody would use is none."""
        return (
            2
            if self._counts and self.is_decided and self.failure is None and self.silent_s < COPY_SILENCE_S
            else 1
        )

    @property
    def is_attached(self) -> bool:
        return self._peer is not None

    @property
    def silent_s(self) -> float:
        """For how long the mirror has confirmed nothing."""
        return trio.current_time() - max(self._confirmed_s, self._forgiven_s)

    def forgive(self) -> None:
        """Begin to count its silence anew: we have not listened."""
        self._forgiven_s = trio.current_time()

    def attach(self, process: int, locate: Locate, access: Access, nursery: trio.Nursery) -> None:
        """Begin to ship to *process*, which has nothing yet; `begin` must follow."""
        self.detach()
        self.process = process
        name = f"mirror {process} of shard {self.shard}"
        self._peer = Peer(name, locate, access, os.urandom(16), "copy")
        self._scope = trio.CancelScope()
        self._seq = 0
        self._confirmed_s = trio.current_time()
        self.failure = None
        nursery.start_soon(self._stream, self._peer, self._scope)

    def count(self) -> None:
        """From now on nothing leaves that the mirror has not."""
        self._counts = True

    def detach(self) -> None:
        """There is no mirror any more: nothing waits for it."""
        self._scope.cancel()
        self._peer = None
        self.process = NOBODY
        self._counts = self._is_asked = self._has_begun = self.is_decided = False
        self._on_the_way.clear()
        self._bytes_on_the_way = self._pings = 0
        self._confirmed = self._shipped
        self._wake()
        self._release()

    async def _stream(self, peer: Peer, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.run)
                while True:
                    self.ping()
                    await trio.sleep(COPY_PING_S)

    def ping(self) -> None:
        """Say that we are there, unless enough on the way says so already."""
        if self._peer is not None and self._is_asked and self._pings < _PINGS_MAX:
            self._pings += 1
            self._submit(self._peer, COPY_PING, CopyPingRequest(self.shard), 0)

    def ship(self, operation: Operation[Any, Any], request: Any, size_bytes: int = 0) -> None:
        """Send *request* to the mirror, if its copy has begun, after everything shipped before."""
        if self._peer is not None and self._has_begun:
            self._submit(self._peer, operation, request, size_bytes)

    def _submit(self, peer: Peer, operation: Operation[Any, Any], request: Any, size_bytes: int) -> None:
        call = peer.submit(operation, request)
        self._shipped += 1
        self._bytes_on_the_way += size_bytes
        self._on_the_way.append(Shipment(call, trio.current_time(), size_bytes))
        call.on_done = self._advance

    def _advance(self) -> None:
        """Take note of what the mirror has confirmed, up to the first that it has not."""
        while self._on_the_way and self._on_the_way[0].call.done:
            first = self._on_the_way[0]
            if first.call.error is not None:
                self.failure = self.failure or first.call.error
                break
            self._on_the_way.popleft()
            self._confirmed += 1
            self._confirmed_s = first.at_s
            self._bytes_on_the_way -= first.size_bytes
            self._pings -= first.call.operation is COPY_PING
        self._wake()
        self._release()

    def _wake(self) -> None:
        self._progress.set()
        self._progress = trio.Event()
        if self._backlog is not None and self._bytes_on_the_way <= COPY_BACKLOG_BYTES // 2:
            self._backlog.lifted.set()
            self._backlog = None

    # --- what is shipped

    def check_backlog(self) -> None:
        """Raise Blocked while so much is on the way that no more should be written."""
        if self._bytes_on_the_way > COPY_BACKLOG_BYTES:
            self._backlog = self._backlog or Guard("the mirror has too much to take")
            raise Blocked(self._backlog)

    def commit(self, changes: Changes) -> None:
        """The store has committed *changes*."""
        if not self._has_begun:
            return
        parts = list(_parts(changes))
        for number, part in enumerate(parts, 1):
            self._seq += 1
            request = CopyRecordsRequest(self.shard, self._seq, number == len(parts), part)
            self.ship(COPY_RECORDS, request, len(part))

    def wrote(self, fid: int, chunk: int, offset: int, data: Buffer) -> None:
        """*data*, which must stay unchanged, is being written to a chunk."""
        self.ship(COPY_CHUNK, CopyChunkRequest(self.shard, fid, chunk, offset, data), len(data))

    def cut(self, fid: int, size: int) -> None:
        """A file is being cut to *size*."""
        self.ship(COPY_CUT, CopyCutRequest(self.shard, fid, size))

    async def read(self, fid: int, chunk: int, offset: int, length: int) -> Buffer:
        """What the mirror has of a chunk. Raises OSError, also when there is no mirror with all of the copy."""
        if self._peer is None or not self._counts:
            raise os_error(errno.EIO, f"shard {self.shard} has no second copy now")
        request = CopyReadRequest(self.shard, fid, chunk, offset, length)
        return (await self._peer.call(COPY_READ, request, COPY_SILENCE_S)).data

    # --- a new copy

    async def begin(self, boot_epoch: int, power_epoch: int) -> None:
        """Have the mirror begin a copy. Raises OSError when it does not."""
        if self._peer is not None:
            request = CopyBeginRequest(self.process, self.shard, boot_epoch, power_epoch)
            self._submit(self._peer, COPY_BEGIN, request, 0)
            self._is_asked = True
        await self.flushed(0)
        self._has_begun = True  # no await between here and the first page

    async def done(self) -> None:
        """Say that the copy has everything. Raises OSError."""
        self.ship(COPY_DONE, CopyDoneRequest(self.shard))
        await self.flushed(0)

    async def flushed(self, left_bytes: int = COPY_WINDOW_BYTES) -> None:
        """Wait until no more than *left_bytes* are on the way, for 0 nothing shipped by now. Raises OSError."""
        mark = self._shipped
        while True:
            if self.failure is not None:
                raise self.failure
            if self._peer is None:
                raise os_error(errno.EIO, f"copy of shard {self.shard} was given up")
            if self._confirmed >= mark or (left_bytes and self._bytes_on_the_way <= left_bytes):
                return
            await self._progress.wait()


def _parts(changes: Changes) -> Iterator[bytes]:
    """*changes* as they travel, in pieces that fit a message."""
    part: list[bytes | None] = []
    size_bytes = 0
    for key, value in changes.items():
        part += (key, value)
        size_bytes += len(key) + len(value or b"")
        if size_bytes > COPY_PART_BYTES:
            yield msgpack.packb(part)
            part, size_bytes = [], 0
    if part:
        yield msgpack.packb(part)
