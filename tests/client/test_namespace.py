"""Names in a directory that another node has moved: they are asked for again where it is by now."""

import errno
import stat
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from gkfs import metadentry, paths
from gkfs.client.context import Context, MountOptions
from gkfs.client.data import FileData
from gkfs.client.inodes import Inode
from gkfs.client.listing import Listing
from gkfs.client.namespace import Namespace
from gkfs.client.touches import Touches
from gkfs.distributor import Distributor
from gkfs.messages import (
    Empty,
    LookupReply,
    LookupRequest,
    ReaddirReply,
    ReaddirRequest,
    RenameReply,
    RenameRequest,
    RmdirRequest,
    UnlinkReply,
    UnlinkRequest,
    WhereReply,
)
from gkfs.metadentry import ROOT_FID, Metadentry
from gkfs.operations import LOOKUP, READDIR, RENAME, RMDIR, UNLINK, WHERE

MOVED, OTHER, CHILD = 7, 8, 9  # numbers of directories: MOVED was /d and is /e, OTHER the other way round
NOW_NS = 1


def record(fid: int, mode: int = stat.S_IFDIR | 0o755) -> bytes:
    return metadentry.encode(Metadentry.new(mode=mode, uid=0, gid=0, fid=fid, now_ns=NOW_NS))


class Exchanged(Context):
    """A mount that knows /d as it was before another node exchanged it with /e."""

    def __init__(self) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        self.children = {MOVED: {b"x"}, OTHER: {b"x"}}
        self.at = {b"/": ROOT_FID, b"/d": OTHER, b"/e": MOVED}
        self.noted: list[tuple[int, int]] = []  # directory, by how much its link count changes
        self.inodes.root.learn(record(ROOT_FID))
        self.pool = self  # type: ignore[assignment]

    def call(self, daemon: int, operation: Any, request: Any) -> Any:
        return self.call_owner(request.path, operation, request)

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> Any:
            return self.answers[operation](path, request)

        return reply()

    @property
    def answers(self) -> dict[Any, Callable[[bytes, Any], Any]]:
        return {
            RMDIR: self._rmdir,
            RENAME: self._rename,
            UNLINK: self._unlink,
            LOOKUP: self._lookup,
            READDIR: self._list,
            WHERE: self._found,
        }

    def _there(self, path: bytes, parent_fid: int) -> set[bytes]:
        """As a daemon that checks the directory."""
        parent, name = paths.split(path)
        if parent_fid not in self.at.values():
            raise FileNotFoundError(errno.ENOENT, "removed")
        if self.at[parent] != parent_fid:
            raise OSError(errno.ESTALE, "moved")
        if name not in self.children[parent_fid]:
            raise FileNotFoundError(errno.ENOENT, "not there")
        return self.children[parent_fid]

    def _leaves(self, path: bytes, parent_fid: int) -> None:
        self._there(path, parent_fid).remove(paths.split(path)[1])

    def _rmdir(self, path: bytes, request: RmdirRequest) -> Empty:
        self._leaves(path, request.parent_fid)
        return Empty()

    def _rename(self, path: bytes, request: RenameRequest) -> RenameReply:
        self._leaves(path, request.source_parent_fid)
        return RenameReply(record(CHILD), 0, False, False)

    def _unlink(self, path: bytes, request: UnlinkRequest) -> UnlinkReply:
        self._leaves(path, request.parent_fid)
        return UnlinkReply(CHILD, False)

    def _lookup(self, path: bytes, request: LookupRequest) -> LookupReply:
        if not request.parent_fid:
            return LookupReply(record(self.at[path]), False)
        self._there(path, request.parent_fid)
        return LookupReply(record(CHILD, stat.S_IFREG | 0o644), False)

    def _list(self, path: bytes, request: ReaddirRequest) -> ReaddirReply:
        if self.at[request.path] != request.fid:
            raise OSError(errno.ESTALE, "moved")
        names = sorted(self.children[request.fid])
        return ReaddirReply(names, [record(CHILD)] * len(names), False)

    def _found(self, path: bytes, request: Any) -> WhereReply:
        return WhereReply([place for place, fid in self.at.items() if fid == request.fid])

    # --- as `Touches`

    def note(self, directory: Inode, subdirectories: int = 0) -> None:
        self.noted.append((directory.fid, subdirectories))

    def send(self, path: bytes) -> None:
        pass

    async def send_below(self, *tops: bytes) -> None:
        pass


Work = Callable[[Namespace, Inode, Inode], Awaitable[None]]  # of the root and the directory that has moved


def done(context: Exchanged, work: Work) -> None:
    async def run() -> None:
        names = Namespace(context, FileData(context), context)  # type: ignore[arg-type]
        root = context.inodes.root
        await work(names, root, context.inodes.seen(root, b"d", record(MOVED)))

    trio.run(run)


def test_a_directory_is_removed_from_the_one_that_moved() -> None:
    context = Exchanged()
    done(context, lambda names, root, moved: names.rmdir(moved, b"x"))
    assert context.children == {MOVED: set(), OTHER: {b"x"}}
    assert context.noted == [(MOVED, -1)]


def test_a_directory_is_renamed_out_of_the_one_that_moved() -> None:
    context = Exchanged()
    done(context, lambda names, root, moved: names.rename(moved, b"x", root, b"y", 0))
    assert context.children == {MOVED: set(), OTHER: {b"x"}}
    assert context.noted == [(MOVED, -1), (ROOT_FID, 1)]


def test_a_file_is_removed_from_the_one_that_moved() -> None:
    context = Exchanged()
    done(context, lambda names, root, moved: names.unlink(moved, b"x"))
    assert context.children == {MOVED: set(), OTHER: {b"x"}}
    assert context.noted == [(MOVED, 0)]


def test_a_file_is_looked_up_in_the_one_that_moved_though_its_lease_runs() -> None:
    """While this node exchanges them, a lease of its own keeps nobody back."""
    context = Exchanged()

    async def look(names: Namespace, root: Inode, moved: Inode) -> None:
        moved.lease(time.monotonic(), granted=True)
        assert (await names.lookup(moved, b"x")).fid == CHILD
        assert context.inodes.path(moved) == b"/e"

    done(context, look)


def test_the_one_that_moved_is_listed() -> None:
    context = Exchanged()
    context.children[MOVED] = {b"a", b"b"}

    async def run() -> None:
        moved = context.inodes.seen(context.inodes.root, b"d", record(MOVED))
        page = await Listing(context, moved).page(2)
        assert page is not None
        assert page.names == [b"a", b"b"]

    trio.run(run)


@pytest.mark.parametrize("gone", [MOVED, 0])
def test_what_is_only_in_the_other_directory_is_not_there(gone: int) -> None:
    context = Exchanged()
    context.children[MOVED].clear()
    if not gone:
        del context.at[b"/e"]  # it was replaced
    for work in (
        lambda names, root, moved: names.rmdir(moved, b"x"),
        lambda names, root, moved: names.rename(moved, b"x", root, b"y", 0),
    ):
        with pytest.raises(FileNotFoundError):
            done(context, work)
    assert context.children[OTHER] == {b"x"}
    assert context.noted == []


class FoundMeanwhile(Context):
    """The file CHILD is at /e/file; who asks elsewhere is told no, once *directory* has been moved to /e."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__(None, Distributor(1), MountOptions())  # type: ignore[arg-type]
        self.directory = self.inodes.seen(self.inodes.root, b"d", record(MOVED))
        self.directory.lease(time.monotonic(), granted=True)
        self.asked: list[bytes] = []
        self._moves = moves

    def call_owner(self, path: bytes, operation: Any, request: Any) -> Any:
        async def reply() -> LookupReply:
            self.asked.append(path)
            if path == b"/e/file":
                return LookupReply(record(CHILD, stat.S_IFREG | 0o644), False)
            if self._moves:
                self.inodes.move(self.directory, self.inodes.root, b"e")
            raise FileNotFoundError(errno.ENOENT, "not here")

        return reply()


async def lookup(context: FoundMeanwhile) -> Inode:
    return await Namespace(context, None, Touches(context)).lookup(context.directory, b"file")  # type: ignore[arg-type]


def test_a_name_is_asked_for_again_where_another_call_has_found_its_directory_meanwhile() -> None:
    context = FoundMeanwhile(moves=True)
    assert trio.run(lookup, context).fid == CHILD
    assert context.asked == [b"/d/file", b"/e/file"]


def test_a_name_that_is_not_there_is_asked_for_once() -> None:
    context = FoundMeanwhile(moves=False)
    with pytest.raises(FileNotFoundError):
        trio.run(lookup, context)
    assert context.asked == [b"/d/file"]
