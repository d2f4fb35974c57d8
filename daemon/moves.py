"""What was renamed lately, for clients that still know it under its old path. In memory, and only a help.

Directories: creations below the old path must be checked, and whatever was below it is now below the new one.
After more renames than are remembered, and after a restart, all creations are checked for a while, wherever they
are.
Files: who has one open asks where it went. A daemon that starts again does not know: handles of such files fail
with ESTALE.
"""

from collections.abc import Iterator
from typing import NamedTuple

import trio

from gkfs.limits import HINTS_MAX, MOVED_DIRECTORIES_MAX, MOVED_MEMORY_S, MOVES_FOLLOWED
from gkfs.paths import is_below, rebase, split


class _Move(NamedTuple):
    new: bytes
    number: int  # those that happened as one have the same
    moved_s: float


class Moves:
    """The latest renames that this daemon took part in."""

    def __init__(self, *, restarted: bool) -> None:
        self.directory_count = 0  # renames of directories since the start
        self._directories: dict[bytes, _Move] = {}  # of an old path; oldest first
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
        self._directories.pop(old, None)
        self._directories[old] = _Move(new, self.directory_count, trio.current_time())
        self._forget_old()
        if len(self._directories) > MOVED_DIRECTORIES_MAX:
            oldest = self._directories.pop(next(iter(self._directories)))
            self._any_until_s = oldest.moved_s + MOVED_MEMORY_S

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
        return any(above in self._directories for above in _ancestors(path))

    def where(self, path: bytes, fid: int) -> list[bytes]:
        """Where *fid* may be that was at *path*, the likeliest first.

        That is after the latest rename of a directory above it; or after an earlier one, if it lost its name there
        and is open: it stays then where it was, while the directory goes on.
        """
        self._forget_old()
        hint = self._files.get(fid)
        chains = self._chains(path) if hint is None else [self._later(*hint)]
        latest = [chain[-1] for chain in chains]
        earlier = [step for chain in chains for step in reversed(chain[:-1])]
        found = dict.fromkeys((*latest, *earlier))
        found.pop(path, None)
        return list(found)[:MOVES_FOLLOWED]

    def _chains(self, path: bytes) -> list[list[bytes]]:
        """Where what was at *path* may have been since.

        One for each directory above that was renamed, for nobody knows whether it was there before; the latest
        first, for the path may have been taken anew since an older one.
        """
        left = [
            (move, old) for old in (path, *_ancestors(path)) if (move := self._directories.get(old)) is not None
        ]
        left.sort(key=lambda found: found[0].number, reverse=True)
        return [self._later(rebase(path, old, move.new), move.number) for move, old in left]

    def _later(self, path: bytes, number: int) -> list[bytes]:
        """*path*, and where that has been since which was there after the rename of that *number*."""
        steps = [path]
        for old, move in self._directories.items():
            if move.number > number and (path == old or is_below(path, old)):
                path, number = rebase(path, old, move.new), move.number
                steps.append(path)
        return steps

    def _forget_old(self) -> None:
        oldest_s = trio.current_time() - MOVED_MEMORY_S
        while self._directories:
            old = next(iter(self._directories))
            if self._directories[old].moved_s >= oldest_s:
                return
            del self._directories[old]


def _ancestors(path: bytes) -> Iterator[bytes]:
    """The directories above *path*, the nearest first."""
    while path := split(path)[0]:
        yield path
