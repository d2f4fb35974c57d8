"""Names and records: lookup, create, remove, rename, attributes. Each is one call to the path's owner."""

import errno
import logging
import stat
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gkfs import metadentry, paths
from gkfs.changes import with_attributes, with_xattr, without_xattr
from gkfs.channel import Call
from gkfs.client.context import Context
from gkfs.client.data import FileData
from gkfs.client.holds import leaving
from gkfs.client.inodes import Inode
from gkfs.client.name_leases import NameLeases
from gkfs.client.touches import Touches
from gkfs.errors import os_error
from gkfs.limits import KEY_PATH_MAX_BYTES, MOVES_FOLLOWED, NAME_MAX_BYTES, SYMLINK_TARGET_MAX_BYTES
from gkfs.messages import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    CreateReply,
    CreateRequest,
    DetachRequest,
    Empty,
    LinkRequest,
    LookupReply,
    LookupRequest,
    RecordReply,
    ReleaseRequest,
    RemovexattrRequest,
    RenameReply,
    RenameRequest,
    RmdirRequest,
    SetattrRequest,
    SetxattrRequest,
    StatRequest,
    UnlinkReply,
    UnlinkRequest,
)
from gkfs.metadentry import Metadentry, Xattrs
from gkfs.operations import (
    CREATE,
    DETACH,
    LINK,
    LOOKUP,
    RELEASE,
    REMOVEXATTR,
    RENAME,
    RMDIR,
    SETATTR,
    SETXATTR,
    STAT,
    UNLINK,
)

log = logging.getLogger(__name__)
E = TypeVar("E", LookupReply, CreateReply, RecordReply)
T = TypeVar("T")


def _unsteady(directory: Inode) -> OSError:
    return os_error(errno.ESTALE, f"names in directory {directory.fid:#x} change all the time")


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
        self._name_leases = NameLeases()

    async def lookup(self, parent: Inode, name: bytes) -> Inode:
        """The entry *name*; ENOENT when there is none. Counts one reference of the kernel."""
        if parent.names_known is not None:
            owner = self._context.distributor.path_owner(self._child(parent, name))
            if self._name_leases.lack(parent, owner, self._inodes.path(parent), name):
                raise FileNotFoundError(errno.ENOENT, "nobody else makes entries in that directory")
        sent_s = 0.0

        def ask(path: bytes) -> Call[LookupReply]:
            nonlocal sent_s
            self._touches.send(path)
            sent_s = time.monotonic()
            return self._context.call_owner(path, LOOKUP, LookupRequest(path, parent.fid))

        inode, reply = await self._named(parent, name, ask)
        inode.lease(sent_s, granted=reply.leased)
        return inode

    async def _named(self, parent: Inode, name: bytes, ask: Callable[[bytes], Call[E]]) -> tuple[Inode, E]:
        """What *ask* answers about the path of *name*, and the inode, with one more reference of the kernel.

        Asked again where one of several names was just removed.
        """
        for _ in range(MOVES_FOLLOWED):
            reply = await self._within(lambda: ask(self._child(parent, name)), parent)
            if not metadentry.is_link_record(reply.record):
                return self._inodes.seen(parent, name, reply.record), reply
            inode = await self._follow_link(parent, name, metadentry.fid_of(reply.record))
            if inode is not None:
                return inode, reply
        raise _unsteady(parent)

    async def _within(self, ask: Callable[[], Awaitable[T]], *directories: Inode) -> T:
        """What *ask* answers about names in *directories*; asked again where one turns out to have moved."""
        for _ in range(MOVES_FOLLOWED):
            asked = [self._inodes.path(directory) for directory in directories]
            try:
                return await ask()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                missed = error
            moved = False
            for directory, path in zip(directories, asked, strict=True):
                moved = await self._has_moved(directory, path, missed) or moved
            if not moved:
                raise missed
        raise _unsteady(directories[0])

    async def _follow_link(self, parent: Inode, name: bytes, fid: int) -> Inode | None:
        """The inode behind one of several names; None when that name was just removed."""
        address = paths.inode_address(fid)
        try:
            reply = await self._context.call_owner(address, STAT, StatRequest(address, fid))
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            return None
        return self._inodes.seen(parent, name, reply.record, several=True)

    async def _has_moved(self, directory: Inode, path: bytes, missed: OSError) -> bool:
        """Whether *directory*, in which a name was not found, is no longer *path*: it was renamed.

        Who walks down a path has just looked it up. But a working directory is used without that; and while this
        node renames a directory, its lease does not keep other programs here from what they know.
        """
        if directory is self._inodes.root:
            return False
        if self._inodes.path(directory) != path:  # another call of this node has found it elsewhere meanwhile
            return True
        if directory.lease_left_s() and missed.errno == errno.ENOENT:
            return False
        try:
            await self._stat_directory(directory)
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
        return self._inodes.path(directory) != path

    async def stat(self, inode: Inode) -> Metadentry:
        """The record of *inode*: as fetched within this system call, or asked for now."""
        if inode.take_fresh() or inode.removed:
            return inode.entry
        if inode.entry.is_directory:
            return inode.entry if inode.is_recent() else await self._stat_directory(inode)
        if inode.lease_left_s():
            return inode.entry
        self._touches.send(self._inodes.path(inode))
        if inode.was_read and inode.opens:  # the kernel asks before it reads on
            inode.was_read = False
            return await self._context.lease(inode)
        return await self._context.stat(inode)

    async def _stat_directory(self, inode: Inode) -> Metadentry:
        """As `stat`, with a lease."""
        for _ in range(MOVES_FOLLOWED):
            path = self._inodes.path(inode)
            self._touches.send(path)
            sent_s = time.monotonic()
            reply = await self._context.about(inode, LOOKUP, LookupRequest)
            if metadentry.fid_of(reply.record) == inode.fid:
                inode.learn(reply.record)
                inode.lease(sent_s, granted=reply.leased)
                return inode.entry
            if not await self._context.follow(inode, path):
                break
        raise os_error(errno.ESTALE, f"directory {inode.fid:#x} has lost its name")

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
        gid = owner.gid
        if parent.entry.mode & stat.S_ISGID:
            gid = parent.entry.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID

        asked, directory, sent_s, generation = 0, b"", 0.0, 0  # whom, about what and when at last

        def ask(path: bytes) -> Call[CreateReply]:
            nonlocal asked, directory, sent_s, generation
            asked, directory = self._context.distributor.path_owner(path), self._inodes.path(parent)
            lease, generation = self._name_leases.begin(parent, asked, name), self._name_leases.generation
            sent_s, now_ns = time.monotonic(), time.time_ns()
            request = CreateRequest(path, parent.fid, mode, owner.uid, gid, rdev, exclusive, target, now_ns, lease)
            return self._context.pool.call(asked, CREATE, request)

        inode, reply = await self._named(parent, name, ask)
        self._name_leases.granted(parent, asked, directory, sent_s, generation, reply)
        if reply.created:
            inode.unsynced_record, inode.unsynced_before = True, False
            self._touches.note(parent, subdirectories=1 if stat.S_ISDIR(mode) else 0)
        return inode, reply.created

    async def link(self, inode: Inode, parent: Inode, name: bytes) -> Inode:
        """Give a file one more name. Counts one reference of the kernel."""
        await self._data.publish(inode, ends=True)  # the record is about to move
        if inode.names is None:
            await self._context.about(inode, DETACH, lambda path: DetachRequest(path, inode.fid))
            self._inodes.detach(inode)
        address, now_ns = self._inodes.path(inode), time.time_ns()

        def ask() -> Call[RecordReply]:
            self._name_leases.comes(parent, name)
            request = LinkRequest(inode.fid, self._child(parent, name), parent.fid, now_ns)
            return self._context.call_owner(address, LINK, request)

        reply = await self._within(ask, parent)
        self._inodes.seen(parent, name, reply.record, several=True)
        self._touches.note(parent)
        return inode

    async def unlink(self, parent: Inode, name: bytes) -> None:
        """Remove a name that is not a directory's. Its data stays while a handle of this mount is open."""
        inode = self._inodes.named(parent, name)
        open_fid = inode.fid if inode is not None and inode.opens else 0

        async def ask() -> tuple[UnlinkReply, bytes]:
            path = self._child(parent, name)
            request = UnlinkRequest(path, parent.fid, open_fid, time.time_ns())
            return await self._context.call_owner(path, UNLINK, request), path

        with leaving(inode):
            reply, path = await self._within(ask, parent)
        await self._removed((parent.fid, name), path, reply.fid, kept=reply.kept)
        self._touches.note(parent)

    async def rmdir(self, parent: Inode, name: bytes) -> None:
        """Remove an empty directory; ENOTEMPTY when any daemon has an entry of it."""
        inode = self._inodes.named(parent, name)

        def ask() -> Call[Empty]:
            path = self._child(parent, name)
            return self._context.call_owner(path, RMDIR, RmdirRequest(path, parent.fid, time.time_ns()))

        await self._within(ask, parent)
        if inode is not None:
            await self._removed((parent.fid, name), b"", inode.fid, kept=False)
        self._touches.note(parent, subdirectories=-1)

    async def rename(
        self, old_parent: Inode, old_name: bytes, new_parent: Inode, new_name: bytes, flags: int
    ) -> None:
        """Rename, replacing what has the new name, or with RENAME_EXCHANGE giving it the old one."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise os_error(errno.EINVAL, f"rename with flags {flags:#x}")
        moved = self._inodes.named(old_parent, old_name)
        replaced = self._inodes.named(new_parent, new_name)
        open_fid = replaced.fid if replaced is not None and replaced.opens else 0
        exchange = bool(flags & RENAME_EXCHANGE)
        old, new = (old_parent.fid, old_name), (new_parent.fid, new_name)

        async def ask() -> tuple[RenameReply, bytes]:
            source, target = self._child(old_parent, old_name), self._child(new_parent, new_name)
            await self._data.publish_moving((moved, replaced) if exchange else (moved,))
            if moved is None or moved.entry.is_directory or exchange:
                await self._touches.send_below(source, target)  # they name directories by path
                self._name_leases.clear()  # so do these
            self._name_leases.comes(new_parent, new_name)
            request = RenameRequest(source, target, old[0], new[0], flags, open_fid, time.time_ns())
            return await self._context.call_owner(source, RENAME, request), target

        with leaving(None if exchange else replaced):
            reply, target = await self._within(ask, *dict.fromkeys((old_parent, new_parent)))
        entry = metadentry.decode(reply.record)
        if old == new or reply.replaced_fid == entry.fid:
            return  # two names of one file: both stay
        directories = 1 if entry.is_directory else 0  # more in the target's directory, less in the source's
        if exchange:
            directories -= 1 if reply.exchanged_directory else 0
            await self._renamed(reply.replaced_fid, new, old_parent, old_name)
        elif reply.replaced_fid:
            await self._removed(new, target, reply.replaced_fid, kept=reply.kept)
        await self._renamed(entry.fid, old, new_parent, new_name)
        across = directories if old_parent is not new_parent else 0
        replaced_directory = 1 if reply.replaced_fid and entry.is_directory and not exchange else 0
        self._touches.note(old_parent, subdirectories=-across)
        self._touches.note(new_parent, subdirectories=across - replaced_directory)

    async def _renamed(self, fid: int, old: tuple[int, bytes], parent: Inode, name: bytes) -> None:
        """A file or directory was renamed through this mount."""
        inode = self._inodes.known(fid)
        if inode is None:
            return
        self._inodes.rename(inode, old, parent, name)
        inode.stale()
        if inode.names is not None:  # its record was not there, so that its ctime has not changed
            request = SetattrRequest(b"", fid, 0, 0, 0, 0, 0, 0, time.time_ns())
            try:
                await self._context.refresh(inode, SETATTR, lambda path: request._replace(path=path))
            except OSError as error:  # the name is changed in any case
                log.info("ctime of file %#x: %s", fid, error)

    async def set_attributes(self, inode: Inode, request: SetattrRequest) -> None:
        """Change mode, owner or times. Unpublished writes go first: their time must not overwrite a set one."""
        if inode.removed:
            inode.learn(with_attributes(inode.entry, request))
            return
        await self._data.publish(inode)
        self._touches.send(self._inodes.path(inode))
        await self._context.refresh(inode, SETATTR, lambda path: request._replace(path=path))

    # --- extended attributes

    async def xattrs(self, inode: Inode) -> Xattrs:
        """All extended attributes, as they are now."""
        if inode.entry.is_directory and not inode.removed:
            # The kernel need not have looked it up in this system call, and others may set them.
            return (await self._stat_directory(inode)).xattrs
        return (await self.stat(inode)).xattrs

    async def set_xattr(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set one extended attribute, new or not."""
        request = SetxattrRequest(b"", inode.fid, name, value, time.time_ns())
        if inode.removed:
            inode.learn(with_xattr(inode.entry, request))
            return
        await self._context.refresh(inode, SETXATTR, lambda path: request._replace(path=path))

    async def remove_xattr(self, inode: Inode, name: bytes) -> None:
        """Remove one extended attribute; ENODATA when there is none of that name."""
        request = RemovexattrRequest(b"", inode.fid, name, time.time_ns())
        if inode.removed:
            inode.learn(without_xattr(inode.entry, request))
            return
        await self._context.refresh(inode, REMOVEXATTR, lambda path: request._replace(path=path))

    async def _removed(self, name: tuple[int, bytes], path: bytes, fid: int, *, kept: bool) -> None:
        """A name (fid of the directory, name) of *fid*, *path*, was removed through this mount."""
        inode = self._inodes.known(fid)
        if inode is not None and inode.opens:
            inode.stale()
            inode.kept = True
            if inode.names is not None:
                self._inodes.unname(inode, name)
            else:
                self._inodes.freeze(inode, path)
            return
        if inode is not None:
            inode.stale()
            self._inodes.unname(inode, name)
            if inode.names is None:
                inode.removed = True
                inode.learn(inode.entry._replace(nlink=0))
        if kept:  # it was closed meanwhile
            await self._context.call_owner(path, RELEASE, ReleaseRequest(fid))

    def _child(self, parent: Inode, name: bytes) -> bytes:
        if parent.removed:  # its path may lead to a newer directory by now
            raise os_error(errno.ENOENT, f"directory {parent.fid:#x} was removed")
        if len(name) > NAME_MAX_BYTES:
            paths.check_name(name)
        path = paths.join(self._inodes.path(parent), name)
        if len(path) > KEY_PATH_MAX_BYTES:
            paths.check_path(path)
        return path
