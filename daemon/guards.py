"""Who waits for whom: what operations in progress keep others from changing. In memory; no I/O.

Almost nothing needs a lock, since a synchronous handler is atomic. What remains is operations that span several
daemons or use threads: they register a `Guard` here, and a handler that meets one raises `Blocked` before it has
changed anything. The dispatcher then waits until the guard is lifted, within bounds, and runs the handler again.

- path: a rename or removal of that path is being decided here, where its record is.
- tree: a directory rename has locked what is below its source, and its target with all below it.
- seal: it is being decided elsewhere whether this directory is removed.
- cut: chunks of this file are being removed; its size must not change meanwhile.

Guards that must outlive the daemon are set again from the store when it starts.
"""

import errno
from typing import NamedTuple, NoReturn

import trio

from gkfs.errors import os_error
from gkfs.paths import is_below, is_within, printable, split


class Guard:
    """Something in progress; *reason* says what, for those who waited too long.

    *request*: the client and its number of the request that is in progress, if it may have been begun before a
    restart. Who repeats it is blocked by it.
    """

    __slots__ = ("lifted", "reason", "request")

    def __init__(self, reason: str, request: tuple[bytes, int] | None = None) -> None:
        self.lifted = trio.Event()
        self.reason = reason
        self.request = request


class Blocked(Exception):
    """Raised by a handler that must run again after *guard* is lifted; it has changed nothing."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard.reason)
        self.guard = guard


class TreeLock(NamedTuple):
    """What a directory rename locks at every daemon."""

    source: bytes
    target: bytes
    exchange: bool
    guard: Guard


class Guards:
    """All guards of one daemon."""

    def __init__(self) -> None:
        # Whether `check_change` or `check_read` could find anything: one look for the hot path.
        self.active = False
        self._paths: dict[bytes, Guard] = {}
        self._exchanges: set[bytes] = set()  # of *_paths*: what is there now is already somewhere else, too
        self._trees: dict[bytes, TreeLock] = {}
        self._seals: dict[int, Guard] = {}
        self._cuts: dict[int, Guard] = {}

    def check_change(self, path: bytes, intent: bytes = b"") -> None:
        """Raise Blocked when *path* must not change now, unless it is *intent* that keeps others away."""
        guard = self._paths.get(path)
        if guard is not None:
            raise Blocked(guard)
        self.check_tree(path, intent)

    def check_tree(self, path: bytes, intent: bytes = b"") -> None:
        """Raise Blocked while *path* is within what a directory rename other than *intent* has locked."""
        for name, lock in self._trees.items():
            if name != intent and _covers(lock, path):
                raise Blocked(lock.guard)

    def check_fid(self, fid: int) -> None:
        """Raise Blocked while chunks of the file *fid* are being cut."""
        if self._cuts and fid in self._cuts:
            raise Blocked(self._cuts[fid])

    def check_seal(self, fid: int) -> None:
        """Raise Blocked while it is undecided whether the directory *fid* is removed."""
        if fid in self._seals:
            raise Blocked(self._seals[fid])

    # --- paths

    def check_read(self, path: bytes) -> None:
        """Raise Blocked when what *path* holds must not be seen now."""
        if path in self._exchanges:
            raise Blocked(self._paths[path])
        for lock in self._trees.values():
            # Below the target records come one after another, long before the directory itself.
            if is_below(path, lock.target) or (lock.exchange and is_below(path, lock.source)):
                raise Blocked(lock.guard)

    def check_list(self, directory: bytes) -> None:
        """Raise Blocked when what is in *directory* must not be seen now."""
        self.check_copied(directory)
        for path in self._exchanges:
            if split(path)[0] == directory:
                raise Blocked(self._paths[path])

    def check_copied(self, directory: bytes) -> None:
        """Raise Blocked while a directory rename may have copied entries into *directory*, or take them back."""
        for lock in self._trees.values():
            tops = (lock.source, lock.target) if lock.exchange else (lock.target,)
            if any(is_within(directory, top) for top in tops):
                raise Blocked(lock.guard)

    def hold_path(
        self, path: bytes, reason: str, *, exchange: bool = False, request: tuple[bytes, int] | None = None
    ) -> Guard:
        """Keep others from changing *path* until `lift_path`, and with *exchange* from seeing it.

        The caller has made sure that nobody changes it now.
        """
        assert path not in self._paths
        if exchange:
            self._exchanges.add(path)
        guard = self._paths[path] = Guard(f"{printable(path)}: {reason}", request)
        self._update()
        return guard

    def lift_path(self, path: bytes) -> None:
        self._exchanges.discard(path)
        self._paths.pop(path).lifted.set()
        self._update()

    def is_held(self, path: bytes) -> bool:
        """Whether a rename or removal of *path* is being decided."""
        return path in self._paths

    # --- trees

    def tree_conflict(self, source: bytes, target: bytes) -> str | None:
        """What forbids to lock the trees of a directory rename now, for a message; None when nothing does."""
        for path, guard in self._paths.items():
            if is_below(path, source) or is_within(path, target):
                return guard.reason
        for lock in self._trees.values():
            ours, theirs = (source, target), (lock.source, lock.target)
            if any(_overlap(mine, other) for mine in ours for other in theirs):
                return lock.guard.reason
        return None

    def lock_tree(self, intent: bytes, source: bytes, target: bytes, *, exchange: bool) -> None:
        what = "exchanged with" if exchange else "renamed to"
        reason = f"directory {printable(source)} is being {what} {printable(target)}"
        self._trees[intent] = TreeLock(source, target, exchange, Guard(reason))
        self._update()

    def tree_lock(self, intent: bytes) -> TreeLock | None:
        return self._trees.get(intent)

    def unlock_tree(self, intent: bytes) -> None:
        self._trees.pop(intent).guard.lifted.set()
        self._update()

    # --- seals

    def hold_seal(self, fid: int) -> None:
        if fid not in self._seals:
            self._seals[fid] = Guard(f"directory {fid:x} is being removed")

    def lift_seal(self, fid: int) -> None:
        guard = self._seals.pop(fid, None)
        if guard is not None:
            guard.lifted.set()

    # --- cuts

    def hold_cut(self, fid: int) -> None:
        assert fid not in self._cuts
        self._cuts[fid] = Guard(f"file {fid:x} is being truncated")

    def lift_cut(self, fid: int) -> None:
        self._cuts.pop(fid).lifted.set()

    def _update(self) -> None:
        self.active = bool(self._paths or self._trees)


def block_until(nursery: trio.Nursery, end_s: float, reason: str) -> NoReturn:
    """Raise Blocked, with a guard that is lifted at *end_s* on trio's clock."""
    guard = Guard(reason)
    nursery.start_soon(_lift_at, end_s, guard)
    raise Blocked(guard)


async def _lift_at(end_s: float, guard: Guard) -> None:
    await trio.sleep_until(end_s)
    guard.lifted.set()


def busy(guard: Guard) -> OSError:
    """EBUSY, with what *guard* is there for."""
    return os_error(errno.EBUSY, guard.reason)


def _covers(lock: TreeLock, path: bytes) -> bool:
    return is_below(path, lock.source) or is_within(path, lock.target)


def _overlap(one: bytes, other: bytes) -> bool:
    return is_within(one, other) or is_below(other, one)
