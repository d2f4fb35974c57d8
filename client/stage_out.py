"""Stage-out: trees of the namespace to the ordinary file system.

No directory is listed: each daemon is asked for all it has of the tree, by a mover of its own node, which moves
the files it finds there. So the folder of a file may not have been seen yet, and is made when it is needed; all
folders get their attributes in the end.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any, Final

from gkfs import metadentry, paths
from gkfs.client import making, ordinary
from gkfs.client.bulk import Bulk
from gkfs.client.files_out import File, FilesOut
from gkfs.client.names import resolve
from gkfs.client.scan import Attributes, from_fields
from gkfs.client.stage import BATCH_BYTES, BATCH_FILES, Plan, Tell, Unit, below, name_in
from gkfs.hashing import path_hash
from gkfs.metadentry import Metadentry

_FOLDER_MODE: Final = 0o700  # until it gets its own


class StageOut(FilesOut):
    """All handlers of stage-out."""

    def __init__(self, bulk: Bulk, plan: Plan, tell: Tell) -> None:
        super().__init__(bulk, plan, tell)
        self.handlers = {
            "prepare": self.prepare,
            "scan": self.scan,
            "range": self.range,
            "finish": self.finish,
            "links": self.links,
            "directories": self.directories,
        }
        self._mode = 0o777 & ~os.umask(0)  # permissions are given as they are, but for folders that have none
        self._made: set[bytes] = set()  # folders known to be there
        self._fresh: set[bytes] = set()  # and those that were made by us: nothing of others is in them

    # --- where it goes

    async def prepare(self, unit: Unit) -> None:
        """The first unit: what the arguments mean. Raises OSError when there can be no such destination."""
        sources: list[tuple[bytes, Metadentry, bytes]] = []
        for path, contents in unit["sources"]:
            try:
                sources.append(await self._source(path, contents))
            except OSError as error:
                self.failed(path, error)
        if not sources:
            return
        dst = unit["dst"]
        alone = len(unit["sources"]) == 1 and not unit["into"] and not sources[0][1].is_directory
        if alone and not os.path.isdir(dst):
            folder, name = name_in(dst)
            await self._make(folder, self._mode)
            await self._single(sources[0][0], sources[0][1], folder, name)
            return
        fresh = await self._make(dst, self._mode)
        for path, entry, name in sources:
            target = below(dst, name) if name else dst
            if not entry.is_directory:
                await self._single(path, entry, dst, name)
                continue
            if name:
                fresh = await self._make(target)
            if path != paths.ROOT or name:
                self._end_folder(target, entry)
            self.more(*self._scans(path, target, fresh, unit["parts"]))

    async def _source(self, path: bytes, contents: bool) -> tuple[bytes, Metadentry, bytes]:
        """(path, entry, name in the destination, b"" for contents). Raises OSError."""
        if path == paths.ROOT or contents:
            found, entry = await resolve(self.bulk, path)
            if entry is None:
                raise FileNotFoundError(errno.ENOENT, paths.printable(path))
            if not entry.is_directory:
                raise OSError(errno.ENOTDIR, paths.printable(path))
            return found, entry, b""
        parent, name = paths.split(path)
        folder, _ = await resolve(self.bulk, parent)
        found = paths.join(folder, name)
        return found, await self.bulk.lookup(found), name

    async def _single(self, path: bytes, entry: Metadentry, folder: bytes, name: bytes) -> None:
        self.count(found_files=1, found_bytes=entry.size if entry.is_regular else 0)
        await self.move_files(folder, [File(path, entry, name)], fresh=False)

    def _scans(self, path: bytes, target: bytes, fresh: bool, parts: int) -> list[Unit]:
        """One for each daemon, or several where a node has more movers than daemons."""
        daemons = self.bulk.hosts.daemons
        units = []
        for index, address in sorted(daemons.items()):
            beside = sum(other.host == address.host for other in daemons.values())
            count = -(-parts // beside)
            units += [
                {
                    "do": "scan",
                    "daemon": index,
                    "node": address.host,
                    "src": path,
                    "dst": target,
                    "part": part,
                    "parts": count,
                    "fresh": fresh,
                    "path": path,
                }
                for part in range(count)
            ]
        return units

    # --- the walk

    async def scan(self, unit: Unit) -> None:
        """What one daemon has of a tree, or a part of it."""
        src, dst, part, parts = unit["src"], unit["dst"], unit["part"], unit["parts"]
        if unit["fresh"]:
            self._fresh.add(dst)
        self._made.add(dst)
        scan = self.bulk.scan(unit["daemon"], src)
        crowd = self.crowd()
        start = 0 if src == paths.ROOT else len(src)
        while not self.stopping and (page := await scan.page()):
            folders: dict[bytes, list[File]] = {}
            for path, record in page:
                if parts > 1 and path_hash(path) % parts != part:
                    continue
                target = dst.rstrip(b"/") + path[start:]
                if metadentry.is_directory_record(record):
                    await self._found_folder(target, metadentry.decode(record))
                elif metadentry.is_link_record(record):
                    self.count(found_files=1)
                    self.collect("links", [(metadentry.fid_of(record), [path, target])])
                else:
                    folder, name = name_in(target)
                    folders.setdefault(folder, []).append(File(path, metadentry.decode(record), name))
            for folder, files in folders.items():
                for batch in _batches(files):
                    await crowd.start(self._batch(folder, batch, fresh=unit["fresh"]))
        await crowd.finish()

    async def _batch(self, folder: bytes, files: list[File], *, fresh: bool) -> None:
        sizes = sum(file.entry.size for file in files if file.entry.is_regular)
        self.count(found_files=len(files), found_bytes=sizes)
        try:
            await self._make(folder)
        except OSError as error:
            for file in files:
                self.failed(below(folder, file.name), error)
            return
        await self.move_files(folder, files, fresh=fresh or folder in self._fresh)

    async def _found_folder(self, target: bytes, entry: Metadentry) -> None:
        try:
            await self._make(target)
        except OSError as error:
            self.failed(target, error)
            return
        self._end_folder(target, entry)

    async def _make(self, folder: bytes, mode: int = _FOLDER_MODE) -> bool:
        """Make a folder unless it is known to be there; whether it was missing. Raises OSError."""
        if folder in self._made:
            return folder in self._fresh
        if self.plan.verify:
            return False
        made = await self.bulk.threads.run(making.make_folder, folder, mode)
        if made:
            self._fresh.add(folder)
            self.count(directories=made)
        self._made.add(folder)
        return folder in self._fresh

    def _end_folder(self, target: bytes, entry: Metadentry) -> None:
        self.collect("directories", [(target, list(self.owned(Attributes.of_entry(entry))))])

    # --- after everything else

    async def links(self, unit: Unit) -> None:
        """Files with several names: one is moved, the others become links to it."""
        crowd = self.bulk.crowd(8)
        for _, items in unit["groups"]:
            await crowd.start(self._link_group(items))
        await crowd.finish()

    async def _link_group(self, items: Sequence[Sequence[Any]]) -> None:
        (path, target), *others = items
        source = name_in(target)
        try:
            entry = await self.bulk.lookup(path)
            for _, other in items:
                await self._make(name_in(other)[0])
            self.count(found_bytes=entry.size if entry.is_regular else 0)
            await self.move_files(source[0], [File(path, entry, source[1])], fresh=False, whole=True)
        except OSError as error:
            self.failed(path, error)
            return
        for _, other in others:
            try:
                if self.plan.verify:
                    if not await self.bulk.threads.run(os.path.samefile, target, other):
                        self.differs(other, f"is not the same file as {paths.printable(target)}")
                elif await self.bulk.threads.run(making.make_link, source, name_in(other)):
                    self.count(files=1)
                else:
                    self.count(skipped=1)
            except OSError as error:
                self.failed(other, error)

    async def directories(self, unit: Unit) -> None:
        """Folders in which nothing changes any more get their attributes."""
        for start in range(0, len(unit["groups"]), BATCH_FILES):
            groups = unit["groups"][start : start + BATCH_FILES]
            some = [(path, from_fields(items[0])) for path, items in groups]
            outcomes = await self.bulk.threads.run(_end_folders, some, self.plan.verify)
            for (path, what), outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, FileNotFoundError) and self.plan.verify:
                    self.differs(path, "is missing")
                elif isinstance(outcome, OSError):
                    self.failed(path, outcome)
                elif outcome is not None and (text := self.difference(what, outcome)):
                    self.differs(path, text)


def _end_folders(some: list[tuple[bytes, Attributes]], verify: bool) -> list[Attributes | OSError | None]:
    """Give folders their attributes, or with *verify* look at them."""
    result: list[Attributes | OSError | None] = []
    for path, what in some:
        try:
            if verify:
                result.append(ordinary.look(None, path))
            else:
                making.finish_folder(path, what)
                result.append(None)
        except OSError as error:
            result.append(error)
    return result


def _batches(files: list[File]) -> list[list[File]]:
    """*files* in lists of at most BATCH_FILES, and of BATCH_BYTES of small files."""
    result: list[list[File]] = [[]]
    room_bytes = BATCH_BYTES
    for file in files:
        size = file.entry.size if stat.S_ISREG(file.entry.mode) and file.small else 0
        if len(result[-1]) >= BATCH_FILES or size > room_bytes:
            result.append([])
            room_bytes = BATCH_BYTES
        result[-1].append(file)
        room_bytes -= size
    return result
