"""Calls to other daemons: one connection for each, made when first needed and again when lost.

Calls that are made while a connection is busy leave together, see `gkfs.channel`. What a daemon asks of itself
is executed directly. Handlers that serve peers do not wait for other daemons, except for the steps of a
directory rename, which only wait for handlers that do not wait: no circle can form.
"""

import logging
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio

from gkfs.channel import Call, Channel
from gkfs.errors import ExitStatus, GkfsError, ProtocolError
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import PEER_TIMEOUT_S, RECEIVE_STALL_S, RECONNECT_FIRST_S, RECONNECT_MAX_S, SEND_BUFFERS_MAX
from gkfs.messages import Buffer
from gkfs.operations import Operation, Q, R
from gkfs.transport import open_connection

_log = logging.getLogger(__name__)

_STUCK_S = 2.0  # without an answer: another daemon may have taken the place
_CLOCK_STEP_S = 1e-3  # so that a deadline that has just been reached is in the past

# Where a daemon is now. Read again for each attempt: a restarted daemon may have another port. Raises GkfsError.
Locate = Callable[[], Awaitable[DaemonAddress]]


class Peer:
    """One other daemon; `run` keeps the connection, `call` uses it."""

    def __init__(self, name: str, locate: Locate, access: Access, client_id: bytes, role: str = "peer") -> None:
        self._locate = locate
        self._access = access
        self._client_id = client_id
        self._role = role
        self._channel = Channel(name)
        self._wanted = trio.Event()  # there is something to send
        self._received = 0

    async def call(self, operation: Operation[Q, R], request: Q, timeout_s: float = PEER_TIMEOUT_S) -> R:
        """The reply to *request*. Raises OSError: what the daemon answered, or ETIMEDOUT naming it.

        After ETIMEDOUT or cancellation it is unknown whether the request was executed.
        """
        (outcome,) = await self.call_many(operation, [request], timeout_s)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    async def call_many(
        self, operation: Operation[Q, R], requests: list[Q], timeout_s: float = PEER_TIMEOUT_S
    ) -> list[R | OSError]:
        """The outcomes of *requests*, which leave together; see `call`."""
        done = trio.Event()
        waiting = len(requests)

        def one_is_done() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                done.set()

        deadline_s = trio.current_time() + timeout_s
        calls = [self._channel.submit(operation, request, deadline_s) for request in requests]
        for call in calls:
            call.on_done = one_is_done
        self._wanted.set()
        with trio.move_on_at(deadline_s):
            await done.wait()
        if waiting:
            self._channel.expire(trio.current_time() + _CLOCK_STEP_S)
        return [call.error or call.result() for call in calls]

    def submit(self, operation: Operation[Q, R], request: Q) -> Call[R]:
        """Send *request* when its turn comes; it has no deadline. Set `on_done` of what is returned."""
        self._wanted.set()
        return self._channel.submit(operation, request, math.inf)

    async def run(self) -> None:
        """Connect when there is something to send, and stay connected; returns only when cancelled."""
        delay_s = RECONNECT_FIRST_S
        while True:
            if self._channel.idle:
                self._wanted = trio.Event()  # also after calls that have failed in vain
                await self._wanted.wait()
            try:
                address = await self._locate()
                connection, _ = await open_connection(address, self._access, self._client_id, self._role)
            except GkfsError as error:
                _log.log(logging.DEBUG if error.status == ExitStatus.UNREACHABLE else logging.ERROR, "%s", error)
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, RECONNECT_MAX_S)
                continue
            delay_s = RECONNECT_FIRST_S
            self._channel.connection_made()
            try:
                await self._exchange(connection, address)
            finally:
                self._channel.connection_lost()
                trio.lowlevel.notify_closing(connection.fileno())
                connection.close()

    async def _exchange(self, connection: socket.socket, address: DaemonAddress) -> None:
        """Send and receive until the connection breaks."""
        async with trio.open_nursery() as nursery:

            async def until_broken(work: Callable[[socket.socket], Awaitable[None]]) -> None:
                try:
                    await work(connection)
                except OSError as error:
                    _log.info("connection to %s broke: %s", self._channel.name, error.strerror)
                except ProtocolError as error:
                    _log.error("%s does not speak gkfs: %s", self._channel.name, error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_broken, self._send)
            nursery.start_soon(until_broken, self._receive)
            await self._until_elsewhere(address)
            nursery.cancel_scope.cancel()

    async def _until_elsewhere(self, address: DaemonAddress) -> None:
        """Return when calls are not answered here and the daemon is at another address now."""
        while True:
            received = self._received
            await trio.sleep(_STUCK_S)
            if self._channel.idle or self._received != received:
                continue
            try:
                if await self._locate() != address:
                    return
            except GkfsError as error:
                _log.debug("%s", error)

    async def _send(self, connection: socket.socket) -> None:
        while True:
            if not self._channel.has_output:
                self._wanted = trio.Event()
                await self._wanted.wait()
                continue
            pieces = self._channel.take_output()
            for start in range(0, len(pieces), SEND_BUFFERS_MAX):
                await _send_all(connection, pieces[start : start + SEND_BUFFERS_MAX])

    async def _receive(self, connection: socket.socket) -> None:
        while True:
            try:
                count = connection.recv_into(self._channel.buffer())
            except BlockingIOError:
                stalled_s = self._channel.stalled_s(trio.current_time())
                with trio.move_on_after(math.inf if stalled_s is None else RECEIVE_STALL_S - stalled_s) as stall:
                    await trio.lowlevel.wait_readable(connection.fileno())
                if stall.cancelled_caught:
                    raise ProtocolError(f"stopped within a message for {RECEIVE_STALL_S:.0f} s") from None
                continue
            if not count:
                return
            self._received += 1
            self._channel.received(count)
            await trio.lowlevel.checkpoint()


class Peers:
    """All daemons of the file system as seen from daemon *own_index*."""

    def __init__(
        self,
        own_index: int,
        access: Access,
        locate: Callable[[int], Awaitable[DaemonAddress]],
        execute: Callable[[Any, Any], Awaitable[Any]],
        nursery: trio.Nursery,
        client_id: bytes,
        settled: Callable[[], Awaitable[None]] | None = None,
        role: str = "peer",
    ) -> None:
        """*execute* runs an operation of this daemon; connections live in *nursery*.

        *client_id* is another one in each run: sequence numbers begin again, too. *settled* is awaited before
        others are asked for anything.
        """
        self._settled = settled
        self._role = role
        self._own_index = own_index
        self._access = access
        self._locate = locate
        self._execute = execute
        self._nursery = nursery
        self._peers: dict[int, Peer] = {}
        self._client_id = client_id

    async def call(
        self, index: int, operation: Operation[Q, R], request: Q, timeout_s: float = PEER_TIMEOUT_S
    ) -> R:
        """The reply of daemon *index*. Raises OSError as `Peer.call` does."""
        if index == self._own_index:
            return cast(R, await self._execute(operation, request))
        if self._settled is not None:
            await self._settled()
        return await self._peer(index).call(operation, request, timeout_s)

    async def call_many(
        self, index: int, operation: Operation[Q, R], requests: list[Q], timeout_s: float = PEER_TIMEOUT_S
    ) -> list[R | OSError]:
        """The outcomes of *requests* at another daemon; see `Peer.call_many`."""
        if self._settled is not None:
            await self._settled()
        return await self._peer(index).call_many(operation, requests, timeout_s)

    async def call_all(
        self, indexes: range | set[int], operation: Operation[Q, R], request: Q, timeout_s: float = PEER_TIMEOUT_S
    ) -> dict[int, R | OSError]:
        """What each daemon of *indexes* answered to the same request, all asked at once."""
        outcomes: dict[int, R | OSError] = {}

        async def ask(index: int) -> None:
            try:
                outcomes[index] = await self.call(index, operation, request, timeout_s)
            except OSError as error:
                outcomes[index] = error

        async with trio.open_nursery() as nursery:
            for index in indexes:
                nursery.start_soon(ask, index)
        return outcomes

    def _peer(self, index: int) -> Peer:
        peer = self._peers.get(index)
        if peer is None:

            async def locate() -> DaemonAddress:
                return await self._locate(index)

            peer = self._peers[index] = Peer(f"daemon {index}", locate, self._access, self._client_id, self._role)
            self._nursery.start_soon(peer.run)
        return peer


def first_error(outcomes: dict[int, Any]) -> OSError | None:
    """An error among *outcomes*; one that a daemon answered is preferred to one that did not answer."""
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, OSError)]
    return min(errors, key=lambda error: isinstance(error, TimeoutError), default=None)


def failures(outcomes: dict[int, Any]) -> set[int]:
    """The daemons whose outcome is an error."""
    return {daemon for daemon, outcome in outcomes.items() if isinstance(outcome, OSError)}


async def _send_all(connection: socket.socket, pieces: list[Buffer]) -> None:
    while pieces:
        try:
            sent = connection.sendmsg(pieces)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connection.fileno())
            continue
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces[0])
            pieces = pieces[1:]
        if sent:
            pieces = [memoryview(pieces[0])[sent:], *pieces[1:]]
