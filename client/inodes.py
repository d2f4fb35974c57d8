"""The inode table: what the kernel may refer to by number, and under which path its record is found.

An inode is known by its fid, which is also the number the kernel uses. It hangs below its parent inode by name,
so renaming a directory moves one pointer and the paths below follow. Where its record is not under that name it
has an `address`: the old path of a removed file that is still open, the inode address of one that has several
names, or the path to which another node has renamed it.
"""

import errno
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from gkfs import metadentry, paths
from gkfs.errors import os_error
from gkfs.limits import (
    DATA_KEPT_FILES,
    DIRECTORY_ATTR_TIMEOUT_S,
    LEASE_MARGIN_S,
    LEASE_S,
)
from gkfs.metadentry import FLAG_SPARSE, ROOT_FID, Metadentry

if TYPE_CHECKING:
    from gkfs.client.name_leases import KnownNames
    from gkfs.client.pump import Gate
    from gkfs.client.write_leases import WriteRight
    from gkfs.client.writing import Behind

# A record fetched by LOOKUP also serves the GETATTR or OPEN of the same system call, which follows at once.
FRESH_S: Final = 0.005

_OF_NO_ENTRY: Final = (0, ROOT_FID)
_NOTHING: Final[frozenset[int]] = frozenset()


class Inode:
    """One file, directory or other entry the kernel holds, with the writes its owner does not know of yet."""

    __slots__ = (
        "_entry",
        "_fresh_until_s",
        "_path",
        "_path_epoch",
        "_version",
        "address",
        "allocated_bytes",
        "behind",
        "behind_end",
        "cached_version",
        "cut_from",
        "data_changes",
        "data_kept",
        "dirty",
        "dirty_mtime_ns",
        "dirty_size",
        "dirty_sparse",
        "dirty_unprivileged",
        "fid",
        "gone",
        "held",
        "held_path",
        "kept",
        "lease_until_s",
        "leaving",
        "listed_version",
        "lookups",
        "name",
        "names",
        "names_known",
        "opens",
        "parent",
        "recent_until_s",
        "removed",
        "touched_s",
        "unsynced",
        "unsynced_before",
        "unsynced_record",
        "was_read",
        "write_right",
    )

    def __init__(self, fid: int, parent: "Inode | None", name: bytes) -> None:
        self.fid = fid
        self.parent = parent
        self.name = name
        self.lookups = 0
        self.opens = 0
        self.address: bytes | None = None
        # Of a file with several names: those seen here. Its record is under its inode address.
        self.names: set[tuple[int, bytes]] | None = None
        self.names_known: dict[int, KnownNames] | None = None  # of a directory: see name_leases.py
        self.held = False  # its daemon was told that it is open here
        self.held_path = b""  # and where its record was then, or when it was opened
        self.kept = False  # its last name may be gone: its daemon keeps it until it is told that it is closed
        self.gone = False  # its record was removed elsewhere while it was open here
        # Its name is being removed through this mount, and it was not open: who opens it now waits here.
        self.leaving: list[Gate] | None = None
        self.removed = False  # through this mount, and not kept; whoever has it open sees it as it was at the end
        # Written here and not confirmed (see writing.py), and where it ends, 0 when there is nothing.
        self.behind: Behind | None = None
        self.behind_end = 0
        self.write_right: WriteRight | None = None  # see write_leases.py
        # Written here and not yet published (see data.py): size reached and time of the last write.
        self.dirty = False
        self.dirty_size = 0
        self.cut_from = 0  # the size before a truncation that is on its way
        self.dirty_mtime_ns = 0
        self.dirty_sparse = False
        self.dirty_unprivileged = False
        self.data_changes = 0  # writes and cuts here: who read ahead before must read again
        self.data_kept = False  # its record, with its data, is among those that `InodeTable.keep_data` counts
        self.allocated_bytes = 0  # when last asked for, of a file with holes
        self.unsynced: frozenset[int] = _NOTHING  # daemons that got data since the last fsync
        self.unsynced_record = False  # its owner got data, size or the name itself since
        self.unsynced_before = True  # somebody may have written it before it was known here, and not synced
        self.recent_until_s = 0.0  # of a directory: its record is as good as new before
        self.touched_s = 0.0  # and its entries changed then, on the monotonic clock
        self.lease_until_s = 0.0  # nobody else changes it before; of a directory but for what is in it
        self.was_read = False  # since the record was asked for with a lease
        self.listed_version = 0  # of the attributes that came with a listing; 0: the kernel does not use them
        self.cached_version = 0  # of the record when the kernel's cached pages were right; 0: never
        self._entry: Metadentry | bytes = b""
        self._version, self._fresh_until_s = 0, 0.0  # of *_entry*
        self._path, self._path_epoch = b"", -1

    @property
    def entry(self) -> Metadentry:
        """The record as last seen."""
        if isinstance(self._entry, bytes):
            self._entry = metadentry.decode(self._entry)
        return self._entry

    @property
    def size(self) -> int:
        """Bytes, as this node sees the file: with its own unpublished writes."""
        if self.dirty or self.cut_from:
            return max(self.entry.size, self.dirty_size, self.behind_end, self.cut_from)
        return self.entry.size

    @property
    def is_known(self) -> bool:
        """Whether a record was seen."""
        return bool(self._entry)

    @property
    def has_data(self) -> bool:
        """Whether the record as last seen came with data."""
        entry = self._entry
        if isinstance(entry, bytes):
            return metadentry.has_data(entry)
        return bool(entry.data)

    @property
    def data(self) -> bytes | None:
        """All of an inline file as last seen; None when that is not known any more."""
        entry = self.entry
        return entry.data if len(entry.data) == entry.size else None

    @property
    def is_sparse(self) -> bool:
        """Whether the file may have holes."""
        return self.dirty_sparse or bool(self.entry.flags & FLAG_SPARSE)

    def learn(self, entry: Metadentry | bytes, *, fresh: bool = False) -> None:
        """Note the record just received; *fresh*: the next step of the system call may use it without asking.

        One that is older than what is known is an answer that comes late, to a repeated request.
        """
        version = metadentry.version_of(entry) if isinstance(entry, bytes) else entry.version
        if version >= self._version:
            self._entry, self._version = entry, version
        self._fresh_until_s = time.monotonic() + FRESH_S if fresh else 0.0

    def is_older(self, record: bytes) -> bool:
        """Whether *record* is newer than what is known."""
        return self._version < metadentry.version_of(record)

    def learn_own(self, entry: Metadentry, before: int) -> None:
        """Note the record after a change of data by this node; *before*: the version it was made for."""
        if self.cached_version == before and entry.version == before + 1:
            self.cached_version = entry.version  # nobody else wrote: the kernel's pages are still right
        self.learn(entry)

    def drop_data(self) -> None:
        """Forget the data of an inline file, but nothing else."""
        self._entry = self.entry._replace(data=b"")

    def distrust(self) -> None:
        """Take the next record for right, whatever its version, and nothing of what was known before."""
        self._version = self.cached_version = self.listed_version = 0
        self._fresh_until_s = self.lease_until_s = self.recent_until_s = 0.0

    def take_fresh(self) -> bool:
        """Whether the record came within the same system call; says so once."""
        fresh = self._fresh_until_s > 0.0 and time.monotonic() < self._fresh_until_s
        self._fresh_until_s = 0.0
        return fresh

    def lease(self, sent_s: float, *, granted: bool) -> None:
        """Note what a lookup said that was sent at *sent_s*, on the monotonic clock."""
        self.lease_until_s = sent_s + LEASE_S - LEASE_MARGIN_S if granted else 0.0
        # What came in answer to an earlier question may lack what happened here since.
        self.recent_until_s = sent_s + DIRECTORY_ATTR_TIMEOUT_S if granted and sent_s > self.touched_s else 0.0

    def lease_left_s(self) -> float:
        """For how long it stays what it is."""
        return max(0.0, self.lease_until_s - time.monotonic()) if self.lease_until_s else 0.0

    def is_recent(self) -> bool:
        """Whether the record of a directory under a lease is so new that its times count as those of now."""
        return time.monotonic() < self.recent_until_s

    def touch(self, mtime_ns: int, subdirectories: int) -> None:
        """Entries of a directory came or went through this mount: its record will say so."""
        entry = self.entry
        self._entry = entry._replace(
            mtime_ns=max(entry.mtime_ns, mtime_ns),
            ctime_ns=max(entry.ctime_ns, mtime_ns),
            nlink=metadentry.counted(entry.nlink, subdirectories),
        )
        self.stale()
        self.touched_s = time.monotonic()

    def stale(self) -> None:
        """Forget that the record is fresh: the entry was changed through this mount."""
        self._fresh_until_s = 0.0

    def path(self, epoch: int) -> bytes:
        """Where the record is; *epoch* is the table's, which grows when a directory moves."""
        if self.address is not None:
            return self.address
        if self._path_epoch != epoch:
            self._path = paths.ROOT if self.parent is None else paths.join(self.parent.path(epoch), self.name)
            self._path_epoch = epoch
        return self._path


class InodeTable:
    """All inodes the kernel holds. The root is always there."""

    def __init__(self) -> None:
        self.root = Inode(ROOT_FID, None, b"")
        self._by_fid: dict[int, Inode] = {ROOT_FID: self.root}
        self._by_name: dict[tuple[int, bytes], Inode] = {}
        self._epoch = 0
        self._with_data: deque[Inode] = deque()

    def __len__(self) -> int:
        return len(self._by_fid)

    def __getitem__(self, fid: int) -> Inode:
        """The inode of a number the kernel used. KeyError would be a bug of kernel or ours."""
        return self._by_fid[fid]

    def path(self, inode: Inode) -> bytes:
        """Where the record of *inode* is."""
        return inode.path(self._epoch)

    def named(self, parent: Inode, name: bytes) -> Inode | None:
        """The inode last seen under that name, if the kernel still holds it."""
        return self._by_name.get((parent.fid, name))

    def distrust(self) -> None:
        """A daemon has gone back to an earlier state: versions may come again, of other records."""
        for inode in self._by_fid.values():
            inode.distrust()

    def known(self, fid: int) -> Inode | None:
        """The inode of that number, if the kernel holds it. Not the root, whatever a daemon says of its number."""
        return self._by_fid.get(fid) if fid != ROOT_FID else None

    def seen(self, parent: Inode, name: bytes, record: bytes, *, several: bool = False) -> Inode:
        """Note that *name* in *parent* has this *record*; the kernel gets one more reference to it.

        *several*: the file has, or had, several names.
        """
        inode = self._referenced(parent, name, metadentry.fid_of(record), several=several)
        inode.learn(record, fresh=True)
        self.keep_data(inode)
        return inode

    def listed(self, parent: Inode, name: bytes, record: bytes) -> Inode:
        """As `seen`, of an entry of a listing: a file with one name, whose *record* comes without data."""
        inode = self._referenced(parent, name, metadentry.fid_of(record), several=False)
        if inode.is_older(record):
            inode.learn(record)
        inode.listed_version = inode.entry.version
        return inode

    def _referenced(self, parent: Inode, name: bytes, fid: int, *, several: bool) -> Inode:
        inode = self._by_fid.get(fid)
        if fid in _OF_NO_ENTRY:
            raise os_error(errno.EIO, f"an entry with the number {fid}")
        if inode is None:
            inode = self._by_fid[fid] = Inode(fid, parent, name)
            self._by_name[parent.fid, name] = inode
        elif (
            inode.names is None
            and not several
            and (inode.parent is not parent or inode.name != name or inode.address is not None)
        ):
            self.move(inode, parent, name)
        if several:
            self.detach(inode)
        if inode.names is not None:
            inode.names.add((parent.fid, name))
            self._by_name[parent.fid, name] = inode
        inode.lookups += 1
        inode.removed = inode.gone = False
        return inode

    def oldest(self, count: int) -> list[Inode]:
        """Up to *count* files that are not open and have been held for long; they count as new from now on."""
        found: list[Inode] = []
        for fid in list(islice(self._by_fid, max(0, 2 * count))):
            inode = self._by_fid.pop(fid)
            self._by_fid[fid] = inode
            if not (inode.opens or inode.dirty or inode.entry.is_directory) and inode.parent is not None:
                found.append(inode)
                if len(found) == count:
                    break
        return found

    def keep_data(self, inode: Inode) -> None:
        """Keep the data of an inline file for who opens it next: of `DATA_KEPT_FILES`, and of those open."""
        if inode.data_kept or not inode.has_data:
            return
        inode.data_kept = True
        self._with_data.append(inode)
        if len(self._with_data) > DATA_KEPT_FILES:
            oldest = self._with_data.popleft()
            oldest.data_kept = False
            if not oldest.opens:
                oldest.drop_data()

    def detach(self, inode: Inode) -> None:
        """The record of *inode* is under its inode address from now on."""
        if inode.names is None:
            inode.names = set() if inode.parent is None else {(inode.parent.fid, inode.name)}
            inode.address = paths.inode_address(inode.fid)

    def move(self, inode: Inode, parent: Inode, name: bytes) -> None:
        """*inode* is now called *name* in *parent*, here or as found out by a lookup."""
        above: Inode | None = parent
        while above is not None:
            if above is inode:  # another node has moved it, or what is above it; or somebody lies
                self.found(inode, paths.join(self.path(parent), name))
                return
            above = above.parent
        self.unname(inode)
        inode.parent, inode.name, inode.address = parent, name, None
        self._by_name[parent.fid, name] = inode
        self._epoch += 1

    def rename(self, inode: Inode, old: tuple[int, bytes], parent: Inode, name: bytes) -> None:
        """One name of *inode*, *old* (fid of the directory, name), was changed through this mount."""
        if inode.names is None:
            self.move(inode, parent, name)
            return
        self.unname(inode, old)
        inode.names.add((parent.fid, name))
        self._by_name[parent.fid, name] = inode

    def found(self, inode: Inode, path: bytes) -> None:
        """Another node has moved the record of *inode* to *path*, or to its inode address."""
        if paths.is_address(path):
            self.detach(inode)
        else:
            inode.address = path
            self._epoch += 1

    def freeze(self, inode: Inode, path: bytes) -> None:
        """The name of *inode*, *path*, is gone, but its daemon keeps the record for this mount."""
        inode.address = path
        self.unname(inode)

    def unname(self, inode: Inode, name: tuple[int, bytes] | None = None) -> None:
        """A name (fid of the directory, name), or the only one, no longer leads to *inode*."""
        if name is None and inode.parent is not None:
            name = (inode.parent.fid, inode.name)
        if name is None:
            return
        if self._by_name.get(name) is inode:
            del self._by_name[name]
        if inode.names is not None:
            inode.names.discard(name)

    def forget(self, fid: int, lookups: int) -> None:
        """The kernel gives back *lookups* references; without any left the inode goes."""
        inode = self._by_fid.get(fid)
        if inode is None or inode is self.root:
            return
        inode.lookups -= lookups
        if inode.lookups <= 0:
            self._by_fid.pop(fid)
            for name in list(inode.names or ()):
                self.unname(inode, name)
            self.unname(inode)
