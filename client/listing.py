"""Listing a directory: its entries lie on all daemons and come in pages.

A position ("cookie") is the number of an entry: 0 is `.`, 1 is `..`, 2 the first entry of daemon 0, and so on
through the daemons; within a daemon names ascend. Only the current page and those asked for ahead are kept,
whatever the size of the directory; of the pages before only where they start, for telldir and seekdir.
"""

import errno
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple

from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.errors import os_error
from gkfs.limits import MOVES_FOLLOWED, READDIR_PAGE_ENTRIES
from gkfs.messages import ReaddirReply, ReaddirRequest
from gkfs.operations import READDIR
from gkfs.paths import join

_DAEMONS_AHEAD: Final = 8  # first pages asked for before they are needed
_DOTS: Final = 2


class _Start(NamedTuple):
    """Where a page starts."""

    path: bytes  # of the directory, when it was listed so far
    daemon: int
    after: bytes  # the name before its first


class _Seen(NamedTuple):
    """A page that was shown."""

    first: int  # cookie of its first entry
    start: _Start
    moves: int  # of the directory until then


class Page(NamedTuple):
    """Entries with cookies from *first* on."""

    first: int
    names: list[bytes]
    records: list[bytes]

    def entries(self, cookie: int) -> Iterator[tuple[bytes, bytes]]:
        """Names and records from *cookie* on."""
        skipped = cookie - self.first
        return zip(islice(self.names, skipped, None), islice(self.records, skipped, None), strict=True)


class Listing:
    """One open directory.

    Which daemon has a name depends on the directory's path. Where that changes while it is listed, all is listed
    anew under the new one, without what had its turn under the old one.
    """

    def __init__(self, context: Context, inode: Inode) -> None:
        self.inode = inode
        self._context = context
        self._pages: list[_Seen] = []  # all until the current one
        self._page = Page(_DOTS, [], [])
        self._next: _Start | None = _Start(context.inodes.path(inode), 0, b"")  # what follows; None at the end
        self._ahead: dict[_Start, Call[ReaddirReply]] = {}
        self._moved: list[_Start] = []  # how far it was listed under each path that it does not have any more

    def rewind(self) -> None:
        """Start again from the beginning, seeing what has changed meanwhile."""
        self.__init__(self._context, self.inode)  # type: ignore[misc]

    async def page(self, cookie: int) -> Page | None:
        """The page that holds the entry *cookie* (at least 2), or None at the end of the directory."""
        if self.inode.removed:
            return None
        if cookie < self._page.first:
            self._go_back(cookie)
        while cookie >= self._page.first + len(self._page.names):
            if self._next is None:
                return None
            await self._advance(self._next)
        return self._page

    def _go_back(self, cookie: int) -> None:
        """Position before the page that holds *cookie*."""
        number = bisect_right(self._pages, cookie, key=attrgetter("first")) - 1
        first, self._next, moves = self._pages[number]
        self._page = Page(first, [], [])
        del self._pages[number:], self._moved[moves:]

    async def _advance(self, start: _Start) -> None:
        """Make the page at *start* the current one."""
        first, last_daemon = self._page.first + len(self._page.names), self._context.distributor.daemon_count - 1
        try:
            start, reply = await self._answer(start)
        except FileNotFoundError:  # another node has removed the directory: this is the end
            start, reply = start._replace(daemon=last_daemon), ReaddirReply([], [], False)
        names, records = reply.names, reply.records
        if len(names) != len(records) or (names and names[-1] <= start.after):
            raise os_error(errno.EIO, f"a listing of {len(names)} names, {len(records)} records")
        if reply.more and names:
            self._next = start._replace(after=names[-1])
            self._ask(self._next)
        elif start.daemon < last_daemon:
            self._next = _Start(start.path, start.daemon + 1, b"")
        else:
            self._next = None
        if self._moved:
            left = [index for index, name in enumerate(names) if not self._was_listed(name)]
            names, records = [names[index] for index in left], [records[index] for index in left]
        self._pages.append(_Seen(first, start, len(self._moved)))
        self._page = Page(first, names, records)

    async def _answer(self, start: _Start) -> tuple[_Start, ReaddirReply]:
        """The page at *start*, or the first one under the path that the directory has now."""
        for _ in range(MOVES_FOLLOWED):
            path = self._context.inodes.path(self.inode)
            if start.path != path:
                self._ahead.clear()
                self._moved.append(start)
                start = _Start(path, 0, b"")
            self._ask(start)
            daemons = min(start.daemon + _DAEMONS_AHEAD, self._context.distributor.daemon_count)
            for daemon in range(start.daemon + 1, daemons):
                self._ask(_Start(path, daemon, b""))
            try:
                return start, await self._ahead.pop(start)
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
                missed = error
            if not await self._context.follow(self.inode, path):
                raise missed
        raise os_error(errno.ESTALE, f"directory {self.inode.fid:#x} is being renamed all the time")

    def _was_listed(self, name: bytes) -> bool:
        """Whether *name* had its turn while the directory had another path."""
        for path, daemon, after in self._moved:
            owner = self._context.distributor.path_owner(join(path, name))
            if owner < daemon or (owner == daemon and name <= after):
                return True
        return False

    def _ask(self, start: _Start) -> None:
        if start not in self._ahead:
            request = ReaddirRequest(start.path, self.inode.fid, start.after, READDIR_PAGE_ENTRIES)
            self._ahead[start] = self._context.pool.call(start.daemon, READDIR, request)
