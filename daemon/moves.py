"""What was renamed lately, for clients that still know it under its old path. In memory, and only a help.

Directories: creations below the old path must be checked, and whatever was below it is now below the new one.
After more renames than are remembered all creations are checked for a while, wherever they are.
Files: who has one open asks where it went. A daemon that starts again knows nothing: handles of such files fail
with ESTALE.
"""

from collections.abc import Iterator
from typing import Final

import trio

from gkfs.limits import HINTS_MAX, MOVED_DIRECTORIES_MAX, MOVED_MEMORY_S
from gkfs.paths import rebase, split

_NEVER: Final = (b"", float("-inf"))


class Moves:
    """The latest renames that this daemon took part in."""

    def __init__(self) -> None:
        self.directory_count = 0  # directories renamed since the start
        self._directories: dict[bytes, tuple[bytes, float]] = {}  # old path -> new path and when; oldest first
        self._any_until_s = float("-inf")  # until then a directory may have been renamed that we forgot
        self._files: dict[int, tuple[bytes, float]] = {}  # fid -> new path and when; oldest first

    def note_directory(self, old: bytes, new: bytes) -> None:
        """The directory *old* is now *new*."""
        self.directory_count += 1
        self._directories.pop(old, None)
        self._directories[old] = (new, trio.current_time())
        self._forget_old()
        if len(self._directories) > MOVED_DIRECTORIES_MAX:
            _, moved_s = self._directories.pop(next(iter(self._directories)))
            self._any_until_s = moved_s + MOVED_MEMORY_S

    def note_file(self, fid: int, new: bytes) -> None:
        """A file that was here is now *new*, which may belong to another daemon."""
        self._files.pop(fid, None)
        self._files[fid] = (new, trio.current_time())
        if len(self._files) > HINTS_MAX:
            del self._files[next(iter(self._files))]

    def file_came(self, fid: int, path: bytes) -> None:
        """A file has come to *path*, which is this daemon's: wherever it went from here before, it went on."""
        if fid in self._files:
            self.note_file(fid, path)

    def was_moved(self, path: bytes) -> bool:
        """Whether a directory that was above *path* was renamed lately, or may have been."""
        if not self._directories:
            return False
        self._forget_old()
        return trio.current_time() < self._any_until_s or any(
            above in self._directories for above in _ancestors(path)
        )

    def where(self, path: bytes, fid: int) -> bytes:
        """Where *fid* went that was at *path*; b"" when that is not known."""
        hint = self._files.get(fid)
        if hint is not None and hint[0] != path:
            return hint[0]  # whatever became of the directory that it was in
        # The latest that fits: a path may have been taken anew since an older one.
        found, latest_s = _NEVER
        self._forget_old()
        for old in (path, *_ancestors(path)):
            new, moved_s = self._directories.get(old, _NEVER)
            if moved_s > latest_s:
                found, latest_s = rebase(path, old, new), moved_s
        return found if found != path else b""

    def _forget_old(self) -> None:
        oldest_s = trio.current_time() - MOVED_MEMORY_S
        while self._directories:
            old = next(iter(self._directories))
            if self._directories[old][1] >= oldest_s:
                return
            del self._directories[old]


def _ancestors(path: bytes) -> Iterator[bytes]:
    """The directories above *path*, the nearest first."""
    while path := split(path)[0]:
        yield path
