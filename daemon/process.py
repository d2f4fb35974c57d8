"""The process that is nothing but a daemon: its signals and its limits."""

import logging
import signal

import trio

from gkfs.buffers import keep_large_buffers
from gkfs.daemon import descriptors, threads
from gkfs.daemon.server import DaemonSettings, serve
from gkfs.errors import GkfsError

_log = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_daemon(settings: DaemonSettings) -> None:
    """Serve until SHUTDOWN, SIGTERM or SIGINT. Raises GkfsError when the daemon cannot start."""
    if settings.until_killed:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    descriptors.take_all()
    keep_large_buffers()
    if settings.until_killed:
        trio.run(_serve, settings)
        return
    early: list[int] = []
    # In force before trio's handlers and after: an early signal is not lost, a late one does not kill.
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda received, _: early.append(received))
    trio.run(_serve_until_signal, settings, early)


async def _serve(settings: DaemonSettings, stop: trio.Event | None = None) -> None:
    await threads.keep()
    await serve(settings, stop=stop)


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
                await _serve(settings, stop)
            except GkfsError as error:
                failure = error  # not out of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
