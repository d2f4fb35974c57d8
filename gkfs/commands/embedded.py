"""A mount with this node's daemon in its process: the one place where client and daemon are put together.

The daemon starts first and listens as any other does: for other nodes, for `gkfs status` and `gkfs stop`. It ends
last: whatever asks for the end, a signal, `gkfs stop` or who unmounts, the mount goes first and publishes what it
has, then the daemon stops. One that is killed loses nothing that was acknowledged. A daemon that ends by itself,
since another has taken its place (`--replicas 2`), takes the mount with it, which could reach nothing there.
"""

import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import trio

from gkfs import hostfile
from gkfs.buffers import keep_large_buffers
from gkfs.client.mount import Mount, MountSettings
from gkfs.daemon import descriptors, threads
from gkfs.daemon.server import DaemonSettings, Serving, serve
from gkfs.errors import GkfsError, first_of
from gkfs.limits import POLL_INTERVAL_S

_log = logging.getLogger(__name__)

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_mount_with_daemon(settings: MountSettings, daemon: DaemonSettings, on_ready: Callable[[], None]) -> None:
    """Start the daemon, mount, and serve both until the end of the mount; see `client.mount.run_mount`.

    Other daemons that are not in the hostfile yet are waited for as long as *settings* have patience. Raises
    GkfsError when the daemon cannot start or it cannot be mounted.
    """
    keep_large_buffers()
    descriptors.take_all()
    trio.run(_Both(settings, daemon, on_ready).run, strict_exception_groups=True)


class _Both:
    def __init__(self, settings: MountSettings, daemon: DaemonSettings, on_ready: Callable[[], None]) -> None:
        self._settings = settings
        self._daemon = daemon
        self._on_ready = on_ready
        self._mount: Mount | None = None
        self._starting = trio.CancelScope()
        self._signal = 0  # that came while it started
        self._has_ended = False  # the mount

    async def run(self) -> None:
        # In force before the mount's own and after: an early signal ends all in order, a late one kills nothing.
        with trio.open_signal_receiver(*_ENDING) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._take_signals, signals)
                    await self._serve()
                    nursery.cancel_scope.cancel()
            except BaseExceptionGroup as group:
                raise first_of(group) from None
        if self._signal:
            sys.exit(128 + self._signal)

    async def _serve(self) -> None:
        stop = trio.Event()
        await threads.keep()
        async with trio.open_nursery() as nursery:
            try:
                with self._starting:
                    serving: Serving = await nursery.start(self._serve_daemon, stop)
                    self._mount = await self._prepare_mount(serving)
                if self._mount is not None:
                    await self._mount.run()
            finally:
                self._has_ended = True
                stop.set()

    async def _serve_daemon(self, stop: trio.Event, task_status: trio.TaskStatus[Serving]) -> None:
        await serve(self._daemon, stop=stop, on_shutdown=self._shut_down, task_status=task_status)
        if not self._has_ended:
            _log.error("the daemon of this mount has ended, so the mount does")
            self._shut_down()

    async def _prepare_mount(self, serving: Serving) -> Mount:
        deadline_s = trio.current_time() + self._settings.patience_s
        while True:
            try:
                hosts = hostfile.read_complete(self._settings.hostfile)
                break
            except GkfsError:
                if trio.current_time() >= deadline_s:
                    raise
            await trio.sleep(POLL_INTERVAL_S)
        left_s = max(0.0, deadline_s - trio.current_time())
        return Mount(replace(self._settings, patience_s=left_s), hosts, self._on_ready, serving.connect)

    def _shut_down(self) -> None:
        if self._mount is not None:
            self._mount.end()
        else:
            self._starting.cancel()

    async def _take_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if self._mount is None:
                self._signal = number
            self._shut_down()
