"""The handlers the kernel calls, each thin: number to inode, one step of namespace or data, the answer back.

Every handler is total: OSError becomes its errno, anything else EIO with a traceback in the log, since pyfuse3
ends the mount on any other exception. A test asserts that each handler has the decorator.
"""

import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from gkfs import metadentry
from gkfs.client.attributes import attributes, listed, numbered
from gkfs.client.context import Context
from gkfs.client.data import FileData
from gkfs.client.handles import FileHandle, Handles
from gkfs.client.holds import Holds, still_there
from gkfs.client.inodes import Inode
from gkfs.client.listing import Listing
from gkfs.client.namespace import Namespace, Owner
from gkfs.client.space import Space
from gkfs.client.touches import Touches
from gkfs.client.xattrs import check_kept, is_shown
from gkfs.limits import LISTED_FILES, LOOKUP_ATTR_TIMEOUT_S
from gkfs.messages import (
    DROP_SET_ID,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    SetattrRequest,
    SyncMetadataRequest,
)
from gkfs.operations import SYNC_METADATA

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


def handler(
    method: Callable[Concatenate["GkfsOperations", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["GkfsOperations", P], Coroutine[Any, Any, T]]:
    """Make a FUSE handler total."""

    async def total(self: "GkfsOperations", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except OSError as error:
            if error.errno in _LOGGED:
                log.warning("%s: %s", method.__name__, error)
            raise FUSEError(error.errno or errno.EIO) from None
        except FUSEError:
            raise
        except OverflowError as error:  # a daemon's number is none of the kernel's
            log.warning("%s: %s", method.__name__, error)
            raise FUSEError(errno.EIO) from None
        except Exception:
            log.exception("%s%s failed", method.__name__, args)
            raise FUSEError(errno.EIO) from None

    functools.update_wrapper(total, method)
    return total


_LOGGED = frozenset({errno.EIO, errno.ETIMEDOUT, errno.ENOSPC})


class GkfsOperations(pyfuse3.Operations):
    """One mount, as the kernel sees it."""

    supports_dot_lookup = False
    enable_writeback_cache = False  # it would write whole pages, harming bytes other nodes wrote beside ours

    def __init__(self, context: Context, on_ready: Callable[[], None]) -> None:
        super().__init__()
        self._on_ready = on_ready
        self._context = context
        self._options = context.options
        self._inodes = context.inodes
        self.touches = Touches(context)
        self.holds = Holds(context)
        self.data = FileData(context)
        self._names = Namespace(context, self.data, self.touches)
        self._space = Space(context)
        self._files: Handles[FileHandle] = Handles()
        self._directories: Handles[Listing] = Handles()

    def init(self) -> None:
        """The kernel has opened the session: the mount is usable."""
        self._on_ready()

    # --- names

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        inode = await self._names.lookup(self._inodes[parent_inode], name)
        answer = self._looked_up(inode)
        if inode.entry.is_directory:
            answer.entry_timeout = inode.lease_left_s()
        return answer

    @handler
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for fid, lookups in inode_list:
            self._inodes.forget(fid, lookups)

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._make(parent_inode, name, mode, ctx, rdev=rdev)

    @handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return await self._make(parent_inode, name, mode | stat.S_IFDIR, ctx)

    @handler
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return await self._make(parent_inode, name, stat.S_IFLNK | 0o777, ctx, target=target)

    @handler
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return (await self._names.stat(self._inodes[inode])).target

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.unlink(self._inodes[parent_inode], name)

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._names.rmdir(self._inodes[parent_inode], name)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old_parent, new_parent = self._inodes[parent_inode_old], self._inodes[parent_inode_new]
        await self._names.rename(old_parent, name_old, new_parent, name_new, flags)

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node = await self._names.link(self._inodes[inode], self._inodes[new_parent_inode], new_name)
        return self._attributes(node)

    # --- attributes

    @handler
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        node = self._inodes[inode]
        await self._names.stat(node)
        if node.is_sparse:
            await self.data.measure(node)
        return self._attributes(node)

    @handler
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._inodes[inode]
        if fields.update_size:
            await self._truncate(node, attr.st_size, ctx)
        which = (
            (SET_MODE if fields.update_mode else 0)
            | (SET_UID if fields.update_uid else 0)
            | (SET_GID if fields.update_gid else 0)
            | (SET_ATIME if fields.update_atime else 0)
            | (SET_MTIME if fields.update_mtime else 0)
        )
        if not which and not fields.update_size:
            which = DROP_SET_ID  # chown(-1, -1), or an ordinary user's write to a set-id program
        if which:
            request = SetattrRequest(
                b"",
                node.fid,
                which,
                stat.S_IMODE(attr.st_mode) if fields.update_mode else 0,
                attr.st_uid if fields.update_uid else 0,
                attr.st_gid if fields.update_gid else 0,
                attr.st_atime_ns if fields.update_atime else 0,
                attr.st_mtime_ns if fields.update_mtime else 0,
                time.time_ns(),
            )
            await self._names.set_attributes(node, request)
        return self._attributes(node)

    @handler
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has checked

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._check_xattrs()
        if name.startswith(b"security."):  # the kernel asks for its capability before every write
            raise FUSEError(errno.ENODATA)
        check_kept(name)
        for known, value in await self._names.xattrs(self._inodes[inode]):
            if known == name:
                return value
        raise FUSEError(errno.ENODATA)

    @handler
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        self._check_xattrs()
        xattrs = await self._names.xattrs(self._inodes[inode])
        return [name for name, _ in xattrs if is_shown(name, ctx.uid)]

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._check_xattrs()
        check_kept(name)
        await self._names.set_xattr(self._inodes[inode], name, value)

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_xattrs()
        check_kept(name)
        await self._names.remove_xattr(self._inodes[inode], name)

    def _check_xattrs(self) -> None:
        if not self._options.xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel does not ask again

    @handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return await self._space.statfs()

    # --- open files

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        parent = self._inodes[parent_inode]
        owner = Owner(ctx.uid, ctx.gid)
        exclusive = bool(flags & os.O_EXCL)
        inode, created = await self._names.create(
            parent, name, stat.S_IFREG | stat.S_IMODE(mode), owner, exclusive=exclusive
        )
        self.holds.opened(inode)
        try:
            if not inode.entry.is_regular:
                # Another node made something else under this name since the kernel looked: look again.
                raise OSError(errno.ESTALE, "no longer a file")
            if flags & os.O_TRUNC and not created:
                await self._truncate(inode, 0, ctx)
        except OSError:
            self._inodes.forget(inode.fid, 1)
            await self._closed(inode)
            raise
        return self._handle(inode, flags, ctx), self._looked_up(inode)

    @handler
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._inodes[inode]
        if node.leaving is not None:
            await still_there(node)
        self.holds.opened(node)
        try:
            if node.removed:
                raise OSError(errno.ESTALE, f"file {inode:#x} was removed")
            await self._names.stat(node)  # close-to-open: what others closed before is seen from here on
            if node.listed_version not in (0, node.entry.version):
                node.listed_version = 0  # the kernel may still use the size of then, and end reading there
                pyfuse3.invalidate_inode(inode, attr_only=True)
            if flags & os.O_TRUNC:
                await self._truncate(node, 0, ctx)
        except OSError:
            await self._closed(node)
            raise
        return self._handle(node, flags, ctx)

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self.data.read(self._files[fh], off, size)  # type: ignore[return-value]  # any buffer will do

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.data.write(self._files[fh], off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        await self.data.flush(self._files[fh])

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.data.fsync(self._files[fh])

    @handler
    async def release(self, fh: int) -> None:
        await self._closed(self._files.remove(fh).inode)

    # --- open directories

    @handler
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return self._directories.add(Listing(self._context, self._inodes[inode]))

    @handler
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        listing = self._directories[fh]
        cookie = start_id
        if cookie == 0:
            listing.rewind()
        for cookie in range(start_id, 2):
            inode = listing.inode if cookie == 0 else listing.inode.parent or listing.inode
            if not pyfuse3.readdir_reply(token, b"." * (cookie + 1), self._attributes(inode), cookie + 1):
                return
        cookie = max(start_id, 2)
        while (page := await listing.page(cookie)) is not None:
            for name, record in page.entries(cookie):
                if not self._list(listing.inode, name, record, cookie + 1, token):
                    return
                cookie += 1

    def _list(self, parent: Inode, name: bytes, record: bytes, cookie: int, token: ReaddirToken) -> bool:
        """Add an entry to the answer; False when there is no room for it."""
        if cookie > LISTED_FILES or not metadentry.is_plain_file_record(record):
            entry = metadentry.decode(record)
            return pyfuse3.readdir_reply(token, name, numbered(entry, self._inodes.known(entry.fid)), cookie)
        inode = self._inodes.listed(parent, name, record)
        if pyfuse3.readdir_reply(token, name, listed(inode), cookie):
            return True
        self._inodes.forget(inode.fid, 1)
        return False

    @handler
    async def releasedir(self, fh: int) -> None:
        self._directories.remove(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.touches.send_all()
        daemons = range(self._context.distributor.daemon_count)
        pool = self._context.pool
        for call in [pool.call(daemon, SYNC_METADATA, SyncMetadataRequest()) for daemon in daemons]:
            await call

    # --- shared steps

    async def _make(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext, *, rdev: int = 0, target: bytes = b""
    ) -> EntryAttributes:
        owner = Owner(ctx.uid, ctx.gid)
        inode, _ = await self._names.create(self._inodes[parent], name, mode, owner, rdev=rdev, target=target)
        return self._attributes(inode)

    def _looked_up(self, inode: Inode) -> EntryAttributes:
        """Attributes which serve the rest of the system call, too."""
        answer = self._attributes(inode)
        if not inode.is_sparse:  # whose space GETATTR finds out
            answer.attr_timeout = max(answer.attr_timeout, LOOKUP_ATTR_TIMEOUT_S)
        return answer

    def _attributes(self, inode: Inode) -> EntryAttributes:
        return attributes(inode.entry, inode, self._options.attr_timeout_s)

    async def _truncate(self, inode: Inode, size: int, ctx: RequestContext) -> None:
        if ctx.uid != 0:
            await self.data.drop_set_id(inode)
        await self.data.truncate(inode, size)

    async def _closed(self, inode: Inode) -> None:
        if self.holds.closed(inode):
            self._inodes.keep_data(inode)
            try:
                await self.data.closed(inode)
            finally:
                await self.holds.release(inode)

    def _handle(self, inode: Inode, flags: int, ctx: RequestContext) -> FileInfo:
        """A new handle. Append handles bypass the page cache: the kernel does not know where their data goes."""
        direct = self._options.direct_io or bool(flags & os.O_APPEND)
        keep_cache = inode.cached_version == inode.entry.version
        inode.cached_version = inode.entry.version
        handle = FileHandle(inode, flags, direct=direct, privileged=ctx.uid == 0)
        return FileInfo(fh=self._files.add(handle), direct_io=direct, keep_cache=keep_cache)
