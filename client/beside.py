"""What trio has to do while the pump waits: tasks that can go on, descriptors and threads that are ready.

The pump waits in an epoll of its own, in which trio's other tasks do not show up. Where those matter, since a
daemon runs in this process, it waits in one more epoll above both its own and trio's. Trio has no public name for
its epoll; with a release that keeps it somewhere else the pump leaves all waiting to trio, which is slower.
"""

import logging
import select
from typing import Any

import trio

log = logging.getLogger(__name__)


class Beside(trio.abc.Instrument):
    """The rest of the event loop that the pump is one task of. *runnable*: tasks that can go on."""

    def __init__(self, pump_epoll: "select.epoll") -> None:
        """To be made, and to be closed, within trio."""
        self.runnable = 0
        self._pump_epoll = pump_epoll
        self._both = select.epoll()
        self._both.register(pump_epoll.fileno(), select.EPOLLIN)
        self._trio_fd = -1
        self._descriptors_ready = False
        try:
            trio_fd = _epoll_of_trio()
            self._both.register(trio_fd, select.EPOLLIN)
            self._trio_fd = trio_fd
        except (ImportError, AttributeError, OSError) as error:
            log.warning("trio keeps its epoll where it is not expected (%s): the mount is slower", error)
        trio.lowlevel.add_instrument(self)

    @property
    def is_known(self) -> bool:
        """Whether trio's epoll was found, so that `wait` can wait at all."""
        return self._trio_fd >= 0

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """Events of the pump, at most *timeout_s* later; none as soon as trio has something to do."""
        self._descriptors_ready = False
        if self.runnable or not self.is_known:
            return []
        ready = self._both.poll(timeout_s)
        self._descriptors_ready = any(fd == self._trio_fd for fd, _ in ready)
        return self._pump_epoll.poll(0) if ready else []

    @property
    def has_work(self) -> bool:
        """Whether `wait` found something for trio to do."""
        return self._descriptors_ready or self.runnable > 0

    def close(self) -> None:
        """Release the descriptor."""
        trio.lowlevel.remove_instrument(self)
        self._both.close()

    # --- what trio tells: a task can go on; it does. Those that could before are not counted.

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Part of trio's `Instrument`."""
        self.runnable += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Part of trio's `Instrument`."""
        if self.runnable:
            self.runnable -= 1


def _epoll_of_trio() -> int:
    from trio._core._run import GLOBAL_RUN_CONTEXT

    manager: Any = GLOBAL_RUN_CONTEXT.runner.io_manager
    descriptor: int = manager._epoll.fileno()
    return descriptor
