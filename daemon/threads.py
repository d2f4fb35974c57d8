"""Worker threads that are there before they are needed, and stay.

Starting a thread needs memory. Where there is none, Python's `Thread.start` may wait for ever for a thread that
died while it began, and the daemon with it. So a daemon's threads are started first, and do not end when they have
been idle, which saves their start under load, too.
"""

import contextlib
import threading

import trio
from trio._core import _thread_cache  # its time-out has no other place

from gkfs.errors import GkfsError
from gkfs.limits import IO_THREADS

_OTHERS = 4  # beside those for chunks: sync of the store, merging its files, reading the hostfile
_BEGIN_S = 10.0


async def keep() -> None:
    """Start as many as a daemon uses at once. Raises GkfsError when they cannot be had in time."""
    _thread_cache.IDLE_TIMEOUT = int(threading.TIMEOUT_MAX)
    count = IO_THREADS + _OTHERS
    together, limiter = threading.Barrier(count), trio.CapacityLimiter(count)
    begun = 0

    async def one() -> None:
        nonlocal begun
        with contextlib.suppress(threading.BrokenBarrierError, RuntimeError):
            await trio.to_thread.run_sync(together.wait, _BEGIN_S, limiter=limiter)
            begun += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    if begun < count:
        raise GkfsError(f"{count} threads cannot be started: too little memory, or too few processes allowed")
