"""Listing a directory: its entries lie on all daemons and come in pages.

A position ("cookie") is the number of an entry: 0 is `.`, 1 is `..`, 2 the first entry of daemon 0, and so on
through the daemons; within a daemon names ascend. Only the current page and those asked for ahead are kept,
whatever the size of the directory; of the pages before only where they start, for telldir and seekdir.
"""

import errno
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.inodes import Inode
from gkfs.errors import os_error
from gkfs.limits import MOVES_FOLLOWED, READDIR_PAGE_ENTRIES
from gkfs.messages import ReaddirReply, ReaddirRequest
from gkfs.operations import READDIR

_DAEMONS_AHEAD: Final = 8  # first pages asked for before they are needed
_DOTS: Final = 2


class _Start(NamedTuple):
    """Where a page starts."""

    daemon: int
    after: bytes  # the name before its first


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
    """One open directory."""

    def __init__(self, context: Context, inode: Inode) -> None:
        self.inode = inode
        self._context = context
        self._firsts: list[int] = []  # cookie of each page's first entry, ascending
        self._starts: list[_Start] = []  # beside it: where the page starts
        self._page = Page(_DOTS, [], [])
        self._next: _Start | None = _Start(0, b"")  # what follows the current page; None at the end
        self._ahead: dict[_Start, Call[ReaddirReply]] = {}

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
        number = bisect_right(self._firsts, cookie) - 1
        self._page = Page(self._firsts[number], [], [])
        self._next = self._starts[number]
        del self._firsts[number:], self._starts[number:]

    async def _advance(self, start: _Start) -> None:
        """Make the page at *start* the current one."""
        first = self._page.first + len(self._page.names)
        try:
            reply = await self._answer(start)
        except FileNotFoundError:  # another node has removed the directory
            self._next = None
            return
        names = reply.names
        if len(names) != len(reply.records) or (names and names[-1] <= start.after):
            raise os_error(errno.EIO, f"a listing of {len(names)} names, {len(reply.records)} records")
        self._firsts.append(first)
        self._starts.append(start)
        self._page = Page(first, reply.names, reply.records)
        if reply.more and reply.names:
            self._next = _Start(start.daemon, reply.names[-1])
            self._ask(self._next)
        elif start.daemon + 1 < self._context.distributor.daemon_count:
            self._next = _Start(start.daemon + 1, b"")
        else:
            self._next = None

    async def _answer(self, start: _Start) -> ReaddirReply:
        """The page at *start*; asked for again where a rename has moved the directory meanwhile."""
        for _ in range(MOVES_FOLLOWED):
            path = self._context.inodes.path(self.inode)
            for daemon in range(
                start.daemon, min(start.daemon + _DAEMONS_AHEAD, self._context.distributor.daemon_count)
            ):
                self._ask(start if daemon == start.daemon else _Start(daemon, b""))
            try:
                return await self._ahead.pop(start)
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
                missed = error
            self._ahead.clear()
            if not await self._context.follow(self.inode, path):
                raise missed
        raise os_error(errno.ESTALE, f"directory {self.inode.fid:#x} is being renamed all the time")

    def _ask(self, start: _Start) -> None:
        if start not in self._ahead:
            path = self._context.inodes.path(self.inode)
            request = ReaddirRequest(path, self.inode.fid, start.after, READDIR_PAGE_ENTRIES)
            self._ahead[start] = self._context.pool.call(start.daemon, READDIR, request)
