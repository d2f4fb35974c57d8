"""The life of one mount: connect to all daemons, mount, serve, publish what is left, unmount."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyfuse3
import trio

from gkfs import hostfile, metadentry
from gkfs.awake import Awake
from gkfs.buffers import keep_large_buffers
from gkfs.client.context import Context, MountOptions
from gkfs.client.fuse import GkfsOperations
from gkfs.client.pool import Pool
from gkfs.client.pump import Pump
from gkfs.client.reclaim import Reclaim
from gkfs.distributor import Distributor
from gkfs.endpoint import Connect
from gkfs.errors import ExitStatus, GkfsError, first_of
from gkfs.hostfile import Hostfile, Sync
from gkfs.limits import HOLD_RENEW_S, INODES_MAX, REQUEST_TIMEOUT_S, SIZE_FLUSH_DELAY_S
from gkfs.messages import StatRequest
from gkfs.metadentry import ROOT_FID
from gkfs.operations import STAT
from gkfs.paths import ROOT

log = logging.getLogger(__name__)

# After SIGTERM: for requests in flight, then for sizes and times still to be published. Well below the 30 s
# (KillWait) that Slurm gives by default.
_DRAIN_S: Final = 5.0
_PUBLISH_S: Final = 5.0


@dataclass(frozen=True)
class MountSettings:
    """What `gkfs mount` is told."""

    hostfile: Path
    mountdir: Path
    allow_other: bool = False
    direct_io: bool = False
    source: str = "gkfs"  # what the mount table says was mounted
    attr_timeout_s: float = 0.0
    request_timeout_s: float = REQUEST_TIMEOUT_S
    patience_s: float = 0.0  # for daemons that do not answer at once
    debug: bool = False
    xattrs: bool = True
    awake: bool = True  # on a virtual machine, idle processors are kept from halting while programs call
    write_through: bool = False  # writes return when the daemons have the data
    local_placement: bool = False  # data of large files made here stay on this node
    max_inodes: int = INODES_MAX  # that the kernel may refer to
    merge: bool = True  # requests queued together leave together


def run_mount(settings: MountSettings, on_ready: Callable[[], None]) -> None:
    """Mount and serve until unmounted, or until SIGTERM, SIGINT or SIGHUP, upon which it unmounts itself.

    *on_ready* is called once, when the mount is usable. Raises GkfsError when it cannot be mounted: HOSTFILE,
    UNREACHABLE, VERSION, MOUNTDIR or FUSE.
    """
    hosts = hostfile.read_complete(settings.hostfile)
    keep_large_buffers()
    trio.run(Mount(settings, hosts, on_ready).run, strict_exception_groups=True)


class Mount:
    """One mount; with *connect_local* it has a daemon of its file system in its process."""

    def __init__(
        self,
        settings: MountSettings,
        hosts: Hostfile,
        on_ready: Callable[[], None],
        connect_local: Connect | None = None,
    ) -> None:
        self._settings = settings
        self._asked_to_end = trio.Event()
        self._shares_the_loop = connect_local is not None
        self._pump = Pump(Awake() if settings.awake else None)
        self._pool = Pool(
            self._pump,
            hosts,
            settings.hostfile,
            os.urandom(16),
            settings.request_timeout_s,
            connect_local=connect_local,
            merge=settings.merge,
        )
        options = MountOptions(
            direct_io=settings.direct_io,
            xattrs=settings.xattrs,
            write_through=settings.write_through or hosts.features.sync is Sync.COMMIT,
            local_placement=settings.local_placement,
            attr_timeout_s=settings.attr_timeout_s,
        )
        host = socket.gethostname()
        own = [index for index, address in hosts.daemons.items() if address.host == host]
        self._context = Context(self._pool, Distributor(hosts.daemon_count), options, own)
        self._operations = GkfsOperations(self._context, on_ready)
        self._loses_unsynced = hosts.features.sync is not Sync.COMMIT
        self._pool.on_setback = self._set_back
        self._reclaim = Reclaim(self._context.inodes, settings.max_inodes)

    def _set_back(self, daemon: int) -> None:
        self._context.inodes.distrust()
        if self._loses_unsynced:
            self._operations.data.setback(daemon, self._operations.holds.open_files)

    def end(self) -> None:
        """Have it unmount itself, as SIGTERM does."""
        self._asked_to_end.set()

    async def run(self) -> None:
        """Mount and serve until the end. Raises GkfsError, see `run_mount`."""
        if self._shares_the_loop:
            self._pump.share_the_loop()
        try:
            await self._pool.connect(self._settings.patience_s)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pool.maintain)
                await self._pump.drive(self._load_root())
                # Before there is a mount that a signal would leave dead. No await between here and serve:
                # ending a session needs one.
                await nursery.start(self._take_signals)
                self._mount()
                try:
                    nursery.start_soon(self._end_when_asked)
                    nursery.start_soon(self._operations.touches.run)
                    nursery.start_soon(self._repeat, SIZE_FLUSH_DELAY_S, self._operations.data.publish_beside)
                    nursery.start_soon(self._repeat, HOLD_RENEW_S, self._operations.holds.renew)
                    nursery.start_soon(self._reclaim.run)
                    await self._pump.serve()
                finally:
                    await self._reclaim.end()
                    pyfuse3.close(unmount=True)
                with trio.move_on_after(_PUBLISH_S):
                    await self._pump.drive(self._finish())
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:  # not except*, which would wrap what is raised
            raise first_of(group) from None
        finally:
            self._pool.close()
            self._pump.close()

    async def _load_root(self) -> None:
        owner = self._context.distributor.path_owner(ROOT)
        try:
            reply = await self._pool.call(owner, STAT, StatRequest(ROOT, ROOT_FID))
        except OSError as error:  # connected a moment ago, and away
            raise GkfsError(f"the root directory: {error.strerror}", ExitStatus.UNREACHABLE) from None
        self._context.inodes.root.learn(metadentry.decode(reply.record))

    def _mount(self) -> None:
        options = {f"fsname={self._settings.source}", "subtype=gkfs", "default_permissions"}
        if self._settings.allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(self._operations, str(self._settings.mountdir), options)
        except RuntimeError as error:
            raise GkfsError(f"cannot mount on {self._settings.mountdir}: {error}", ExitStatus.FUSE) from None

    async def _finish(self) -> None:
        await self._operations.data.publish_all()
        await self._operations.touches.send_all()

    async def _repeat(self, every_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await trio.sleep(every_s)
            self._pump.start(work())

    async def _take_signals(self, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
            task_status.started()
            async for number in signals:  # repeats are taken and change nothing
                if number == signal.SIGUSR1:
                    self._log_counts()
                    continue
                log.info("%s: unmounting %s", signal.Signals(number).name, self._settings.mountdir)
                self.end()

    def _log_counts(self) -> None:
        requests, batches = self._pool.sent()
        log.info("%d inodes, %d requests sent in %d batches", len(self._context.inodes), requests, batches)

    async def _end_when_asked(self) -> None:
        await self._asked_to_end.wait()
        await self._reclaim.end()  # while requests are still answered
        pyfuse3.terminate()
        self._pump.wake()
        # Requests in flight get their answers first; then they fail, so that the end is bounded.
        await trio.sleep(_DRAIN_S)
        self._pool.close()
        self._pump.wake()
