"""Stage-in of regular files: small ones in batches, large ones in ranges of chunks, compared with what is there.

What is complete is skipped: same type, size and time, or with `--checksum` the same contents. A small file that is
not complete is removed and put anew. Of a large one the chunks that differ are written, so that what an
interrupted run has moved is not moved again.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from gkfs import metadentry
from gkfs.client import ordinary
from gkfs.client.ordinary import Seen
from gkfs.client.scan import Attributes, from_fields
from gkfs.client.stage import (
    BATCH_BYTES,
    BATCH_FILES,
    SPAN_CHUNKS,
    Stage,
    Unit,
    below,
    is_of,
    name_in,
    not_a,
)
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.metadentry import Metadentry


class Place(NamedTuple):
    """A folder and where its entries go. *fid*: of that directory; *fresh*: it was made just now, for this."""

    src: bytes
    dst: bytes
    fid: int
    fresh: bool
    alias: bytes = b""  # what the only entry is called there, if not as here
    whole: bool = False  # files are moved at once here, whatever size and other names they have

    def source(self, name: bytes) -> bytes:
        return below(self.src, name)

    def target(self, name: bytes) -> bytes:
        return below(self.dst, self.alias or name)


class FilesIn(Stage):
    """The handlers of files: `files`, `range` and `finish`."""

    async def files(self, unit: Unit) -> None:
        """Regular files of one folder, by name."""
        await self.move_files(Place(*unit["place"]), unit["names"])

    async def move_files(self, place: Place, names: Sequence[bytes]) -> None:
        """Move the regular files *names* of a folder."""
        crowd = self.crowd()
        for start in range(0, len(names), BATCH_FILES):
            if self.stopping:
                break
            await crowd.start(self._batch(place, names[start : start + BATCH_FILES]))
        await crowd.finish()

    async def _batch(self, place: Place, names: Sequence[bytes]) -> None:
        try:
            known: dict[bytes, Metadentry] = {}
            if self.plan.verify:
                await self._verify(place, names)
                return
            if not place.fresh:
                names, known = await self._incomplete(place, names)
            while names and not self.stopping:
                seen = await self.bulk.threads.run(ordinary.read_files, place.src, names, BATCH_BYTES)
                names = names[len(seen) :]
                await self._put_all(place, seen, known)
        except OSError as error:
            self.failed(place.src, error)

    async def _put_all(self, place: Place, seen: list[Seen], known: dict[bytes, Metadentry]) -> None:
        """Put what was read; what is there already (*known*) and what was not read goes its own way."""
        equal = await self._equal(seen, known) if self.plan.checksum else set()
        calls = []
        for one in seen:
            if one.error is not None:
                self.failed(place.source(one.name), one.error)
            elif one.data is None or one.name in known:
                await self._guarded(place, one, known.get(one.name), equal=one.name in equal)
            elif one.what is not None:
                what = self.owned(one.what)
                self.count(found_bytes=what.size)
                call = self.bulk.begin_put(place.target(one.name), place.fid, what, one.data)
                calls.append((one, what, call))
        made = 0
        for one, what, call in calls:
            try:
                reply = await call
            except OSError as error:
                self.failed(place.target(one.name), error)
                continue
            if reply.record:
                await self._guarded(place, one, None, equal=False)
                continue
            made += 1
            self.count(files=1, bytes=what.size)
        if made:
            self.bulk.note(place.dst, place.fid)
            await self.bulk.touch_all()

    async def _guarded(self, place: Place, one: Seen, entry: Metadentry | None, *, equal: bool) -> None:
        """One file that needs a closer look."""
        try:
            if one.links > 1 and not place.whole:
                self.collect("links", [(one.inode, self.item(place, one.name))])
            elif one.data is None:
                await self._large(place, one, entry)
            else:
                await self._mend(place, one, entry, equal=equal)
        except OSError as error:
            self.failed(place.target(one.name), error)

    def item(self, place: Place, name: bytes) -> list[Any]:
        """One of the names of a file, for the unit `links`."""
        return [place.src, place.dst, place.fid, name, place.alias]

    # --- what is there already

    async def _incomplete(
        self, place: Place, names: Sequence[bytes]
    ) -> tuple[list[bytes], dict[bytes, Metadentry]]:
        """Those of *names* that have to be read, and what is there of them. The others are finished."""
        rest: list[bytes] = []
        known: dict[bytes, Metadentry] = {}
        for one, entry in await self._both(place, names):
            if one.what is None:
                continue
            what = self.owned(one.what)
            if entry is None:
                rest.append(one.name)
            elif entry.is_directory:
                self.failed(place.target(one.name), not_a("file"))
            elif one.links > 1 or not what.is_as(Attributes.of_entry(entry)) or (what.size and self.plan.checksum):
                rest.append(one.name)
                known[one.name] = entry
            else:
                self.count(found_bytes=what.size)
                try:
                    await self.set_all(place.target(one.name), entry, what)
                except OSError as error:
                    self.failed(place.target(one.name), error)
        return rest, known

    async def _both(self, place: Place, names: Sequence[bytes]) -> list[tuple[Seen, Metadentry | None]]:
        """Each file as it is here and there; of one that cannot be looked at nothing is known, and it is told."""
        seen = await self.bulk.threads.run(ordinary.look_at_all, place.src, list(names))
        entries = await self.entries([place.target(one.name) for one in seen])
        result: list[tuple[Seen, Metadentry | None]] = []
        for one, entry in zip(seen, entries, strict=True):
            if one.error is not None:
                self.failed(place.source(one.name), one.error)
            elif isinstance(entry, OSError):
                self.failed(place.target(one.name), entry)
                one = one._replace(what=None)
            result.append((one, None if isinstance(entry, OSError) else entry))
        return result

    async def entries(self, targets: Sequence[bytes]) -> list[Metadentry | OSError | None]:
        """The records of *targets*; None where there is nothing."""
        calls = [self.bulk.begin_lookup(path) for path in targets]
        result: list[Metadentry | OSError | None] = []
        for path, call in zip(targets, calls, strict=True):
            try:
                record = (await call).record
                is_link = metadentry.is_link_record(record)
                result.append(await self.bulk.lookup(path) if is_link else metadentry.decode(record))
            except FileNotFoundError:
                result.append(None)
            except OSError as error:
                result.append(error)
        return result

    async def _equal(self, seen: list[Seen], known: dict[bytes, Metadentry]) -> set[bytes]:
        """Names of the small files whose contents are there already."""
        pairs = [
            (one, known[one.name])
            for one in seen
            if one.data is not None and one.name in known and known[one.name].is_regular
        ]
        pairs = [(one, entry) for one, entry in pairs if entry.size == len(one.data or b"")]
        digests = await self.bulk.digests_of([entry for _, entry in pairs])
        return {
            one.name for (one, _), digest in zip(pairs, digests, strict=True) if is_of(digest, one.data or b"")
        }

    async def _mend(self, place: Place, one: Seen, entry: Metadentry | None, *, equal: bool) -> None:
        """Put a small file in the place of what is there. Raises OSError."""
        assert one.what is not None
        assert one.data is not None
        path, what = place.target(one.name), self.owned(one.what)
        self.count(found_bytes=what.size)
        if entry is None:  # somebody else has made it meanwhile, perhaps another mover in an earlier try
            entry = await self.bulk.lookup(path)
            equal = what.is_as(Attributes.of_entry(entry)) and not self.plan.checksum
        if equal:
            await self.set_all(path, entry, what)
            return
        if entry.is_directory:
            raise not_a("file")
        await self.bulk.unlink(path, place.fid)
        put = await self.bulk.put(path, place.fid, what, one.data)
        if put.existing:
            raise OSError(errno.EEXIST, "somebody else makes it, too")
        self.count(files=1, bytes=what.size)

    async def set_all(self, path: bytes, entry: Metadentry, what: Attributes) -> None:
        """Make the attributes of a complete entry those of *what*. Raises OSError."""
        await self.set_xattrs(path, entry, what)
        found = Attributes.of_entry(entry)
        if not (what.is_as(found) and what._replace(xattrs=()).is_owned_as(found._replace(xattrs=()))):
            await self.bulk.set_attributes(self.bulk.place_of(path, entry), entry.fid, what)
        self.done_with(what, moved=False)

    async def set_xattrs(self, path: bytes, entry: Metadentry, what: Attributes) -> None:
        """Make the extended attributes of an entry those of *what*. Raises OSError."""
        if sorted(entry.xattrs) == sorted(what.xattrs):
            return
        address, wanted, there = self.bulk.place_of(path, entry), dict(what.xattrs), dict(entry.xattrs)
        for name in there.keys() - wanted.keys():
            await self.bulk.remove_xattr(address, entry.fid, name)
        for name, value in wanted.items():
            if there.get(name) != value:
                await self.bulk.set_xattr(address, entry.fid, name, value)

    # --- large files

    async def _large(self, place: Place, one: Seen, entry: Metadentry | None) -> None:
        """Begin a file of several chunks, or go on with it. Raises OSError."""
        assert one.what is not None
        src, dst, what = place.source(one.name), place.target(one.name), self.owned(one.what)
        if not stat.S_ISREG(what.mode):
            raise OSError(errno.EIO, "is no regular file any more")
        self.count(found_bytes=what.size)
        begun = what._replace(mtime_ns=time.time_ns())  # its own comes last
        if entry is not None and not (entry.is_regular and entry.nlink == 1):
            if entry.is_directory:
                raise not_a("file")
            if what.is_as(Attributes.of_entry(entry)) and not self.plan.checksum:
                await self.set_all(dst, entry, what)
                return
            await self.bulk.unlink(dst, place.fid)
            entry = None
        if entry is None:
            put = await self.bulk.put(dst, place.fid, begun)
            entry = await self.bulk.lookup(dst)
            compare = bool(put.existing)
        else:
            compare = True
        if compare:
            if what.is_as(Attributes.of_entry(entry)) and not self.plan.checksum:
                await self.set_all(dst, entry, what)
                return
            await self.bulk.truncate(dst, entry.fid, what.size)  # its time is now, too
            await self.set_xattrs(dst, entry, what)
        await self._ranges(place, src, dst, entry, what, compare=compare)

    async def _ranges(
        self, place: Place, src: bytes, dst: bytes, entry: Metadentry, what: Attributes, *, compare: bool
    ) -> None:
        common = {"src": src, "dst": dst, "fid": entry.fid, "place": entry.placement, "path": dst}
        common |= {"what": list(what), "compare": compare}
        finish = {"do": "finish", **common}
        spans = self.spans(entry.fid, entry.placement, what.size)
        units = [{"do": "range", "node": node, "first": first, "end": end, **common} for node, first, end in spans]
        if place.whole or what.size <= SPAN_CHUNKS * CHUNK_SIZE_BYTES:
            for unit in units:
                await self.range(unit)
            await self.finish(finish)
        else:
            self.join(units, finish)

    async def range(self, unit: Unit) -> None:
        """Some chunks of a large file. Raises OSError."""
        what = from_fields(unit["what"])
        fd = await self.bulk.threads.run(ordinary.open_file, unit["src"])
        try:
            with self.bulk.holding(unit["dst"], unit["fid"]):
                await self.each_chunk(unit, partial(self._chunk, unit, what, fd))
        finally:
            os.close(fd)

    async def _chunk(self, unit: Unit, what: Attributes, fd: int, chunk: int) -> None:
        fid, place = unit["fid"], unit["place"]
        offset = chunk * CHUNK_SIZE_BYTES
        length = min(CHUNK_SIZE_BYTES, what.size - offset)
        data = await self.bulk.threads.run(ordinary.read_chunk, fd, offset, length, what.sparse)
        if unit["compare"]:
            (digest,) = await self.bulk.digests([(fid, place, chunk, length)])
            if is_of(digest, data):
                self.count(bytes=length)
                return
            data = data or bytes(length)
        if data:
            for call in self.bulk.write(fid, place, offset, data):
                await call
        self.count(bytes=length)

    async def finish(self, unit: Unit) -> None:
        """All ranges of a large file are there: it gets its time. Raises OSError."""
        if unit.get("failed") or self.stopping:
            return  # what failed has been told
        what = from_fields(unit["what"])
        now = await self.bulk.threads.run(ordinary.look_at_all, *_one(unit["src"]))
        if now[0].what is None or not self.owned(now[0].what).is_as(what):
            raise OSError(errno.EIO, "its source was changed while it was read")
        if unit["compare"]:
            await self.bulk.extend(unit["dst"], unit["fid"], what.size, sparse=what.sparse)
        await self.bulk.set_attributes(unit["dst"], unit["fid"], what)
        self.count(files=1)

    # --- verify

    async def _verify(self, place: Place, names: Sequence[bytes]) -> None:
        """Say which files are not there as they are here."""
        pairs: list[tuple[bytes, Metadentry]] = []
        texts: dict[bytes, str] = {}
        for one, entry in await self._both(place, names):
            if one.what is None:
                continue
            what = self.owned(one.what)
            self.count(found_bytes=what.size)
            if one.links > 1 and not place.whole:
                self.collect("links", [(one.inode, self.item(place, one.name))])
            if entry is None:
                texts[one.name] = "is missing"
                continue
            texts[one.name] = self.difference(what, Attributes.of_entry(entry))
            if entry.is_regular and entry.size == what.size:
                pairs.append((one.name, entry))
            self.done_with(what, moved=False)
        texts |= await self.differing(place.src, [pair for pair in pairs if pair[1].size])
        for name, text in texts.items():
            if text:
                self.differs(place.target(name), text)


def _one(path: bytes) -> tuple[bytes, list[bytes]]:
    folder, name = name_in(path)
    return folder, [name]
