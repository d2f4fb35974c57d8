"""Many things at once on the pump: coroutines up to a number, and calls that block, in threads.

Both are for those who move whole trees: hundreds of requests in flight leave in few sends, and while one file of a
slow file system is being opened others are.
"""

import os
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from gkfs.client.pump import Gate, Pump

T = TypeVar("T")


class Crowd:
    """Coroutines that run beside each other, at most *limit* at a time."""

    def __init__(self, pump: Pump, limit: int) -> None:
        self._pump = pump
        self._limit = limit
        self._running = 0
        self._waiting: deque[Gate] = deque()  # for one of them to end
        self._error: BaseException | None = None

    async def start(self, work: Coroutine[Any, None, None]) -> None:
        """Have *work* run; waits while there are too many. Raises what an earlier one has failed with."""
        while self._running >= self._limit and self._error is None:
            await self._one_ends()
        if self._error is not None:
            work.close()
            raise self._error
        self._running += 1
        self._pump.start(self._run(work))

    async def finish(self) -> None:
        """Wait until all have ended. Raises what the first one that failed has failed with."""
        while self._running:
            await self._one_ends()
        if self._error is not None:
            raise self._error

    async def _one_ends(self) -> None:
        gate = Gate()
        self._waiting.append(gate)
        await gate

    async def _run(self, work: Coroutine[Any, None, None]) -> None:
        try:
            await work
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._running -= 1
            waiting, self._waiting = self._waiting, deque()
            for gate in waiting:
                gate.open()


class Threads:
    """Threads for calls that block; the pump is told when one is done."""

    def __init__(self, pump: Pump, count: int) -> None:
        self._pump = pump
        self._executor = ThreadPoolExecutor(count, "blocking")
        self._done: deque[_Job] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        pump.register(self._wake_fd, self._woken)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What *function* returns or raises, in a thread."""
        job = _Job(function, arguments)
        self._executor.submit(self._work, job)
        await job.gate
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def close(self) -> None:
        """End the threads; waits for what they are at."""
        self._executor.shutdown(cancel_futures=True)
        self._pump.unregister(self._wake_fd)
        os.close(self._wake_fd)

    def _work(self, job: "_Job") -> None:
        try:
            job.result = job.function(*job.arguments)
        except BaseException as error:
            job.error = error
        self._done.append(job)
        os.eventfd_write(self._wake_fd, 1)

    def _woken(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)
        while self._done:
            self._done.popleft().gate.open()


class _Job:
    """One call in a thread."""

    __slots__ = ("arguments", "error", "function", "gate", "result")

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.gate = Gate()
        self.result: Any = None
        self.error: BaseException | None = None
