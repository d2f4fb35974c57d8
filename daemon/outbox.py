"""The sending half of a connection: a queue of encoded pieces that leaves in as few calls as possible.

`send` never waits: it hands the kernel what it takes and leaves the rest to one task that waits until the socket
is writable. Whoever has something to send just sends; there is no lock.
"""

import socket
from collections import deque

import trio

from gkfs.limits import BULK_OWN_BUFFER_BYTES, SEND_BUFFERS_MAX, SEND_STALL_S
from gkfs.messages import Buffer


class Outbox:
    """Bytes on their way to one peer. *queued_bytes* is what the kernel has not taken."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._pieces: deque[Buffer] = deque()
        self._waiting = False
        self._blocked = trio.Event()  # set when there is something only `drain` can send
        self._drained = trio.Event()
        self.queued_bytes = 0
        self.broken = False  # the peer is gone: what is sent is dropped

    def send(self, pieces: list[Buffer]) -> None:
        """Send *pieces*, in order, after everything sent before. They must stay unchanged."""
        if self.broken or not pieces:
            return
        size_bytes = sum(map(len, pieces))
        if size_bytes <= BULK_OWN_BUFFER_BYTES and len(pieces) > 1:
            pieces = [b"".join(pieces)]  # a short copy is cheaper than many pieces
        if not self._waiting and len(pieces) == 1:
            pieces = self._send_one(pieces[0])
            if not pieces:
                return
            size_bytes = len(pieces[0])
        self._pieces += pieces
        self.queued_bytes += size_bytes
        if not self._waiting:
            self._push()

    def _send_one(self, piece: Buffer) -> list[Buffer]:
        """Try the usual case, one piece on an idle socket; returns what is left of it."""
        try:
            sent = self._socket.send(piece)
        except BlockingIOError:
            return [piece]
        except OSError:
            self.fail()
            return []
        return [] if sent == len(piece) else [memoryview(piece)[sent:]]

    def _push(self) -> None:
        """Hand the kernel as much as it takes."""
        try:
            while self._pieces:
                if len(self._pieces) == 1:
                    sent = self._socket.send(self._pieces[0])
                else:
                    head = [self._pieces[i] for i in range(min(len(self._pieces), SEND_BUFFERS_MAX))]
                    sent = self._socket.sendmsg(head)
                self._take_off(sent)
            if self._waiting:
                self._waiting = False
                self._drained.set()
        except BlockingIOError:
            if not self._waiting:
                self._waiting = True
                self._drained = trio.Event()
                self._blocked.set()
        except OSError:
            self.fail()

    def _take_off(self, sent: int) -> None:
        self.queued_bytes -= sent
        while sent:
            piece = self._pieces.popleft()
            if len(piece) > sent:
                self._pieces.appendleft(memoryview(piece)[sent:])
                return
            sent -= len(piece)

    def fail(self) -> None:
        """The connection is broken: drop what is queued and everything to come."""
        self.broken = True
        self._pieces.clear()
        self.queued_bytes = 0
        self._drained.set()
        self._blocked.set()

    async def drain(self) -> None:
        """Send what `send` could not; run as one task. Returns when the peer is gone or takes nothing any more."""
        while not self.broken:
            await self._blocked.wait()
            self._blocked = trio.Event()
            while self._waiting and not self.broken:
                with trio.move_on_after(SEND_STALL_S) as stall:
                    try:
                        await trio.lowlevel.wait_writable(self._socket.fileno())
                    except trio.ClosedResourceError:
                        return
                if stall.cancelled_caught:
                    self.fail()
                    return
                self._push()

    async def drained(self) -> None:
        """Wait until the kernel has taken everything queued by now; bounded by what `drain` tolerates."""
        if self._waiting and not self.broken:
            await self._drained.wait()
