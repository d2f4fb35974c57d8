"""One connection: handshake, then batches of requests until the peer leaves.

The task reads into the decoder's buffer, waits only when there is nothing to read, hands every whole message to
the dispatcher and sends all replies in one call. Only who has passed the gate gets a receive buffer.
"""

import contextlib
import logging
import select
import socket
import time
from functools import partial

import trio

from gkfs import __version__, wire
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Caller, Gate, Identity, NotAdmitted
from gkfs.daemon.outbox import Outbox
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.shares import Shares
from gkfs.errors import ProtocolError
from gkfs.handshake import Greeting
from gkfs.limits import (
    BATCH_READS_BYTES,
    BATCH_REQUESTS_MAX,
    BATCH_UNLOOKED,
    BUSY_SPELL_S,
    HANDSHAKE_TIMEOUT_S,
    HELLO_BODY_MAX_BYTES,
    RECEIVE_STALL_S,
    REQUESTS_IN_WORK_MAX,
)
from gkfs.messages import Buffer, HelloReply
from gkfs.operations import HELLO, READS
from gkfs.spin import Spinner
from gkfs.transport import receive_exactly

_log = logging.getLogger(__name__)


class Connection:
    """A peer's connection. *session* exists once the handshake is done.

    *tasks*: its requests that tasks work on; *tasks_bytes*: the data in them, or asked for.
    """

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
        shares: Shares,
        *,
        spinner: Spinner,
        merge: bool = True,
    ) -> None:
        """*spinner* is all connections'. *nursery*: tasks that end by themselves once it is closed."""
        self._was_closed = False  # by the peer: it has left
        self._shares = shares
        self._merge = merge
        self._spinner = spinner
        self._is_alone = False  # the last requests that came in here were preceded by others of this connection
        self._socket = accepted
        self._nursery = nursery
        self._caller = caller
        self._gate = gate
        self._identity = identity
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._outbox = Outbox(accepted)
        self.tasks = 0
        self.tasks_bytes = 0
        self._tasks_have_less = trio.Event()
        self._message_until_s = 0.0  # when the rest of an unfinished message must be there

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
        except MemoryError:  # the peer connects again, and repeats what was not answered
            _log.warning("closed connection from %s: no memory for what it sends", self._caller.name)
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
        await self._execute_all(messages)
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
        self._sessions.trim()

    async def _read(self, decoder: wire.Decoder) -> None:
        recv_into, outbox, look = self._socket.recv_into, self._outbox, partial(self._poller().poll, 0)
        spell_end_s = time.perf_counter() + BUSY_SPELL_S
        while not outbox.broken:
            try:
                count = recv_into(decoder.buffer())
            except BlockingIOError:
                count = -1
            if count < 0:
                if self._is_alone and self._spinner.look(look):
                    continue
                await self._until_readable(decoder)
                spell_end_s = time.perf_counter() + BUSY_SPELL_S
                continue
            if not count:
                self._was_closed = True
                return
            messages = decoder.received(count)
            if messages:
                self._message_until_s = 0.0
                if len(messages) <= BATCH_UNLOOKED:
                    self._execute(messages)
                else:
                    await self._execute_all(messages)
                await self._until_room()
            if time.perf_counter() > spell_end_s:
                await trio.lowlevel.checkpoint()
                spell_end_s = time.perf_counter() + BUSY_SPELL_S

    async def _until_readable(self, decoder: wire.Decoder) -> None:
        """Wait for more from the peer: for ever between messages, for `RECEIVE_STALL_S` within one."""
        if not decoder.is_within_message:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            return
        if not self._message_until_s:
            self._message_until_s = trio.current_time() + RECEIVE_STALL_S
        with trio.move_on_at(self._message_until_s) as limit:
            await trio.lowlevel.wait_readable(self._socket.fileno())
        if limit.cancelled_caught:
            raise ProtocolError(f"stopped within a message for {RECEIVE_STALL_S:.0f} s")

    # --- what one peer may take

    async def _execute_all(self, messages: list[wire.Message]) -> None:
        """Execute however many there are, a batch at a time: others run in between, and replies are taken."""
        start = 0
        while start < len(messages):
            if start:
                await trio.lowlevel.checkpoint()
            await self._until_room()
            if self._outbox.broken:  # by a later run of a peer: nothing of this one is executed any more
                return
            end = self._end_of_batch(messages, start)
            self._execute(messages[start:end])
            start = end

    def _end_of_batch(self, messages: list[wire.Message], start: int) -> int:
        """Where to end the batch that begins at *start*, at least one further."""
        room_bytes = min(BATCH_READS_BYTES, self._shares.each_bytes)
        end = start
        for message in messages[start : start + BATCH_REQUESTS_MAX]:
            if message.code in READS and message.fields:
                length = message.fields[-1]  # not checked yet
                room_bytes -= length if type(length) is int and length > 0 else 0
                if room_bytes < 0 and end > start:
                    break
            end += 1
        return end

    async def _until_room(self) -> None:
        """Wait while this peer has more than its share in the works."""
        share_bytes = self._shares.each_bytes
        if self._outbox.queued_bytes > share_bytes:
            await self._outbox.drained()
        while self._has_too_much(share_bytes) and not self._outbox.broken:
            self._tasks_have_less = trio.Event()
            await self._tasks_have_less.wait()

    def _has_too_much(self, share_bytes: int) -> bool:
        return self.tasks_bytes > share_bytes or self.tasks >= REQUESTS_IN_WORK_MAX

    def task_begins(self, size_bytes: int) -> None:
        """A task works on a request with *size_bytes* of data, that came with it or that it asks for."""
        self.tasks += 1
        self.tasks_bytes += size_bytes

    def task_ends(self, size_bytes: int) -> None:
        self.tasks -= 1
        self.tasks_bytes -= size_bytes
        self._tasks_have_less.set()

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
        wire.decode_request(HELLO, hello)
        if greeting.role == "peer":
            await self._sessions.runs.begin(greeting.client_id)
        # no await between here and the reply: from now on this is the client's one connection
        self.session = self._sessions.open(greeting.client_id, greeting.role)
        if self.session.connection is not None:
            self.session.connection.supersede()
        self.session.connection = self
        self._sessions.joined(self.session)
        mine = self._identity
        hello_reply = HelloReply(__version__, mine.daemon_count, mine.boot_epoch, mine.power_epoch)
        self.send(wire.encode_reply(HELLO, seq, hello_reply))
        return decoder, rest

    def _leave_session(self) -> None:
        session = getattr(self, "session", None)
        if session is not None and session.connection is self:
            self._sessions.left(session, broke=not self._was_closed)
