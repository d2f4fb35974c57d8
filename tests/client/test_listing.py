"""A directory that is renamed while it is listed: each entry comes once, though other daemons have it by then."""

import errno
import stat
from collections.abc import Generator, Iterator
from itertools import count, pairwise
from typing import Any

import pytest
import trio

from gkfs import metadentry, paths
from gkfs.client import listing
from gkfs.client.context import Context, MountOptions
from gkfs.client.listing import Listing
from gkfs.distributor import Distributor
from gkfs.messages import ReaddirReply, ReaddirRequest, WhereReply, WhereRequest
from gkfs.metadentry import Metadentry
from gkfs.operations import READDIR, WHERE

DIRECTORY = 7
NAMES = [b"f%03d" % number for number in range(60)]


def record(fid: int) -> bytes:
    return metadentry.encode(Metadentry.new(mode=stat.S_IFDIR | 0o755, uid=0, gid=0, fid=fid, now_ns=1))


class Done:
    """A call that nobody needs to wait for."""

    def __init__(self, outcome: tuple[Any, ...] | OSError) -> None:
        self._outcome = outcome

    def __await__(self) -> Generator[None, None, tuple[Any, ...]]:
        yield from ()
        if isinstance(self._outcome, OSError):
            raise self._outcome
        return self._outcome


class Wandering(Context):
    """A directory that gets its next path after so many pages, through this mount or another one."""

    def __init__(self, daemons: int, after_pages: int, *, here: bool) -> None:
        super().__init__(None, Distributor(daemons), MountOptions())  # type: ignore[arg-type]
        self.directory = self.inodes.seen(self.inodes.root, b"d0", record(DIRECTORY))
        self.pages = 0
        self._every, self._here = after_pages, here
        self._at = b"/d0"
        self._names: Iterator[bytes] = (b"d%d" % number for number in count(1))
        self.pool = self  # type: ignore[assignment]

    def call(self, daemon: int, operation: Any, request: Any) -> Any:
        assert operation is READDIR
        return Done(self._list(daemon, request))

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        assert (operation, request) == (WHERE, WhereRequest(path, DIRECTORY))
        return Done(WhereReply([self._at]))

    def _list(self, daemon: int, request: ReaddirRequest) -> ReaddirReply | OSError:
        assert request.fid == DIRECTORY
        if request.path != self._at:
            return OSError(errno.ESTALE, "moved")
        here = [name for name in NAMES if self.distributor.path_owner(paths.join(self._at, name)) == daemon]
        left = [name for name in here if name > request.after]
        names = left[: request.limit]
        return ReaddirReply(names, [record(NAMES.index(name) + 100) for name in names], len(left) > len(names))

    def page_was_read(self) -> None:
        self.pages += 1
        if self.pages % self._every == 0:
            name = next(self._names)
            self._at = b"/" + name
            if self._here:
                self.inodes.rename(
                    self.directory, (1, paths.split(self.inodes.path(self.directory))[1]), self.inodes.root, name
                )


async def entries(context: Wandering, listed: Listing, cookie: int = 2) -> list[bytes]:
    """All names from *cookie* on, with cookies that follow each other."""
    found: list[bytes] = []
    while (page := await listed.page(cookie)) is not None:
        here = list(page.entries(cookie))
        assert here, "a page that is shown has entries"
        found += [name for name, _ in here]
        for name, stored in here:
            assert metadentry.fid_of(stored) == NAMES.index(name) + 100
        cookie += len(here)
        context.page_was_read()
    return found


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("after_pages", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("daemons", [1, 4])
def test_each_entry_comes_once(
    daemons: int, after_pages: int, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "READDIR_PAGE_ENTRIES", 5)
    context = Wandering(daemons, after_pages, here=here)
    found = trio.run(entries, context, Listing(context, context.directory))
    assert sorted(found) == NAMES
    assert context.pages >= len(NAMES) / 5


@pytest.mark.parametrize("here", [True, False])
def test_who_goes_back_gets_what_had_not_come_until_there(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "READDIR_PAGE_ENTRIES", 5)
    context = Wandering(4, 3, here=here)

    async def run() -> None:
        listed = Listing(context, context.directory)
        found = await entries(context, listed)
        firsts = [seen.first for seen in listed._pages]
        for first, following in reversed(list(pairwise(firsts))):
            if first == following:
                continue  # nothing of that page was new
            again = await entries(context, listed, first)
            assert sorted(found[: first - 2] + again) == NAMES

    trio.run(run)
