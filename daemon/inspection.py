"""The check of a whole file system: takes what all daemons store, page by page, and says what is wrong.

Pure: who calls it reads. Of a file it keeps some 20 bytes, of a directory its path. So it cannot say the path of a
file that it finds at fault in the end; but faults are looked at twice anyway, since what is under way looks
like one, and the second `Inspection` is told what to look at closely. Only that one knows the repairs.

Use: `take` for every key of every daemon except those of chunks, then `begin_chunks`, then `take_index`,
`take_files` and `take_status` for every daemon, then `finish`.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from gkfs import metadentry, paths
from gkfs.daemon import keys
from gkfs.daemon.chunk_checks import ChunkChecks, FileTable
from gkfs.daemon.faults import Change, Fault, Kind, MakeDirectory, Repair, Summary, file_name, key_name
from gkfs.daemon.kept import Kept
from gkfs.daemon.record_checks import bad_key, bad_record
from gkfs.distributor import Distributor
from gkfs.messages import StatusReply
from gkfs.metadentry import Metadentry

# Keys [first, end): everything but chunks, whose keys are read with the sizes of their files; and the replies to
# clients, which concern nobody else.
STORE_RANGES: Final = (
    (b"", keys.CHUNKS),
    (keys.ADOPTED, keys.REPLIES),
    (keys.TREE_LOCKS, b"\xff" * 8),
)
CHUNK_RANGE: Final = keys.table(keys.CHUNKS)
LOST_AND_FOUND: Final = b"/lost+found"

_UNFINISHED: Final = {
    keys.INTENTS[0]: "a rename or removal that began here",
    keys.ADOPTED[0]: "a rename whose source has not finished",
    keys.CUTS[0]: "chunks are still to be removed",
    keys.TREE_LOCKS[0]: "a directory rename holds a lock",
    keys.STAGED[0]: "two directories are being exchanged",
}
_SLASH: Final = paths.ROOT[0]


class _Directory:
    """A directory's record."""

    __slots__ = ("daemon", "fid", "nlink")

    def __init__(self, fid: int, nlink: int, daemon: int) -> None:
        self.fid, self.nlink, self.daemon = fid, nlink, daemon


class _Children:
    """What lies in one directory; *example* is one of them."""

    __slots__ = ("count", "daemon", "directories", "example")

    def __init__(self, example: bytes, daemon: int) -> None:
        self.example, self.daemon = example, daemon
        self.count = self.directories = 0


class _Inode:
    """The record of a file with several names."""

    __slots__ = ("daemon", "key", "nlink", "value")

    def __init__(self, daemon: int, key: bytes, value: bytes, nlink: int) -> None:
        self.daemon, self.key, self.value, self.nlink = daemon, key, value, nlink


class Inspection:
    """One look at everything; *before* is what an earlier one found."""

    def __init__(self, daemon_count: int, before: Iterable[Fault] = ()) -> None:
        self._distributor = Distributor(daemon_count)
        self._count = daemon_count
        self._kept = Kept(frozenset(fault.fid for fault in before))
        self._paths_closely = {fault.path for fault in before if fault.path}
        self._directories: dict[bytes, _Directory] = {}
        self._children: dict[bytes, _Children] = {}
        self._not_directories: dict[bytes, int] = {}  # mode of what was to be looked at closely
        self._files = FileTable()
        self._links: dict[int, int] = {}  # fid -> how many
        self._inodes: dict[int, _Inode] = {}
        self._orphans: set[int] = set()
        self._holders: list[tuple[int, bytes, int]] = []  # daemon, key, fid
        self._seals = array("Q")  # fids of removed directories
        self._cuts: set[int] = set()
        self._faults: list[Fault] = []
        self._names = [[0, 0] for _ in range(daemon_count)]  # of files and directories, by daemon
        self._records = self._link_names = 0
        self._statuses: list[StatusReply] = []

    # --- taking

    def take(self, daemon: int, page: Iterable[tuple[bytes, bytes]]) -> None:
        """Some keys and values of a daemon's store."""
        for key, value in page:
            table = key[0] if key else -1
            if table == _SLASH or key == keys.ROOT:
                self._take_name(daemon, key, value)
                continue
            try:
                self._take_other(daemon, table, key, value)
            except struct.error:
                self._garbled(daemon, key, "the key is too long or too short")

    def _take_other(self, daemon: int, table: int, key: bytes, value: bytes) -> None:
        if table == keys.ORPHANS[0]:
            self._take_orphan(daemon, key, value)
        elif table == keys.INODES[0]:
            self._take_inode(daemon, key, value)
        elif table == keys.SEALS[0]:
            fid = keys.fid_of_key(key)
            if value:
                where = f"directory {fid:x}"
                self._fault(Kind.UNFINISHED, where, daemon, "it is being decided whether it is removed", fid)
            else:
                self._seals.append(fid)
        elif table == keys.HOLDERS[0]:
            self._holders.append((daemon, key, keys.fid_of_key(key[:9])))
        elif table in _UNFINISHED:
            fid = 0
            where = f"intent {key[1:].hex()}"
            if table == keys.CUTS[0]:
                fid = keys.fid_of_key(key)
                where = file_name(fid)
                self._cuts.add(fid)
            self._fault(Kind.UNFINISHED, where, daemon, _UNFINISHED[table], fid)
        else:
            self._garbled(daemon, key, "the key is of no table")

    def _decode(self, daemon: int, key: bytes, value: bytes) -> Metadentry | None:
        try:
            entry = metadentry.decode(value)
        except (ValueError, IndexError) as error:
            self._garbled(daemon, key, str(error))
            return None
        self._records += 1
        self._kept.offer(entry.fid, daemon, key, value)
        return entry

    def _take_name(self, daemon: int, key: bytes, value: bytes) -> None:
        is_directory = len(value) > 5 and metadentry.is_directory_record(value)
        self._names[daemon][is_directory] += 1
        reason = bad_key(key)
        if reason:
            self._garbled(daemon, key, reason)
            return
        entry = self._decode(daemon, key, value)
        path = paths.path_of_key(key)
        if path != paths.ROOT:
            parent = paths.split(path)[0]
            children = self._children.get(parent)
            if children is None:
                children = self._children[parent] = _Children(path, daemon)
            children.count += 1
            children.directories += is_directory
        if entry is None:
            return
        fid = entry.fid
        owner = self._distributor.path_owner(path)
        if owner != daemon:
            self._fault(Kind.OWNER, paths.printable(path), daemon, f"belongs to daemon {owner}", fid)
        for kind, facts in bad_record(path, entry, self._count):
            self._fault(kind, paths.printable(path), daemon, facts, fid)
        if entry.is_link:
            self._link_names += 1
            self._links[fid] = self._links.get(fid, 0) + 1
            return
        self._files.add(fid, entry.size, entry.placement, has_chunks=entry.is_regular and not entry.is_inline)
        if entry.is_directory:
            self._directories[path] = _Directory(fid, entry.nlink, daemon)
            return
        if path in self._paths_closely:
            self._not_directories[path] = entry.mode
        if entry.nlink != 1:
            facts = f"{entry.nlink} links, 1 name"
            self._fault(Kind.LINKS, paths.printable(path), daemon, facts, fid, self._kept.renumber(fid, 1))

    def _take_inode(self, daemon: int, key: bytes, value: bytes) -> None:
        entry = self._decode(daemon, key, value)
        if entry is None:
            return
        fid = entry.fid
        where = file_name(fid)
        if key != paths.inode_address(fid):
            self._fault(Kind.FID, paths.printable(key), daemon, f"the record is of file {fid:x}", fid)
        owner = self._distributor.path_owner(key)
        if owner != daemon:
            self._fault(Kind.OWNER, where, daemon, f"belongs to daemon {owner}", fid)
        for kind, facts in bad_record(key, entry, self._count):
            self._fault(kind, where, daemon, facts, fid)
        self._files.add(fid, entry.size, entry.placement, has_chunks=entry.is_regular and not entry.is_inline)
        self._inodes[fid] = _Inode(daemon, key, value, entry.nlink)

    def _take_orphan(self, daemon: int, key: bytes, value: bytes) -> None:
        entry = self._decode(daemon, key, value)
        if entry is None:
            return
        if keys.fid_of_key(key) != entry.fid:
            self._fault(Kind.FID, file_name(keys.fid_of_key(key)), daemon, f"the record is of file {entry.fid:x}")
        if entry.nlink:
            self._fault(Kind.LINKS, file_name(entry.fid), daemon, f"{entry.nlink} links, no name", entry.fid)
        self._files.add(
            entry.fid, entry.size, entry.placement, has_chunks=entry.is_regular and not entry.is_inline
        )
        self._orphans.add(entry.fid)

    def begin_chunks(self) -> None:
        """All else has been taken."""
        self._twice = self._files.sort()
        self._chunks = ChunkChecks(self._distributor, self._files, self._cuts)
        # Of what cannot be read nobody knows whose data it leads to; of what is under way or astray neither.
        unclear = (Kind.GARBLED, Kind.UNFINISHED, Kind.OWNER)
        self._may_remove = not any(fault.kind in unclear for fault in self._faults)

    def take_index(self, daemon: int, index: Sequence[bytes], sizes: Sequence[int]) -> None:
        """See `ChunkChecks.take_index`."""
        try:
            self._chunks.take_index(daemon, index, sizes)
        except struct.error:
            self._may_remove = False
            for key in index:
                if len(key) != len(keys.chunk(0, 0)):
                    self._garbled(daemon, key, "the key is too long or too short")

    def take_files(self, daemon: int, names: Iterable[bytes], sizes: Iterable[int]) -> None:
        """See `ChunkChecks.take_files`."""
        self._chunks.take_files(daemon, names, sizes, may_remove=self._may_remove)

    def take_status(self, status: StatusReply) -> None:
        """What a daemon says of itself."""
        self._statuses.append(status)

    # --- the end

    def finish(self) -> list[Fault]:
        """Everything that is wrong."""
        self._check_tree()
        self._check_fids()
        self._check_links()
        self._check_holders()
        self._check_counters()
        return self._faults + self._chunks.finish(may_remove=self._may_remove, grow=self._kept.grow)

    @property
    def summary(self) -> Summary:
        """What was taken."""
        return Summary(
            records=self._records,
            files=sum(files for files, _ in self._names),
            directories=sum(directories for _, directories in self._names),
            links=self._link_names,
            orphans=len(self._orphans),
            chunks=self._chunks.count,
            chunk_bytes=sum(self._chunks.used_bytes.values()),
        )

    def _check_tree(self) -> None:
        self._children.setdefault(paths.ROOT, _Children(paths.ROOT, 0))
        for path, children in self._children.items():
            if path not in self._directories:
                self._check_missing(path, children)
        for path, directory in self._directories.items():
            found = self._children.get(path)
            names = 2 + (found.directories if found else 0)
            if directory.nlink != names:
                facts = f"{directory.nlink} links, {names - 2} directories in it: should be {names}"
                repairs = self._kept.renumber(directory.fid, names) if self._may_remove else ()
                where = paths.printable(path)
                self._fault(Kind.LINKS, where, directory.daemon, facts, directory.fid, repairs)
        self._check_seals()

    def _check_seals(self) -> None:
        by_fid = {directory.fid: path for path, directory in self._directories.items()}
        for fid in self._seals:
            path = by_fid.pop(fid, None)  # there may be a seal on every daemon
            if path is not None:
                facts = "was removed, nothing can be created in it"
                self._fault(Kind.SEALED, paths.printable(path), self._directories[path].daemon, facts, fid)

    def _check_missing(self, path: bytes, children: _Children) -> None:
        owner = self._distributor.path_owner(path)
        where = paths.printable(path)
        if path == paths.ROOT:
            self._fault(Kind.PARENT, where, owner, "there is no root: a restart of this daemon makes one")
            return
        entries = f"{children.count} entries in it, as {paths.printable(children.example)}"
        if path in self._not_directories:
            facts = f"mode {self._not_directories[path]:o}, {entries}"
            self._faults.append(Fault(Kind.PARENT, where, owner, facts, path=path))
            return
        parent = path
        missing: list[bytes] = []
        while parent not in self._directories and parent != paths.ROOT:
            missing.append(parent)
            parent = paths.split(parent)[0]
        repairs = tuple(map(MakeDirectory, reversed(missing))) if self._may_remove else ()
        self._faults.append(Fault(Kind.PARENT, where, owner, f"missing, {entries}", 0, repairs, path))

    def _check_fids(self) -> None:
        for fid in self._twice:
            kept = sorted(self._kept.of(fid))
            places = [f"{key_name(key)} on daemon {daemon}" for daemon, key, _ in kept]
            self._fault(Kind.DUPLICATE, file_name(fid), kept[0][0] if kept else 0, " and ".join(places), fid)

    def _check_links(self) -> None:
        for fid, count in self._links.items():
            inode = self._inodes.get(fid)
            if inode is None:
                self._check_dangling(fid, count)
            elif inode.nlink != count:
                facts = f"{inode.nlink} links, {count} names"
                repairs = self._kept.renumber(fid, count)
                self._fault(Kind.LINKS, file_name(fid), inode.daemon, facts, fid, repairs)
        for fid, inode in self._inodes.items():
            if fid not in self._links:
                repairs = self._reconnect(fid, inode)
                self._fault(Kind.UNLINKED, file_name(fid), inode.daemon, "has a record and no name", fid, repairs)

    def _check_dangling(self, fid: int, count: int) -> None:
        kept = [found for found in self._kept.of(fid) if metadentry.is_link_record(found[2])]
        may_remove = self._may_remove and not self._files.has(fid)
        repairs = tuple(Change(daemon, key, value, None) for daemon, key, value in kept) if may_remove else ()
        names = ", ".join(sorted(key_name(key) for _, key, _ in kept[:3]))
        daemon = self._distributor.path_owner(paths.inode_address(fid))
        record = "a record elsewhere" if self._files.has(fid) else "no record"
        self._fault(Kind.DANGLING, file_name(fid), daemon, f"{count} names and {record}: {names}", fid, repairs)

    def _check_holders(self) -> None:
        for daemon, key, fid in self._holders:
            if fid not in self._orphans:
                where = f"{file_name(fid)}, client {key[9:].hex()}"
                repairs = (Change(daemon, key, b"", None),) if self._may_remove else ()
                self._fault(
                    Kind.HOLDER, where, daemon, "has it open, but it is not one without name", fid, repairs
                )

    def _check_counters(self) -> None:
        for status in self._statuses:
            daemon = status.daemon_index
            found = (*self._names[daemon], self._chunks.used_bytes.get(daemon, 0))
            said = (status.files, status.directories, status.used_bytes)
            for what, counted, there in zip(("files", "directories", "bytes"), said, found, strict=True):
                if counted != there:
                    facts = f"counts {counted}, {there} are there; right after a restart"
                    # Not the same fault as one by another number: files come and go between two questions.
                    self._fault(Kind.COUNTER, f"{what} {counted - there:+d}", daemon, facts)

    # --- repairs

    def _reconnect(self, fid: int, inode: _Inode) -> tuple[Repair, ...]:
        if not self._may_remove:  # its names may be among what cannot be read
            return ()
        path = paths.join(LOST_AND_FOUND, b"#%x" % fid)
        entry = metadentry.decode(inode.value)
        link = metadentry.encode(entry.link())
        counted = metadentry.encode(entry.changed(nlink=1))
        return (
            MakeDirectory(LOST_AND_FOUND),
            Change(self._distributor.path_owner(path), paths.key(path), None, link),
            Change(inode.daemon, inode.key, inode.value, counted),
        )

    # --- small helpers

    def _fault(
        self, kind: Kind, where: str, daemon: int, facts: str, fid: int = 0, repairs: tuple[Repair, ...] = ()
    ) -> None:
        self._faults.append(Fault(kind, where, daemon, facts, fid, repairs))

    def _garbled(self, daemon: int, key: bytes, facts: str) -> None:
        self._fault(Kind.GARBLED, key_name(key), daemon, facts)
