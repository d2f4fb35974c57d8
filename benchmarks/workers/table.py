"""Memory that all workers of a mount share: a row for each inode the kernel holds and for each open handle.

A row is a number of 64-bit words, then bytes. Rows of inodes are found by fid and by (fid of the directory, name),
over two tables of chains. Who changes chains or counts holds the lock; single words are read and written without
it.
"""

import errno
import mmap
import multiprocessing
from typing import Final

from gkfs.errors import os_error

ROWS: Final = 1 << 16
BUCKETS: Final = 1 << 16
SPARE_ROWS: Final = 1024  # a row is used again when so many others are free
ROW_BYTES: Final = 1 << 14
ROW_WORDS: Final = ROW_BYTES // 8
# Where the bytes of a row begin, and where they must end.
NAME_AT: Final = 512
RECORD_AT: Final = 768
ADDRESS_AT: Final = 12288
RECORD_MAX_BYTES: Final = ADDRESS_AT - RECORD_AT

# Words of the table.
EPOCH, UNUSED, FREE_FIRST, FREE_LAST, USED, HANDLE_UNUSED, HANDLE_FREE, HANDLE_SERIAL = range(8)
# Words of an inode's row.
(FID, PARENT, NAME_LENGTH, IS_NAMED, RECORD_LENGTH, INCOMPLETE, ADDRESS_LENGTH, STAMP, NEXT_FID, NEXT_NAME) = (
    range(10)
)
(LOOKUPS, OPENS, REMOVED, GONE, KEPT, HELD, DETACHED, DIRTY, DIRTY_SIZE, DIRTY_MTIME, DIRTY_SPARSE) = range(10, 21)
(DIRTY_UNPRIVILEGED, DATA_CHANGES, CACHED_VERSION, TOUCHED, FRESH_UNTIL, LISTED_VERSION) = range(21, 27)
(UNSYNCED, ALLOCATED, VERSION, TIMES_SET) = range(27, 31)
_WORDS: Final = 32
# Words of a handle's row.
HANDLE_FID, HANDLE_FLAGS, HANDLE_GENERATION, HANDLE_NEXT = range(4)
_HANDLE_WORDS: Final = 4

_HEADER_WORDS: Final = 64
_BY_FID: Final = _HEADER_WORDS
_BY_NAME: Final = _BY_FID + BUCKETS
_HANDLES: Final = _BY_NAME + BUCKETS
_FIRST_ROW: Final = -(-(_HANDLES + ROWS * _HANDLE_WORDS) // ROW_WORDS) * ROW_WORDS


class Table:
    """The shared memory; made before the workers are forked. Row and handle numbers begin at 1."""

    def __init__(self) -> None:
        self.bytes = memoryview(mmap.mmap(-1, (_FIRST_ROW + ROWS * ROW_WORDS) * 8))
        self.words = self.bytes.cast("q")
        self.lock = multiprocessing.get_context("fork").Lock()
        self.words[UNUSED] = self.words[HANDLE_UNUSED] = 1

    # --- inodes. The caller of all of these holds the lock.

    def find(self, fid: int) -> int:
        """Where the row of *fid* begins, as an index of `words`; 0: there is none."""
        words = self.words
        base = words[_BY_FID + fid % BUCKETS]
        while base and words[base + FID] != fid:
            base = words[base + NEXT_FID]
        return base

    def find_name(self, parent: int, name: bytes) -> int:
        """As `find`, of the row under that name."""
        base = self.words[_BY_NAME + hash((parent, name)) % BUCKETS]
        while base and not (self.words[base + PARENT] == parent and self.name(base) == name):
            base = self.words[base + NEXT_NAME]
        return base

    def insert(self, fid: int, parent: int, name: bytes) -> int:
        """A row for a new *fid*, under its name. Raises OSError (ENOMEM) when there are `ROWS` already."""
        words = self.words
        base = self._take_row()
        words[base : base + _WORDS] = _NO_WORDS
        words[base + FID] = fid
        bucket = _BY_FID + fid % BUCKETS
        words[base + NEXT_FID], words[bucket] = words[bucket], base
        words[USED] += 1
        self.set_name(base, parent, name)
        return base

    def delete(self, base: int) -> None:
        """Free a row. It is used again as late as possible: some worker may be about to look at it."""
        words = self.words
        self.unname(base)
        self._unchain(_BY_FID + words[base + FID] % BUCKETS, base, NEXT_FID)
        words[base + FID] = 0
        words[base + NEXT_FID] = 0
        if words[FREE_LAST]:
            words[words[FREE_LAST] + NEXT_FID] = base
        else:
            words[FREE_FIRST] = base
        words[FREE_LAST] = base
        words[USED] -= 1

    def _take_row(self) -> int:
        words = self.words
        if words[UNUSED] < ROWS and words[UNUSED] - 1 - words[USED] < SPARE_ROWS:
            words[UNUSED] += 1
            return _FIRST_ROW + (words[UNUSED] - 1) * ROW_WORDS
        base = words[FREE_FIRST]
        if not base:
            raise os_error(errno.ENOMEM, f"the kernel refers to {ROWS} files")
        words[FREE_FIRST] = words[base + NEXT_FID]
        if not words[FREE_FIRST]:
            words[FREE_LAST] = 0
        return base

    def name(self, base: int) -> bytes:
        """The name of a row."""
        start = base * 8 + NAME_AT
        return bytes(self.bytes[start : start + self.words[base + NAME_LENGTH]])

    def set_name(self, base: int, parent: int, name: bytes) -> None:
        """The row is found under this name, and no other."""
        words = self.words
        self.unname(base)
        start = base * 8 + NAME_AT
        self.bytes[start : start + len(name)] = name
        words[base + PARENT], words[base + NAME_LENGTH] = parent, len(name)
        bucket = _BY_NAME + hash((parent, name)) % BUCKETS
        words[base + NEXT_NAME], words[bucket] = words[bucket], base
        words[base + IS_NAMED] = 1
        words[base + STAMP] += 1

    def unname(self, base: int) -> None:
        """The row is not found by name any more."""
        words = self.words
        if words[base + IS_NAMED]:
            words[base + IS_NAMED] = 0
            bucket = _BY_NAME + hash((words[base + PARENT], self.name(base))) % BUCKETS
            self._unchain(bucket, base, NEXT_NAME)

    def _unchain(self, bucket: int, base: int, link: int) -> None:
        words = self.words
        if words[bucket] == base:
            words[bucket] = words[base + link]
            return
        before = words[bucket]
        while words[before + link] != base:
            before = words[before + link]
        words[before + link] = words[base + link]

    # --- handles

    def add_handle(self, fid: int, flags: int) -> int:
        """A number that no other handle of this mount ever has. Raises OSError (ENFILE)."""
        words = self.words
        with self.lock:
            base = words[HANDLE_FREE]
            if base:
                words[HANDLE_FREE] = words[base + HANDLE_NEXT]
            elif words[HANDLE_UNUSED] < ROWS:
                base = _HANDLES + words[HANDLE_UNUSED] * _HANDLE_WORDS
                words[HANDLE_UNUSED] += 1
            else:
                raise os_error(errno.ENFILE, f"{ROWS} files are open")
            words[HANDLE_SERIAL] += 1
            serial = words[HANDLE_SERIAL]
        words[base + HANDLE_FID], words[base + HANDLE_FLAGS], words[base + HANDLE_GENERATION] = fid, flags, 0
        return serial << 24 | base

    def remove_handle(self, number: int) -> None:
        """The handle is closed."""
        base = handle_base(number)
        with self.lock:
            self.words[base + HANDLE_FID] = 0
            self.words[base + HANDLE_NEXT] = self.words[HANDLE_FREE]
            self.words[HANDLE_FREE] = base


def handle_base(number: int) -> int:
    """Where the row of a handle begins, as an index of `words`."""
    return number & 0xFF_FFFF


_NO_WORDS: Final = memoryview(bytes(8 * _WORDS)).cast("q")
