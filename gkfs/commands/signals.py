"""Signals as data: recorded when they come, taken where the work can be interrupted.

No exception is ever raised by a handler, so clean-up code is not interrupted half-way, nor is trio.
"""

import contextlib
import os
import select
import signal
import time
from types import FrameType
from typing import Any, Final, Self

from gkfs.limits import POLL_INTERVAL_S

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupted(BaseException):
    """A signal asked for an end; `gkfs` exits with 128 + *number* after cleaning up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Within the block the *numbers* are recorded instead of acted upon; ignored ones (nohup) stay ignored."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers or ENDING
        self._before: dict[int, Any] = {}
        self._pending: list[int] = []
        self._wake_read = self._wake_write = -1

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in self._numbers:
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def wait(self, timeout_s: float, *descriptors: int) -> list[int]:
        """The signals that came, in order; waits for one, for a readable descriptor, or for the time."""
        # A signal just before select() would not be noticed by it; a byte in the pipe is. Only meanwhile:
        # trio wants this descriptor for itself.
        before = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            if not self._pending:
                select.select([self._wake_read, *descriptors], [], [], max(0.0, timeout_s))
        finally:
            signal.set_wakeup_fd(before)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        taken, self._pending = self._pending, []
        return taken

    def pause(self, timeout_s: float = POLL_INTERVAL_S, *descriptors: int) -> None:
        """Wait as `wait` does. Raises Interrupted when a signal that asks for an end came."""
        for number in self.wait(timeout_s, *descriptors):
            if number in ENDING:
                raise Interrupted(number)

    def _record(self, number: int, _: FrameType | None) -> None:
        self._pending.append(number)


def pause_until(deadline_s: float) -> bool:
    """One step of polling: sleeps a moment, False when *deadline_s* of time.monotonic() is over."""
    if time.monotonic() >= deadline_s:
        return False
    time.sleep(POLL_INTERVAL_S)
    return True
