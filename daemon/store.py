"""The metadata store: RocksDB with merged writes.

Writes go to an overlay that `get` and `scan` see at once, and `commit` makes one RocksDB write of it: a batch of
requests costs one write. Everything committed is in RocksDB's write-ahead log and thus with the kernel: it
survives the death of the daemon, and after `sync` that of the node. With `Sync.COMMIT` everything is on the disk
when it is committed; what `commit_unsynced` wrote is after the next `synced`: one fdatasync serves all who wait.

A log that is not whole is damage, and the store is not opened, unless the run before can have left it so.

RocksDB's errors become OSError here and nowhere else. Not thread-safe, except for what `sync` does.
"""

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio
from rocksdict import Rdict, ReadOptions, WriteBatch, WriteOptions

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.rocks import RECOVERY, how_to_write, options
from gkfs.daemon.superblock import Ending
from gkfs.errors import ExitStatus, GkfsError, os_error
from gkfs.hostfile import Sync
from gkfs.limits import (
    MERGE_END_S,
    METADATA_FILES_MAX,
    METADATA_MEMTABLE_BYTES,
    METADATA_REOPEN_BYTES,
    SCAN_PAGE_RECORDS,
)

_log = logging.getLogger(__name__)
_FEW: Final = 16  # records: walking over so many one by one is no slower
_How = dict[str, WriteOptions]  # arguments for a write of RocksDB's that is not as usual


class MetadataStore:
    """All tables of `keys`; *files* and *directories* count the records of paths."""

    def __init__(
        self,
        folder: Path,
        memtable_bytes: int = METADATA_MEMTABLE_BYTES,
        files_max: int = METADATA_FILES_MAX,
        *,
        ending: Ending = Ending.KILLED,
        sync: Sync = Sync.FSYNC,
        keeps_log: bool = True,
    ) -> None:
        """Open or create the store, whose last run ended by *ending*, with *files_max* descriptors at most.

        Without *keeps_log* the death of the daemon loses what it had committed. Raises GkfsError when it cannot be
        opened, damage included.
        """
        self._folder = str(folder)
        self._recovery = RECOVERY[ending]()
        self._ignores_sync = sync is Sync.NONE or not keeps_log
        self.syncs_commits = sync is Sync.COMMIT and keeps_log
        self._how = how_to_write(sync=self.syncs_commits, log=keeps_log)
        self._unsynced = {"write_opt": how_to_write(sync=False, log=keeps_log)}
        self._commits = self._commits_synced = 0  # of `commit_unsynced`
        self._syncing: trio.Event | None = None
        self.failed_with = errno.EIO  # the last commit that failed
        self._failed = False  # RocksDB has refused a write, and would refuse all that follow
        self.merges = True  # by itself; not after RocksDB had no space, which that would take first
        self._merged = threading.Event()  # clear while a thread has RocksDB's files merged
        self._merged.set()
        self._options = partial(options, memtable_bytes, files_max)
        self.make_room: Callable[[], bool] = lambda: False  # frees some space; False: it cannot
        try:
            self._db = self._open()
        except Exception as error:  # rocksdict raises plain Exception for everything
            reason = str(error).splitlines()[0]
            raise GkfsError(f"metadata store {folder} cannot be opened: {reason}", ExitStatus.ROOTDIR) from None
        self._recovery = RECOVERY[Ending.KILLED]()  # a failed write of ours may leave a torn record, too
        self._overlay: dict[bytes, bytes | None] = {}  # None: deleted
        self.on_commit: Callable[[dict[bytes, bytes | None]], None] | None = None  # told what was committed
        self._files_delta = self._directories_delta = 0
        self.files = self.directories = 0
        try:
            self._count_records()
        except OSError as error:
            self._db.close()
            raise GkfsError(f"metadata store {folder} is damaged: {error}", ExitStatus.ROOTDIR) from None

    def get(self, key: bytes) -> bytes | None:
        """The value of *key*, or None. Raises OSError (EIO)."""
        if self._overlay and key in self._overlay:
            return self._overlay[key]
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise _mapped(error) from error
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set *key* with the next `commit`."""
        self._overlay[key] = value

    def delete(self, key: bytes) -> None:
        """Remove *key* with the next `commit`, if it is there."""
        self._overlay[key] = None

    def put_now(self, key: bytes, value: bytes) -> None:
        """Set *key* at once, whatever the overlay was to make of it. Raises OSError (ENOSPC, EIO)."""
        self._write(lambda: self._db.put(key, value))
        self._overlay.pop(key, None)  # a removal that the same batch asked for before must not follow
        if self.on_commit is not None:
            self.on_commit({key: value})

    def count_entry(self, mode: int, delta: int) -> None:
        """Note that records of paths with the file type of *mode* come or go with the next `commit`."""
        if stat.S_ISDIR(mode):
            self._directories_delta += delta
        else:
            self._files_delta += delta

    def scan(self, first: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to *limit* (key, value) with keys in [first, end), ascending. Raises OSError (EIO)."""
        changed = [key for key in self._overlay if first <= key < end] if self._overlay else []
        bound = ReadOptions()
        bound.set_iterate_upper_bound(end)  # so that deleted records beyond the range are not walked over
        wanted = limit + len(changed)  # as many as that may be hidden by the overlay
        try:
            found = self._walk(first, bound, wanted)
        except Exception as error:
            raise _mapped(error) from error
        if changed:
            merged: dict[bytes, bytes | None] = dict(found)
            if len(found) >= wanted:  # what lies beyond the last one found is for the next page
                changed = [key for key in changed if key <= found[-1][0]]
            merged.update((key, self._overlay[key]) for key in changed)
            found = sorted((key, value) for key, value in merged.items() if value is not None)
        return found[:limit]

    def _walk(self, first: bytes, bound: ReadOptions, wanted: int) -> list[tuple[bytes, bytes]]:
        """Up to *wanted* that RocksDB has from *first* on."""
        found: list[Any] = []
        if wanted > _FEW:
            for item in self._db.items(from_key=first, read_opt=bound):
                found.append(item)
                if len(found) >= wanted:
                    return found
        # That is fast, but it ends at a damaged block as if there were no more; a walk has a status.
        walk = self._db.iter(bound)
        try:
            walk.seek(found[-1][0] if found else first)
            if found and walk.valid():
                walk.next()
            while len(found) < wanted and walk.valid():
                found.append((walk.key(), walk.value()))
                walk.next()
            walk.status()
        finally:
            del walk  # not kept by the traceback of an error: what walks keeps RocksDB open
        return found

    def pages(
        self, first: bytes, end: bytes, limit: int = SCAN_PAGE_RECORDS
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """All of [first, end) by `scan`, a page at a time; between two of them the store may change."""
        while page := self.scan(first, end, limit):
            yield page
            first = page[-1][0] + b"\0"

    def commit(self) -> None:
        """Make the overlay permanent, all of it or nothing. Raises OSError (ENOSPC, EIO): then nothing was."""
        self._commit({})

    def commit_begun(self) -> None:
        """As `commit`, of what a handler leaves to a task to finish; that finds nothing of it where this fails."""
        with suppress(OSError):
            self.commit()

    def commit_unsynced(self) -> None:
        """As `commit`; where commits are synced this one is after `synced`, which the answer has to wait for."""
        if self._overlay:
            self._commits += 1
        self._commit(self._unsynced)

    def _commit(self, how: _How) -> None:
        if not self._overlay:
            return
        write = self._write_one if len(self._overlay) == 1 else self._write_batch
        try:
            self._write(lambda: write(how))
        except OSError as error:
            self.failed_with = error.errno or errno.EIO
            self.rollback()
            raise
        if self.on_commit is not None:
            self.on_commit(self._overlay)
        self._overlay.clear()
        self.files += self._files_delta
        self.directories += self._directories_delta
        self._files_delta = self._directories_delta = 0

    def rollback(self) -> None:
        """Forget what was put and deleted since the last commit."""
        self._overlay.clear()
        self._files_delta = self._directories_delta = 0

    @property
    def dirty(self) -> bool:
        """Whether there is something to commit; never so while a task waits."""
        return bool(self._overlay)

    async def synced(self) -> None:
        """Wait until what `commit_unsynced` has written so far is on the disk; of all who wait one syncs it.

        Raises OSError.
        """
        wanted = self._commits
        while self._commits_synced < wanted:
            if self._syncing is not None:
                await self._syncing.wait()  # it may have begun too early for us
                continue
            covered, done = self._commits, trio.Event()
            self._syncing = done
            try:
                await self.sync()
                self._commits_synced = covered
            finally:
                self._syncing = None
                done.set()

    async def noted(self) -> None:
        """Where commits are synced: wait until what was committed is on the disk. Raises OSError."""
        if self.syncs_commits:
            await self.synced()

    async def sync(self) -> None:
        """Bring everything committed to the disk. Raises OSError. Goes on in its thread when cancelled."""
        if self._ignores_sync:
            return
        try:
            await trio.to_thread.run_sync(self._db.flush_wal, True)
        except Exception as error:
            raise _mapped(error) from error

    # --- space

    def disk_bytes(self) -> int:
        """What the records take on the disk: the tables, and the log. Some of it may be of removed ones."""
        return self._property("total-sst-files-size") + self._property("cur-size-all-mem-tables")

    def writes(self) -> int:
        """How many keys were ever written or removed."""
        return self._db.latest_sequence_number()

    async def merge_files(self, *, all_of_them: bool) -> None:
        """Give back the space of removed records. Raises OSError. A close, or a failed write, ends it early."""
        self._merged.clear()
        await trio.to_thread.run_sync(self._merge_files, all_of_them, abandon_on_cancel=True)

    def _merge_files(self, all_of_them: bool) -> None:
        try:
            self._db.flush(True)
            self._db.set_options({"disable_auto_compactions": "false"})
            self.merges = True
            if all_of_them:
                self._db.compact_range(None, None)
        except Exception as error:
            raise _mapped(error) from error
        finally:
            self._merged.set()

    def _end_merges(self) -> None:
        """End the merges, and wait for a thread that is busy with one: what it uses cannot be closed."""
        self._db.cancel_all_background(True)
        self._merged.wait(MERGE_END_S)

    def _property(self, name: str) -> int:
        try:
            return self._db.property_int_value(f"rocksdb.{name}") or 0
        except Exception:  # it is closed, after a failure
            return 0

    def close(self) -> bool:
        """Release the files, whether that went well; nothing may be called afterwards."""
        if not self._merged.is_set():
            self._end_merges()
        try:
            self._db.close()
        except Exception as error:
            # After a failed write, or while files were merged: all that was committed is there.
            is_known = self._failed or "Shutdown" in str(error)
            _log.log(logging.INFO if is_known else logging.ERROR, "metadata store: %s", error)
            return False
        return not self._failed

    def _open(self) -> Rdict:
        how = self._options(self._recovery)
        how.set_disable_auto_compactions(not self.merges)
        opened = Rdict(self._folder, how)
        opened.set_write_options(self._how)
        return opened

    def _write(self, write: Callable[[], None]) -> None:
        if self._failed:
            self._reopen()
        try:
            write()
        except Exception as error:
            self._failed = True
            failure = _mapped(error)
            if failure.errno != errno.ENOSPC:
                raise failure from error
            self.merges = False
            self.make_room()
        else:
            return
        self._reopen()  # what merges had taken is free then
        try:
            write()  # what there is of it already is written again
        except Exception as error:
            self._failed = True
            raise _mapped(error) from error

    def _reopen(self) -> None:
        """Open RocksDB anew, which needs some space: without, what is open can at least be read."""
        self._end_merges()
        needed_bytes = METADATA_REOPEN_BYTES + self._property("cur-size-all-mem-tables")
        if _free_bytes(self._folder) < needed_bytes and not (
            self.make_room() and _free_bytes(self._folder) >= needed_bytes
        ):
            raise os_error(errno.ENOSPC, f"metadata store {self._folder}")
        self.close()
        try:
            self._db = self._open()
        except Exception as error:
            raise _mapped(error) from error
        self._failed = False
        _log.warning("metadata store %s takes writes again", self._folder)

    def _write_one(self, how: _How) -> None:
        ((key, value),) = self._overlay.items()
        if value is None:
            self._db.delete(key, **how)
        else:
            self._db.put(key, value, **how)

    def _write_batch(self, how: _How) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in self._overlay.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._db.write(batch, **how)

    def _count_records(self) -> None:
        for page in self.pages(*keys.PATHS):
            for key, record in page:
                try:
                    mode = metadentry.decode(record).mode
                except ValueError as error:  # requests for it fail, all others are served; fsck names it
                    _log.error("record of %s: %s", paths.printable(paths.path_of_key(key)), error)
                    mode = stat.S_IFREG
                self.count_entry(mode, 1)
        if self.get(keys.ROOT) is not None:
            self._directories_delta += 1
        self.files, self.directories = self._files_delta, self._directories_delta
        self._files_delta = self._directories_delta = 0


def _free_bytes(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _mapped(error: Any) -> OSError:
    if isinstance(error, OSError):
        return error
    text = str(error)
    number = errno.ENOSPC if "No space left" in text or "quota" in text.lower() else errno.EIO
    if "Too many open files" in text:
        number = errno.EMFILE
    _log.error("metadata store: %s", text)
    return os_error(number, f"metadata store: {text}")
