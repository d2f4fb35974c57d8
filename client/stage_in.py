"""Stage-in: folders of the ordinary file system into the namespace. Where things go, folders, links, and the end.

As rsync has it: `dir` goes to DST/dir, `dir/` is its contents, and a single file may get a new name.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Sequence
from typing import Any, Final

from gkfs import metadentry, paths
from gkfs.bulk_messages import PutReply
from gkfs.channel import Call
from gkfs.client import ordinary
from gkfs.client.bulk import Bulk
from gkfs.client.crowd import Crowd
from gkfs.client.files_in import FilesIn, Place
from gkfs.client.names import resolve
from gkfs.client.ordinary import Seen
from gkfs.client.scan import Attributes, from_fields
from gkfs.client.stage import Plan, Tell, Unit, name_in, not_a
from gkfs.limits import READDIR_PAGE_ENTRIES
from gkfs.messages import ReaddirRequest, TouchRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import READDIR, TOUCH

_FILES_KEPT: Final = 1024  # of one folder by who lists it; the rest is for whoever is free
_FOLDERS_TOGETHER: Final = 16  # listed as one unit
_FOLDER_MODE: Final = stat.S_IFDIR | 0o755
_LOOK_TWICE_S: Final = 0.05  # other clients tell of what came into a directory within DIRECTORY_TOUCH_DELAY_S


class StageIn(FilesIn):
    """All handlers of stage-in."""

    def __init__(self, bulk: Bulk, plan: Plan, tell: Tell) -> None:
        super().__init__(bulk, plan, tell)
        self.handlers = {
            "prepare": self.prepare,
            "list": self.list_folders,
            "files": self.files,
            "range": self.range,
            "finish": self.finish,
            "links": self.links,
            "directories": self.directories,
        }

    # --- where it goes

    async def prepare(self, unit: Unit) -> None:
        """The first unit: what the arguments mean. Raises OSError when there can be no such destination."""
        sources: list[tuple[bytes, Attributes, bool]] = []
        for path, contents in unit["sources"]:
            try:
                sources.append((path, await self.bulk.threads.run(_look_at_source, path, contents), contents))
            except OSError as error:
                self.failed(path, error)
        if not sources:
            return
        dst, entry = await resolve(self.bulk, unit["dst"])
        alone = len(unit["sources"]) == 1 and not unit["into"] and not stat.S_ISDIR(sources[0][1].mode)
        if alone and (entry is None or not entry.is_directory):
            folder, alias = name_in(dst)
            directory, fresh = await self._make_directory(folder)
            await self._begin(sources[0], Place(b"", folder, directory.fid, fresh, alias))
            return
        directory, fresh = await self._make_directory(dst)
        if not fresh:
            self.collect("directories", [(dst, [directory.fid, True, None])])
        for source in sources:
            await self._begin(source, Place(b"", dst, directory.fid, fresh and len(sources) == 1))

    async def _make_directory(self, path: bytes) -> tuple[Metadentry, bool]:
        """The directory *path*, made with those above it if it is missing; whether it was. Raises OSError."""
        path, entry = await resolve(self.bulk, path)
        if entry is not None:
            if not entry.is_directory:
                raise OSError(errno.ENOTDIR, f"{paths.printable(path)} is there, and no directory")
            return entry, False
        if self.plan.verify:
            raise FileNotFoundError(errno.ENOENT, f"there is no {paths.printable(path)}")
        parent, _ = await self._make_directory(paths.split(path)[0])
        now_ns = time.time_ns()
        what = Attributes(_FOLDER_MODE, os.geteuid(), os.getegid(), 0, 0, now_ns, now_ns)
        await self.bulk.put(path, parent.fid, what)
        return await self.bulk.lookup(path), True

    async def _begin(self, source: tuple[bytes, Attributes, bool], place: Place) -> None:
        path, what, contents = source
        folder, name = name_in(path)
        place = place._replace(src=folder)
        if not stat.S_ISDIR(what.mode):
            self.count(found_files=1)
            if stat.S_ISREG(what.mode):
                await self.move_files(place, [name])
            else:
                await self._others(place, [Seen(name, what)])
        elif contents:
            if place.dst != paths.ROOT:  # the root stays as it is
                item = [place.fid, False, list(self.owned(what))]
                self.collect("directories", [(place.dst, item)])
            self.more(
                {"do": "list", "places": [list(Place(path, place.dst, place.fid, place.fresh))], "path": path}
            )
        else:
            await self._folders(place, [(name, what)])

    # --- folders

    async def list_folders(self, unit: Unit) -> None:
        """Some folders: what is in them."""
        crowd = self.bulk.crowd(len(unit["places"]))
        for fields in unit["places"]:
            await crowd.start(self._list(Place(*fields)))
        await crowd.finish()

    async def _list(self, place: Place) -> None:
        try:
            listed = await self.bulk.threads.run(ordinary.list_folder, place.src)
            for name, error in listed.errors:
                self.failed(place.source(name), error)
            self.count(found_files=len(listed.files) + len(listed.others))
            await self._folders(place, listed.folders)
            await self._others(place, listed.others)
            rest = listed.files[_FILES_KEPT:]
            units = [
                {
                    "do": "files",
                    "place": list(place),
                    "names": rest[start : start + _FILES_KEPT],
                    "path": place.src,
                }
                for start in range(0, len(rest), _FILES_KEPT)
            ]
            self.more(*units)
            await self.move_files(place, listed.files[:_FILES_KEPT])
        except OSError as error:
            self.failed(place.src, error)

    async def _folders(self, place: Place, folders: Sequence[tuple[bytes, Attributes]]) -> None:
        """Make directories, and have them listed."""
        found: list[list[Any]] = []
        items: list[tuple[bytes, list[Any]]] = []
        made = 0
        now_ns = time.time_ns()
        calls: list[Call[PutReply] | None] = []
        for name, what in folders:
            begun = self.owned(what)._replace(mtime_ns=now_ns)
            call = None if self.plan.verify else self.bulk.begin_put(place.target(name), place.fid, begun)
            calls.append(call)
        for (name, what), call in zip(folders, calls, strict=True):
            target = place.target(name)
            try:
                fid, fresh = await self._folder(target, self.owned(what), call)
            except OSError as error:
                self.failed(target, error)
                continue
            if not fid:
                continue
            made += fresh
            found.append(list(Place(place.source(name), target, fid, fresh)))
            items.append((target, [fid, not fresh, list(self.owned(what))]))
        if made:
            self.bulk.note(place.dst, place.fid, made)
            await self.bulk.touch_all()
            self.count(directories=made)
        if items and not self.plan.verify:
            self.collect("directories", items)
        step = max(1, min(_FOLDERS_TOGETHER, len(found) // 4))
        units = [
            {"do": "list", "places": found[start : start + step], "path": place.src}
            for start in range(0, len(found), step)
        ]
        self.more(*units)

    async def _folder(self, target: bytes, what: Attributes, call: Call[PutReply] | None) -> tuple[int, bool]:
        """Fid of a directory, 0 if there is none, and whether it was made. Raises OSError."""
        if call is None:
            (entry,) = await self.entries([target])
            if isinstance(entry, OSError):
                raise entry
            text = "is missing" if entry is None else self.difference(what, Attributes.of_entry(entry))
            if text:
                self.differs(target, text)
            return (entry.fid if entry is not None and entry.is_directory else 0), False
        reply = await call
        if not reply.record:
            return reply.fid, True
        existing = metadentry.decode(reply.record)
        if not existing.is_directory:
            raise not_a("directory")
        await self.set_xattrs(target, existing, what)
        return existing.fid, False

    # --- symlinks and special files

    async def _others(self, place: Place, others: Sequence[Seen]) -> None:
        crowd = self.bulk.crowd(64)
        made: list[bytes] = []
        for one in others:
            if one.links > 1 and not place.whole:
                self.collect("links", [(one.inode, self.item(place, one.name))])
            elif one.what is not None:
                await crowd.start(self._other(place, one.name, self.owned(one.what), made))
        await crowd.finish()
        if made:
            self.bulk.note(place.dst, place.fid)

    async def _other(self, place: Place, name: bytes, what: Attributes, made: list[bytes]) -> None:
        target = place.target(name)
        try:
            (entry,) = (None,) if place.fresh else await self.entries([target])
            if isinstance(entry, OSError):
                raise entry
            if self.plan.verify:
                text = "is missing" if entry is None else self.difference(what, Attributes.of_entry(entry))
                if text:
                    self.differs(target, text)
                return
            if entry is not None and what.is_as(Attributes.of_entry(entry)):
                await self.set_all(target, entry, what)
                return
            if entry is not None:
                if entry.is_directory:
                    raise not_a("file")
                await self.bulk.unlink(target, place.fid)
            reply = await self.bulk.begin_put(target, place.fid, what)
            if reply.record and not what.is_as(Attributes.of_entry(metadentry.decode(reply.record))):
                raise OSError(errno.EEXIST, "somebody else has made it")
            made.append(name)
            self.done_with(what, moved=True)
        except OSError as error:
            self.failed(target, error)

    # --- after everything else

    async def links(self, unit: Unit) -> None:
        """Names of files with several: the first one is moved, the others become links to it."""
        crowd = Crowd(self.bulk.pump, 8)
        for _, items in unit["groups"]:
            await crowd.start(self._link_group(items))
        await crowd.finish()

    async def _link_group(self, items: Sequence[Sequence[Any]]) -> None:
        first, *others = [(Place(src, dst, fid, False, alias, True), name) for src, dst, fid, name, alias in items]
        if not self.plan.verify:
            (seen,) = await self.bulk.threads.run(ordinary.look_at_all, first[0].src, [first[1]])
            if seen.what is not None and not stat.S_ISREG(seen.what.mode):
                await self._others(first[0], [seen])
            else:
                await self.move_files(first[0], [first[1]])
        source = first[0].target(first[1])
        (entry,) = await self.entries([source])
        if not isinstance(entry, Metadentry):
            return  # its failure has been told
        for place, name in others:
            target = place.target(name)
            try:
                await self._link(source, entry.fid, target, place.fid)
            except OSError as error:
                self.failed(target, error)

    async def _link(self, source: bytes, fid: int, target: bytes, parent_fid: int) -> None:
        found = 0
        with contextlib.suppress(FileNotFoundError):
            found = metadentry.fid_of((await self.bulk.begin_lookup(target)).record)
        if found == fid:
            self.count(skipped=1)
            return
        if self.plan.verify:
            self.differs(target, f"is not the same file as {paths.printable(source)}")
            return
        if found:
            await self.bulk.unlink(target, parent_fid)
        await self.bulk.link(source, fid, target, parent_fid)
        self.count(files=1)

    async def directories(self, unit: Unit) -> None:
        """Directories in which nothing changes any more get their times."""
        crowd = Crowd(self.bulk.pump, 64)
        for path, items in unit["groups"]:
            fid = items[0][0]
            existed = unit["again"] or any(item[1] for item in items)
            fields = next((item[2] for item in items if item[2]), None)
            await crowd.start(self._end_directory(path, fid, existed, from_fields(fields) if fields else None))
        await crowd.finish()

    async def _end_directory(self, path: bytes, fid: int, existed: bool, what: Attributes | None) -> None:
        if self.plan.verify:
            return
        try:
            if existed:
                entry = await self.bulk.lookup(path)
                if what is None or not what.is_as(Attributes.of_entry(entry)):
                    await self._heal_links(path, fid)
                elif what.is_owned_as(Attributes.of_entry(entry)):
                    return
            if what is not None:
                await self.bulk.set_attributes(path, fid, what)
        except OSError as error:
            self.failed(path, error)

    async def _heal_links(self, path: bytes, fid: int) -> None:
        """A run that was killed has not told of the directories it made last: count them. Raises OSError."""
        missing = await self._missing_links(path)
        if missing:
            await self.bulk.threads.run(time.sleep, _LOOK_TWICE_S)
            if await self._missing_links(path) == missing:
                await self.bulk.about(path, TOUCH, TouchRequest(path, fid, 0, missing[0]))

    async def _missing_links(self, path: bytes) -> tuple[int, int] | None:
        """By how much the link count of a directory is wrong, and the record's version; None if it is right."""
        entry = await self.bulk.lookup(path)
        count = 2
        for daemon in range(self.bulk.hosts.daemon_count):
            after, more = b"", True
            while more:
                request = ReaddirRequest(path, entry.fid, after, READDIR_PAGE_ENTRIES)
                page = await self.bulk.pool.call(daemon, READDIR, request)
                count += sum(map(metadentry.is_directory_record, page.records))
                more = page.more
                after = page.names[-1] if page.names else b""
        return None if count == entry.nlink else (count - entry.nlink, entry.version)


def _look_at_source(path: bytes, contents: bool) -> Attributes:
    """What is called *path*; with *contents*, behind a symlink, if it is one. Raises OSError."""
    if contents:
        path = os.path.realpath(path)
        if not os.path.isdir(path):
            raise OSError(errno.ENOTDIR, "is no directory")
    return ordinary.look(None, path)
