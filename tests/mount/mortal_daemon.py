"""A daemon that kills itself at the step that a test names: `python -m tests.mount.mortal_daemon PLAN INDEX ...`.

What follows INDEX is a command line of gkfs. Steps are what other daemons could see of this one: each call to a
daemon (itself, too) and each commit of its store counts twice, before and after.
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from gkfs.cli import main
from gkfs.daemon.peers import Peers
from gkfs.daemon.store import MetadataStore

_DAEMONS_MAX: Final = 16
_ENTRY: Final = struct.Struct("=3I")  # steps since `arm`, at which of them to die, how many after that once more


class Plan:
    """Which daemon dies where: a file that the test and all its daemons have mapped."""

    def __init__(self, path: Path) -> None:
        with open(path, "a+b") as file:
            file.truncate(_DAEMONS_MAX * _ENTRY.size)
            self._entries = mmap.mmap(file.fileno(), _DAEMONS_MAX * _ENTRY.size)

    def arm(self, daemon: int, at: int, again: int = 0) -> None:
        """Have *daemon* die at its *at*-th step from now, and its successor *again* steps later; 0: never."""
        _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, 0, at, again)

    def disarm(self, daemon: int) -> None:
        """Let *daemon* live."""
        _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, self.steps(daemon), 0, 0)

    def steps(self, daemon: int) -> int:
        """How many steps *daemon* and its successors have done since `arm`."""
        return int(_ENTRY.unpack_from(self._entries, daemon * _ENTRY.size)[0])

    def step(self, daemon: int) -> None:
        """Called by *daemon*; does not return when it is time to die."""
        steps, at, again = _ENTRY.unpack_from(self._entries, daemon * _ENTRY.size)
        steps += 1
        _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, steps, at, again)
        if at and (steps == at or (again and steps == at + again)):
            os.kill(os.getpid(), signal.SIGKILL)


def make_mortal(plan: Plan, daemon: int) -> None:
    """Have this process follow the *plan*."""
    commit = MetadataStore.commit

    def counted(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted_call(*arguments: Any, **options: Any) -> Any:
            plan.step(daemon)
            reply = await call(*arguments, **options)
            plan.step(daemon)
            return reply

        return counted_call

    def counted_commit(store: MetadataStore) -> None:
        if not store.dirty:
            return
        plan.step(daemon)
        commit(store)
        plan.step(daemon)

    patch = partial(setattr, Peers)
    patch("call", counted(Peers.call))
    patch("call_many", counted(Peers.call_many))
    partial(setattr, MetadataStore)("commit", counted_commit)


if __name__ == "__main__":
    make_mortal(Plan(Path(sys.argv[1])), int(sys.argv[2]))
    del sys.argv[1:3]
    main()
