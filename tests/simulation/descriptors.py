"""Simulated descriptors, and waiting for them: what trio, epoll, poll and eventfd are to the product.

A descriptor is a number that the real system does not know, so that one which gets there by mistake is refused.
"""

import select
from itertools import count
from typing import Any, Protocol

import outcome
import trio

from tests.simulation.process import PROCESS, Process

_FIRST = 1 << 30


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class Descriptor:
    """Something to wait for. Who changes what `readable` and `writable` say calls `changed`."""

    def __init__(self, table: "Table") -> None:
        self.process: Process = PROCESS.get()
        self.process.check()
        self.table = table
        self.number = next(table.numbers)
        self.closed = False
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self.epolls: list[Epoll] = []
        table.open[self.number] = self

    def fileno(self) -> int:
        return -1 if self.closed else self.number

    def readable(self) -> bool:
        raise NotImplementedError

    def writable(self) -> bool:
        return True

    def events(self, wanted: int) -> int:
        """As epoll says it."""
        found = select.EPOLLIN if wanted & select.EPOLLIN and self.readable() else 0
        return found | (select.EPOLLOUT if wanted & select.EPOLLOUT and self.writable() else 0)

    def changed(self) -> None:
        """Wake who waits for what is there now."""
        if self._reader is not None and self.readable():
            task, self._reader = self._reader, None
            trio.lowlevel.reschedule(task)
        if self._writer is not None and self.writable():
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)
        for epoll in self.epolls:
            epoll.changed()

    def closing(self) -> None:
        """Tell who waits that the descriptor goes, as trio does."""
        for task in (self._reader, self._writer):
            if task is not None:
                trio.lowlevel.reschedule(task, outcome.Error(trio.ClosedResourceError("another task closed it")))
        self._reader = self._writer = None

    def forget(self) -> None:
        """The number means nothing any more."""
        self.closed = True
        self.table.open.pop(self.number, None)
        for epoll in list(self.epolls):
            epoll.unregister(self.number)

    async def wait_readable(self) -> None:
        """As trio's. One task at a time."""
        self.process.check()
        if self.readable():
            await trio.lowlevel.checkpoint()
            return
        if self._reader is not None:
            raise trio.BusyResourceError("two tasks wait for one descriptor")
        self._reader = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reader = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self.process.check()

    async def wait_writable(self) -> None:
        """As trio's. One task at a time."""
        self.process.check()
        if self.writable():
            await trio.lowlevel.checkpoint()
            return
        if self._writer is not None:
            raise trio.BusyResourceError("two tasks wait for one descriptor")
        self._writer = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self.process.check()


class Table:
    """All simulated descriptors by number, and trio's three functions for them."""

    def __init__(self) -> None:
        self.numbers = count(_FIRST)
        self.open: dict[int, Descriptor] = {}

    def find(self, what: int | _HasFileno) -> Descriptor:
        """The descriptor of that number. Raises OSError (EBADF)."""
        number = what if isinstance(what, int) else what.fileno()
        try:
            return self.open[number]
        except KeyError:
            PROCESS.get().check()
            raise OSError(9, "Bad file descriptor") from None

    async def wait_readable(self, what: int | _HasFileno) -> None:
        """For `trio.lowlevel.wait_readable`."""
        await self.find(what).wait_readable()

    async def wait_writable(self, what: int | _HasFileno) -> None:
        """For `trio.lowlevel.wait_writable`."""
        await self.find(what).wait_writable()

    def notify_closing(self, what: int | _HasFileno) -> None:
        """For `trio.lowlevel.notify_closing`."""
        found = self.open.get(what if isinstance(what, int) else what.fileno())
        if found is not None:
            found.closing()

    # --- what `os` has

    def eventfd(self, initial: int, flags: int) -> int:
        """For `os.eventfd`."""
        return EventFd(self, initial).number

    def eventfd_write(self, number: int, value: int) -> None:
        """For `os.eventfd_write`."""
        found = self.find(number)
        assert isinstance(found, EventFd)
        found.value += value
        found.changed()

    def eventfd_read(self, number: int) -> int:
        """For `os.eventfd_read`."""
        found = self.find(number)
        assert isinstance(found, EventFd)
        value, found.value = found.value, 0
        return value

    def close(self, number: int) -> None:
        """For `os.close`."""
        self.find(number).forget()


class EventFd(Descriptor):
    """An eventfd."""

    def __init__(self, table: Table, value: int) -> None:
        super().__init__(table)
        self.value = value

    def readable(self) -> bool:
        return self.value > 0


class Epoll(Descriptor):
    """An epoll, level-triggered; looking does not wait."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._watched: dict[int, tuple[Descriptor, int]] = {}
        self._may_have = True  # something has changed since a look found nothing

    def register(self, number: int, events: int) -> None:
        found = self.table.find(number)
        self._watched[number] = (found, events)
        found.epolls.append(self)
        self.changed()

    def modify(self, number: int, events: int) -> None:
        self._watched[number] = (self._watched[number][0], events)
        self.changed()

    def unregister(self, number: int) -> None:
        if number not in self._watched:
            self.process.check()
        found, _ = self._watched.pop(number)
        found.epolls.remove(self)

    def poll(self, timeout_s: float = 0.0) -> list[tuple[int, int]]:
        """What there is now."""
        self.process.check()
        if not self._may_have:
            return []
        found = [
            (number, ready) for number, (file, events) in self._watched.items() if (ready := file.events(events))
        ]
        self._may_have = bool(found)
        return found

    def readable(self) -> bool:
        return self._may_have and any(file.events(events) for file, events in self._watched.values())

    def changed(self) -> None:
        self._may_have = True
        super().changed()

    def close(self) -> None:
        self.forget()


class Poll:
    """A poll object that never finds anything: whoever asks is not to spin."""

    def register(self, number: int, events: int) -> None:
        pass

    def poll(self, timeout: Any = None) -> list[tuple[int, int]]:
        return []
