"""What trio has to do while the pump waits: tasks that can go on, descriptors and threads that are ready.

The pump waits in an epoll of its own, in which trio's other tasks do not show up. Where those matter, since a
daemon runs in this process, it waits in one more epoll above both its own and trio's. Trio has no public name for
its epoll and for its queue of tasks; with a release that keeps them somewhere else the pump leaves all waiting to
trio, which is right, too, and slower.
"""

import logging
import select
from collections.abc import Sized
from typing import Any

log = logging.getLogger(__name__)


class Beside:
    """The rest of the event loop that the pump is one task of."""

    def __init__(self, pump_epoll: "select.epoll") -> None:
        """To be made within trio."""
        self._pump_epoll = pump_epoll
        self._both = select.epoll()
        self._both.register(pump_epoll.fileno(), select.EPOLLIN)
        self._runnable: Sized = ()
        self._trio_fd = -1
        try:
            self._runnable, self._trio_fd = _inside_of_trio()
            self._both.register(self._trio_fd, select.EPOLLIN)
        except (ImportError, AttributeError, OSError) as error:
            log.warning(
                "this release of trio keeps its epoll where it is not expected (%s): waits are slower", error
            )
        self._descriptors_ready = False

    @property
    def is_known(self) -> bool:
        """Whether trio's insides were found, so that `wait` can wait at all."""
        return self._trio_fd >= 0

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """Events of the pump, at most *timeout_s* later; none as soon as trio has something to do."""
        self._descriptors_ready = False
        if self._runnable or not self.is_known:
            return []
        ready = self._both.poll(timeout_s)
        self._descriptors_ready = any(fd == self._trio_fd for fd, _ in ready)
        return self._pump_epoll.poll(0) if ready else []

    @property
    def has_work(self) -> bool:
        """Whether `wait` found something for trio to do."""
        return self._descriptors_ready or bool(self._runnable)

    def close(self) -> None:
        """Release the descriptor."""
        self._both.close()


def _inside_of_trio() -> tuple[Sized, int]:
    from trio._core._run import GLOBAL_RUN_CONTEXT

    runner: Any = GLOBAL_RUN_CONTEXT.runner
    return runner.runq, runner.io_manager._epoll.fileno()
