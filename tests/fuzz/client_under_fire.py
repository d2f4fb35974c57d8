"""A client, with its real pool and pump over a real socket, whose daemon answers with mutated replies.

The far end of the socket is the fuzzer's; a handshake has been done on it, as far as the client knows.
"""

import contextlib
import errno
import random
import resource
import select
import socket
import time
from pathlib import Path
from typing import Any, Final

from gkfs import wire
from gkfs.channel import Call
from gkfs.client.pool import Pool
from gkfs.client.pump import Pump
from gkfs.hostfile import DaemonAddress, Hostfile
from gkfs.messages import LookupRequest, ReadChunkRequest, ReaddirRequest, StatRequest
from gkfs.operations import LOOKUP, READ_CHUNK, READDIR, STAT, TABLE
from tests.fuzz.frames import Frames

_HOSTS: Final = Hostfile("a" * 32, 1, {0: DaemonAddress(0, "here", "tcp://127.0.0.1:1", "-")})
_REQUESTS: Final[list[tuple[Any, Any]]] = [
    (STAT, StatRequest(b"/a", 1)),
    (LOOKUP, LookupRequest(b"/a")),
    (READDIR, ReaddirRequest(b"/", 0, b"", 100)),
    (READ_CHUNK, ReadChunkRequest(1, 0, 0, 4096)),
]
_NOISE: Final = 0.0003  # of 1: frames that are none, and as many of another operation
_ERRNOS: Final = frozenset(errno.errorcode)
GROWTH_MAX_BYTES: Final = 64 << 20


class ClientUnderFire:
    """A pool of one connection; `round` has it ask, and answers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._frames = Frames(self._random)
        self._pump = Pump()
        self._pool = Pool(self._pump, _HOSTS, Path("/none"), bytes(16), 60.0)
        self._connection = self._pool._connections[0]
        self._far: socket.socket | None = None
        self._others = list(TABLE.values())
        self.broken = 0  # connections that the client has given up because of what came

    def close(self) -> None:
        self._pool.close()
        self._pump.close()
        if self._far is not None:
            self._far.close()

    def round(self, count: int) -> None:
        """*count* calls and as many frames in answer; each call is done in the end, or can be asked again."""
        if self._far is None or self._connection._socket is None:
            self._connect()
        assert self._far is not None
        calls = [self._pool.call(0, *self._random.choice(_REQUESTS)) for _ in range(count)]
        for flush in self._pump.before_poll:
            flush()
        self._far.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._far.recv(1 << 20):
                pass
        data = b"".join(self._answer(call) for call in calls)
        self._far.setblocking(True)
        view = memoryview(data)
        while view and self._connection._socket is not None:
            view = view[self._far.send(view[: 64 << 10]) :]
            self._receive()
        if self._connection._socket is None:
            self.broken += 1
        for call in calls:
            if call.done:
                assert call.error is None or call.error.errno in _ERRNOS
                assert call.error is not None or type(call.reply) is call.operation.reply
        self._connection.channel.expire(time.monotonic() + 3600)
        assert all(call.done for call in calls)

    def _connect(self) -> None:
        if self._far is not None:
            self._far.close()
        ours, self._far = socket.socketpair()
        ours.setblocking(False)
        self._connection.attach(ours, 0)

    def _receive(self) -> None:
        """What the pump does when the socket is readable."""
        while (near := self._connection._socket) is not None and select.select([near], [], [], 0)[0]:
            self._connection._on_events(select.EPOLLIN)

    def _answer(self, call: Call[Any]) -> bytes:
        choose = self._random.random()
        if choose < _NOISE:
            return self._frames.noise()
        operation = call.operation if choose < 1 - _NOISE else self._random.choice(self._others)
        frame = self._frames.reply(operation, call.seq if choose < 0.97 else self._random.randrange(1 << 32))
        if choose < 10 * _NOISE:
            frame = self._frames.mutated(frame)
        elif choose > 0.99:
            frame = frame[:17] + bytes([wire.NOTIFY]) + frame[18:]
        return frame


def fuzz_client(frames: int, seed: int, until_s: float = float("inf")) -> tuple[int, int, int]:
    """Answer with *frames*: how many it were, how many connections they broke, by how much memory grew."""
    client = ClientUnderFire(seed)
    first_bytes = done = 0
    try:
        while done < frames and time.monotonic() < until_s:
            client.round(200)
            done += 200
            if done == 10_000 or not first_bytes:
                first_bytes = _peak_bytes()
    finally:
        client.close()
    grown_bytes = _peak_bytes() - first_bytes
    assert grown_bytes <= GROWTH_MAX_BYTES, f"the client has grown by {grown_bytes >> 20} MiB"
    return done, client.broken, grown_bytes


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
