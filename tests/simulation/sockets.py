"""Simulated sockets: what `gkfs` does with non-blocking stream sockets, over the simulated network."""

import errno
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

import trio

from gkfs.errors import ExitStatus, GkfsError
from gkfs.transport import tcp_address
from tests.simulation.descriptors import Descriptor, Table
from tests.simulation.network import Network, Pipe
from tests.simulation.process import PROCESS

Bytes = bytes | bytearray | memoryview
_REFUSED_S = 1.0  # after which who calls a host that is down gives up, or learns it


class Socket(Descriptor):
    """One end of a connection."""

    family = socket.AF_INET

    def __init__(self, table: Table, network: Network, incoming: Pipe, outgoing: Pipe) -> None:
        super().__init__(table)
        self._network = network
        self._in = incoming
        self._out = outgoing
        self._error = 0
        self._shut = False
        incoming.on_change = self.changed
        outgoing.on_drain = self.changed
        self.process.on_kill.append(self.abandon)

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, *options: Any) -> None:
        pass

    def readable(self) -> bool:
        return bool(self._in.arrived or self._in.ended or self._error or self._shut)

    def writable(self) -> bool:
        return bool(self._out.room_bytes or self._error or self._out.finished)

    def events(self, wanted: int) -> int:
        return super().events(wanted) | (select.EPOLLERR if self._error else 0)

    def recv(self, size: int) -> bytes:
        """Some bytes, b"" at the end. Raises OSError."""
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: bytearray | memoryview) -> int:
        """How many bytes were put into *buffer*. Raises OSError."""
        last = self._begin()
        arrived = self._in.arrived
        if arrived:
            count = self._network.part_of(min(len(arrived), len(buffer)))
            buffer[:count] = arrived[:count]
            del arrived[:count]
            self._in.on_drain()
        elif self._error:
            raise OSError(self._error, os.strerror(self._error))
        elif self._in.ended or self._shut:
            count = 0
        else:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        self.process.after_step(last)
        return count

    def send(self, data: Bytes) -> int:
        """How many bytes were taken. Raises OSError."""
        last = self._begin()
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        if self._out.finished:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        size = self._out.room_for(len(data))
        if not size:
            raise BlockingIOError(errno.EAGAIN, "no room")
        self._out.put(bytes(data[:size]))
        self.process.after_step(last)
        return size

    def sendmsg(self, pieces: Sequence[Bytes]) -> int:
        """As `send`, of several pieces."""
        return self.send(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self._begin()
        self._shut = True
        self._out.finish()
        self.changed()

    def close(self) -> None:
        """Give it back; the peer learns of it."""
        if self.closed:
            return
        self.forget()
        self._leave()

    def abandon(self) -> None:
        """The process has ended: the system closes for it."""
        if not self.closed:
            self.forget()
            self._leave()

    def broken(self) -> None:
        """The connection is no more."""
        if not self._error and not self.closed:
            self._error = errno.ECONNRESET
            self._out.finished = True
            self.changed()

    def _leave(self) -> None:
        if self.abandon in self.process.on_kill and self.process.alive:
            self.process.on_kill.remove(self.abandon)
        self._in.on_change = lambda: None
        self._out.on_drain = lambda: None
        if self._in.arrived:  # not read: the system resets the connection at once
            self._in.arrived.clear()
            self._out.on_break()
        else:
            self._out.finish()
            self._in.finished = True

    def _begin(self) -> bool:
        if self.closed:
            self.process.check()
            raise OSError(errno.EBADF, "Bad file descriptor")
        return self.process.before_step()


class Listener(Descriptor):
    """A listening socket; only the host it is on knows it."""

    family = socket.AF_INET

    def __init__(self, table: Table, hosts: "Hosts", address: tuple[str, int]) -> None:
        super().__init__(table)
        self.address = address
        self._hosts = hosts
        self.waiting: list[tuple[Socket, tuple[str, int]]] = []
        self.process.on_kill.append(self.close)

    def getsockname(self) -> tuple[str, int]:
        return self.address

    def readable(self) -> bool:
        return bool(self.waiting)

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        """The next connection. Raises BlockingIOError."""
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody there")
        return self.waiting.pop(0)

    def close(self) -> None:
        if self.closed:
            return
        self.forget()
        self._hosts.gone(self)
        for connection, _ in self.waiting:
            connection.abandon()
        self.waiting.clear()


class Hosts:
    """Who listens where, and connecting to them: what `gkfs.transport` gets instead of the system's."""

    def __init__(self, table: Table, network: Network) -> None:
        self._table = table
        self._network = network
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._ports = 20000
        self.connections = 0

    def listen_tcp(self, uri: str) -> Listener:
        """For `transport.listen_tcp`."""
        host, port = tcp_address(uri)
        if not port:
            self._ports += 1
            port = self._ports
        if (host, port) in self._listeners:
            raise GkfsError(f"cannot listen on {uri}: Address already in use", ExitStatus.ADDRESS)
        listener = self._listeners[host, port] = Listener(self._table, self, (host, port))
        return listener

    def listen_unix(self, path: object) -> Listener:
        """For `transport.listen_unix`: nobody is on the same host."""
        return Listener(self._table, self, (str(path), 0))

    def gone(self, listener: Listener) -> None:
        """*listener* was closed."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def connect(self, uri: str) -> Socket:
        """For `transport._connect`. Raises OSError when nobody listens; waits while the network is cut."""
        host, port = tcp_address(uri)
        network, caller = self._network, PROCESS.get()
        for source, target in ((caller.host, host), (host, caller.host)):
            await trio.sleep(network.delay_s())
            until_s = network.cut_until_s(source, target)
            if until_s > network.clock.now_s:
                await trio.sleep_until(until_s + network.delay_s())
        caller.check()
        listener = self._listeners.get((host, port))
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        self.connections += 1
        there, back = Pipe(network, caller.host, host), Pipe(network, host, caller.host)
        near = Socket(self._table, network, back, there)
        token = PROCESS.set(listener.process)
        try:
            far = Socket(self._table, network, there, back)
        finally:
            PROCESS.reset(token)

        def break_down() -> None:
            # Each end learns of it when it does.
            there.lose()
            back.lose()
            near.broken() if network.random.random() < 0.5 else network.at(later_s(), near.broken)
            far.broken() if network.random.random() < 0.5 else network.at(later_s(), far.broken)

        def later_s() -> float:
            return network.clock.now_s + network.random.choice([0.001, 0.1, 2.0])

        there.on_break = back.on_break = break_down
        listener.waiting.append((far, (caller.host, 30000 + self.connections)))
        listener.changed()
        return near
