"""A small kernel: system calls of programs, made of the calls that FUSE makes, all of them noted in the history.

As Linux does it: a path is walked name by name, directories by what was looked up lately as long as the client has
said; names in one mount change one after another, and so does the data of one file. There is no page cache.
"""

import errno
import os
import stat
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, TypeVar

import trio
from pyfuse3 import EntryAttributes, FUSEError

from tests.simulation.clock import Clock
from tests.simulation.history import ROOT, History, NameOp, Place
from tests.simulation.node import ClientNode

T = TypeVar("T")
Path = tuple[bytes, ...]

_CONTEXT: Final[Any] = SimpleNamespace(uid=0, gid=0, pid=1, umask=0)
_LOST: Final = (errno.ETIMEDOUT,)
LATE: Final = frozenset({errno.ETIMEDOUT, errno.EBUSY})  # after something was away for long
_BY_HANDLE: Final = ("read", "write", "truncate", "fsync", "flush", "release")


class Handle(NamedTuple):
    """An open file."""

    number: int
    fid: int
    opened: int  # tick at which open was called


class Found(NamedTuple):
    """What a name leads to."""

    fid: int
    mode: int


class Kernel:
    """The kernel of the node of *client*."""

    def __init__(
        self,
        client: ClientNode,
        clock: Clock,
        history: History,
        trace: Callable[[str], None],
        slow: Callable[[str, float], None],
    ) -> None:
        """*slow* is told of each call to the client: what it was, and how many seconds it took."""
        self._trace = trace
        self.client = client
        self.name = client.name
        self.stale = 0  # calls for open files that were nowhere to be found
        self.late = 0  # calls that were given up
        self._clock = clock
        self._history = history
        self._slow = slow
        self._names_lock = trio.Lock()
        self._forgotten = 0  # how often something was
        self._file_locks: dict[int, trio.Lock] = {}
        self._known: dict[tuple[int, bytes], tuple[Found, float]] = {}  # directories, until when

    # --- calls to the client

    async def ask(self, what: str, make: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """One FUSE request. Raises FUSEError."""
        begun_s = self._clock.now_s
        try:
            return await self.client.request(lambda: make(self.client.operations))
        except FUSEError as error:
            self.late += error.errno in LATE
            if error.errno == errno.ESTALE and what in _BY_HANDLE:
                self.stale += 1
                self._trace(f"{self.name}: {what} by a handle fails: ESTALE")
            raise
        finally:
            self._slow(f"{self.name}: {what}", self._clock.now_s - begun_s)

    async def _ask_names(
        self,
        kind: str,
        places: tuple[Place, ...],
        names: tuple[bytes, ...],
        make: Callable[[Any], Coroutine[Any, Any, T]],
        *,
        fid: int = 0,
        flags: int = 0,
    ) -> T:
        """`ask` about names, noted."""
        op = NameOp(kind, self.name, self._history.tick(), places, names, fid, flags)
        self._history.names.append(op)
        try:
            result = await self.ask(kind, make)
        except FUSEError as error:
            if error.errno not in _LOST:
                op.error = error.errno
                op.ended = self._history.tick()
            raise
        answer: Any = result[1] if isinstance(result, tuple) else result
        if isinstance(answer, EntryAttributes):
            op.found = answer.st_ino
            op.is_directory = stat.S_ISDIR(answer.st_mode)
        op.ended = self._history.tick()
        return result

    # --- walking

    async def lookup(self, place: Place, name: bytes) -> Found:
        """What *name* leads to. Raises FUSEError."""
        known, until_s = self._known.get((place.fid, name), (None, 0.0))
        if known is not None and self._clock.now_s < until_s:
            now = self._history.tick()
            op = NameOp("lookup", self.name, now, (place,), (name,), ended=now, found=known.fid)
            self._history.names.append(op)
            return known
        forgotten = self._forgotten
        answer = await self._ask_names(
            "lookup", (place,), (name,), lambda client: client.lookup(place.fid, name, _CONTEXT)
        )
        found = Found(answer.st_ino, answer.st_mode)
        # Linux looks nothing up where something is being removed: what was asked before is not kept.
        if stat.S_ISDIR(found.mode) and forgotten == self._forgotten:
            self._known[place.fid, name] = (found, self._clock.now_s + answer.entry_timeout)
        return found

    async def walk(self, path: Path) -> Place:
        """The directory *path*. Raises FUSEError."""
        place = ROOT
        for name in path:
            found = await self.lookup(place, name)
            if not stat.S_ISDIR(found.mode):
                raise FUSEError(errno.ENOTDIR)
            place = Place(found.fid, (*place.path, name))
        return place

    def _forget(self, *names: tuple[Place, bytes]) -> None:
        self._forgotten += 1
        for place, name in names:
            self._known.pop((place.fid, name), None)

    # --- names

    async def mkdir(self, path: Path) -> None:
        place, name = await self.walk(path[:-1]), path[-1]
        async with self._names_lock:
            await self._ask_names(
                "mkdir", (place,), (name,), lambda client: client.mkdir(place.fid, name, 0o755, _CONTEXT)
            )

    async def unlink(self, path: Path) -> None:
        place, name = await self.walk(path[:-1]), path[-1]
        async with self._names_lock:
            if stat.S_ISDIR((await self.lookup(place, name)).mode):
                raise FUSEError(errno.EISDIR)
            await self._ask_names(
                "unlink", (place,), (name,), lambda client: client.unlink(place.fid, name, _CONTEXT)
            )

    async def rmdir(self, path: Path) -> None:
        place, name = await self.walk(path[:-1]), path[-1]
        async with self._names_lock:
            await self.lookup(place, name)
            await self._ask_names(
                "rmdir", (place,), (name,), lambda client: client.rmdir(place.fid, name, _CONTEXT)
            )
            self._forget((place, name))

    async def rename(self, old: Path, new: Path, flags: int) -> None:
        source, target = await self.walk(old[:-1]), await self.walk(new[:-1])
        async with self._names_lock:
            for place, name in ((source, old[-1]), (target, new[-1])):
                try:
                    await self.lookup(place, name)
                except FUSEError as error:
                    if error.errno != errno.ENOENT or (place is source and name == old[-1]):
                        raise
            await self._ask_names(
                "rename",
                (source, target),
                (old[-1], new[-1]),
                lambda client: client.rename(source.fid, old[-1], target.fid, new[-1], flags, _CONTEXT),
                flags=flags,
            )
            self._forget((source, old[-1]), (target, new[-1]))

    async def link(self, old: Path, new: Path) -> None:
        """link(2); where the file or a directory is not to be found any more, Linux looks once more.

        Another file may have come to the name then, and lost it, too; the same one is not seen there again.
        """
        first = await self._linkable(old)
        try:
            await self._link(first, new)
            return
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
        second = await self._linkable(old)
        try:
            await self._link(second, new)
        except FUSEError as error:
            self.stale += error.errno == errno.ESTALE and first.fid == second.fid
            raise

    async def _linkable(self, path: Path) -> Found:
        source = await self.lookup(await self.walk(path[:-1]), path[-1])
        if stat.S_ISDIR(source.mode):
            raise FUSEError(errno.EPERM)
        return source

    async def _link(self, source: Found, new: Path) -> None:
        place, name = await self.walk(new[:-1]), new[-1]
        async with self._names_lock:
            await self._ask_names(
                "link",
                (place,),
                (name,),
                lambda client: client.link(source.fid, place.fid, name, _CONTEXT),
                fid=source.fid,
            )

    async def stat(self, path: Path) -> EntryAttributes:
        found = await self.lookup(await self.walk(path[:-1]), path[-1])
        return await self.ask("getattr", lambda client: client.getattr(found.fid, _CONTEXT))

    async def list(self, path: Path, looked_for: tuple[bytes, ...] = ()) -> dict[bytes, Found]:
        """What is in a directory; noted as if each of *looked_for* had been looked up meanwhile."""
        place = await self.walk(path)
        begun = self._history.tick()
        found: dict[bytes, Found] = {}
        position, before = 0, -1

        def take(name: bytes, attributes: EntryAttributes, cookie: int) -> bool:
            nonlocal position
            position = cookie
            if name not in (b".", b".."):
                if name in found:
                    raise AssertionError(f"{name!r} is listed twice in {path}")
                found[name] = Found(attributes.st_ino, attributes.st_mode)
            return True

        number = await self.ask("opendir", lambda client: client.opendir(place.fid, _CONTEXT))
        while position != before:
            before = position
            await self.ask("readdir", lambda client: client.readdir(number, position, take))
        await self.ask("releasedir", lambda client: client.releasedir(number))
        for name in looked_for:
            error = 0 if name in found else errno.ENOENT
            op = NameOp("lookup", self.name, begun, (place,), (name,), error=error, ended=self._history.tick())
            op.found = found[name].fid if name in found else 0
            self._history.names.append(op)
        return found

    # --- open files

    async def create(self, path: Path, *, exclusive: bool) -> Handle:
        """open(2) with O_CREAT."""
        opened = self._history.tick()
        place, name = await self.walk(path[:-1]), path[-1]
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
        async with self._names_lock:
            info, answer = await self._ask_names(
                "create",
                (place,),
                (name,),
                lambda client: client.create(place.fid, name, 0o644, flags, _CONTEXT),
                flags=0 if exclusive else 1,
            )
        return Handle(info.fh, answer.st_ino, opened)

    async def open(self, path: Path, flags: int = os.O_RDWR) -> Handle:
        """open(2) of a file that is there; where it has just gone, Linux looks once more."""
        try:
            return await self._open(path, flags)
        except FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
        return await self._open(path, flags)

    async def _open(self, path: Path, flags: int) -> Handle:
        opened = self._history.tick()
        found = await self.lookup(await self.walk(path[:-1]), path[-1])
        if not stat.S_ISREG(found.mode):
            raise FUSEError(errno.EISDIR)
        info = await self.ask("open", lambda client: client.open(found.fid, flags, _CONTEXT))
        return Handle(info.fh, found.fid, opened)

    def file_lock(self, fid: int) -> trio.Lock:
        """Held by who changes the data of a file."""
        return self._file_locks.setdefault(fid, trio.Lock())

    async def write(self, handle: Handle, offset: int, data: bytes) -> None:
        count = await self.ask("write", lambda client: client.write(handle.number, offset, data))
        assert count == len(data)

    async def read(self, handle: Handle, offset: int, length: int) -> bytes:
        return bytes(await self.ask("read", lambda client: client.read(handle.number, offset, length)))

    async def truncate(self, handle: Handle, size: int) -> None:
        attributes = SimpleNamespace(st_size=size)
        fields = SimpleNamespace(
            update_size=True,
            update_mode=False,
            update_uid=False,
            update_gid=False,
            update_atime=False,
            update_mtime=False,
        )
        await self.ask(
            "truncate",
            lambda client: client.setattr(handle.fid, attributes, fields, handle.number, _CONTEXT),
        )

    async def fsync(self, handle: Handle) -> None:
        await self.ask("fsync", lambda client: client.fsync(handle.number, False))

    async def close(self, handle: Handle) -> None:
        """close(2); the handle is gone in any case. Raises FUSEError."""
        try:
            await self.ask("flush", lambda client: client.flush(handle.number))
        finally:
            await self.ask("release", lambda client: client.release(handle.number))
