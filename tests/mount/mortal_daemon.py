"""A daemon that kills itself at the step that a test names: `python -m tests.mount.mortal_daemon PLAN INDEX ...`.

What follows INDEX is a command line of gkfs. Steps are what other daemons could see of this one: each call to a
daemon (itself, too) and each commit of its store counts twice, before and after.
"""

import fcntl
import mmap
import os
import signal
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from gkfs.cli import main
from gkfs.daemon.peers import Peers
from gkfs.daemon.store import MetadataStore

_DAEMONS_MAX: Final = 16
_ENTRY: Final = struct.Struct("=4I")  # steps since `arm`, when to die, how many after that once more, deaths


class Plan:
    """Which daemon dies where: a file that the test and all its daemons have mapped.

    Entries change under a lock of the file, which a daemon that dies holds until it is dead: so the test, when it
    disarms one, knows whether it lives on.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._file.truncate(_DAEMONS_MAX * _ENTRY.size)
        self._entries = mmap.mmap(self._file.fileno(), _DAEMONS_MAX * _ENTRY.size)

    def close(self) -> None:
        """Give the file up; the daemons have ended."""
        self._entries.close()
        self._file.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def arm(self, daemon: int, at: int, again: int = 0) -> None:
        """Have *daemon* die at its *at*-th step from now, and its successor *again* steps later; 0: never."""
        with self._locked():
            _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, 0, at, again, 0)

    def disarm(self, daemon: int) -> tuple[int, int]:
        """Let *daemon* live, unless it has died already: how many steps and deaths there were since `arm`."""
        with self._locked():
            steps, _, _, deaths = _ENTRY.unpack_from(self._entries, daemon * _ENTRY.size)
            _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, steps, 0, 0, deaths)
        return steps, deaths

    def steps(self, daemon: int) -> int:
        """How many steps *daemon* and its successors have done since `arm`."""
        return int(_ENTRY.unpack_from(self._entries, daemon * _ENTRY.size)[0])

    def step(self, daemon: int) -> None:
        """Called by *daemon*; does not return when it is time to die."""
        with self._locked():
            steps, at, again, deaths = _ENTRY.unpack_from(self._entries, daemon * _ENTRY.size)
            steps += 1
            dies = bool(at) and (steps == at or (again and steps == at + again))
            _ENTRY.pack_into(self._entries, daemon * _ENTRY.size, steps, at, again, deaths + dies)
            if dies:
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
