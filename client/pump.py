"""The pump: drives pyfuse3's coroutines and the daemons' sockets from one epoll, inside one trio task.

A trio wake-up costs more than serving a request (docs/decisions/0001-pump.md), and stock pyfuse3 makes about
three per request. So pyfuse3's module attribute `trio` is replaced by `_FakeTrio`, whose waits hand their
coroutine to the pump. The pump sleeps in its epoll while there is traffic, and waits for the epoll's own
descriptor inside trio when there is none. Everything else (reconnecting, timers, signals) is ordinary trio.

A handler coroutine may await three things: `Call` (a reply), `Gate` (a flag set later) and nothing else.
It runs until it awaits one that is not done; then it is parked with it. Nothing runs between two awaits, so a
handler needs no locks for state it does not hold across one.
"""

import errno
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Self, TypeVar

import outcome
import pyfuse3
import trio

from gkfs.awake import Awake
from gkfs.client.beside import Beside
from gkfs.limits import AWAKE_AFTER_ROUNDS, SPIN_S
from gkfs.spin import Spinner

log = logging.getLogger(__name__)

# One worker serves one FUSE request at a time; the kernel sends no more than this in parallel in practice
# (its background limit is 12, and every blocked thread of a program has one). More wait in the kernel.
WORKERS_MAX: Final = 128
# While traffic flows, other trio tasks (timers, reconnects, signals) get their turn this often.
TRIO_TURN_S: Final = 0.01
# The same while a daemon is among them, whose other clients wait.
SHARED_TURN_S: Final = 0.001
# After the last event the pump sleeps in its own epoll for this long before it sleeps in trio, which costs more
# than serving a request.
LINGER_S: Final = 0.005

Worker = Coroutine[Any, None, Any]
T = TypeVar("T")


class Gate:
    """A one-time flag that handlers can await."""

    def __init__(self) -> None:
        self.done = False
        self.on_done: Callable[[], None] | None = None

    def __await__(self) -> Generator[Self, None, None]:
        if not self.done:
            yield self

    def open(self) -> None:
        """Let the waiter, if any, go on. Harmless when already open."""
        self.done = True
        if self.on_done is not None:
            waiter, self.on_done = self.on_done, None
            waiter()


class Lock:
    """Lets one handler at a time into a block with awaits, `with await lock.taken()`; others follow in order."""

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self.held = False
        self._waiting: deque[Gate] = deque()

    async def taken(self) -> Self:
        """Wait for it."""
        if not self.held:
            self.held = True
            return self
        gate = Gate()
        self._waiting.append(gate)
        await gate
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if self._waiting:
            self._waiting.popleft().open()  # it holds the lock now
        else:
            self.held = False


def _is_for_want_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


class _FuseReadable:
    """Awaited by a worker that is ready for the next request."""

    def __await__(self) -> Generator["_FuseReadable", None, None]:
        yield self


class _NoLock:
    """Stands for trio.Lock: the pump lets one worker read at a time anyway."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, value: object, traceback: object) -> None:
        pass


class _Nursery:
    """Stands for trio's nursery in pyfuse3.main: remembers workers, which start when one is needed."""

    def __init__(self, pump: "Pump") -> None:
        self._pump = pump

    async def __aenter__(self) -> Self:
        return self

    def start_soon(self, function: Callable[..., Worker], *arguments: object, name: object = None) -> None:
        self._pump.spare_workers.append(partial(function, *arguments))

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._pump.workers_gone


class Pump:
    """Owns the epoll. `serve` runs one FUSE session to its end; `drive` any coroutine of ours."""

    def __init__(self, awake: Awake | None = None) -> None:
        self.spare_workers: list[Callable[[], Worker]] = []
        self.workers_gone = Gate()
        self.before_poll: list[Callable[[], None]] = []  # flushes of queued output, run before each poll
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._sources: dict[int, Callable[[int], None]] = {self._wake_fd: self._woken}
        self._readers: list[Worker] = []
        self._ready: deque[Worker] = deque()
        self._workers: set[Worker] = set()
        self._fuse_fd = -1
        self._fuse_paused = False  # no worker is free to read the next request
        self._main: Worker | None = None  # what `drive` runs
        self._outcome: outcome.Outcome[Any]  # of it, once it has ended
        self._new_worker: Callable[[], Worker]
        self._waiting_in_trio = False
        self._beside: Beside | None = None
        self._spinner = Spinner(SPIN_S)
        self._awake = awake  # held while calls follow each other; closed with this
        self._rounds = 0  # with events, since it has slept in trio
        self._spins = False  # not for who moves data in threads: they need the interpreter

    # --- sources of events

    def register(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call *callback* with the epoll events of *fd* whenever there are some."""
        self._epoll.register(fd, events)
        self._sources[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        """Change the events *fd* is watched for."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Forget *fd*, which must still be open."""
        self._epoll.unregister(fd)
        del self._sources[fd]

    def wake(self) -> None:
        """Make the pump look at its queues; for callers that run in another trio task."""
        if self._waiting_in_trio:
            os.eventfd_write(self._wake_fd, 1)

    def share_the_loop(self) -> None:
        """Other trio tasks have work that must not wait while the pump does. Called within trio, as is `close`."""
        self._beside = Beside(self._epoll)

    def close(self) -> None:
        """Release the descriptors; the pump must not run any more."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        if self._awake is not None:
            self._awake.close()
        while self._ready:  # what the end of calls has begun after the last turn; closing one may begin others
            self._ready.popleft().close()
        self._epoll.close()
        os.close(self._wake_fd)

    # --- running

    async def serve(self) -> None:
        """Serve the FUSE session that pyfuse3.init made until it ends: unmounted, or `pyfuse3.terminate`."""
        pyfuse3.trio = _FakeTrio(self)  # type: ignore[attr-defined]
        self._spins = True
        try:
            await self.drive(pyfuse3.main(WORKERS_MAX, WORKERS_MAX))
        finally:
            pyfuse3.trio = trio  # type: ignore[attr-defined]
            if self._fuse_fd in self._sources:
                self.unregister(self._fuse_fd)

    async def drive(self, main: Coroutine[Any, None, T]) -> T:
        """Run a coroutine that awaits replies, as handlers do, to its end; its result or exception comes back."""
        self._main = main
        self._ready.append(main)
        await self._loop()
        result: T = self._outcome.unwrap()
        return result

    def start(self, task: Coroutine[Any, None, object]) -> None:
        """Run a coroutine of ours beside the handlers; for callers that run in another trio task."""
        self._ready.append(task)
        self.wake()

    async def _loop(self) -> None:
        turn_s = TRIO_TURN_S if self._beside is None else SHARED_TURN_S
        turn_at = time.monotonic() + turn_s
        while True:
            self._run_ready()
            if self._main is None:
                return
            if not self._readers and self.spare_workers and not self.workers_gone.done:
                self._new_worker = self.spare_workers.pop()
                worker = self._new_worker()
                self._workers.add(worker)
                self._ready.append(worker)
                continue
            for flush in self.before_poll:
                flush()
            events = self._poll()
            if not events and not self._ready:
                if self._beside is None or not self._beside.has_work:
                    self._rounds = 0
                    if self._awake is not None:
                        self._awake.release()
                    self._waiting_in_trio = True
                    try:
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                    finally:
                        self._waiting_in_trio = False
                else:
                    await trio.lowlevel.checkpoint()
                turn_at = time.monotonic() + turn_s
                continue
            self._rounds += 1
            if self._rounds == AWAKE_AFTER_ROUNDS and self._awake is not None:
                self._awake.hold()
            for fd, mask in events:
                source = self._sources.get(fd)  # an earlier event of this round may have removed it
                if source is not None:
                    source(mask)
            if time.monotonic() > turn_at:
                await trio.lowlevel.checkpoint()
                turn_at = time.monotonic() + turn_s

    def _poll(self) -> list[tuple[int, int]]:
        """Events; when there is nothing else to do, it waits for them a little."""
        if self._ready:
            return self._epoll.poll(0)
        if self._beside is None:
            return self._epoll.poll(0) or (self._spins and self._spin()) or self._epoll.poll(LINGER_S)
        return self._epoll.poll(0) or self._spin() or self._beside.wait(LINGER_S)

    def _spin(self) -> list[tuple[int, int]]:
        """Events that come within `SPIN_S`; none if those of late did not, or if trio has something to do."""
        if self._beside is not None and self._beside.runnable:
            return []
        return self._spinner.look(self._poll_now)

    def _poll_now(self) -> list[tuple[int, int]]:
        return self._epoll.poll(0)

    def _run_ready(self) -> None:
        while self._ready:
            worker = self._ready.popleft()
            try:
                awaited = worker.send(None)
            except StopIteration as end:
                if worker is self._main:
                    self._main, self._outcome = None, outcome.Value(end.value)
                elif worker in self._workers:
                    self._ended(worker)
            except Exception as error:
                if worker is self._main:
                    self._main, self._outcome = None, outcome.Error(error)
                    continue
                if worker in self._workers and _is_for_want_of_memory(error):
                    raise  # it would fail again, and who asked would wait for ever; an end gives errors
                # A bug in pyfuse3 or in a handler's wrapper: one request stays unanswered, the mount lives.
                log.exception("%s failed", worker)
                if worker in self._workers:
                    self._workers.remove(worker)
                    self.spare_workers.append(self._new_worker)
            else:
                self._park(worker, awaited)

    def _park(self, worker: Worker, awaited: Any) -> None:
        if isinstance(awaited, _FuseReadable):
            self._readers.append(worker)
            if self._fuse_paused:
                self._fuse_paused = False
                self.modify(self._fuse_fd, select.EPOLLIN)
        elif awaited.done:
            self._ready.append(worker)
        else:
            awaited.on_done = partial(self._ready.append, worker)

    def _ended(self, worker: Worker) -> None:
        # With as many idle workers allowed as there can be, a worker ends only when the session does.
        self._workers.remove(worker)
        self.close_readers()
        if not self._workers:
            self.workers_gone.open()

    def fuse_readable(self, _events: int) -> None:
        """The FUSE device has a request (or an error): give it to the worker that waited last."""
        if self._readers:
            self._ready.append(self._readers.pop())
            self._run_ready()
        else:
            self._fuse_paused = True
            self.modify(self._fuse_fd, 0)

    def watch_fuse(self, fd: int) -> None:
        """*fd* is the FUSE session's device."""
        if self._fuse_fd != fd:
            self._fuse_fd = fd
            self.register(fd, self.fuse_readable)

    def close_readers(self) -> None:
        """End all workers that wait for a request: the session is over."""
        readers, self._readers = self._readers, []
        for worker in readers:
            try:
                self._park(worker, worker.throw(ClosedResourceError()))
            except StopIteration:
                self._ended(worker)

    def _woken(self, _events: int) -> None:
        os.eventfd_read(self._wake_fd)


class ClosedResourceError(Exception):
    """What pyfuse3 expects from trio when a descriptor is about to be closed."""


class _FakeTrio(SimpleNamespace):
    """The few names of trio that pyfuse3 uses, served by the pump."""

    ClosedResourceError = ClosedResourceError
    Lock = _NoLock

    def __init__(self, pump: Pump) -> None:
        super().__init__()
        self._pump = pump
        self._readable = _FuseReadable()
        self._task = SimpleNamespace(name="pump")
        self.lowlevel = self

    def open_nursery(self) -> _Nursery:
        return _Nursery(self._pump)

    def current_task(self) -> SimpleNamespace:
        return self._task

    def current_trio_token(self) -> None:
        return None

    def wait_readable(self, fd: int) -> _FuseReadable:
        self._pump.watch_fuse(fd)
        return self._readable

    def notify_closing(self, fd: int) -> None:
        self._pump.close_readers()
