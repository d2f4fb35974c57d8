"""One connection: handshake, then batches of requests until the peer leaves.

The task reads into the decoder's buffer, waits only when there is nothing to read, hands every whole message to
the dispatcher and sends all replies in one call. Only who has passed the gate gets a receive buffer.
"""

import contextlib
import logging
import socket
import time

import trio

from gkfs import __version__, wire
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Caller, Gate, Identity, NotAdmitted, receive_exactly
from gkfs.daemon.outbox import Outbox
from gkfs.daemon.session import Session, Sessions
from gkfs.errors import ProtocolError
from gkfs.handshake import Greeting
from gkfs.limits import (
    BUSY_SPELL_S,
    HANDSHAKE_TIMEOUT_S,
    HELLO_BODY_MAX_BYTES,
    QUEUED_REPLIES_MAX_BYTES,
    WRITES_IN_WORK_MAX_BYTES,
)
from gkfs.messages import Buffer, HelloReply
from gkfs.operations import HELLO

_log = logging.getLogger(__name__)


class Connection:
    """A peer's connection. *session* exists once the handshake is done; *tasks_bytes* is data tasks work on."""

    session: Session

    def __init__(
        self,
        accepted: socket.socket,
        caller: Caller,
        gate: Gate,
        identity: Identity,
        sessions: Sessions,
        dispatcher: Dispatcher,
        nursery: trio.Nursery,
        *,
        merge: bool = True,
    ) -> None:
        """*nursery* is for tasks that end by themselves once the connection is closed."""
        self._merge = merge
        self._socket = accepted
        self._nursery = nursery
        self._caller = caller
        self._gate = gate
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
        except NotAdmitted:
            pass  # the gate has noted it
        except ProtocolError as error:
            _log.warning("closed connection from %s: %s", self._caller.name, error)
        except OSError as error:
            _log.info("connection from %s broke: %s", self._caller.name, error.strerror)
        except Exception:  # our mistake; the other connections are served on
            _log.exception("connection from %s failed unexpectedly", self._caller.name)
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
        greeting = await self._gate.admit(self._socket, self._caller)
        with trio.move_on_after(HANDSHAKE_TIMEOUT_S) as limit:
            decoder, messages = await self._begin(greeting)
        if limit.cancelled_caught:
            raise ProtocolError(f"no HELLO within {HANDSHAKE_TIMEOUT_S:.0f} s")
        self._nursery.start_soon(self._outbox.drain)
        if messages:
            self._execute(messages)
        await self._read(decoder)

    def _execute(self, messages: list[wire.Message]) -> None:
        if self._merge:
            self._dispatcher.execute(self, messages)
        else:
            for message in messages:
                self._dispatcher.execute(self, [message])

    async def _read(self, decoder: wire.Decoder) -> None:
        recv_into, outbox = self._socket.recv_into, self._outbox
        spell_end_s = time.perf_counter() + BUSY_SPELL_S
        while not outbox.broken:
            try:
                count = recv_into(decoder.buffer())
            except BlockingIOError:
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

    async def _begin(self, greeting: Greeting) -> tuple[wire.Decoder, list[wire.Message]]:
        """Decoder, and messages that came right behind the HELLO."""
        head = await receive_exactly(self._socket, wire.HEADER_BYTES)
        body_length, bulk_length, seq, code, kind, _ = wire.HEADER.unpack(head)
        if code != HELLO.code or kind != wire.REQUEST or bulk_length or body_length > HELLO_BODY_MAX_BYTES:
            raise ProtocolError(f"expected a HELLO, got {head.hex()}")
        body = await receive_exactly(self._socket, body_length)
        decoder = wire.Decoder()
        decoder.buffer()[: len(head) + len(body)] = head + body
        hello, *rest = decoder.received(len(head) + len(body))
        wire.decode_request(HELLO, HELLO.field_types(), hello)
        # no await between here and the reply: from now on this is the client's one connection
        self.session = self._sessions.open(greeting.client_id, greeting.role)
        if self.session.connection is not None:
            self.session.connection.supersede()
        self.session.connection = self
        self._sessions.joined(self.session)
        mine = self._identity
        self.send(wire.encode_reply(HELLO, seq, HelloReply(__version__, mine.daemon_count, mine.boot_epoch)))
        return decoder, rest

    def _leave_session(self) -> None:
        session = getattr(self, "session", None)
        if session is not None and session.connection is self:
            self._sessions.left(session)
