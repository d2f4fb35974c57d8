"""Simulated processes: which one a task belongs to, and ending one as `kill -9` does.

Each task knows its process through a context variable, which trio hands on to the tasks it starts. What a process
asks of the system (`gkfs` code calls sockets, threads and the store as ever) goes through `Process.step`: there it
may end, before or after the step, and from then on nothing that its tasks still do has any effect.
"""

from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from typing import Any

import trio


class Killed(BaseException):
    """The process this task belonged to is no more. Not an Exception: no handler of the product takes it."""


class Process:
    """One daemon, client or tool. *host* is where it is, for the network; *on_kill*: to be called at its end."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.alive = True
        self.scope = trio.CancelScope()
        self.on_kill: list[Callable[[], None]] = []
        self.end_session: Callable[[], None] = lambda: None  # of a mount
        self.steps = 0
        self.dies_at_step = 0  # 0: does not
        self.dies_after = False  # the effect of that step

    def check(self) -> None:
        """Raise Killed when it has ended."""
        if not self.alive:
            raise Killed(self.name)

    def before_step(self) -> bool:
        """A step begins: it may be the last thing that does not happen. Whether to end after it."""
        self.check()
        self.steps += 1
        if self.steps != self.dies_at_step:
            return False
        if not self.dies_after:
            self.kill()
            raise Killed(self.name)
        return True

    def after_step(self, last: bool) -> None:
        """The step is done."""
        if last:
            self.kill()
            raise Killed(self.name)

    def kill(self) -> None:
        """End it here and now."""
        if self.alive:
            self.alive = False
            for act in self.on_kill:
                act()
            self.scope.cancel()

    def die_soon(self, random: Random, steps_max: int) -> None:
        """End it at one of its next steps."""
        self.dies_at_step = self.steps + random.randint(1, steps_max)
        self.dies_after = random.random() < 0.5


NOBODY = Process("nobody", "nowhere")
PROCESS: ContextVar[Process] = ContextVar("process", default=NOBODY)


def only_killed(group: BaseExceptionGroup[Any]) -> bool:
    """Whether *group* holds nothing but the end of a process."""
    return group.split((Killed, trio.Cancelled))[1] is None
