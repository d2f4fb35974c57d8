"""Stage-out of files: small ones read from the daemons in batches and written by threads, large ones in ranges.

As in `files_in`: what is complete is skipped, a small file that is not is made anew, and of a large one the chunks
that differ are written.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from gkfs import paths
from gkfs.channel import Call
from gkfs.client import making, ordinary
from gkfs.client.making import New
from gkfs.client.ordinary import Seen
from gkfs.client.scan import Attributes, from_fields
from gkfs.client.stage import SPAN_CHUNKS, Stage, Unit, below, is_of, name_in, not_a
from gkfs.limits import CHUNK_SIZE_BYTES
from gkfs.messages import Buffer, ReadChunkReply
from gkfs.metadentry import Metadentry


class File(NamedTuple):
    """A record and where its contents go, in a folder that is there; *src* is for messages."""

    src: bytes
    entry: Metadentry
    name: bytes

    @property
    def small(self) -> bool:
        return self.entry.size <= ordinary.SMALL_MAX_BYTES


class FilesOut(Stage):
    """The handlers of files: `range` and `finish`."""

    async def move_files(self, folder: bytes, files: Sequence[File], *, fresh: bool, whole: bool = False) -> None:
        """Files, symlinks and special files into one folder; *fresh*: nothing was in it; *whole*: all at once."""
        try:
            if self.plan.verify:
                await self._verify(folder, files)
                return
            known: dict[bytes, Attributes] = {}
            if not fresh:
                files, known = await self._incomplete(folder, files)
            for file in files:
                if not file.small:
                    await self._large(folder, file, compare=file.name in known, whole=whole)
            await self._write_all(folder, [file for file in files if file.small], known)
        except OSError as error:
            self.failed(folder, error)

    async def _write_all(self, folder: bytes, files: Sequence[File], known: dict[bytes, Attributes]) -> None:
        reads = self._reads(files)
        new = [(file, call) for file, call in reads if file.name not in known]
        old = [(file, call) for file, call in reads if file.name in known]
        for some, replace in ((new, False), (old, True)):
            ready: list[tuple[File, New]] = []
            for file, call in some:
                try:
                    data: Buffer = (await call).data if call is not None else file.entry.data
                except OSError as error:
                    self.failed(file.src, error)
                    continue
                ready.append((file, New(file.name, self.owned(Attributes.of_entry(file.entry)), data)))
            if ready:
                await self._write(folder, ready, replace=replace)

    async def _write(self, folder: bytes, ready: list[tuple[File, New]], *, replace: bool) -> None:
        items = [item for _, item in ready]
        outcomes = await self.bulk.threads.run(write_files, folder, items, replace)
        again: list[tuple[File, New]] = []
        for (file, item), error in zip(ready, outcomes, strict=True):
            if error is None:
                self.count(files=1, bytes=file.entry.size if file.entry.is_regular else 0)
            elif isinstance(error, FileExistsError) and not replace:
                again.append((file, item))  # somebody else's, or of an earlier try of another mover
            else:
                self.failed(below(folder, file.name), error)
        if again:
            await self._write(folder, again, replace=True)

    def _reads(self, files: Sequence[File]) -> list[tuple[File, Call[ReadChunkReply] | None]]:
        """Begin to read small files."""
        return [
            (file, self.bulk.read(file.entry.fid, file.entry.placement, 0, file.entry.size))
            if file.entry.is_regular and file.entry.size and not file.entry.is_inline
            else (file, None)
            for file in files
        ]

    # --- what is there already

    async def _incomplete(
        self, folder: bytes, files: Sequence[File]
    ) -> tuple[list[File], dict[bytes, Attributes]]:
        """Those of *files* that must be moved, and what is there of them. The others are finished."""
        seen = await self.bulk.threads.run(ordinary.look_at_all, folder, [file.name for file in files])
        equal = await self._equal(folder, list(zip(files, seen, strict=True))) if self.plan.checksum else set()
        rest: list[File] = []
        known: dict[bytes, Attributes] = {}
        complete: list[tuple[File, Attributes]] = []
        for file, one in zip(files, seen, strict=True):
            what = self.owned(Attributes.of_entry(file.entry))
            if isinstance(one.error, FileNotFoundError):
                rest.append(file)
            elif one.error is not None or one.what is None:
                self.failed(below(folder, file.name), one.error or OSError(errno.EIO, "cannot be looked at"))
            elif stat.S_ISDIR(one.what.mode):
                self.failed(below(folder, file.name), not_a("file"))
            elif file.name in equal or (not self.plan.checksum and what.is_as(one.what)):
                complete.append((file, one.what))
            else:
                rest.append(file)
                known[file.name] = one.what
        await self._end_complete(folder, complete)
        return rest, known

    async def _end_complete(self, folder: bytes, complete: list[tuple[File, Attributes]]) -> None:
        """Give what need not be moved the attributes it should have."""
        for file, there in complete:
            what = self.owned(Attributes.of_entry(file.entry))
            if not (what.is_as(there) and what.is_owned_as(there)) and not stat.S_ISLNK(what.mode):
                try:
                    await self.bulk.threads.run(making.finish_at, folder, file.name, what)
                except OSError as error:
                    self.failed(below(folder, file.name), error)
                    continue
            self.done_with(what, moved=False)

    async def _equal(self, folder: bytes, both: Sequence[tuple[File, Seen]]) -> set[bytes]:
        """Names of what is there with the same contents, or target."""
        alike = [
            file
            for file, one in both
            if one.what is not None
            and Attributes.of_entry(file.entry)._replace(mtime_ns=0).is_as(one.what._replace(mtime_ns=0))
        ]
        other = await self.differing(
            folder, [(file.name, file.entry) for file in alike if file.entry.is_regular and file.entry.size]
        )
        return {file.name for file in alike} - other.keys()

    # --- large files

    async def _large(self, folder: bytes, file: File, *, compare: bool, whole: bool) -> None:
        path, entry = below(folder, file.name), file.entry
        try:
            was_there = await self.bulk.threads.run(making.begin_file, folder, file.name, entry.size)
        except OSError as error:
            self.failed(path, error)
            return
        what = self.owned(Attributes.of_entry(entry))
        common = {"src": file.src, "dst": path, "fid": entry.fid, "place": entry.placement, "path": path}
        common |= {"what": list(what), "compare": compare and was_there}
        finish = {"do": "finish", "version": entry.version, **common}
        units = [
            {"do": "range", "node": node, "first": first, "end": end, **common}
            for node, first, end in self.spans(entry.fid, entry.placement, entry.size)
        ]
        if whole or entry.size <= SPAN_CHUNKS * CHUNK_SIZE_BYTES:
            try:
                for unit in units:
                    await self.range(unit)
                await self.finish(finish)
            except OSError as error:
                self.failed(path, error)
        else:
            self.join(units, finish)

    async def range(self, unit: Unit) -> None:
        """Some chunks of a large file. Raises OSError."""
        what = from_fields(unit["what"])
        fd = await self.bulk.threads.run(ordinary.open_for_change, unit["dst"])
        try:
            await self.each_chunk(unit, partial(self._chunk, unit, what, fd))
        finally:
            os.close(fd)

    async def _chunk(self, unit: Unit, what: Attributes, fd: int, chunk: int) -> None:
        fid, place = unit["fid"], unit["place"]
        offset = chunk * CHUNK_SIZE_BYTES
        length = min(CHUNK_SIZE_BYTES, what.size - offset)
        if unit["compare"]:
            there = await self.bulk.threads.run(ordinary.read_chunk, fd, offset, length, True)
            (digest,) = await self.bulk.digests([(fid, place, chunk, length)])
            if is_of(digest, there):
                self.count(bytes=length)
                return
        data: Buffer = (await self.bulk.read(fid, place, chunk, length)).data
        if unit["compare"] and len(data) < length:
            data = bytes(data) + bytes(length - len(data))
        if data:
            await self.bulk.threads.run(making.write_all, fd, data, offset)
        self.count(bytes=length)

    async def finish(self, unit: Unit) -> None:
        """All ranges of a large file are there: it gets its attributes. Raises OSError."""
        if unit.get("failed") or self.stopping:
            return
        what = from_fields(unit["what"])
        with contextlib.suppress(FileNotFoundError):  # its name may have gone; what it was has been moved
            if (await self.bulk.lookup(unit["src"])).version != unit["version"]:
                raise OSError(errno.EIO, f"{paths.printable(unit['src'])} was changed while it was read")
        await self.bulk.threads.run(making.finish_at, *name_in(unit["dst"]), what)
        self.count(files=1)

    # --- verify

    async def _verify(self, folder: bytes, files: Sequence[File]) -> None:
        """Say which files are not there as the file system has them."""
        seen = await self.bulk.threads.run(ordinary.look_at_all, folder, [file.name for file in files])
        texts: dict[bytes, str] = {}
        pairs: list[tuple[bytes, Metadentry]] = []
        for file, one in zip(files, seen, strict=True):
            what = self.owned(Attributes.of_entry(file.entry))
            if one.what is None:
                if isinstance(one.error, FileNotFoundError):
                    texts[file.name] = "is missing"
                elif one.error is not None:
                    self.failed(below(folder, file.name), one.error)
                continue
            texts[file.name] = self.difference(what, one.what)
            if file.entry.is_regular and stat.S_ISREG(one.what.mode) and file.entry.size == one.what.size:
                pairs.append((file.name, file.entry))
            self.done_with(what, moved=False)
        texts |= await self.differing(folder, [pair for pair in pairs if pair[1].size])
        for name, text in texts.items():
            if text:
                self.differs(below(folder, name), text)


def write_files(folder: bytes, items: Sequence[New], replace: bool) -> list[OSError | None]:
    """As `making.write_files`, the folder made if it is missing."""
    try:
        return making.write_files(folder, items, replace=replace)
    except FileNotFoundError:
        making.make_folder(folder)
        return making.write_files(folder, items, replace=replace)
