"""Names and records: lookup, create, remove, rename, attributes. Each is one call to the path's owner."""

import errno
import stat
import time

from gkfs import metadentry, paths
from gkfs.client.context import Context
from gkfs.client.data import FileData
from gkfs.client.inodes import Inode
from gkfs.client.touches import Touches
from gkfs.errors import os_error
from gkfs.limits import KEY_PATH_MAX_BYTES, NAME_MAX_BYTES, SYMLINK_TARGET_MAX_BYTES
from gkfs.messages import (
    RENAME_NOREPLACE,
    SET_ATIME,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_UID,
    CreateRequest,
    LookupRequest,
    RenameRequest,
    RmdirRequest,
    SetattrRequest,
    StatRequest,
    UnlinkRequest,
)
from gkfs.metadentry import Metadentry
from gkfs.operations import CREATE, LOOKUP, RENAME, RMDIR, SETATTR, STAT, UNLINK


class Owner:
    """Who asks, for new entries."""

    __slots__ = ("gid", "uid")

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid


class Namespace:
    """Changes and lookups of names of one mount; the kernel serialises those within one directory."""

    def __init__(self, context: Context, data: FileData, touches: Touches) -> None:
        self._context = context
        self._data = data
        self._touches = touches
        self._inodes = context.inodes

    async def lookup(self, parent: Inode, name: bytes) -> Inode:
        """The entry *name*; ENOENT when there is none. Counts one reference of the kernel."""
        path = self._child(parent, name)
        self._touches.send(path)
        sent_s = time.monotonic()
        reply = await self._context.call_owner(path, LOOKUP, LookupRequest(path))
        inode = self._inodes.seen(parent, name, reply.record)
        inode.lease(sent_s, granted=reply.leased)
        return inode

    async def stat(self, inode: Inode) -> Metadentry:
        """The record of *inode*: as fetched within this system call, or asked for now."""
        if inode.take_fresh() or inode.removed:
            return inode.entry
        self._touches.send(self._inodes.path(inode))
        if inode.entry.is_directory:
            return await self._stat_directory(inode)
        return await self._context.refresh(inode, STAT, lambda path: StatRequest(path, inode.fid))

    async def _stat_directory(self, inode: Inode) -> Metadentry:
        """As `stat`, with a lease."""
        sent_s = time.monotonic()
        try:
            reply = await self._context.about(inode, LOOKUP, LookupRequest)
        except FileNotFoundError as error:
            raise OSError(errno.ESTALE, str(error)) from None
        if metadentry.fid_of(reply.record) != inode.fid:
            raise os_error(errno.ESTALE, f"directory {inode.fid:#x} has lost its name")
        inode.learn(reply.record)
        inode.lease(sent_s, granted=reply.leased)
        return inode.entry

    async def create(
        self,
        parent: Inode,
        name: bytes,
        mode: int,
        owner: Owner,
        *,
        exclusive: bool = True,
        rdev: int = 0,
        target: bytes = b"",
    ) -> tuple[Inode, bool]:
        """Create an entry of the type in *mode*, or with *exclusive* False take the one that is there.

        Returns the inode, with one more reference, and whether it was created. A set-group-id directory passes
        its group on, and the bit itself to directories (as Linux does).
        """
        if len(target) > SYMLINK_TARGET_MAX_BYTES:
            raise os_error(errno.ENAMETOOLONG, f"symlink target of {len(target)} bytes")
        path = self._child(parent, name)
        gid = owner.gid
        if parent.entry.mode & stat.S_ISGID:
            gid = parent.entry.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        request = CreateRequest(path, parent.fid, mode, owner.uid, gid, rdev, exclusive, target, time.time_ns())
        reply = await self._context.call_owner(path, CREATE, request)
        inode = self._inodes.seen(parent, name, reply.record)
        if reply.created:
            self._touches.note(parent, subdirectories=1 if stat.S_ISDIR(mode) else 0)
        return inode, reply.created

    async def unlink(self, parent: Inode, name: bytes) -> None:
        """Remove a name that is not a directory's. Its data stays while a handle of this mount is open."""
        path = self._child(parent, name)
        inode = self._inodes.named(parent, name)
        open_fid = inode.fid if inode is not None and inode.opens else 0
        reply = await self._context.call_owner(path, UNLINK, UnlinkRequest(path, open_fid, time.time_ns()))
        self._removed(reply.fid, kept=reply.kept)
        self._touches.note(parent)

    async def rmdir(self, parent: Inode, name: bytes) -> None:
        """Remove an empty directory; ENOTEMPTY when any daemon has an entry of it."""
        path = self._child(parent, name)
        inode = self._inodes.named(parent, name)
        await self._context.call_owner(path, RMDIR, RmdirRequest(path, time.time_ns()))
        if inode is not None:
            self._removed(inode.fid, kept=False)
        self._touches.note(parent, subdirectories=-1)

    async def rename(
        self, old_parent: Inode, old_name: bytes, new_parent: Inode, new_name: bytes, flags: int
    ) -> None:
        """Rename, replacing what has the new name unless RENAME_NOREPLACE is set."""
        if flags & ~RENAME_NOREPLACE:
            raise os_error(errno.EINVAL, f"rename with flags {flags:#x}")
        source, target = self._child(old_parent, old_name), self._child(new_parent, new_name)
        moved = self._inodes.named(old_parent, old_name)
        replaced = self._inodes.named(new_parent, new_name)
        open_fid = replaced.fid if replaced is not None and replaced.opens else 0
        if moved is None or moved.entry.is_directory:
            await self._touches.send_all()  # they name directories by path
        request = RenameRequest(source, target, new_parent.fid, flags, open_fid, time.time_ns())
        reply = await self._context.call_owner(source, RENAME, request)
        entry = metadentry.decode(reply.record)
        if reply.replaced_fid and reply.replaced_fid != entry.fid:
            self._removed(reply.replaced_fid, kept=reply.kept)
        inode = self._inodes.known(entry.fid)
        if inode is not None and source != target:
            self._inodes.move(inode, new_parent, new_name)
            inode.learn(entry)
        replaced_directory = 1 if reply.replaced_fid and entry.is_directory else 0
        across = 1 if entry.is_directory and old_parent is not new_parent else 0
        self._touches.note(old_parent, subdirectories=-across)
        self._touches.note(new_parent, subdirectories=across - replaced_directory)

    async def set_attributes(self, inode: Inode, request: SetattrRequest) -> None:
        """Change mode, owner or times. Unpublished writes go first: their time must not overwrite a set one."""
        if inode.removed:
            inode.learn(_with_attributes(inode.entry, request))
            return
        await self._data.publish(inode)
        self._touches.send(self._inodes.path(inode))
        await self._context.refresh(inode, SETATTR, lambda path: request._replace(path=path))

    def _removed(self, fid: int, *, kept: bool) -> None:
        inode = self._inodes.known(fid)
        if inode is None:
            return
        inode.stale()
        if inode.entry.is_directory:
            inode.removed = True
            inode.learn(inode.entry.changed(nlink=0))
        if kept:
            self._inodes.freeze(inode)
        else:
            self._inodes.unname(inode)

    def _child(self, parent: Inode, name: bytes) -> bytes:
        if parent.removed:  # its path may lead to a newer directory by now
            raise os_error(errno.ENOENT, f"directory {parent.fid:#x} was removed")
        if len(name) > NAME_MAX_BYTES:
            paths.check_name(name)
        path = paths.join(self._inodes.path(parent), name)
        if len(path) > KEY_PATH_MAX_BYTES:
            paths.check_path(path)
        return path


def _with_attributes(entry: Metadentry, request: SetattrRequest) -> Metadentry:
    """What SETATTR would make of *entry*, for a directory whose record is gone."""
    which = request.which
    return entry.changed(
        mode=stat.S_IFMT(entry.mode) | request.mode if which & SET_MODE else entry.mode,
        uid=request.uid if which & SET_UID else entry.uid,
        gid=request.gid if which & SET_GID else entry.gid,
        atime_ns=request.atime_ns if which & SET_ATIME else entry.atime_ns,
        mtime_ns=request.mtime_ns if which & SET_MTIME else entry.mtime_ns,
        ctime_ns=request.now_ns,
    )
