"""What was renamed lately, for clients that still know it under its old path. In memory, and only a help.

Directories: creations below the old path must be checked, and whatever was below it is now below the new one.
Files: who has one open asks where it went. A daemon that starts again knows nothing: handles of such files fail
with ESTALE.
"""

import trio

from gkfs.limits import HINTS_MAX, MOVED_MEMORY_S
from gkfs.paths import is_below, rebase


class Moves:
    """The latest renames that this daemon took part in."""

    def __init__(self) -> None:
        self.directory_count = 0  # directories renamed since the start
        self._directories: dict[bytes, tuple[bytes, float]] = {}  # old path -> new path and when
        self._files: dict[int, tuple[bytes, float]] = {}  # fid -> new path and when; oldest first

    def note_directory(self, old: bytes, new: bytes) -> None:
        """The directory *old* is now *new*."""
        self.directory_count += 1
        self._directories[old] = (new, trio.current_time())

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
        """Whether a directory that was above *path* was renamed lately."""
        return bool(self._directories) and any(is_below(path, old) for old in self._known())

    def where(self, path: bytes, fid: int) -> bytes:
        """Where *fid* went that was at *path*; b"" when that is not known."""
        hint = self._files.get(fid)
        if hint is not None and hint[0] != path:
            return hint[0]  # whatever became of the directory that it was in
        # The latest that fits: a path may have been taken anew since an older one.
        found, latest_s = b"", 0.0
        for old, (new, moved_s) in self._known().items():
            if moved_s > latest_s and (path == old or is_below(path, old)):
                found, latest_s = rebase(path, old, new), moved_s
        return found if found != path else b""

    def _known(self) -> dict[bytes, tuple[bytes, float]]:
        oldest_s = trio.current_time() - MOVED_MEMORY_S
        for old in [old for old, (_, moved_s) in self._directories.items() if moved_s < oldest_s]:
            del self._directories[old]
        return self._directories
