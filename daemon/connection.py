"""One connection: handshake, then batches of requests until the peer leaves.

The task reads into the decoder's buffer, waits only when there is nothing to read, hands every whole message to
the dispatcher and sends all replies in one call. A peer is refused for its first 20 bytes if they are not a
HELLO; only then does it get a receive buffer.
"""

import contextlib
import errno
import logging
import select
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from gkfs import __version__, wire
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.outbox import Outbox
from gkfs.daemon.session import Session, Sessions
from gkfs.errors import ProtocolError
from gkfs.limits import (
    BUSY_SPELL_S,
    HANDSHAKE_TIMEOUT_S,
    PROTOCOL_VERSION,
    QUEUED_REPLIES_MAX_BYTES,
    WRITES_IN_WORK_MAX_BYTES,
)
from gkfs.messages import Buffer, HelloReply, HelloRequest
from gkfs.operations import HELLO
from gkfs.spin import Spinner

_log = logging.getLogger(__name__)

_HELLO_BODY_MAX_BYTES = 1024
_CLIENT_ID_BYTES = 16
_ROLES = ("client", "peer", "control")


@dataclass(frozen=True)
class Identity:
    """What the daemon says of itself in the handshake."""

    fsid: str
    daemon_index: int
    daemon_count: int
    boot_epoch: int


class _Refused(Exception):
    """The peer cannot be served; *number* and the text go back to it."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Connection:
    """A peer's connection. *session* exists once the handshake is done; *tasks_bytes* is data tasks work on."""

    session: Session

    def __init__(
        self,
        accepted: socket.socket,
        peer: str,
        identity: Identity,
        sessions: Sessions,
        dispatcher: Dispatcher,
        nursery: trio.Nursery,
        *,
        spinner: Spinner,
        merge: bool = True,
    ) -> None:
        """*spinner* is all connections'. *nursery*: tasks that end by themselves once it is closed."""
        self._merge = merge
        self._spinner = spinner
        self._is_alone = False  # the last requests that came in here were preceded by others of this connection
        self._socket = accepted
        self._nursery = nursery
        self._peer = peer
        self._identity = identity
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._outbox = Outbox(accepted)
        self.tasks_bytes = 0
        self._tasks_have_less = trio.Event()

    def send(self, pieces: list[Buffer]) -> None:
        """Send replies; see `Outbox.send`."""
        self._outbox.send(pieces)

    async def drained(self) -> None:
        """See `Outbox.drained`."""
        await self._outbox.drained()

    async def run(self) -> None:
        """Serve until the peer leaves, breaks the protocol or is superseded. The socket is closed in any case."""
        try:
            await self._serve()
        except _Refused as refused:
            _log.warning("refused %s: %s", self._peer, refused)
            self.send(wire.encode_error(HELLO.code, 0, refused.number, str(refused)))
        except ProtocolError as error:
            _log.warning("closed connection from %s: %s", self._peer, error)
        except OSError as error:
            _log.info("connection from %s broke: %s", self._peer, error.strerror)
        except Exception:  # our mistake; the other connections are served on
            _log.exception("connection from %s failed unexpectedly", self._peer)
        finally:
            self._outbox.fail()
            self._leave_session()
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()

    def supersede(self) -> None:
        """The same client has connected anew: nothing more that came in here is executed."""
        self._outbox.fail()
        with contextlib.suppress(OSError):  # its peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    async def _serve(self) -> None:
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as limit:
            decoder, messages = await self._shake_hands()
        if limit.cancelled_caught:
            raise ProtocolError(f"no handshake within {HANDSHAKE_TIMEOUT_S:.0f} s")
        self._nursery.start_soon(self._outbox.drain)
        if messages:
            self._execute(messages)
        await self._read(decoder)

    def _poller(self) -> "select.poll":
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        return poller

    def _execute(self, messages: list[wire.Message]) -> None:
        self._is_alone, self._spinner.client = self._spinner.client is self, self
        if self._merge:
            self._dispatcher.execute(self, messages)
        else:
            for message in messages:
                self._dispatcher.execute(self, [message])

    async def _read(self, decoder: wire.Decoder) -> None:
        recv_into, outbox, look = self._socket.recv_into, self._outbox, partial(self._poller().poll, 0)
        spell_end_s = time.perf_counter() + BUSY_SPELL_S
        while not outbox.broken:
            try:
                count = recv_into(decoder.buffer())
            except BlockingIOError:
                if self._is_alone and self._spinner.look(look):
                    continue
                await trio.lowlevel.wait_readable(self._socket.fileno())
                spell_end_s = time.perf_counter() + BUSY_SPELL_S
                continue
            if not count:
                return
            messages = decoder.received(count)
            if messages:
                self._execute(messages)
            if outbox.queued_bytes > QUEUED_REPLIES_MAX_BYTES:
                await outbox.drained()
            if self.tasks_bytes > WRITES_IN_WORK_MAX_BYTES:
                await self._until_tasks_have_less()
            if time.perf_counter() > spell_end_s:
                await trio.lowlevel.checkpoint()
                spell_end_s = time.perf_counter() + BUSY_SPELL_S

    def task_done(self, bulk_bytes: int) -> None:
        """A task is done with *bulk_bytes* of data that came in here."""
        self.tasks_bytes -= bulk_bytes
        if self.tasks_bytes <= WRITES_IN_WORK_MAX_BYTES:
            self._tasks_have_less.set()

    async def _until_tasks_have_less(self) -> None:
        self._tasks_have_less = trio.Event()
        await self._tasks_have_less.wait()

    # --- the handshake

    async def _shake_hands(self) -> tuple[wire.Decoder, list[wire.Message]]:
        """Decoder, and messages that came right behind the HELLO."""
        head = await self._receive_exactly(wire.HEADER_BYTES)
        body_length, bulk_length, seq, code, kind, _ = wire.HEADER.unpack(head)
        if code != HELLO.code or kind != wire.REQUEST or bulk_length or body_length > _HELLO_BODY_MAX_BYTES:
            raise ProtocolError(f"expected a HELLO, got {head.hex()}")
        body = await self._receive_exactly(body_length)
        decoder = wire.Decoder()
        decoder.buffer()[: len(head) + len(body)] = head + body
        hello, *rest = decoder.received(len(head) + len(body))
        request = self._check_hello(hello)
        # no await between here and the reply: from now on this is the client's one connection
        self.session = self._sessions.open(request.client_id, request.role)
        if self.session.connection is not None:
            self.session.connection.supersede()
        self.session.connection = self
        self._sessions.joined(self.session)
        mine = self._identity
        reply = HelloReply(
            PROTOCOL_VERSION, __version__, mine.fsid, mine.daemon_index, mine.daemon_count, mine.boot_epoch
        )
        self.send(wire.encode_reply(HELLO, seq, reply))
        return decoder, rest

    async def _receive_exactly(self, length: int) -> bytes:
        # Without the decoder's large buffer: whoever is not of this file system shall cost little.
        data = b""
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket.fileno())
                continue
            if not piece:
                raise ProtocolError(f"closed after {len(data)} bytes of the handshake")
            data += piece
        return data

    def _check_hello(self, message: wire.Message) -> HelloRequest:
        fields: list[Any] = message.fields
        if not fields or type(fields[0]) is not int:
            raise ProtocolError("HELLO without a protocol version")
        if fields[0] != PROTOCOL_VERSION:
            # Before anything else is looked at: another version's HELLO may have other fields.
            software = fields[1] if len(fields) > 1 else "unknown"
            raise _Refused(
                errno.EPROTO,
                f"this daemon speaks protocol {PROTOCOL_VERSION} (gkfs {__version__}), you protocol {fields[0]} "
                f"(gkfs {software}): use the same version on all nodes",
            )
        request = wire.decode_request(HELLO, HELLO.field_types(), message)
        mine = self._identity
        if request.fsid != mine.fsid or request.daemon_index != mine.daemon_index:
            # Not all of the own fsid: who does not know it shall not learn it here.
            raise _Refused(
                errno.ENXIO,
                f"this is daemon {mine.daemon_index} of file system {mine.fsid[:8]}..., "
                f"not daemon {request.daemon_index} of {request.fsid[:8]}...",
            )
        if len(request.client_id) != _CLIENT_ID_BYTES or request.role not in _ROLES:
            raise ProtocolError(f"HELLO with a client id of {len(request.client_id)} bytes, role {request.role!r}")
        return request

    def _leave_session(self) -> None:
        session = getattr(self, "session", None)
        if session is not None and session.connection is self:
            self._sessions.left(session)
