"""Connections of the mount to all daemons, driven by the pump.

Calls queued while the pump handles one round of events leave together, one send per daemon: merging without a
timer. A broken connection is re-established in the background; its calls wait, are sent again, or time out. A
daemon in this process is called instead (`gkfs.endpoint`).
"""

import contextlib
import errno
import logging
import random
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import trio

from gkfs import hostfile
from gkfs.channel import Call, Channel
from gkfs.client.pump import Pump
from gkfs.copy_messages import LocateRequest
from gkfs.endpoint import Connect
from gkfs.errors import ExitStatus, GkfsError, ProtocolError, os_error
from gkfs.hostfile import DaemonAddress, Hostfile
from gkfs.limits import RECEIVE_STALL_S, RECONNECT_FIRST_S, RECONNECT_MAX_S, SEND_BUFFERS_MAX, SILENT_TIMEOUT_S
from gkfs.messages import Buffer
from gkfs.operations import LOCATE, Operation, Q, R
from gkfs.tls import TlsSocket
from gkfs.transport import open_connection

log = logging.getLogger(__name__)
_EXPIRY_CHECK_S = 0.25
_CONNECTS_AT_ONCE = 64
_STUCK_S = 2.0  # without an answer: another daemon may have taken the place
_LOCATE_S = 2.0
_ENDED = "was disconnected: the mount has ended"


class Connection:
    """One daemon: its channel, and the socket while there is one."""

    def __init__(self, pool: "Pool", address: DaemonAddress) -> None:
        self.address = address
        self.channel = Channel(str(address))
        self._pool = pool
        self._socket: socket.socket | None = None
        self._sending: list[Buffer] = []  # taken from the channel, not yet taken by the socket
        self._wants_write = False
        self.attached_s = float("-inf")  # the latest connection's beginning
        self.delay_s = RECONNECT_FIRST_S  # before the latest was tried again
        self._looked_s = 0.0
        self._power_epoch = -1  # of the daemon; not known yet

    def attach(self, connected: socket.socket, power_epoch: int) -> None:
        """Take over a connected, non-blocking socket; the daemon has said its *power_epoch*."""
        if self._power_epoch not in (-1, power_epoch):
            log.warning("%s: its node has gone down: what was not synced is as it was before", self.address)
            self._pool.on_setback(self.address.daemon)
        self._power_epoch = power_epoch
        self.attached_s = time.monotonic()
        self._socket = connected
        self._sending = []
        self._wants_write = False
        self._receive = self._receive_tls if isinstance(connected, TlsSocket) else self._receive_some
        self._pool.pump.register(connected.fileno(), self._on_events)
        self.channel.connection_made()
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        if self._socket is None or self._wants_write:
            return
        if self.channel.has_output:
            self._sending += self.channel.take_output()
        try:
            while self._sending:
                count = self._socket.sendmsg(self._sending[:SEND_BUFFERS_MAX])
                self._drop_sent(count)
        except BlockingIOError:
            self._watch(writing=True)
        except OSError as error:
            self._broken(error)

    def close(self) -> None:
        """Close the socket; calls in flight stay until they expire."""
        if self._socket is not None:
            self._pool.pump.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self.channel.connection_lost()

    def is_stuck(self, now_s: float, timeout_s: float) -> bool:
        """Whether a call, with a time limit of *timeout_s*, has waited for long, and nobody has looked why."""
        waited_s = now_s - (self.channel.oldest_deadline_s - timeout_s)
        if not self.channel.connected or waited_s < _STUCK_S or now_s < self._looked_s + _STUCK_S:
            return False
        self._looked_s = now_s
        return True

    def expire(self, now_s: float) -> None:
        """Fail overdue calls, and give up a connection on which a message begins and does not end."""
        self.channel.expire(now_s)
        stalled_s = self.channel.stalled_s(now_s) if self._socket is not None else None
        if stalled_s is not None and stalled_s > min(self._pool.timeout_s, RECEIVE_STALL_S):
            self._broken(ProtocolError(f"stopped within a message for {stalled_s:.0f} s"))

    def _drop_sent(self, count: int) -> None:
        for position, piece in enumerate(self._sending):
            if count < len(piece):
                self._sending = [memoryview(piece)[count:], *self._sending[position + 1 :]]
                return
            count -= len(piece)
        self._sending = []

    def _watch(self, *, writing: bool) -> None:
        assert self._socket is not None
        self._wants_write = writing
        self._pool.pump.modify(self._socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def _on_events(self, events: int) -> None:
        if events & select.EPOLLOUT and self._wants_write:
            self._watch(writing=False)
            self.flush()
        if events & ~select.EPOLLOUT and self._socket is not None:
            self._receive()

    def _receive_tls(self) -> None:
        """As `_receive_some`, and the rest of a record, too, of which the pump does not know."""
        self._receive_some()
        while isinstance(self._socket, TlsSocket) and self._socket.pending():
            self._receive_some()

    def _receive_some(self) -> None:
        assert self._socket is not None
        try:
            count = self._socket.recv_into(self.channel.buffer())
            if count == 0:
                raise ConnectionResetError(errno.ECONNRESET, "the daemon closed the connection")
            self.channel.received(count)
        except BlockingIOError:
            pass
        except (OSError, ProtocolError, MemoryError) as error:
            self._broken(error)

    def _broken(self, reason: Exception) -> None:
        log.warning("%s: connection lost: %s", self.address, reason)
        self.close()
        self._pool.reconnect(self)


class Pool:
    """Calls to the daemons by index. `connect` first, `maintain` in the background while the mount lives."""

    def __init__(
        self,
        pump: Pump,
        hosts: Hostfile,
        path: Path,
        client_id: bytes,
        timeout_s: float,
        *,
        connect_local: Connect | None = None,
        merge: bool = True,
    ) -> None:
        """*connect_local*: to a daemon in this process. Without *merge* each request is sent by itself."""
        self.pump = pump
        self.timeout_s = timeout_s
        self.on_setback: Callable[[int], object] = bool  # for a daemon that may have gone back to an earlier state
        self._hosts = hosts
        self._path = path
        self._client_id = client_id
        self._local = connect_local(client_id, pump.wake) if connect_local else None
        self._local_index = self._local.daemon_index if self._local else -1
        self._connections = {
            index: Connection(self, address)
            for index, address in hosts.daemons.items()
            if index != self._local_index
        }
        self._merge = merge
        self._queued: list[Connection] = []
        self._nursery: trio.Nursery | None = None
        self._broken_before: list[Connection] = []  # `maintain` has begun
        pump.before_poll.append(self._flush)

    def call(self, daemon: int, operation: Operation[Q, R], request: Q) -> Call[R]:
        """Queue *request* for that daemon; await the result. Raises OSError (EIO) if there is no such one."""
        if daemon == self._local_index:
            assert self._local is not None
            return self._local.call(operation, request, self.timeout_s)
        try:
            connection = self._connections[daemon]
        except KeyError:  # a record says so
            raise os_error(errno.EIO, f"daemon {daemon} of {len(self._hosts.daemons)}") from None
        channel = connection.channel
        timeout_s = min(self.timeout_s, SILENT_TIMEOUT_S) if channel.silent else self.timeout_s
        call = channel.submit(operation, request, time.monotonic() + timeout_s)
        if self._merge:
            self._queued.append(connection)
            self.pump.wake()
        else:
            connection.flush()
        return call

    async def connect(self, patience_s: float = 0.0) -> None:
        """Connect to every daemon, in parallel. Raises a group of GkfsError when some cannot be had.

        One that does not answer is tried again for *patience_s*: at the start of a large job all call all.
        """
        limit = trio.CapacityLimiter(_CONNECTS_AT_ONCE)
        deadline_s = trio.current_time() + patience_s

        async def one(connection: Connection) -> None:
            while True:
                try:
                    await limit.acquire()
                    try:
                        connection.attach(*await self._open(connection.address))
                    finally:
                        limit.release()
                    return
                except GkfsError as error:
                    if error.status is not ExitStatus.UNREACHABLE or trio.current_time() >= deadline_s:
                        raise
                await trio.sleep(RECONNECT_MAX_S)

        async with trio.open_nursery() as nursery:
            for connection in self._connections.values():
                nursery.start_soon(one, connection)

    def sent(self) -> tuple[int, int]:
        """How many requests were sent to other processes, and in how many batches."""
        channels = [connection.channel for connection in self._connections.values()]
        return sum(one.sent_requests for one in channels), sum(one.sent_batches for one in channels)

    async def maintain(self) -> None:
        """Reconnect broken connections and expire overdue calls, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for connection in self._broken_before:
                self.reconnect(connection)
            nursery.start_soon(self._expire, nursery)

    async def _expire(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(_EXPIRY_CHECK_S)
            now_s = time.monotonic()
            for connection in self._connections.values():
                connection.expire(now_s)
                if connection.is_stuck(now_s, self.timeout_s):
                    nursery.start_soon(self._look_elsewhere, connection)
            if self._local is not None:
                self._local.expire(now_s)
            self.pump.wake()

    async def _look_elsewhere(self, connection: Connection) -> None:
        """The daemon is silent: another one may have taken its place."""
        before = connection.address
        await self._find_again(connection)
        if connection.address != before and connection.channel.connected:
            log.warning("%s is silent: %s took its place", before, connection.address)
            connection.close()
            self.reconnect(connection)

    def reconnect(self, connection: Connection) -> None:
        """Start to re-establish *connection*; called when it broke."""
        if self._nursery is not None:
            self._nursery.start_soon(self._reconnect, connection)
        else:
            self._broken_before.append(connection)

    def close(self) -> None:
        """Close all connections; calls still waiting fail."""
        self._nursery = None
        for connection in self._connections.values():
            connection.close()
            connection.channel.fail_all(_ENDED)
        if self._local is not None:
            self._local.close(_ENDED)

    async def _reconnect(self, connection: Connection) -> None:
        delay_s = RECONNECT_FIRST_S
        if time.monotonic() < connection.attached_s + RECONNECT_MAX_S:
            # The daemon may break it because of what we send; then it will again.
            delay_s = min(2 * connection.delay_s, RECONNECT_MAX_S)
            await trio.sleep(delay_s)
        connection.delay_s = delay_s
        while True:
            try:
                connected, power_epoch = await self._open(connection.address)
            except GkfsError as error:
                log.info("%s", error)
            else:
                log.warning("%s: connected again", connection.address)
                connection.attach(connected, power_epoch)
                return
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, RECONNECT_MAX_S)
            await self._find_again(connection)

    async def _find_again(self, connection: Connection) -> None:
        """A daemon may have another address: the last line for it holds, in our hostfile, or in that of others."""
        index = connection.address.daemon
        with contextlib.suppress(GkfsError):  # being rewritten, or gone with the job
            hosts = hostfile.read(self._path)
            if hosts.fsid == self._hosts.fsid:
                self._hosts = hosts  # all daemons were started anew: then the key is another, too
                known = hosts.daemons.get(index, connection.address)
                if known != connection.address:
                    connection.address = known
                    return
        connected = [other for other, one in self._connections.items() if one.channel.connected and other != index]
        if connected:
            call = self.call(random.choice(connected), LOCATE, LocateRequest(index))
            done = trio.Event()
            call.on_done = done.set
            with trio.move_on_after(_LOCATE_S):
                await done.wait()
                if call.error is None:
                    connection.address = DaemonAddress(index, *call.result())

    async def _open(self, address: DaemonAddress) -> tuple[socket.socket, int]:
        access = self._hosts.access
        connected, hello = await open_connection(address, access, self._client_id, "client")
        return connected, hello.power_epoch

    def _flush(self) -> None:
        if self._queued:
            queued, self._queued = self._queued, []
            for connection in queued:
                connection.flush()
