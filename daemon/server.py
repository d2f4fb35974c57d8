"""A daemon: start, stop, and what is made of what.

Start: lock the rootdir, open its stores, listen, and only then append the own line to the hostfile; who finds
that line finds a daemon that serves. Stop, by SHUTDOWN, an event or cancellation: accept nothing new, let requests
finish for `CLEAN_STOP_S`, close the stores. A daemon that is killed instead loses nothing that it acknowledged.
"""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from gkfs import hostfile, transport
from gkfs.copy_messages import LocateReply, LocateRequest
from gkfs.daemon import descriptors
from gkfs.daemon.audit import Audit
from gkfs.daemon.dispatch import Dispatcher
from gkfs.daemon.doors import Doors
from gkfs.daemon.failover import Failover
from gkfs.daemon.gate import Identity
from gkfs.daemon.guards import Guards
from gkfs.daemon.handlers import Handlers
from gkfs.daemon.leading import Shard
from gkfs.daemon.local import LocalClient
from gkfs.daemon.mended_storage import MirroredSummedStorage
from gkfs.daemon.mirror import Mirror
from gkfs.daemon.mirrored_storage import MirroredStorage
from gkfs.daemon.peers import Peers
from gkfs.daemon.room import Ballast, Room, disk_of, memtable_bytes
from gkfs.daemon.runs import peer_id
from gkfs.daemon.session import Session, Sessions
from gkfs.daemon.status import Control
from gkfs.daemon.storage import ChunkStorage
from gkfs.daemon.store import MetadataStore
from gkfs.daemon.summed_storage import SummedStorage
from gkfs.daemon.superblock import Rootdir
from gkfs.daemon.usage import Usage
from gkfs.endpoint import Connect
from gkfs.errors import ExitStatus, GkfsError, os_error
from gkfs.hostfile import DaemonAddress, Features, Hostfile
from gkfs.keyfile import Access
from gkfs.limits import (
    BALLAST_EXTRA_BYTES,
    CLEAN_STOP_S,
    METADATA_REOPEN_BYTES,
    POLL_INTERVAL_S,
    START_TIMEOUT_S,
)
from gkfs.operations import LOCATE, SHUTDOWN, STATUS, SYNC_METADATA

_log = logging.getLogger(__name__)


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
    capacity_bytes: int = 0  # for chunks and records together; 0: as much as the disk has
    keeps_log: bool = True  # without RocksDB's log the death of the daemon loses records; to be measured


class Serving(NamedTuple):
    """A daemon that is ready: where it listens, and how a client in its process gets to it without that."""

    address: DaemonAddress
    connect: Connect


async def serve(
    settings: DaemonSettings,
    *,
    stop: trio.Event | None = None,
    on_shutdown: Callable[[], None] | None = None,
    failover: Failover | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SHUTDOWN, until *stop* is set, or until cancelled; says when it is ready, and how to reach it.

    With *on_shutdown* SHUTDOWN calls that instead; the caller then sets *stop*, sooner or later. *failover* is
    that of a process which has taken the shard over.
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
        has_mirror = known.features.replicas > 1
        if has_mirror:
            _check_not_lost(settings, known, rootdir)
        # In threads: others must not take a process for dead that opens a large shard which it has taken over.
        gathered_bytes, ballast = _make_way(rootdir, settings)
        store = await trio.to_thread.run_sync(_open_store, rootdir, known.features, settings, gathered_bytes)
        try:
            mirror = Mirror(settings.daemon_index) if has_mirror else None
            opening = partial(_open_storage, rootdir, store, mirror, ballast, known.features, settings)
            storage = await trio.to_thread.run_sync(opening)
            try:
                rootdir.opened()
                stop = trio.Event() if stop is None else stop
                server = _Server(settings, known.access, rootdir, store, storage, stop, on_shutdown or stop.set)
                await server.run(known, task_status, mirror, failover)
            finally:
                storage.close()
        finally:
            if store.close():
                rootdir.end()
    finally:
        rootdir.close()


def _check_not_lost(settings: DaemonSettings, known: Hostfile, rootdir: Rootdir) -> None:
    """Raise GkfsError when this daemon had data, which are not here: others have them, and must not lose them."""
    index = settings.daemon_index
    if rootdir.superblock.boot_epoch == 1 and index in known.daemons:
        raise GkfsError(
            f"daemon {index} has been started before (hostfile {settings.hostfile}), but nothing of it is in "
            f"{settings.rootdir}: the copy on another node takes its place",
            ExitStatus.ROOTDIR,
        )


def _make_way(rootdir: Rootdir, settings: DaemonSettings) -> tuple[int, Ballast]:
    """How much the store may gather, and the ballast, which is given up if the store could not be opened else."""
    try:
        gathered_bytes = memtable_bytes(rootdir.path, settings.capacity_bytes)
        ballast = Ballast(rootdir.ballast, 2 * gathered_bytes + BALLAST_EXTRA_BYTES)
        if disk_of(rootdir.path).free_bytes < gathered_bytes + METADATA_REOPEN_BYTES and ballast.give_up():
            _log.error("no space left under %s: what was kept for removals is used now", rootdir.path)
    except OSError as error:
        raise _unusable(rootdir, error) from None
    return gathered_bytes, ballast


def _open_store(
    rootdir: Rootdir, features: Features, settings: DaemonSettings, gathered_bytes: int
) -> MetadataStore:
    return MetadataStore(
        rootdir.metadata,
        gathered_bytes,
        descriptors.shares().tables,
        ending=rootdir.ending,
        sync=features.sync,
        keeps_log=settings.keeps_log,
    )


def _open_storage(
    rootdir: Rootdir,
    store: MetadataStore,
    mirror: Mirror | None,
    ballast: Ballast,
    features: Features,
    settings: DaemonSettings,
) -> ChunkStorage:
    try:
        room = Room(rootdir.path, store, settings.capacity_bytes, ballast)
        options: dict[str, Any] = {
            "uses_direct_io": settings.direct_io,
            "sync": features.sync,
            "files_max": descriptors.shares().chunks,
        }
        storage: ChunkStorage
        if features.checksums:
            epochs = rootdir.superblock.boot_epoch, rootdir.superblock.power_epoch
            summed = SummedStorage if mirror is None else MirroredSummedStorage
            storage = summed(rootdir.chunks, store, epochs, room, **options)
        else:
            plain = ChunkStorage if mirror is None else MirroredStorage
            storage = plain(rootdir.chunks, store, room, **options)
    except OSError as error:
        raise _unusable(rootdir, error) from None
    if mirror is not None:
        assert isinstance(storage, MirroredStorage)
        storage.mirror = mirror
        store.on_commit = mirror.commit
    return storage


def _unusable(rootdir: Rootdir, error: OSError) -> GkfsError:
    return GkfsError(f"rootdir {rootdir.path} cannot be used: {error.strerror}", ExitStatus.ROOTDIR)


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
            superblock.fsid,
            superblock.daemon_index,
            superblock.daemon_count,
            superblock.boot_epoch,
            superblock.power_epoch,
        )
        self._access = access
        self._sessions = Sessions(store)
        self._own_session = Session(os.urandom(16), "peer")

    async def run(
        self,
        known: Hostfile,
        task_status: trio.TaskStatus[Serving],
        mirror: Mirror | None,
        failover: Failover | None,
    ) -> None:
        failure: GkfsError | None = None
        own_part: Failover | None = None
        with ExitStack() as undo:
            async with trio.open_nursery() as nursery:
                try:
                    self._dispatcher = Dispatcher(self._store, nursery, mirror)
                    self._doors = Doors(self._identity, self._access, self._sessions, self._dispatcher, nursery)
                    if mirror is not None:
                        own_part = failover or undo.enter_context(closing(self._take_part(known, nursery)))
                    self._register(nursery, mirror, own_part)
                    nursery.start_soon(self._storage.room.tend)
                    nursery.start_soon(self._storage.background)
                    self._doors.open(self._settings.listen, self._rootdir, merge=self._settings.merge)
                    connect = partial(
                        LocalClient,
                        self._identity.daemon_index,
                        self._dispatcher,
                        self._store,
                        self._sessions,
                        nursery,
                    )
                    address = self._doors.address(self._settings.advertise_host or "")
                    if mirror is None or (failover is None and self._is_unknown(own_part)):
                        self._announce(address)
                    task_status.started(Serving(address, connect))
                    if mirror is not None and own_part is not None:
                        nursery.start_soon(self._lead, mirror, own_part, address)
                        if failover is None:
                            nursery.start_soon(own_part.run)
                    await self._stop.wait()
                except GkfsError as error:
                    failure = error  # not out of the nursery, which would wrap it
                finally:
                    self._doors.close()
                await self._finish()
                nursery.cancel_scope.cancel()
            self._dispatcher.close()  # no await since there is nothing that could finish a request
        if failure is not None:
            raise failure
        _log.info("daemon %d stopped", self._identity.daemon_index)

    def _take_part(self, known: Hostfile, nursery: trio.Nursery) -> Failover:
        """What this process does for two copies of everything."""

        async def start(shard: int, folder: Path) -> None:
            listen = transport.at_any_port(self._settings.listen)
            settings = replace(self._settings, rootdir=folder, daemon_index=shard, listen=listen)
            await nursery.start(partial(serve, settings, failover=failover))

        failover = Failover(
            self._identity.daemon_index,
            self._rootdir,
            self._access,
            self._settings.hostfile,
            known.daemon_count,
            nursery,
            start,
            direct_io=self._settings.direct_io,
        )
        return failover

    def _is_unknown(self, own_part: Failover | None) -> bool:
        """Whether nobody can find this process yet, and nobody is known to have replaced it.

        Others must find it to vote, before it answers. A line that is there may be that of who has replaced it.
        """
        index = self._identity.daemon_index
        view = own_part.view(index) if own_part is not None else None
        known = hostfile.read_addresses(self._settings.hostfile)
        return index not in known.daemons and (view is None or view.primary == index)

    async def _lead(self, mirror: Mirror, failover: Failover, address: DaemonAddress) -> None:
        assert isinstance(self._storage, MirroredStorage)
        index = self._identity.daemon_index
        epochs = self._rootdir.superblock.boot_epoch, self._rootdir.superblock.power_epoch
        ending = self._rootdir.ending
        shard = Shard(index, *epochs, ending, mirror, self._store, self._storage, address)
        await failover.lead(shard, partial(self._announce, address))
        _log.error("daemon %d was replaced: %s", index, failover.view(index))
        with trio.move_on_after(START_TIMEOUT_S):
            await self._until_elsewhere(address)
        self._stop.set()

    async def _until_elsewhere(self, address: DaemonAddress) -> None:
        """Until the hostfile names another: who comes meanwhile waits, and is not refused."""
        while True:
            with suppress(GkfsError):
                if await self._locate(address.daemon) != address:
                    return
            await trio.sleep(POLL_INTERVAL_S)

    def _register(self, nursery: trio.Nursery, mirror: Mirror | None, failover: Failover | None) -> None:
        guards = Guards()

        async def execute(operation: Any, request: Any) -> Any:
            return await self._dispatcher.call(self._own_session, operation, request)

        settled = mirror.settled if mirror is not None else None
        mine = self._identity
        run = peer_id(mine.daemon_index, mine.boot_epoch)
        peers = Peers(mine.daemon_index, self._access, self._locate, execute, nursery, run, settled)
        control = Control(
            self._identity, self._store, self._storage, self._sessions, self._dispatcher, self._on_shutdown
        )
        self._dispatcher.serve(STATUS, control.status)
        self._dispatcher.serve(SHUTDOWN, control.shutdown)
        self._dispatcher.serve(SYNC_METADATA, control.sync_metadata)
        self._dispatcher.serve(LOCATE, self._say_where)
        handlers = Handlers(self._identity, self._store, self._storage, guards, peers, self._sessions, nursery)
        handlers.register(self._dispatcher)
        audit = Audit(self._store, self._storage, guards, handlers.name_leases.clear, self._rootdir.chunks)
        audit.register(self._dispatcher)
        Usage(self._store, guards).register(self._dispatcher)
        if failover is not None:
            failover.register(self._dispatcher)
        self._dispatcher.check_complete()
        handlers.resume()

    def _announce(self, address: DaemonAddress) -> None:
        """Append the own line to the hostfile, unless it says the same already. Raises GkfsError."""
        try:
            self._rootdir.remember_port(transport.tcp_address(address.tcp)[1])
            hostfile.append(self._settings.hostfile, address)
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

    async def _locate(self, index: int) -> DaemonAddress:
        found = await trio.to_thread.run_sync(hostfile.read_addresses, self._settings.hostfile)
        try:
            return found.daemons[index]
        except KeyError:
            raise GkfsError(f"daemon {index} is not in the hostfile yet", ExitStatus.UNREACHABLE) from None

    async def _say_where(self, session: Session, request: LocateRequest) -> LocateReply:
        try:
            return LocateReply(*(await self._locate(request.daemon))[1:])
        except GkfsError as error:
            raise os_error(errno.ENOENT, str(error)) from None

    async def _finish(self) -> None:
        """Let what is being executed be answered, for a short time."""
        with trio.move_on_after(CLEAN_STOP_S):
            await self._dispatcher.idle()
            await self._doors.drained()
