"""The daemon process: start, stop, and what is made of what.

Start: lock the rootdir, open its stores, listen, and only then append the own line to the hostfile; who finds
that line finds a daemon that serves. Stop, by SHUTDOWN, SIGTERM or cancellation: accept nothing new, let requests
finish for `CLEAN_STOP_S`, close the stores. A daemon that is killed instead loses nothing that it acknowledged.
"""

import errno
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from gkfs import hostfile, transport
from gkfs.buffers import keep_large_buffers
from gkfs.daemon.audit import Audit
from gkfs.daemon.connection import Connection
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.gate import Gate, Identity, NotAdmitted
from gkfs.daemon.guards import Guards
from gkfs.daemon.handlers import Handlers
from gkfs.daemon.local import LocalClient
from gkfs.daemon.peers import Peers
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.shares import Shares
from gkfs.daemon.status import Control
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.daemon.superblock import Rootdir
from gkfs.daemon.usage import Usage
from gkfs.endpoint import Connect
from gkfs.errors import ExitStatus, GkfsError
from gkfs.hostfile import DaemonAddress, Features, Hostfile
from gkfs.keyfile import Access
from gkfs.limits import CLEAN_STOP_S, CONNECTIONS_MAX, DAEMON_SPIN_S, RECONNECT_MAX_S
from gkfs.operations import SHUTDOWN, STATUS, SYNC_METADATA
from gkfs.spin import Spinner

_log = logging.getLogger(__name__)

_EVERY_INTERFACE = ("0.0.0.0", "::")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class DaemonSettings:
    """What a daemon is told. *rootdir*: its own folder; *advertise_host*: the name others reach it under."""

    rootdir: Path
    hostfile: Path
    daemon_index: int
    listen: str = "tcp://127.0.0.1:0"
    advertise_host: str | None = None
    until_killed: bool = False  # signals that ask for an end are somebody else's to act upon
    merge: bool = True  # requests that came together are executed and answered together
    direct_io: bool = True  # large pieces of chunks go past the page cache, where the file system can
    keeps_log: bool = (
        True  # without RocksDB's write-ahead log the death of the daemon loses records; to be measured
    )


class Serving(NamedTuple):
    """A daemon that is ready: where it listens, and how a client in its process gets to it without that."""

    address: DaemonAddress
    connect: Connect


def run_daemon(settings: DaemonSettings) -> None:
    """Serve until SHUTDOWN, SIGTERM or SIGINT. Raises GkfsError when the daemon cannot start."""
    if settings.until_killed:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    take_all_descriptors()
    keep_large_buffers()
    if settings.until_killed:
        trio.run(serve, settings)
        return
    early: list[int] = []
    # In force before trio's handlers and after: an early signal is not lost, a late one does not kill.
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda received, _: early.append(received))
    trio.run(_serve_until_signal, settings, early)


def take_all_descriptors() -> None:
    """Have this process open as many files as the system lets it: chunks, tables and connections are many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve_until_signal(settings: DaemonSettings, early: list[int]) -> None:
    failure: GkfsError | None = None
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def wait_for_signal() -> None:
                async for number in signals:  # repeats are taken and change nothing
                    if not stop.is_set():
                        _log.info("stopping on %s", signal.Signals(number).name)
                    stop.set()

            nursery.start_soon(wait_for_signal)
            if early:
                stop.set()
            try:
                await serve(settings, stop=stop)
            except GkfsError as error:
                failure = error  # not out of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def serve(
    settings: DaemonSettings,
    *,
    stop: trio.Event | None = None,
    on_shutdown: Callable[[], None] | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SHUTDOWN, until *stop* is set, or until cancelled; says when it is ready, and how to reach it.

    With *on_shutdown* SHUTDOWN calls that instead; the caller then sets *stop*, sooner or later.
    Raises GkfsError when the daemon cannot start. Afterwards everything is closed, and the rootdir is free.
    """
    known = hostfile.read(settings.hostfile)
    if not 0 <= settings.daemon_index < known.daemon_count:
        raise GkfsError(
            f"hostfile {settings.hostfile} is of {known.daemon_count} daemons, not of {settings.daemon_index}",
            ExitStatus.HOSTFILE,
        )
    rootdir = Rootdir(settings.rootdir, known, settings.daemon_index)
    try:
        sync, keeps_log = known.features.sync, settings.keeps_log
        store = MetadataStore(rootdir.metadata, ending=rootdir.ending, sync=sync, keeps_log=keeps_log)
        try:
            storage = _open_storage(rootdir, store, known.features, direct_io=settings.direct_io)
            try:
                rootdir.opened()
                stop = trio.Event() if stop is None else stop
                server = _Server(settings, known.access, rootdir, store, storage, stop, on_shutdown or stop.set)
                await server.run(known, task_status)
            finally:
                storage.close()
        finally:
            if store.close():
                rootdir.end()
    finally:
        rootdir.close()


def _open_storage(rootdir: Rootdir, store: MetadataStore, features: Features, *, direct_io: bool) -> ChunkStorage:
    try:
        if not features.checksums:
            return ChunkStorage(rootdir.chunks, store, uses_direct_io=direct_io, sync=features.sync)
        epochs = rootdir.superblock.boot_epoch, rootdir.superblock.power_epoch
        return SummedStorage(rootdir.chunks, store, epochs, uses_direct_io=direct_io, sync=features.sync)
    except OSError as error:
        raise GkfsError(f"rootdir {rootdir.path} cannot be used: {error.strerror}", ExitStatus.ROOTDIR) from None


class _Server:
    """One run of a daemon whose stores are open."""

    def __init__(
        self,
        settings: DaemonSettings,
        access: Access,
        rootdir: Rootdir,
        store: MetadataStore,
        storage: ChunkStorage,
        stop: trio.Event,
        on_shutdown: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._rootdir = rootdir
        self._store = store
        self._storage = storage
        self._stop = stop
        self._on_shutdown = on_shutdown
        superblock = rootdir.superblock
        self._identity = Identity(
            superblock.fsid, superblock.daemon_index, superblock.daemon_count, superblock.boot_epoch
        )
        self._access = access
        self._gate = Gate(self._identity, access.key)
        self._sessions = Sessions(store)
        self._own_session = Session(os.urandom(16), "peer")
        self._connections: set[Connection] = set()
        self._shares = Shares()
        self._spinner = Spinner(DAEMON_SPIN_S)

    async def run(self, known: Hostfile, task_status: trio.TaskStatus[Serving]) -> None:
        listeners: list[socket.socket] = []
        failure: GkfsError | None = None
        async with trio.open_nursery() as nursery:
            try:
                self._dispatcher = Dispatcher(self._store, nursery)
                self._register(nursery)
                self._listen(listeners)
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                nursery.start_soon(self._gate.report)
                nursery.start_soon(self._storage.background)
                connect = partial(
                    LocalClient,
                    self._identity.daemon_index,
                    self._dispatcher,
                    self._store,
                    self._sessions,
                    nursery,
                )
                task_status.started(Serving(self._announce(listeners, known), connect))
                await self._stop.wait()
            except GkfsError as error:
                failure = error  # not out of the nursery, which would wrap it
            finally:
                for listener in listeners:
                    trio.lowlevel.notify_closing(listener.fileno())
                    listener.close()
                self._rootdir.socket.unlink(missing_ok=True)
            await self._finish()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        _log.info("daemon %d stopped", self._identity.daemon_index)

    def _register(self, nursery: trio.Nursery) -> None:
        guards = Guards()

        async def execute(operation: Any, request: Any) -> Any:
            return await self._dispatcher.call(self._own_session, operation, request)

        peers = Peers(self._identity.daemon_index, self._access, self._locate, execute, nursery)
        control = Control(
            self._identity, self._store, self._storage, self._sessions, self._dispatcher, self._on_shutdown
        )
        self._dispatcher.serve(STATUS, control.status)
        self._dispatcher.serve(SHUTDOWN, control.shutdown)
        self._dispatcher.serve(SYNC_METADATA, control.sync_metadata)
        handlers = Handlers(self._identity, self._store, self._storage, guards, peers, self._sessions, nursery)
        handlers.register(self._dispatcher)
        Audit(self._store, self._storage, guards, self._rootdir.chunks).register(self._dispatcher)
        Usage(self._store, guards).register(self._dispatcher)
        self._dispatcher.check_complete()
        handlers.resume()

    # --- listening

    def _listen(self, listeners: list[socket.socket]) -> None:
        listeners.append(self._listen_tcp())
        listeners.append(transport.listen_unix(self._rootdir.socket))

    def _listen_tcp(self) -> socket.socket:
        host, port = transport.tcp_address(self._settings.listen)
        previous = self._rootdir.superblock.port
        if port == 0 and previous:
            try:
                return transport.listen_tcp(f"tcp://{_bracketed(host)}:{previous}")
            except GkfsError as error:
                _log.warning("%s; taking another port", error)
        return transport.listen_tcp(self._settings.listen)

    def _announce(self, listeners: list[socket.socket], known: Hostfile) -> DaemonAddress:
        """Append the own line to the hostfile, unless it says the same already. Raises GkfsError."""
        index = self._identity.daemon_index
        host = self._settings.advertise_host or transport.tcp_address(self._settings.listen)[0]
        if host in _EVERY_INTERFACE:
            host = socket.gethostname()
        address = DaemonAddress(
            index,
            socket.gethostname(),
            transport.bound_tcp_uri(listeners[0], host),
            transport.unix_uri(self._rootdir.socket),
        )
        try:
            self._rootdir.remember_port(listeners[0].getsockname()[1])
            if known.daemons.get(index) != address:
                _append(self._settings.hostfile, hostfile.format_daemon(address).encode())
        except OSError as error:
            raise GkfsError(
                f"hostfile {self._settings.hostfile} cannot be written: {error.strerror}", ExitStatus.HOSTFILE
            ) from None
        superblock = self._rootdir.superblock
        _log.info(
            "%s serves file system %s from %s, epoch %d",
            address,
            superblock.fsid,
            self._rootdir.path,
            superblock.boot_epoch,
        )
        return address

    async def _locate(self, index: int) -> DaemonAddress:
        found = await trio.to_thread.run_sync(hostfile.read_addresses, self._settings.hostfile)
        try:
            return found.daemons[index]
        except KeyError:
            raise GkfsError(f"daemon {index} is not in the hostfile yet", ExitStatus.UNREACHABLE) from None

    # --- connections

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
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
                self._welcome(accepted, peer, nursery)
            except NotAdmitted:
                accepted.close()
            await trio.lowlevel.checkpoint()

    def _welcome(self, accepted: socket.socket, peer: tuple[str, int], nursery: trio.Nursery) -> None:
        """Have a connection served. Raises NotAdmitted."""
        caller = self._gate.caller(accepted, peer)
        if len(self._connections) - self._gate.waiting >= CONNECTIONS_MAX:
            self._gate.refuse(caller, f"{CONNECTIONS_MAX} connections are open")
            raise NotAdmitted
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            transport.tune(accepted)
        parts = (self._gate, self._identity, self._sessions, self._dispatcher, nursery, self._shares)
        connection = Connection(accepted, caller, *parts, spinner=self._spinner, merge=self._settings.merge)
        nursery.start_soon(self._serve_connection, connection)

    async def _serve_connection(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._shares.connections = len(self._connections)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._shares.connections = len(self._connections)

    async def _finish(self) -> None:
        """Let what is being executed be answered, for a short time."""
        with trio.move_on_after(CLEAN_STOP_S):
            await self._dispatcher.idle()
            for connection in list(self._connections):
                await connection.drained()


def _append(path: Path, line: bytes) -> None:
    # One write, so that lines of daemons that start at the same time do not mix.
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
