"""What was renamed lately, for clients that still know it under its old path. In memory, and only a help.

Directories: who asks for a name below the old path may mean another one, and whatever was below it is now below
the new one. After more renames than are remembered, and after a restart, all may, wherever they are, for a while.
Files: who has one open asks where it went. A daemon that starts again does not know: handles of such files fail
with ESTALE.
"""

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import trio

from gkfs.limits import HINTS_MAX, MOVED_DIRECTORIES_MAX, MOVED_MEMORY_S, MOVES_FOLLOWED
from gkfs.paths import is_within, rebase, split


class _Move(NamedTuple):
    old: bytes
    new: bytes
    number: int  # those that happened as one have the same
    moved_s: float


class Moves:
    """The latest renames that this daemon took part in."""

    def __init__(self, *, restarted: bool) -> None:
        self.directory_count = 0  # renames of directories since the start
        self._directories: deque[_Move] = deque()  # oldest first
        self._olds: Counter[bytes] = Counter()  # their old paths
        # Until then a directory may have been renamed that we do not remember.
        self._any_until_s = trio.current_time() + MOVED_MEMORY_S if restarted else 0.0
        self._files: dict[int, tuple[bytes, int]] = {}  # fid -> new path, and the directories' count; oldest first

    def note_directory(self, old: bytes, new: bytes) -> None:
        """The directory *old* is now *new*."""
        self.directory_count += 1
        self._note(old, new)

    def note_exchange(self, one: bytes, other: bytes) -> None:
        """Each of two directories has the other's path now."""
        self.directory_count += 1
        self._note(one, other)
        self._note(other, one)

    def _note(self, old: bytes, new: bytes) -> None:
        self._forget_old()
        self._directories.append(_Move(old, new, self.directory_count, trio.current_time()))
        self._olds[old] += 1
        if len(self._directories) > MOVED_DIRECTORIES_MAX:
            self._any_until_s = self._forget_oldest().moved_s + MOVED_MEMORY_S

    def note_file(self, fid: int, new: bytes) -> None:
        """A file that was here is now *new*, which may belong to another daemon."""
        self._files.pop(fid, None)
        self._files[fid] = (new, self.directory_count)
        if len(self._files) > HINTS_MAX:
            del self._files[next(iter(self._files))]

    def file_came(self, fid: int, path: bytes) -> None:
        """A file has come to *path*, which is this daemon's: wherever it went from here before, it went on."""
        if fid in self._files:
            self.note_file(fid, path)

    def was_moved(self, path: bytes) -> bool:
        """Whether a directory that was above *path* was renamed lately, or may have been."""
        if self._any_until_s:
            if trio.current_time() < self._any_until_s:
                return True
            self._any_until_s = 0.0
        if not self._directories:
            return False
        self._forget_old()
        return any(above in self._olds for above in _ancestors(path))

    def where(self, path: bytes, fid: int) -> list[bytes]:
        """Where *fid* may be that was at *path*, the likeliest first.

        That is after the latest rename of a directory above it; after an earlier one, if the path was taken anew
        since; or where it was in between, if it lost its name there and is open: it stays then where it was, while
        the directory goes on.
        """
        self._forget_old()
        hint = self._files.get(fid)
        if hint is None and not any(old in self._olds for old in (path, *_ancestors(path))):
            return []
        now = dict([hint] if hint else [])  # and the number of the rename that brought it there; the latest last
        left: dict[bytes, None] = {}
        for old, new, number, _ in self._directories:
            for place in [place for place, since in now.items() if since < number and is_within(place, old)]:
                del now[place]
                left.pop(place, None)
                left[place] = None
                _put_last(now, rebase(place, old, new), number)
            if hint is None and is_within(path, old):
                _put_last(now, rebase(path, old, new), number)
        found = dict.fromkeys((*reversed(now), *reversed(left)))
        found.pop(path, None)
        return list(found)[:MOVES_FOLLOWED]

    def _forget_old(self) -> None:
        oldest_s = trio.current_time() - MOVED_MEMORY_S
        while self._directories and self._directories[0].moved_s < oldest_s:
            self._forget_oldest()

    def _forget_oldest(self) -> _Move:
        oldest = self._directories.popleft()
        self._olds[oldest.old] -= 1
        if not self._olds[oldest.old]:
            del self._olds[oldest.old]
        return oldest


def _put_last(places: dict[bytes, int], place: bytes, number: int) -> None:
    places.pop(place, None)
    places[place] = number
    if len(places) > MOVES_FOLLOWED:  # nobody follows more
        del places[next(iter(places))]


def _ancestors(path: bytes) -> Iterator[bytes]:
    """The directories above *path*, the nearest first."""
    while path := split(path)[0]:
        yield path
