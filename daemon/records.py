"""Finding and storing metadata records, with the rules of addressing of `gkfs.messages`."""

import errno
from typing import NamedTuple

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.guards import Guards
from gkfs.daemon.store import MetadataStore
from gkfs.errors import os_error
from gkfs.metadentry import Metadentry


class Found(NamedTuple):
    """A record and the key under which it is stored: of a path, of an inode address, or of a nameless file."""

    key: bytes
    record: bytes


class Records:
    """The records of one daemon."""

    def __init__(self, store: MetadataStore, guards: Guards) -> None:
        self._store = store
        self._guards = guards

    def at(self, path: bytes) -> bytes:
        """What stands under the name *path*, a link included. Raises OSError: ENOENT."""
        record = self._store.get(paths.key(path))
        if record is None:
            raise os_error(errno.ENOENT, paths.printable(path))
        return record

    def find(self, path: bytes, fid: int) -> Found:
        """The record of the file *fid* at *path*, or without a name. Raises OSError (ENOENT, ESTALE), Blocked."""
        key = paths.key(path)
        record = self._store.get(key)
        if record is not None and (
            not fid or (metadentry.fid_of(record) == fid and not metadentry.is_link_record(record))
        ):
            return Found(key, record)
        if not fid:
            raise os_error(errno.ENOENT, paths.printable(path))
        self._guards.check_read(path)
        key = keys.orphan(fid)
        record = self._store.get(key)
        if record is None:
            raise os_error(errno.ESTALE, f"{paths.printable(path)} is no longer file {fid:x}")
        return Found(key, record)

    def for_change(self, path: bytes, fid: int) -> tuple[Found, Metadentry]:
        """A record that may change now, and what it says. Raises OSError (ENOENT, ESTALE), Blocked."""
        if self._guards.active:
            self._guards.check_change(path)
        found = self.find(path, fid)
        return found, metadentry.decode(found.record)

    def for_data(self, path: bytes, fid: int) -> tuple[Found, Metadentry]:
        """As `for_change`, of a regular file whose size or data may change now. Raises OSError (EINVAL), too."""
        found, entry = self.for_change(path, fid)
        if not entry.is_regular:
            raise os_error(errno.EINVAL, f"{paths.printable(path)} is not a regular file")
        self._guards.check_fid(entry.fid)
        return found, entry

    def replace(self, found: Found, entry: Metadentry) -> bytes:
        """Store *entry* in place of what was found; returns the record."""
        record = metadentry.encode(entry)
        self._store.put(found.key, record)
        return record
