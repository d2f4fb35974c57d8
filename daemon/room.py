"""Room: what a daemon may still store, and what it does when there is little.

    disk        data that make a file longer are refused (ENOSPC) once the disk has less than a reserve free, new
                records below half of it. Removals, and what needs no room, go on.
    ballast     a file that takes space for nothing. When somebody else has filled the disk to the last byte it is
                given up, so that removals can be written; until it fits again, nothing that needs room is taken.
    capacity    a limit of the daemon's own, `--capacity`: chunks and records together. Beyond it, EDQUOT.

Records that were removed keep their space until RocksDB has merged its files. When something was refused that is
done at once, beside everything else.
"""

import errno
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import trio

from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.limits import (
    MERGE_PAUSE_S,
    MERGE_PAUSE_SHARE,
    METADATA_MEMTABLE_BYTES,
    METADATA_MEMTABLE_LEAST_BYTES,
    METADATA_MEMTABLE_SHARE,
    RECORD_LEAST_BYTES,
    SPACE_CHECK_BYTES,
    SPACE_CHECK_SHARE,
    SPACE_RESERVE_BYTES,
    SPACE_RESERVE_MEMTABLES,
    SPACE_RESERVE_SHARE,
)

_log = logging.getLogger(__name__)
_NO_LIMIT = 1 << 63


class Disk(NamedTuple):
    """A local file system."""

    free_bytes: int
    total_bytes: int
    device: int


def disk_of(folder: Path | str) -> Disk:
    """The local file system of *folder*. Raises OSError."""
    found = os.statvfs(folder)
    return Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, os.stat(folder).st_dev)


def memtable_bytes(folder: Path, capacity_bytes: int = 0) -> int:
    """How much RocksDB may gather before it writes a file: little where there is little space. Raises OSError."""
    total_bytes = min(disk_of(folder).total_bytes, capacity_bytes or _NO_LIMIT)
    return max(METADATA_MEMTABLE_LEAST_BYTES, min(METADATA_MEMTABLE_BYTES, total_bytes // METADATA_MEMTABLE_SHARE))


class Ballast:
    """A file that can be given up for *size_bytes* of space."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.is_there = path.exists() and path.stat().st_size >= size_bytes

    def make(self) -> bool:
        """Take the space; False when there is not enough."""
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.size_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("%s: %s", self.path, error.strerror)
            self.give_up()
            return False
        self.is_there = True
        return True

    def give_up(self) -> bool:
        """Give the space back; False when it was not taken."""
        self.is_there = False
        try:
            self.path.unlink()
        except OSError:
            return False
        return True


class Room:
    """The space of one daemon. *chunks_bytes*: of chunk files; *writing_bytes*: data that threads write now."""

    def __init__(
        self, folder: Path, store: MetadataStore, capacity_bytes: int = 0, ballast: Ballast | None = None
    ) -> None:
        """*folder*: on the disk in question. *capacity_bytes*: 0 for no limit. Raises OSError."""
        self._folder = str(folder)
        self._store = store
        self.capacity_bytes = capacity_bytes
        self._ballast = ballast
        self.chunks_bytes = 0
        self.writing_bytes = 0
        self._memtable_bytes = memtable_bytes(folder, capacity_bytes)
        self._base_bytes = min(SPACE_RESERVE_BYTES, self.disk().total_bytes // SPACE_RESERVE_SHARE)
        self._step_bytes = min(SPACE_CHECK_BYTES, self._base_bytes // 4)
        if capacity_bytes:
            self._step_bytes = min(self._step_bytes, capacity_bytes // SPACE_CHECK_SHARE)
        self._unlooked_bytes = self._step_bytes  # taken since the last look
        self._chunks_most_bytes = _NO_LIMIT  # by the limit, as of the last look
        self._short = trio.Event()
        store.make_room = self._make_room
        self._has_ballast(self.disk().free_bytes - self._base_bytes)

    def disk(self) -> Disk:
        """The local file system. Raises OSError."""
        return disk_of(self._folder)

    def take(self, length: int) -> None:
        """Raise OSError (ENOSPC, EDQUOT) unless *length* more bytes of data may be stored, wherever."""
        self._unlooked_bytes += length
        if (
            self._unlooked_bytes >= self._step_bytes
            or self.chunks_bytes + self.writing_bytes + length > self._chunks_most_bytes
        ):
            self._look(length, 1)

    def take_record(self, length: int = 0) -> None:
        """Raise OSError (ENOSPC, EDQUOT) unless one more record, with *length* bytes of names and such, may be."""
        self._unlooked_bytes += RECORD_LEAST_BYTES + length
        if self._unlooked_bytes >= self._step_bytes:
            self._look(length, 2)

    def _look(self, length: int, share: int) -> None:
        free_bytes, records_bytes = self.disk().free_bytes, self._store.disk_bytes()
        reserve_bytes = self._base_bytes + self._kept_for_merging(records_bytes)
        self._chunks_most_bytes = self.capacity_bytes - records_bytes if self.capacity_bytes else _NO_LIMIT
        if not self._has_ballast(free_bytes - reserve_bytes):
            free_bytes = 0
        left_bytes = free_bytes - self.writing_bytes - length
        if left_bytes < reserve_bytes // share:
            self._short.set()
            raise os_error(
                errno.ENOSPC,
                f"{free_bytes} bytes free under {self._folder}, {reserve_bytes // share} are kept for records",
            )
        if self.chunks_bytes + self.writing_bytes + length > self._chunks_most_bytes:
            self._short.set()
            stored_bytes = self.chunks_bytes + records_bytes
            raise os_error(errno.EDQUOT, f"{stored_bytes} of the daemon's {self.capacity_bytes} bytes are stored")
        if left_bytes >= reserve_bytes:
            self._unlooked_bytes = 0

    def _kept_for_merging(self, records_bytes: int) -> int:
        return min(2 * records_bytes, SPACE_RESERVE_MEMTABLES * self._memtable_bytes)

    def _has_ballast(self, available_bytes: int) -> bool:
        """Whether the ballast is there, or not wanted; if it fits it is made."""
        ballast = self._ballast
        if ballast is None or ballast.is_there:
            return True
        return available_bytes > ballast.size_bytes and ballast.make()

    def _make_room(self) -> bool:
        """RocksDB has none: whether there is more than there was before."""
        self._short.set()
        if self._ballast is None or not self._ballast.give_up():
            return False
        _log.error("no space left under %s: what was kept for removals is used now", self._folder)
        self._unlooked_bytes = self._step_bytes
        return True

    async def tend(self) -> None:
        """Have the space of removed records given back whenever something was refused; until cancelled."""
        merged = -1  # writes of the store then
        while True:
            await self._short.wait()
            self._short = trio.Event()
            writes = self._store.writes()
            if writes == merged and self._store.merges:
                await trio.sleep(MERGE_PAUSE_S)
                continue
            started_s = time.monotonic()
            try:
                # Merging needs space itself. Where there is none, tables of removals alone may have some merged.
                needed_bytes = self._kept_for_merging(self._store.disk_bytes()) // 4
                await self._store.merge_files(all_of_them=self.disk().free_bytes >= needed_bytes)
                merged = writes
            except OSError as error:  # RocksDB, short of space
                _log.info("space of removed records: %s", error.strerror)
            await trio.sleep(max(MERGE_PAUSE_S, MERGE_PAUSE_SHARE * (time.monotonic() - started_s)))
