"""The doors of a daemon: where it listens, and who comes in.

There are two, a TCP port and a Unix socket. A connection is looked at by the gate before it is served.
"""

import errno
import logging
import socket

import trio

from gkfs import tls, transport
from gkfs.daemon import descriptors
from gkfs.daemon.connection import Connection
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Gate, Identity, NotAdmitted
from gkfs.daemon.session import Sessions
from gkfs.daemon.shares import Shares
from gkfs.daemon.superblock import Rootdir
from gkfs.errors import GkfsError
from gkfs.hostfile import DaemonAddress
from gkfs.keyfile import Access
from gkfs.limits import DAEMON_SPIN_S, RECONNECT_MAX_S
from gkfs.spin import Spinner

_log = logging.getLogger(__name__)

_EVERY_INTERFACE = ("0.0.0.0", "::")


class Doors:
    """The listening sockets of one daemon and the connections that came in by them, which live in *nursery*."""

    def __init__(
        self,
        identity: Identity,
        access: Access,
        sessions: Sessions,
        dispatcher: Dispatcher,
        nursery: trio.Nursery,
    ) -> None:
        self._identity = identity
        self._sessions = sessions
        self._dispatcher = dispatcher
        self._nursery = nursery
        shares = descriptors.shares()
        self._connections_max = shares.connections
        self._gate = Gate(identity, access.key, shares.handshakes)
        self._access = access
        self._connections: set[Connection] = set()
        self._shares = Shares()
        self._spinner = Spinner(DAEMON_SPIN_S)
        self._listeners: list[socket.socket] = []

    def open(self, listen: str, rootdir: Rootdir, *, merge: bool) -> None:
        """Accept connections from now on. Raises GkfsError: ADDRESS, or what a certificate cannot be made for."""
        self._certificate = tls.Certificate() if self._access.tls else None
        self._merge = merge
        self._listen = listen
        self._socket = rootdir.socket
        self._listeners.append(_listen_tcp(listen, rootdir.superblock.port))
        self._listeners.append(transport.listen_unix(self._socket))
        for listener in self._listeners:
            self._nursery.start_soon(self._accept, listener)
        self._nursery.start_soon(self._gate.report)

    def address(self, advertised: str) -> DaemonAddress:
        """Where others reach it, by the name *advertised*, if there is one."""
        host = advertised or transport.tcp_address(self._listen)[0]
        if host in _EVERY_INTERFACE:
            host = socket.gethostname()
        return DaemonAddress(
            self._identity.daemon_index,
            socket.gethostname(),
            transport.bound_tcp_uri(self._listeners[0], host),
            transport.unix_uri(self._socket),
        )

    def close(self) -> None:
        """Accept nothing more; connections stay."""
        for listener in self._listeners:
            trio.lowlevel.notify_closing(listener.fileno())
            listener.close()
        if self._listeners:
            self._socket.unlink(missing_ok=True)

    async def drained(self) -> None:
        """Wait until all replies have been taken."""
        for connection in list(self._connections):
            await connection.drained()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                accepted, peer = listener.accept()
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(listener.fileno())
                except trio.ClosedResourceError:
                    return
                continue
            except OSError as error:
                if error.errno == errno.EBADF:
                    return
                _log.error("cannot accept connections: %s", error.strerror)  # out of descriptors, most likely
                await trio.sleep(RECONNECT_MAX_S)
                continue
            try:
                self._welcome(accepted, peer)
            except NotAdmitted:
                accepted.close()
            await trio.lowlevel.checkpoint()

    def _welcome(self, accepted: socket.socket, peer: tuple[str, int]) -> None:
        """Have a connection served. Raises NotAdmitted."""
        caller = self._gate.caller(accepted, peer)
        most = self._connections_max
        if len(self._connections) - self._gate.waiting >= most:
            self._gate.refuse(caller, f"{most} connections are open")
            raise NotAdmitted
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            transport.tune(accepted)
            if self._certificate is not None:
                try:
                    accepted = self._certificate.answer(accepted)
                except OSError as error:  # gone already
                    self._gate.refuse(caller, error.strerror or "broke")
                    raise NotAdmitted from None
        parts = (self._gate, self._identity, self._sessions, self._dispatcher, self._nursery, self._shares)
        connection = Connection(accepted, caller, *parts, spinner=self._spinner, merge=self._merge)
        self._nursery.start_soon(self._serve_connection, connection)

    async def _serve_connection(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._shares.connections = len(self._connections)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._shares.connections = len(self._connections)


def _listen_tcp(listen: str, previous_port: int) -> socket.socket:
    """At the port of an earlier run, if any will do."""
    if previous_port and listen == transport.at_any_port(listen):
        try:
            return transport.listen_tcp(transport.at_port(listen, previous_port))
        except GkfsError as error:
            _log.warning("%s; taking another port", error)
    return transport.listen_tcp(listen)
