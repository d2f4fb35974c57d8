"""Open files and directories of one mount, whichever worker is asked about them."""

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from benchmarks.workers import table as rows
from benchmarks.workers.inodes import SharedInodes
from benchmarks.workers.table import Table, handle_base
from gkfs.client.context import Context
from gkfs.client.handles import FileHandle, Handles
from gkfs.client.inodes import Inode
from gkfs.client.listing import Listing, Page, _Start

T = TypeVar("T", bound="FileHandle | Listing")

KEPT: Final = 4096  # handles in a worker's own memory; what others have closed is among them
_APPEND, _DIRECT, _PRIVILEGED = 1, 2, 4


class SharedHandles(Handles[T], Generic[T]):
    """Numbers for open things. *remake* makes what another worker has opened: of a fid, flags and the number."""

    def __init__(self, table: Table, remake: Callable[[int, int, int], T]) -> None:
        super().__init__()
        self._table = table
        self._remake = remake

    def add(self, thing: T) -> int:
        flags = 0
        if isinstance(thing, FileHandle):
            flags = thing.append * _APPEND | thing.direct * _DIRECT | thing.privileged * _PRIVILEGED
        number = self._table.add_handle(thing.inode.fid, flags)
        if isinstance(thing, SharedListing):
            thing.number = number
        self._keep(number, thing)
        return number

    def __getitem__(self, number: int) -> T:
        thing = self._open.get(number)
        if thing is None:
            words, base = self._table.words, handle_base(number)
            thing = self._remake(words[base + rows.HANDLE_FID], words[base + rows.HANDLE_FLAGS], number)
            self._keep(number, thing)
        return thing

    def remove(self, number: int) -> T:
        thing = self[number]
        del self._open[number]
        self._table.remove_handle(number)
        if isinstance(thing, SharedListing):
            thing.close()
        return thing

    def _keep(self, number: int, thing: T) -> None:
        self._open[number] = thing
        if len(self._open) > KEPT:
            del self._open[next(iter(self._open))]


def file_handle(inodes: SharedInodes, fid: int, flags: int) -> FileHandle:
    """A handle that another worker has opened, without what it has read ahead."""
    opened = os.O_APPEND if flags & _APPEND else 0
    handle = FileHandle(inodes[fid], opened, direct=False, privileged=bool(flags & _PRIVILEGED))
    handle.direct = bool(flags & _DIRECT)
    return handle


class SharedListing(Listing):
    """An open directory. Its pages are files in memory: a cookie means the same entry to all workers."""

    def __init__(self, context: Context, inode: Inode, table: Table, folder: Path, number: int = 0) -> None:
        super().__init__(context, inode)
        self.number = number
        self._shared = (table, folder)
        self._generation = 0

    def rewind(self) -> None:
        table, _ = self._shared
        self.close()
        table.words[handle_base(self.number) + rows.HANDLE_GENERATION] += 1
        self._reset()

    def _reset(self) -> None:
        Listing.__init__(self, self._context, self.inode)
        self._generation = self._shared[0].words[handle_base(self.number) + rows.HANDLE_GENERATION]

    async def page(self, cookie: int) -> Page | None:
        if self._generation != self._shared[0].words[handle_base(self.number) + rows.HANDLE_GENERATION]:
            self._reset()
        return await super().page(cookie)

    async def _advance(self, start: _Start) -> None:
        path = self._path(len(self._pages))
        if path.exists():
            seen, self._page, self._next, self._moved = pickle.loads(path.read_bytes())
            self._pages.append(seen)
            return
        await super()._advance(start)
        state = self._pages[-1], self._page, self._next, self._moved
        path.write_bytes(pickle.dumps(state))  # the kernel reads a handle in one thread

    def close(self) -> None:
        """Remove the pages."""
        number = 0
        with contextlib.suppress(FileNotFoundError):
            while True:
                self._path(number).unlink()
                number += 1

    def _path(self, page: int) -> Path:
        return self._shared[1] / f"{self.number:x}-{self._generation}-{page}"
