"""The caller's half of one connection, sans-IO: calls in flight, their replies, time-outs and repeats.

A `Call` is queued by `submit`, leaves with the next `take_output` together with all others queued by then (that
is the merging of RPCs: no timer, no waiting), and is completed by `received`. When the connection breaks,
`connection_lost` keeps unanswered calls and `connection_made` sends them again in their order with the same
sequence numbers, by which the daemon recognises a repeat.

The channel does no I/O and knows no event loop: a driver (the client's pump, the daemon's trio tasks) moves
the bytes, and sets `Call.on_done` to be told.
"""

import errno
import math
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, Self, cast

from gkfs import wire
from gkfs.errors import ProtocolError, os_error
from gkfs.limits import IN_FLIGHT_MAX, SILENT_TIMEOUT_S
from gkfs.messages import Buffer
from gkfs.operations import TABLE, Operation, Q, R

_ERROR_TEXT_MAX: Final = 1000  # characters of what a daemon says of an error


class Call(Generic[R]):
    """One request and, once `done`, its outcome. Awaiting it hands it to the driver until it is done."""

    __slots__ = ("deadline_s", "done", "error", "on_done", "operation", "pieces", "reply", "seq")

    def __init__(self, operation: Operation[Any, R], seq: int, pieces: list[Buffer], deadline_s: float) -> None:
        self.operation = operation
        self.seq = seq
        self.pieces = pieces
        self.deadline_s = deadline_s
        self.done = False
        self.reply: R | None = None
        self.error: OSError | None = None
        self.on_done: Callable[[], None] | None = None

    def __await__(self) -> Generator[Self, None, R]:
        if not self.done:
            yield self
        return self.result()

    def result(self) -> R:
        """The reply. Raises the OSError the daemon answered with, or ETIMEDOUT; only valid once `done`."""
        if self.error is not None:
            raise self.error
        return cast(R, self.reply)

    def finish(self, reply: R | None, error: OSError | None) -> None:
        self.reply, self.error, self.done = reply, error, True
        self.pieces = []
        if self.on_done is not None:
            on_done, self.on_done = self.on_done, None  # who waits has the call: else each would hold the other
            on_done()


class Channel:
    """Calls to one daemon; *name* appears in error messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connected = False
        self.silent = False  # a call has timed out, and nothing has been heard since long before
        self._quiet_since_s = 0.0  # as `expire` has found it
        self._heard = True
        self.sent_batches = 0
        self.sent_requests = 0
        self._sequence = 0
        self._in_flight: dict[int, Call[Any]] = {}  # ascending by seq
        self._backlog: deque[Call[Any]] = deque()  # beyond IN_FLIGHT_MAX
        self._output: list[Buffer] = []
        self._decoder = wire.Decoder()
        self._arrivals = 0  # times that whole messages came
        self._unfinished = (-1, 0.0)  # `_arrivals` when a message was first seen unfinished, and when that was

    def submit(self, operation: Operation[Q, R], request: Q, deadline_s: float) -> Call[R]:
        """Queue *request*; it fails with ETIMEDOUT when `expire` finds *deadline_s* passed."""
        self._sequence += 1
        call = Call(operation, self._sequence, wire.encode_request(operation, self._sequence, request), deadline_s)
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            self._backlog.append(call)
        else:
            self._launch(call)
        return call

    @property
    def idle(self) -> bool:
        """Whether no call is waiting for an answer."""
        return not self._in_flight

    @property
    def oldest_deadline_s(self) -> float:
        """The deadline of the call that has waited longest; infinite when none waits."""
        return next((call.deadline_s for call in self._in_flight.values()), math.inf)

    @property
    def has_output(self) -> bool:
        return self.connected and bool(self._output)

    def take_output(self) -> list[Buffer]:
        """All pieces queued since the last call: one batch."""
        output, self._output = self._output, []
        self.sent_batches += 1
        return output

    def buffer(self) -> memoryview:
        """Where the next received bytes belong."""
        return self._decoder.buffer()

    def received(self, count: int) -> None:
        """Take note of *count* bytes received; completes the calls they answer. Raises ProtocolError."""
        messages = self._decoder.received(count)
        self._arrivals += bool(messages)
        for message in messages:
            self._heard, self.silent = True, False
            if message.kind != wire.REPLY:
                continue  # notifications from a newer daemon are hints
            call = self._in_flight.get(message.seq)
            if call is not None:  # else it timed out meanwhile
                reply, error = self._outcome(call, message)
                # Only now: a call with a reply that is none is repeated, or times out.
                del self._in_flight[message.seq]
                call.finish(reply, error)
        self._launch_backlog()

    def connection_made(self) -> None:
        """A new connection is up: everything unanswered is sent (again)."""
        self.connected = True
        self._heard, self.silent = True, False
        self._decoder = wire.Decoder()
        self._unfinished = (-1, 0.0)
        self._output = [piece for call in self._in_flight.values() for piece in call.pieces]

    def connection_lost(self) -> None:
        """The connection broke; calls wait for the next one or their deadline."""
        self.connected = False
        self._output = []

    def expire(self, now_s: float) -> None:
        """Fail every call whose deadline is before *now_s* with ETIMEDOUT."""
        if self._heard:
            self._heard, self._quiet_since_s = False, now_s
        late = [call for call in self._in_flight.values() if call.deadline_s < now_s]
        for call in late:
            del self._in_flight[call.seq]
            self._fail(call, "did not answer in time" if self.connected else "cannot be reached")
            self.silent = self.silent or now_s - self._quiet_since_s > SILENT_TIMEOUT_S
        for call in [call for call in self._backlog if call.deadline_s < now_s]:
            self._backlog.remove(call)
            self._fail(call, "is overloaded")
        self._launch_backlog()

    def stalled_s(self, now_s: float) -> float | None:
        """How long, as seen by who asks now and then, a message has been unfinished; None when none is."""
        if not self._decoder.is_within_message:
            return None
        if self._unfinished[0] != self._arrivals:
            self._unfinished = (self._arrivals, now_s)
        return now_s - self._unfinished[1]

    def fail_all(self, reason: str) -> None:
        """Fail every waiting call with ETIMEDOUT, at the end of the mount or daemon."""
        calls = [*self._in_flight.values(), *self._backlog]
        self._in_flight.clear()
        self._backlog.clear()
        for call in calls:
            self._fail(call, reason)

    def _launch(self, call: Call[Any]) -> None:
        self._in_flight[call.seq] = call
        self.sent_requests += 1
        if self.connected:
            self._output += call.pieces

    def _fail(self, call: Call[Any], reason: str) -> None:
        call.finish(None, os_error(errno.ETIMEDOUT, f"{call.operation.name}: {self.name} {reason}"))

    def _launch_backlog(self) -> None:
        while self._backlog and len(self._in_flight) < IN_FLIGHT_MAX:
            self._launch(self._backlog.popleft())

    def _outcome(self, call: Call[Any], message: wire.Message) -> tuple[Any, OSError | None]:
        """Reply and error that *message* brings. Raises ProtocolError when it is no answer to *call*."""
        if message.code != call.operation.code:
            answered = TABLE.get(message.code)
            name = answered.name if answered else f"operation {message.code}"
            raise ProtocolError(f"{self.name} answered {call.operation.name} as {name}")
        if not message.errno:
            reply = wire.decode_reply(call.operation, message)
            if call.operation.reply_records:
                try:
                    wire.check_records(call.operation, cast(tuple[Any, ...], reply))
                except ValueError as error:
                    return None, os_error(errno.EIO, f"{call.operation.name}: {self.name}: {error}")
            return reply, None
        text = str(message.fields[0])[:_ERROR_TEXT_MAX] if message.fields else ""
        # The kernel takes no other numbers for an answer: whoever asked would wait for ever.
        number = message.errno if message.errno in errno.errorcode else errno.EIO
        return None, OSError(number, text)
